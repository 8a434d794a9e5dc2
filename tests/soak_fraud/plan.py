"""Which lies are told of a program, and at which leaf each has to be found.

Rules:
1. Every kind of operator that has a value which could be another: its first, middle and last operator, each at the first, middle and last
   step at which it runs (in mode `once`, samples are steps and one of them is chosen), changed at the first, middle or last value in turn.
2. Later operators go on with the changed value. Of each kind one lie is told a second time so that they do not (of an operator with a leaf):
   the answer is right then, and the trace is not.
3. A lie that changes no committed value is none (`masked`): the changed value is an operator's that has no leaf, and what reads it rounds it
   away. Before that is said, larger changes and other values are tried.
4. A lie has to be found at the leaf of its operator; of one that has none, at the first leaf, or else program output, that differs between the
   honest and the lying run, which are made to know.
5. Of each kind the lies that go from first to last operator and step at once come first, so that few of them are well spread.
6. One lie of each model is none in a value: a leaf is under other salts than the header says.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from avow.exact.hashing import OUTPUT_SLOT, Header
from avow.exact.program import Program
from avow.exact.records import Operator
from tests.nodes.liars import Lie
from tests.soak_fraud.engines import SALTED, text_of
from tests.soak_fraud.models import Model

SEED = bytes(range(32))
SALTS = "salts"
"""The kind of rule 6's lie."""
PLACES = ("first", "middle", "last")
TRIES = ((0, 0), (64, 1), (8, 2), (2, 1))
"""By which part of its interval a value is changed (0: by one), and how many thirds of the tensor further."""


@dataclass(frozen=True)
class Case:
    """A lie to be told in answer to question `number`. `slot`: where it is to be found, a leaf or an output; None for a lie that is masked."""

    model: str
    kind: str
    place: str
    at: str
    lie: Lie
    number: int
    slot: int | None = None

    @property
    def fault(self) -> str:
        """The kind of proof that convicts it."""
        if self.kind == SALTS:
            return "salt"
        return "element" if self.slot is None or self.slot < OUTPUT_SLOT else "output"

    @property
    def name(self) -> str:
        goes_on = "" if self.lie.goes_on else ", told only"
        return f"{self.model} {self.kind}: {self.place} operator ({self.lie.operator}), {self.at} step ({self.lie.step}){goes_on}"


class Honest:
    """One's own honest and lying runs of a model's questions, in this process."""

    def __init__(self, model: Model, loaded: Any, lying: Any) -> None:
        self.model = model
        self.loaded = loaded
        self.lying = lying
        self._runs: dict[int, tuple[Header, list[bytes]]] = {}

    @property
    def program(self) -> Program:
        program: Program = self.loaded.engine._exact
        return program

    def run(self, number: int) -> tuple[Header, list[bytes]]:
        """Header and leaves of the honest run of a question."""
        if number not in self._runs:
            self._runs[number] = self._traced(self.loaded.engine, number, "")
        return self._runs[number]

    def found_at(self, case: Case) -> int | None:
        """Rule 4."""
        header, honest = self.run(case.number)
        other, told = self._traced(self.lying, case.number, text_of(case.lie))
        found = _first_difference(honest, told)
        if found is not None:
            return found
        output = _first_difference(header.outputs, other.outputs)
        return None if output is None else OUTPUT_SLOT + output

    def _traced(self, engine: Any, number: int, said: str) -> tuple[Header, list[bytes]]:
        request = self.model.body(number, said)
        if self.model.chats:
            request["model"] = self.model.name
            _, trace = engine.traced_chat(request, engine.effective(request), SEED)
        else:
            _, trace = engine.traced_infer(request, SEED)
        return Header.parse(trace.header), list(trace.leaves)


def _first_difference(ours: Sequence[bytes], theirs: Sequence[bytes]) -> int | None:
    return next((at for at, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)


def candidates(honest: Honest, questions: int) -> list[Case]:
    """Rules 1 and 2, not looked at yet."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for number, operator in enumerate(honest.program.operators):
        if operator.low < operator.high:
            kinds[operator.kind].append(number)
    cases: list[Case] = []
    for kind in sorted(kinds):
        of_kind: list[Case] = []
        for place, number in chosen(kinds[kind]).items():
            question = len(cases + of_kind) % questions
            for at, lie in lies(honest, number, place, question):
                of_kind.append(Case(honest.model.name, kind, place, at, lie, question))
        shown = [case for case in of_kind if honest.program.slot(case.lie.step, case.lie.operator) is not None]
        told_only = [replace(case, lie=replace(case.lie, goes_on=False)) for case in shown[len(shown) // 2 :][:1]]
        straight = [case for case in of_kind if case.place == case.at]
        others = [case for case in of_kind if case.place != case.at]
        cases += [*straight, *told_only, *others]
    return [*cases, *salted(cases)]


def salted(cases: list[Case]) -> list[Case]:
    """Rule 6."""
    told_only = [case for case in cases if not case.lie.goes_on]
    middle = told_only[len(told_only) // 2 :][:1]
    return [replace(case, kind=SALTS, lie=replace(case.lie, change=SALTED)) for case in middle]


def chosen(numbers: list[int]) -> dict[str, int]:
    """First, middle and last of some numbers, each once."""
    found: dict[int, str] = {}
    for place, number in zip(PLACES, (numbers[0], numbers[len(numbers) // 2], numbers[-1]), strict=True):
        found.setdefault(number, place)
    return {place: number for number, place in found.items()}


def lies(honest: Honest, number: int, place: str, question: int) -> list[tuple[str, Lie]]:
    """The lies of one operator, each with the name of its step."""
    operator = honest.program.operators[number]
    header, _ = honest.run(question)
    first = max(header.prompt - 1, 0) if operator.phase else 0
    steps = chosen(list(range(first, header.steps)))
    if honest.program.mode == "once":
        at = place if place in steps else "first"
        steps = {at: steps[at]}
    found = []
    for turn, (at, step) in enumerate(steps.items()):
        length = length_of(operator, step)
        index = (0, length // 2, length - 1)[(PLACES.index(place) + turn) % 3]
        found.append((at, Lie(step, number, index)))
    return found


def length_of(operator: Operator, step: int) -> int:
    """The values that an operator gives at a step."""
    return prod(step + 1 if extent < 0 else extent for extent in operator.shape)


def looked_at(honest: Honest, case: Case) -> Case:
    """Rules 3 and 4: the case as it will be told, or with slot None."""
    lie = case.lie
    own = honest.program.slot(lie.step, lie.operator)
    if own is not None:
        return replace(case, slot=own)
    operator = honest.program.operators[lie.operator]
    length, span = length_of(operator, lie.step), operator.high - operator.low
    for part, thirds in TRIES:
        index = (lie.index + thirds * length // 3) % length
        change = max(1, span // part) if part else 1
        tried = replace(case, lie=replace(lie, index=index, change=change))
        slot = honest.found_at(tried)
        if slot is not None:
            return replace(tried, slot=slot)
    return replace(case, slot=None)
