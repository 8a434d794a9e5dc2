"""The watcher's table, draw and journal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from avow.chain.modules.located import Located
from avow.nodes.watcher.errors import JournalBusy, OtherJournal
from avow.nodes.watcher.journal import Case, Journal, Summary, read_summary
from avow.nodes.watcher.report import WORDS, as_json, as_line
from avow.nodes.watcher.sampling import is_chosen
from avow.nodes.watcher.states import LIFE, OPEN, Event, NoSuchMove, State, advance
from avow.receipt.statement import Columns, Method

CHAIN = "avow-0123456789abcdef"
hash32 = st.binary(min_size=32, max_size=32)


def case(number=0, state=State.CHOSEN, **more):
    columns = Columns(
        number, bytes(32), bytes(20), Method.OPTIMISTIC, 1, 10**9, 1, 1_800_000_000_000, bytes([number % 256]) * 32, 0
    )
    located = Located(columns, bytes(32), (b"\x01" * 32,))
    return Case(located.hash(), b"\x02" * 32, 0, 7, located, 1_000 + number, state, 5, 6, **more)


def test_every_open_state_has_a_way_on_and_no_result_has():
    assert {state for state, _ in LIFE} == OPEN
    reached = {State.CHOSEN}
    for _ in State:
        reached |= {after for (state, _), after in LIFE.items() if state in reached}
    assert reached == set(State)
    assert set(WORDS) == set(State)


@given(st.sampled_from(State), st.sampled_from(Event))
def test_what_is_not_in_the_table_does_not_happen(state, event):
    if (state, event) in LIFE:
        assert advance(state, event) is LIFE[state, event]
    else:
        with pytest.raises(NoSuchMove):
            advance(state, event)


def test_nothing_is_challenged_that_was_not_convicted():
    ways = [state for (state, event), after in LIFE.items() if after is State.COMMITTED]
    assert ways == [State.PROVEN]
    assert [event for (_, event), after in LIFE.items() if after is State.PROVEN] == [Event.FAULT_SHOWN]


@given(hash32, hash32, st.integers(0, 1_000_000), st.integers(0, 1_000_000))
def test_a_higher_rate_draws_what_a_lower_one_does(beacon, statement, low, high):
    low, high = sorted((low, high))
    if is_chosen(beacon, statement, low):
        assert is_chosen(beacon, statement, high)
    assert is_chosen(beacon, statement, 1_000_000)
    assert not is_chosen(beacon, statement, 0)


def test_the_rate_is_the_share_that_is_drawn():
    drawn = sum(is_chosen(bytes(32), number.to_bytes(32), 50_000) for number in range(20_000))
    assert 850 < drawn < 1_150


def test_a_journal_keeps_what_it_was_told(tmp_path):
    path = tmp_path / "watcher" / "journal.db"
    full = case(1, State.PROVEN, detail="x", demand=b"d", demand_id=b"i", private=b"p", evidence=b"e", salt=b"s")
    with Journal(path, CHAIN) as journal:
        journal.record_blocks(9, 2, [case(0), full])
        journal.record_blocks(11, 3, [case(0, State.AGREED)])  # what is known is not begun anew
        journal.record_answer(full.statement, b"demand", b"given")
        with pytest.raises(JournalBusy):
            Journal(path, CHAIN)
    with Journal(path, CHAIN) as journal:
        assert (journal.height, journal.seen) == (11, 5)
        assert journal.open_cases() == [case(0), full]
        assert journal.case(full.statement) == full
        assert journal.answers(full.statement) == {b"demand": b"given"}
        done = case(0).after(Event.SAME_RUN, 99)
        journal.store(done)
        assert journal.open_cases() == [full]
        assert journal.counts() == {State.AGREED: 1, State.PROVEN: 1}
    assert read_summary(path) == Summary(11, 5, {State.AGREED: 1, State.PROVEN: 1})
    assert read_summary(tmp_path / "none.db") == Summary()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OtherJournal):
        Journal(path, "avow-fedcba9876543210")


def test_what_is_said_of_a_case():
    view = as_json(case(3, State.OTHER_ANSWER, detail="why"))
    assert (view["state"], view["alarm"], view["number"], view["detail"]) == ("other_answer", True, 3, "why")
    assert "why" in as_line(case(3, State.AGREED, detail="why"))


class Lives(RuleBasedStateMachine):
    """A case under any events: it ends, and a result stays."""

    def __init__(self):
        super().__init__()
        self.state = State.CHOSEN
        self.ended = None

    @rule(event=st.sampled_from(Event))
    def happens(self, event):
        try:
            self.state = advance(self.state, event)
        except NoSuchMove:
            assert (self.state, event) not in LIFE
        if self.state not in OPEN:
            self.ended = self.ended or self.state

    @invariant()
    def a_result_stays(self):
        assert self.ended in (None, self.state)


TestLives = Lives.TestCase
