"""Engines of nodes that cheat: the real engine, with a value changed somewhere in the run, consistently told to who asks."""

from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT
from avow.exact.kernels.machine import view_of
from avow.exact.kernels.tracer import BulkTracer, Keeper, Planter


class LyingRun:
    """What the liar committed to, as it answers demands about it."""

    def __init__(self, leaves, tensors):
        self.leaves = leaves
        self._tensors = tensors

    def tensor(self, slot):
        return self._tensors[slot]


class LyingEngine:
    """Wraps an ExactEngine. `plants`: what is changed in each traced run; none: honest."""

    def __init__(self, engine, plants=()):
        self._engine = engine
        self.plants = list(plants)
        self.name, self.version, self.runtime, self.kind = engine.name, engine.version, engine.runtime, engine.kind
        self.close, self.effective, self.metadata = engine.close, engine.effective, engine.metadata
        self.infer, self.chat, self.traced_chat = engine.infer, engine.chat, engine.traced_chat

    def _traced(self, request, seed):
        operators = len(self._engine._exact.operators)
        keeper = Keeper(BulkTracer(seed, operators), operators)
        call = _Call(self._engine, Planter(keeper, self.plants))
        answer = self._engine._answer(request, call)
        return answer, call.trace, keeper.tensors

    def traced_infer(self, request, seed):
        answer, trace, _ = self._traced(request, seed)
        return answer, trace

    def replay(self, request, effective, seed, header):
        del effective, header
        _, trace, tensors = self._traced(request, seed)
        return LyingRun(list(trace.leaves), tensors)


class _Call:
    """As engines/exact.py's, with another tracer."""

    def __init__(self, engine, tracer):
        self._engine, self._tracer, self.trace = engine, tracer, None

    def __call__(self, feeds):
        inputs = self._engine.arrays_in(feeds)
        outputs, self.trace = self._engine.run(inputs, self._tracer)
        return self._engine.arrays_out(outputs)


__all__ = ["INPUT_SLOT", "OUTPUT_SLOT", "LyingEngine", "LyingRun", "view_of"]
