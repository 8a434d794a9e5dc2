"""Engines of a node that lies when a request tells it to: the real engine, and one value of its run changed on the way.

A request says its lie itself, in a member that has no influence on honest engines (`id` of a tensor program's, `user` of a chat's): so
an answer and all that is told about it afterwards are of one and the same lie, whichever process of the node tells it. Requests without
a lie are answered by the real engine, untouched.
"""

from avow.engines.exact import _Call
from avow.exact.kernels.tracer import BulkTracer, Keeper
from tests.nodes.liars import Lie, LyingRun, LyingTracer

MARK = "lie"


def text_of(lie):
    """A lie as a request says it."""
    return f"{MARK} {lie.step} {lie.operator} {lie.index} {lie.change} {int(lie.goes_on)}"


def lie_in(request):
    """The lie that a request tells; None where it tells none."""
    said = str(request.get("id") or request.get("user") or "").split()
    if not said or said[0] != MARK:
        return None
    step, operator, index, change, goes_on = map(int, said[1:])
    return Lie(step, operator, index, bool(goes_on), change)


class Lying:
    """What both kinds share. `told`: how many values the last run changed."""

    def __init__(self, engine):
        self._engine = engine
        self.told = 0
        self.name, self.version, self.runtime, self.kind = engine.name, engine.version, engine.runtime, engine.kind
        self.close, self.effective, self.infer, self.chat = engine.close, engine.effective, engine.infer, engine.chat

    @property
    def _program(self):
        return self._engine._exact

    def _tracer(self, salts, lie, *, keep=False):
        """The tracer that lies, and the keeper of what it told."""
        ranks = self._program.ranks
        inner = keeper = BulkTracer(salts, ranks)
        if keep:
            inner = keeper = Keeper(inner, ranks)
        return LyingTracer(inner, self._program, [lie]), keeper

    def replay(self, request, effective, salts, header, **hints):
        lie = lie_in(request)
        if lie is None:
            return self._engine.replay(request, effective, salts, header, **hints)
        tracer, keeper = self._tracer(salts, lie, keep=True)
        trace = self._again(request, effective, tracer, header)
        return LyingRun(list(trace.leaves), keeper.tensors)


class LyingTensors(Lying):
    """Of a program of mode `once` or `sequence`."""

    def __init__(self, engine):
        super().__init__(engine)
        self.metadata, self.traced_chat = engine.metadata, engine.traced_chat

    def traced_infer(self, request, seed):
        lie = lie_in(request)
        if lie is None:
            return self._engine.traced_infer(request, seed)
        tracer, _ = self._tracer(seed, lie)
        answer, trace = self._run(request, tracer)
        self.told = tracer.told
        return answer, trace

    def _run(self, request, tracer):
        call = _Call(self._engine, tracer)
        answer = self._engine._answer(request, call)
        if call.trace is None:
            call.run_zeros()
        return answer, call.trace

    def _again(self, request, effective, tracer, header):
        return self._run(request, tracer)[1]


class LyingChat(Lying):
    """Of a program that generates."""

    def __init__(self, engine):
        super().__init__(engine)
        self.traced_infer = engine.traced_infer

    def traced_chat(self, request, effective, seed, emit=None, **hints):
        lie = lie_in(request)
        if lie is None:
            return self._engine.traced_chat(request, effective, seed, emit, **hints)
        tracer, _ = self._tracer(seed, lie)
        traces = []

        def run(prompt, parameters, *, on_token):
            generated, trace = self._engine._running().trace(prompt, parameters, tracer, on_token=on_token)
            traces.append(trace)
            return generated

        answer = self._engine._answer(request, effective, emit, run)
        self.told = tracer.told
        return answer, traces[0]

    def _again(self, request, effective, tracer, header):
        prompt, parameters = self._engine.inputs(request, effective)
        machine = self._engine._running()
        return machine.trace(prompt, parameters, tracer, steps=header.steps, finish=header.finish)[1]


def lying(engine):
    """`engine` as this node runs it."""
    return LyingChat(engine) if engine.kind == "chat" else LyingTensors(engine)
