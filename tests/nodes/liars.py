"""Engines of nodes that cheat: the real engine, with a value changed somewhere in the run, consistently told to who asks."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from avow.exact.hashing import Salts
from avow.exact.kernels.tracer import BulkTracer, Keeper

_TYPES = {"int8": np.int8, "int16": np.int16, "int32": np.int32}


@dataclass(frozen=True)
class Lie:
    """A changed value: at a step and an operator, number `index` of its output (from the end, if negative), by `change` or one more.

    `goes_on`: later operators read the changed value; else it is told, and the run goes on as it should. Values stay in their interval.
    """

    step: int
    operator: int
    index: int = 0
    goes_on: bool = True
    change: int = 1


class LyingTracer:
    """`told`: how many lies found a value that could be another."""

    def __init__(self, inner, program, lies):
        self._inner = inner
        self._program = program
        self._lies = {(lie.step, lie.operator): lie for lie in lies}
        self.told = 0

    def record(self, step, operator, data):
        lie = self._lies.get((step, operator))
        if lie is None:
            self._inner.record(step, operator, data)
            return
        record = self._program.operators[operator]
        values = np.frombuffer(data, dtype=_TYPES[record.type])
        if not values.flags.writeable:
            values = np.asarray(memoryview(data).cast("B")).view(_TYPES[record.type])
        before = int(values[lie.index])
        wanted = before + lie.change if before + lie.change <= record.high else before - lie.change
        after = wanted if record.low <= wanted <= record.high else before
        values[lie.index] = after
        self.told += after != before
        self._inner.record(step, operator, data)
        if not lie.goes_on:
            values[lie.index] = before

    def finish(self, **ends):
        return self._inner.finish(**ends)


class LyingRun:
    """What the liar committed to, as it answers demands about it."""

    def __init__(self, leaves, tensors):
        self.leaves = leaves
        self._tensors = tensors

    def tensor(self, slot):
        return self._tensors[slot]


class LyingEngine:
    """Wraps an ExactEngine. `lies`: what is changed in each traced run; none: honest. `told`: how many the last run told."""

    def __init__(self, engine, lies=()):
        self._engine = engine
        self.lies = list(lies)
        self.told = 0
        self.name, self.version, self.runtime, self.kind = engine.name, engine.version, engine.runtime, engine.kind
        self.close, self.effective, self.metadata = engine.close, engine.effective, engine.metadata
        self.infer, self.chat, self.traced_chat = engine.infer, engine.chat, engine.traced_chat

    def _traced(self, request, seed):
        program = self._engine._exact
        keeper = Keeper(BulkTracer(seed, program.ranks), program.ranks)
        liar = LyingTracer(keeper, program, self.lies)
        call = _Call(self._engine, liar)
        answer = self._engine._answer(request, call)
        self.told = liar.told
        return answer, call.trace, keeper.tensors

    def traced_infer(self, request, seed):
        answer, trace, _ = self._traced(request, seed)
        return answer, trace

    def replay(self, request, effective, salts, header, *, said=""):
        del effective, header, said
        _, trace, tensors = self._traced(request, salts)
        return LyingRun(list(trace.leaves), tensors)


class OtherKeyEngine(LyingEngine):
    """Salts its runs under another key than the seed of the statement gives, and commits to that key."""

    @staticmethod
    def salts(seed):
        return Salts(sha256(b"other" + Salts.of(seed).key).digest())

    def _traced(self, request, seed):
        return super()._traced(request, self.salts(seed))


class _Call:
    """As engines/exact.py's, with another tracer."""

    def __init__(self, engine, tracer):
        self._engine, self._tracer, self.trace = engine, tracer, None

    def __call__(self, feeds):
        inputs = self._engine.arrays_in(feeds)
        outputs, self.trace = self._engine.run(inputs, self._tracer)
        return self._engine.arrays_out(outputs)
