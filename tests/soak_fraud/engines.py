"""Engines of a node that lies when a request tells it to: the real engine, and one value of its run changed on the way, or one tensor's salts.

A request says its lie itself, in a member that has no influence on honest engines (`id` of a tensor program's, `user` of a chat's): so
an answer and all that is told about it afterwards are of one and the same lie, whichever process of the node tells it. Requests without
a lie are answered by the real engine, untouched.
"""

from avow.engines.exact import _Call
from avow.exact.committed import CommittedRun
from avow.exact.hashing import Salts, Trace, chunks
from avow.exact.kernels.tracer import BulkTracer, Keeper
from tests.nodes.liars import Lie, LyingRun, LyingTracer

MARK = "lie"
SALTED = 0
"""The `change` of a lie that leaves the value, and salts it otherwise."""
OTHER_SALTS = Salts(b"another seed than the request's".ljust(32))


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


class SaltingTracer:
    """One leaf under other salts than the header says."""

    def __init__(self, inner, bulk, program, lie):
        self._inner, self._bulk, self._lie = inner, bulk, lie
        self._ranks = program.ranks
        self._slot = program.slot(lie.step, lie.operator)

    def record(self, step, operator, data):
        self._inner.record(step, operator, data)
        if (step, operator) == (self._lie.step, self._lie.operator):
            other = BulkTracer(OTHER_SALTS, self._ranks)
            other.record(step, operator, data)
            self._bulk.leaves[self._slot] = other.leaves[self._slot]

    def finish(self, **ends):
        return self._inner.finish(**ends)


class SaltedRun(LyingRun):
    """`salted`: the slot whose salts are others."""

    salted = -1


class LyingCommitment(CommittedRun):
    """What a lying node answers from: to be put in the place of CommittedRun in its process."""

    def tensor(self, slot):
        if getattr(self._run, "salted", -1) != slot:
            return super().tensor(slot)
        data = self._run.tensor(slot)
        return len(data), [OTHER_SALTS.salt(slot, number) + chunk for number, chunk in enumerate(chunks(data))]


class Lying:
    """What both kinds share; all else is the real engine's."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def _tracer(self, salts, lie, *, keep=False):
        """The tracer that lies, and the keeper of what it told."""
        program = self._engine._exact
        inner = bulk = BulkTracer(salts, program.ranks)
        if keep:
            inner = Keeper(bulk, program.ranks)
        if lie.change == SALTED:
            return SaltingTracer(inner, bulk, program, lie), inner
        return LyingTracer(inner, program, [lie]), inner

    def replay(self, request, effective, salts, header, **hints):
        lie = lie_in(request)
        if lie is None:
            return self._engine.replay(request, effective, salts, header, **hints)
        tracer, keeper = self._tracer(salts, lie, keep=True)
        trace = self._again(request, effective, tracer, header)
        run = SaltedRun(list(trace.leaves), keeper.tensors)
        if lie.change == SALTED:
            run.salted = self._engine._exact.slot(lie.step, lie.operator)
        return run


class LyingTensors(Lying):
    """Of a program of mode `once` or `sequence`."""

    def traced_infer(self, request, seed):
        lie = lie_in(request)
        if lie is None:
            return self._engine.traced_infer(request, seed)
        return self._run(request, self._tracer(seed, lie)[0])

    def _run(self, request, tracer):
        call = _Call(self._engine, tracer)
        answer = self._engine._answer(request, call)
        if call.trace is None:
            call.run_zeros()
        return answer, bare(call.trace)

    def _again(self, request, effective, tracer, header):
        return self._run(request, tracer)[1]


class LyingChat(Lying):
    """Of a program that generates."""

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
        return answer, bare(traces[0])

    def _again(self, request, effective, tracer, header):
        prompt, parameters = self._engine.inputs(request, effective)
        machine = self._engine._running()
        return machine.trace(prompt, parameters, tracer, steps=header.steps, finish=header.finish)[1]


def bare(trace):
    """Without what an honest run would leave behind: it would tell the truth."""
    return Trace(trace.header, trace.trace, trace.leaves)


def lying(engine):
    """`engine` as this node runs it."""
    return LyingChat(engine) if engine.kind == "chat" else LyingTensors(engine)
