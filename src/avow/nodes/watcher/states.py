"""What can become of a statement that a watcher chose: one table.

    chosen ──▶ agreed | not_let | unknown_program | other_inputs | other_answer | for_payer | unsure | unchecked | missed | failed
       │ ▲
       │ └────────── answered ──────────┐
       ├──▶ withheld ──▶ demanded ──────┤
       │                    └──▶ won    │
       └──▶ proven ──▶ committed ──▶ upheld ──▶ won
                                        └──▶ beaten | rejected | missed

A statement in one of `OPEN` is worked on, also after a crash; the others are results. What is not in the table is a fault of the watcher.
"""

from enum import StrEnum


class State(StrEnum):
    """`won`: the statement is overturned and the reward is here. `for_payer`: a fault that the payer alone may show on chain.

    `failed`: errors of the watcher itself kept it from checking. `rejected` and `failed` never happen to a watcher that works.
    """

    CHOSEN = "chosen"
    WITHHELD = "withheld"
    DEMANDED = "demanded"
    PROVEN = "proven"
    COMMITTED = "committed"
    UPHELD = "upheld"
    AGREED = "agreed"
    NOT_LET = "not_let"
    UNKNOWN_PROGRAM = "unknown_program"
    OTHER_INPUTS = "other_inputs"
    OTHER_ANSWER = "other_answer"
    FOR_PAYER = "for_payer"
    UNSURE = "unsure"
    UNCHECKED = "unchecked"
    MISSED = "missed"
    FAILED = "failed"
    WON = "won"
    BEATEN = "beaten"
    REJECTED = "rejected"


class Event(StrEnum):
    SAME_RUN = "same_run"
    SHUT_OUT = "shut_out"
    NO_PROGRAM = "no_program"
    INPUTS_DIFFER = "inputs_differ"
    ANSWER_DIFFERS = "answer_differs"
    OWN_RUNS_DIFFER = "own_runs_differ"
    NOTHING_SHOWN = "nothing_shown"
    NOT_DEMANDABLE = "not_demandable"
    FAULT_SHOWN = "fault_shown"
    FAULT_FOR_PAYER = "fault_for_payer"
    DEMAND_POSED = "demand_posed"
    ANSWER_GIVEN = "answer_given"
    COMMITMENT_TAKEN = "commitment_taken"
    PROOF_HELD = "proof_held"
    PROOF_FAILED = "proof_failed"
    OVERTURNED_BY_US = "overturned_by_us"
    OVERTURNED_BY_OTHERS = "overturned_by_others"
    WINDOW_OVER = "window_over"
    OWN_ERROR = "own_error"


class NoSuchMove(AssertionError):
    """An event that a state does not know: a fault of the watcher's, never of what it watches."""


LIFE: dict[tuple[State, Event], State] = {
    (State.CHOSEN, Event.SAME_RUN): State.AGREED,
    (State.CHOSEN, Event.SHUT_OUT): State.NOT_LET,
    (State.CHOSEN, Event.NO_PROGRAM): State.UNKNOWN_PROGRAM,
    (State.CHOSEN, Event.INPUTS_DIFFER): State.OTHER_INPUTS,
    (State.CHOSEN, Event.ANSWER_DIFFERS): State.OTHER_ANSWER,
    (State.CHOSEN, Event.OWN_RUNS_DIFFER): State.UNSURE,
    (State.CHOSEN, Event.NOTHING_SHOWN): State.WITHHELD,
    (State.CHOSEN, Event.NOT_DEMANDABLE): State.UNCHECKED,
    (State.CHOSEN, Event.FAULT_SHOWN): State.PROVEN,
    (State.CHOSEN, Event.FAULT_FOR_PAYER): State.FOR_PAYER,
    (State.CHOSEN, Event.OVERTURNED_BY_OTHERS): State.BEATEN,
    (State.CHOSEN, Event.WINDOW_OVER): State.MISSED,
    (State.CHOSEN, Event.OWN_ERROR): State.FAILED,
    (State.WITHHELD, Event.DEMAND_POSED): State.DEMANDED,
    (State.WITHHELD, Event.NOT_DEMANDABLE): State.UNCHECKED,
    (State.WITHHELD, Event.OVERTURNED_BY_OTHERS): State.BEATEN,
    (State.WITHHELD, Event.WINDOW_OVER): State.MISSED,
    (State.DEMANDED, Event.ANSWER_GIVEN): State.CHOSEN,
    (State.DEMANDED, Event.OVERTURNED_BY_US): State.WON,
    (State.DEMANDED, Event.OVERTURNED_BY_OTHERS): State.BEATEN,
    (State.PROVEN, Event.COMMITMENT_TAKEN): State.COMMITTED,
    (State.PROVEN, Event.OVERTURNED_BY_OTHERS): State.BEATEN,
    (State.PROVEN, Event.WINDOW_OVER): State.MISSED,
    (State.COMMITTED, Event.PROOF_HELD): State.UPHELD,
    (State.COMMITTED, Event.PROOF_FAILED): State.REJECTED,
    (State.COMMITTED, Event.OVERTURNED_BY_OTHERS): State.BEATEN,
    (State.UPHELD, Event.OVERTURNED_BY_US): State.WON,
    (State.UPHELD, Event.OVERTURNED_BY_OTHERS): State.BEATEN,
}

OPEN = frozenset((State.CHOSEN, State.WITHHELD, State.DEMANDED, State.PROVEN, State.COMMITTED, State.UPHELD))
"""What there is still something to do about."""

ALARMS = frozenset(
    (
        State.PROVEN,
        State.FOR_PAYER,
        State.OTHER_INPUTS,
        State.OTHER_ANSWER,
        State.UNSURE,
        State.UNCHECKED,
        State.WITHHELD,
        State.REJECTED,
        State.FAILED,
    )
)
"""What a person should see."""


def advance(state: State, event: Event) -> State:
    """Raises NoSuchMove."""
    following = LIFE.get((state, event))
    if following is None:
        raise NoSuchMove(f"{event.value} does not happen to what is {state.value}")
    return following
