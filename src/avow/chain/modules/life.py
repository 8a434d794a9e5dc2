"""What can happen to an optimistic statement, to a challenge of it, and to a demand about it: one table.

A challenge's bond is burnt when it is rejected or lapses, else it is returned. A demand's goes to the node when it answers, else it is
returned. What is not in the table is refused: no move after resolution.
"""

from enum import Enum, IntEnum

from avow.chain.errors import Code, Refused


class Subject(Enum):
    STATEMENT = "statement"
    CHALLENGE = "challenge"
    DEMAND = "demand"


class State(IntEnum):
    """The numbers stand in records and events."""

    OPEN = 0
    FINAL = 1
    OVERTURNED = 2
    COMMITTED = 10
    UPHELD = 11
    REJECTED = 12
    LAPSED = 13
    SUPERSEDED = 14
    REWARDED = 15
    POSED = 20
    ANSWERED = 21
    EXPIRED = 22
    MOOT = 30


class Event(Enum):
    FRAUD_PROVEN = "fraud_proven"
    TRACE_WITHHELD = "trace_withheld"
    WINDOW_PASSED = "window_passed"
    PROOF_HOLDS = "proof_holds"
    PROOF_FAILS = "proof_fails"
    EARLIER_PROOF_HOLDS = "earlier_proof_holds"
    ANSWER_GIVEN = "answer_given"
    TIME_PASSED = "time_passed"
    RESOLVED_OTHERWISE = "resolved_otherwise"


LIFE: dict[tuple[Subject, State, Event], State] = {
    (Subject.STATEMENT, State.OPEN, Event.FRAUD_PROVEN): State.OVERTURNED,
    (Subject.STATEMENT, State.OPEN, Event.TRACE_WITHHELD): State.OVERTURNED,
    (Subject.STATEMENT, State.OPEN, Event.WINDOW_PASSED): State.FINAL,
    (Subject.CHALLENGE, State.COMMITTED, Event.PROOF_HOLDS): State.UPHELD,
    (Subject.CHALLENGE, State.COMMITTED, Event.PROOF_FAILS): State.REJECTED,
    (Subject.CHALLENGE, State.COMMITTED, Event.TIME_PASSED): State.LAPSED,
    (Subject.CHALLENGE, State.COMMITTED, Event.RESOLVED_OTHERWISE): State.MOOT,
    (Subject.CHALLENGE, State.UPHELD, Event.EARLIER_PROOF_HOLDS): State.SUPERSEDED,
    (Subject.CHALLENGE, State.UPHELD, Event.TIME_PASSED): State.REWARDED,
    (Subject.DEMAND, State.POSED, Event.ANSWER_GIVEN): State.ANSWERED,
    (Subject.DEMAND, State.POSED, Event.TIME_PASSED): State.EXPIRED,
    (Subject.DEMAND, State.POSED, Event.RESOLVED_OTHERWISE): State.MOOT,
}


def advance(subject: Subject, state: State, event: Event) -> State:
    """Raises Refused (DISPUTE_RESOLVED): no move after resolution."""
    following = LIFE.get((subject, state, event))
    if following is None:
        raise Refused(Code.DISPUTE_RESOLVED)
    return following
