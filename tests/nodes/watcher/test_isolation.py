"""What goes wrong with one case, or one batch, ends neither the watcher nor the others; and it is seen."""

import asyncio
import logging
import sqlite3
from types import SimpleNamespace
from typing import ClassVar

import pytest

from avow.chain.modules.located import Located
from avow.errors import AvowError, EncodingError
from avow.nodes.chain_client import ChainUnavailable
from avow.nodes.watcher import faults as faults_module
from avow.nodes.watcher.examination import Respondent, in_thread
from avow.nodes.watcher.faults import CRASHES, HOPELESS, Faults, describe
from avow.nodes.watcher.journal import Case, Journal, read_summary
from avow.nodes.watcher.settlements import Posted
from avow.nodes.watcher.states import Event, State
from avow.nodes.watcher.watcher import Watcher
from avow.receipt.finality import OptimisticParameters
from avow.receipt.statement import Columns, Method

CHAIN = "avow-0123456789abcdef"
RULES = OptimisticParameters(window_ms=60_000)


def located(number):
    columns = Columns(
        number, bytes(32), bytes(20), Method.OPTIMISTIC, 1, 10**9, 1, 1_800_000_000_000, bytes([number]) * 32, 0
    )
    return Located(columns, bytes(32), (b"\x01" * 32,))


def case(number, state=State.CHOSEN, **more):
    item = located(number)
    return Case(item.hash(), b"\x02" * 32, 0, 7, item, 1_000 + number, state, 5, 6, **more)


class Chain:
    """As much of a chain as it takes to read nothing, or batches that cannot be read."""

    def __init__(self, posted=(), height=8):
        self.address = bytes(20)
        self._posted, self._height = list(posted), height
        self.unread = {}
        self.clock = 0

    async def rules(self):
        return SimpleNamespace(parameters=RULES, clock=self.clock)

    async def height(self):
        return self._height

    async def posted(self, first, last):
        return [item for item in self._posted if first <= item.height <= last]

    async def beacon(self, height):
        return bytes(31) + bytes([height % 256])

    async def statements(self, posted):
        if posted.first in self.unread:
            raise self.unread[posted.first]
        return [located(posted.first)]

    async def batch(self, key, first):
        return None


class Failing(Watcher):
    """Checks fail as `failures` says, by number; others agree."""

    failures: ClassVar[dict] = {}

    async def _check(self, item, now):
        failure = self.failures.get(item.columns.number)
        if failure is not None:
            raise failure
        return self._change(item, Event.SAME_RUN)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal.db", CHAIN) as made:
        yield made


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(faults_module, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(faults_module, "LONGEST_RETRY_S", 0.02)


def watcher_of(journal, chain=None, kind=Failing, **more):
    return kind(chain or Chain(), None, None, journal, rate_ppm=1_000_000, **more)


@pytest.mark.parametrize("failure", [TypeError("a bug"), AssertionError(), KeyError("x"), RecursionError("deep")])
async def test_a_bug_in_one_check_leaves_the_others_alone_and_is_seen(journal, failure, caplog, tmp_path):
    watcher = watcher_of(journal)
    watcher.failures = {1: failure}
    journal.record_blocks(7, 3, [case(number) for number in range(3)])
    async with asyncio.timeout(20):
        await watcher.drain()
    assert journal.counts() == {State.AGREED: 2, State.CHOSEN: 1}
    [fault] = journal.faults()
    assert fault.subject == case(1).statement
    assert fault.count == watcher.own_errors >= HOPELESS
    assert type(failure).__name__ in fault.detail
    assert "test_isolation.py" in fault.detail
    assert any(record.exc_info for record in caplog.records)
    assert case(1).statement.hex() in caplog.text
    assert read_summary(tmp_path / "journal.db").faults == (fault,)
    assert fault.as_json()["statement"] == case(1).statement.hex()


async def test_what_others_do_not_give_is_no_error_of_the_watchers(journal, caplog):
    watcher = watcher_of(journal)
    watcher.failures = {0: AvowError("not now")}
    journal.record_blocks(7, 2, [case(0), case(1)])
    running = asyncio.create_task(watcher.run())
    async with asyncio.timeout(20):
        while State.AGREED not in journal.counts() or caplog.text.count("not now") < 3:
            await asyncio.sleep(0.01)
    watcher.failures = {}
    async with asyncio.timeout(20):
        while journal.open_cases():
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert watcher.own_errors == 0
    assert not journal.faults()


async def test_a_watcher_goes_on_when_reading_itself_fails(journal):
    chain = Chain()
    working = chain.rules
    failures = [OSError("disk"), ZeroDivisionError(), ChainUnavailable("away")]

    async def rules():
        if failures:
            raise failures.pop(0)
        return await working()

    chain.rules = rules
    watcher = watcher_of(journal, chain)
    journal.record_blocks(6, 1, [case(0)])
    running = asyncio.create_task(watcher.run())
    async with asyncio.timeout(20):
        while journal.open_cases() or failures:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert journal.counts() == {State.AGREED: 1}
    assert sum(fault.count for fault in journal.faults()) == watcher.own_errors == 2


async def test_a_batch_that_cannot_be_read_does_not_end_reading(journal):
    batches = [Posted(b"\x02" * 32, bytes(20), first, 1, 10_000, 5, bytes(32)) for first in range(3)]
    chain = Chain(batches)
    chain.unread = {1: EncodingError("no batch"), 0: IndexError("a bug")}
    watcher = watcher_of(journal, chain)
    async with asyncio.timeout(20):
        await watcher.drain()
    assert journal.height == 7
    assert journal.seen == 3
    assert journal.counts() == {State.AGREED: 1}
    assert len(journal.faults()) == 2
    assert all("left unread" in fault.detail for fault in journal.faults())


async def test_a_move_that_fails_does_not_hold_up_the_others(journal):
    watcher = watcher_of(journal)

    async def move(item, now):
        if item.columns.number == 0:
            raise LookupError("a bug")
        return watcher._change(item, Event.OVERTURNED_BY_OTHERS)

    watcher._moves.move = move
    journal.record_blocks(7, 2, [case(0, State.PROVEN), case(1, State.UPHELD), case(2, State.DEMANDED)])
    async with asyncio.timeout(20):
        await watcher.drain()
    assert journal.counts() == {State.BEATEN: 2, State.PROVEN: 1}


async def test_who_fails_comes_after_who_did_not_yet(journal):
    """So a flood of cases that fail takes no place from a new one."""
    watcher = watcher_of(journal)
    journal.record_blocks(7, 3, [case(number) for number in range(3)])
    watcher._faults = Faults(journal, clock=lambda: 1e9)
    for _ in range(2):
        watcher._faults.failed(case(0).statement, TypeError(), "0")
    watcher._faults = _later(watcher._faults)
    assert [item.columns.number for item in watcher._waiting()] == [1, 2, 0]


def _later(faults):
    faults._clock = lambda: 2e9
    return faults


async def test_failures_until_the_window_is_over_are_a_result(journal):
    chain = Chain()
    chain.clock = 10**9
    journal.record_blocks(7, 2, [case(0), case(1)])
    journal.record_fault(case(0).statement, "TypeError: a bug", 1)
    watcher = watcher_of(journal, chain, Watcher)
    async with asyncio.timeout(20):
        await watcher.drain()
    assert journal.case(case(0).statement).state is State.FAILED
    assert journal.case(case(0).statement).detail == "TypeError: a bug"
    assert journal.case(case(1).statement).state is State.MISSED


async def test_what_ends_the_process_again_and_again_is_not_checked_again(journal):
    for before in range(CRASHES):
        assert journal.begin(case(0).statement) == before
    watcher = watcher_of(journal, kind=Watcher)
    assert await watcher._examine(case(0), None, {}) is None
    journal.end(case(0).statement)
    assert journal.begin(case(0).statement) == 0


def test_a_journal_that_takes_nothing_does_not_end_a_watcher(caplog):
    class Full:
        def record_fault(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

    faults = Faults(Full())
    faults.failed(b"reading", TypeError(), "reading")
    assert faults.own == 1
    assert "disk is full" in caplog.text


def test_pauses_grow_and_end():
    now = [0.0]
    faults = Faults(SimpleNamespace(record_fault=lambda *_: None), lambda: now[0])
    pauses = [faults.failed(b"x", AvowError("no"), "x") for _ in range(9)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == faults_module.LONGEST_RETRY_S
    assert not faults.is_due(b"x")
    now[0] += faults_module.LONGEST_RETRY_S
    assert faults.is_due(b"x")
    faults.over(b"x")
    assert faults.count(b"x") == 0


def test_what_is_said_of_an_error_is_one_line():
    try:
        raise ValueError("two\nlines " + "x" * 1_000)
    except ValueError as error:
        said = describe(error)
    assert "\n" not in said
    assert len(said) < 500
    assert describe(KeyError()) == "KeyError"


async def test_a_thread_that_fails_is_told_where_its_result_is_awaited():
    def work():
        raise MemoryError("none left")

    with pytest.raises(MemoryError):
        await in_thread(work)
    assert await in_thread(lambda: 3) == 3


async def test_a_node_that_does_not_answer_has_so_much_time_in_all():
    """And meanwhile another examination computes."""
    import threading

    async def ask(_demand):
        await asyncio.sleep(30)

    processor = threading.Lock()
    demand = SimpleNamespace(encoded=lambda: b"demand")
    other = Respondent(asyncio.get_running_loop(), ask, {b"demand": b"given"}, processor)
    silent = Respondent(asyncio.get_running_loop(), ask, {}, processor, wait_s=0.2)
    seen = []

    def first():
        with processor:
            return [silent.ask(demand), silent.ask(demand)]

    def second():
        with processor:
            seen.append(other.ask(demand))

    one = asyncio.create_task(in_thread(first))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(in_thread(second), 0.1)
    assert seen == [b"given"]
    assert await asyncio.wait_for(one, 5) == [None, None]


async def test_cancelling_does_not_wait_for_the_thread():
    import threading

    free = threading.Event()
    waiting = asyncio.create_task(in_thread(lambda: free.wait(20)))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 1)
    free.set()
    await asyncio.sleep(0.05)


def test_errors_are_logged_with_their_traceback(journal, caplog):
    with caplog.at_level(logging.ERROR):
        Faults(journal).failed(b"checking", TypeError("a bug"), "checking")
    [record] = caplog.records
    assert record.exc_info[0] is TypeError
    assert journal.fault(b"checking").as_json()["what"] == "checking"
