"""Random lives of optimistic batches: money is conserved, nothing happens that the table does not have, no honest node loses.

The machine plays everybody: a node that cheats in some statements and is silent about some, challengers with right and wrong
proofs, entitled and other demanders, impatient operators. It keeps its own account of every statement.
"""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from avow.chain.errors import Code
from avow.chain.modules.life import LIFE, Event, State, Subject
from avow.exact import descent
from avow.receipt.finality import BatchState
from avow.receipt.statement import TERMS_PAYER_OPENS
from tests.chain.harness import account, refused
from tests.chain.optimistic import Optimistic, Posted

CHALLENGERS = ("watcher", "second watcher", "operator")
DEMANDERS = ("payer", "watcher", "stranger")


@dataclass
class Commitment:
    """What one challenger committed to."""

    who: str
    posted: Posted
    index: int
    evidence: bytes
    salt: bytes
    holds: bool
    state: State = State.COMMITTED


@dataclass
class Demanded:
    who: str
    posted: Posted
    index: int
    identity: bytes
    state: State = State.POSED


@dataclass
class Account:
    """The machine's own account of one batch."""

    posted: Posted
    states: list[State]
    guilty: set[int] = field(default_factory=set)
    withheld: set[int] = field(default_factory=set)


class Disputes(RuleBasedStateMachine):
    batches = Bundle("batches")
    commitments = Bundle("commitments")
    posed = Bundle("posed")

    @initialize()
    def begin(self) -> None:
        self.network = Optimistic()
        self.supply = self.network.supply()
        self.accounts: list[Account] = []
        self.open: list[Commitment] = []
        self.demanded: list[Demanded] = []
        self.salt = 0
        self.revoked = False

    # --- helpers ----------------------------------------------------------------------------------------------------

    def step(self, subject: Subject, state: State, event: Event) -> State:
        """A move that happened has to be in the table."""
        assert (subject, state, event) in LIFE
        return LIFE[subject, state, event]

    def account_of(self, posted: Posted) -> Account:
        return next(item for item in self.accounts if item.posted is posted)

    def overturn(self, posted: Posted, index: int, event: Event) -> None:
        item = self.account_of(posted)
        item.states[index] = self.step(Subject.STATEMENT, item.states[index], event)
        self.revoked = True

    # --- moves ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.revoked)
    @rule(
        target=batches,
        count=st.integers(1, 3),
        amount=st.integers(0, 1_000),
        terms=st.integers(0, 1),
        guilty=st.sets(st.integers(0, 2)),
        withheld=st.sets(st.integers(0, 2)),
    )
    def post(self, count: int, amount: int, terms: int, guilty: set[int], withheld: set[int]) -> Posted:
        posted = self.network.post(count, amount=amount, terms=terms)
        guilty = {index for index in guilty if index < count}
        self.network.guilty.update(posted.statements[index].columns.trace for index in guilty)
        self.accounts.append(Account(posted, [State.OPEN] * count, guilty, withheld))
        return posted

    @rule(target=commitments, posted=batches, data=st.data(), who=st.sampled_from(CHALLENGERS), lie=st.booleans())
    def commit(self, posted: Posted, data: st.DataObject, who: str, lie: bool):
        index = data.draw(st.integers(0, len(posted.statements) - 1))
        item = self.account_of(posted)
        self.salt += 1
        evidence = posted.evidence(index, b"nothing" if lie else None)
        salt = self.salt.to_bytes(32)
        committed = self.network.commitment(who, evidence, salt)
        arguments = (posted.key.id, posted.first, committed)
        result = self.network.send(who, "commit", *arguments, value=self.network.rules.challenge_bond)
        if result.code != Code.OK:
            assert refused(result)[0] in (Code.BATCH_FINAL, Code.WINDOW_PASSED)
            return multiple()
        made = Commitment(who, posted, index, evidence, salt, index in item.guilty and not lie)
        self.open.append(made)
        return made

    @rule(made=consumes(commitments))
    def prove(self, made: Commitment) -> None:
        if made.state is not State.COMMITTED:
            return
        with self.network.refereed():
            result = self.network.send(made.who, "prove", made.evidence, made.salt)
        columns = made.posted.statements[made.index].columns
        if result.code != Code.OK:
            code = refused(result)[0]
            assert code in (Code.NOT_ENTITLED, Code.REVEAL_PASSED, Code.BATCH_FINAL, Code.CHALLENGE_UNKNOWN)
            assert code is not Code.NOT_ENTITLED or columns.terms & TERMS_PAYER_OPENS
            return
        state = State(self.network.events("ChallengeResolved")[-1][1])
        event = {
            State.UPHELD: Event.PROOF_HOLDS,
            State.REJECTED: Event.PROOF_FAILS,
            State.MOOT: Event.RESOLVED_OTHERWISE,
        }[state]
        made.state = self.step(Subject.CHALLENGE, made.state, event)
        assert state is not State.UPHELD or made.holds
        overturned = self.account_of(made.posted).states[made.index] is State.OVERTURNED
        assert state is not State.REJECTED or not made.holds
        assert state is not State.MOOT or overturned
        if state is State.UPHELD and not overturned:
            self.overturn(made.posted, made.index, Event.FRAUD_PROVEN)

    @rule(made=commitments)
    def lapse(self, made: Commitment) -> None:
        if made.state is not State.COMMITTED:
            return
        committed = self.network.commitment(made.who, made.evidence, made.salt)
        result = self.network.send("stranger", "lapse", account(made.who), committed)
        if result.code == Code.OK:
            made.state = self.step(Subject.CHALLENGE, made.state, Event.TIME_PASSED)
        else:
            assert refused(result)[0] in (Code.REVEAL_OPEN, Code.CHALLENGE_UNKNOWN)

    @rule(target=posed, posted=batches, data=st.data(), who=st.sampled_from(DEMANDERS))
    def demand(self, posted: Posted, data: st.DataObject, who: str):
        index = data.draw(st.integers(0, len(posted.statements) - 1))
        call = self.network.demand_data(posted, index)
        result = self.network.send(who, "demand", call, value=self.network.rules.demand_bond)
        terms = posted.statements[index].columns.terms
        if result.code != Code.OK:
            code = refused(result)[0]
            assert code in (
                Code.BATCH_FINAL, Code.WINDOW_PASSED, Code.DISPUTE_RESOLVED, Code.NOT_ENTITLED, Code.TOO_MANY_DEMANDS,
            )  # fmt: skip
            assert code is not Code.NOT_ENTITLED or who == "stranger" or terms & TERMS_PAYER_OPENS
            return multiple()
        assert who != "stranger"
        identity = result.data[-32:]
        made = Demanded(who, posted, index, identity)
        self.demanded.append(made)
        return made

    @rule(made=posed)
    def answer(self, made: Demanded) -> None:
        item = self.account_of(made.posted)
        if made.state is not State.POSED or made.index in item.withheld:
            return
        given = descent.answer_to(descent.Demand(), made.posted.runs[made.index])
        result = self.network.send("operator", "answer", made.identity, given)
        if result.code == Code.OK:
            assert item.states[made.index] is State.OPEN
            made.state = self.step(Subject.DEMAND, made.state, Event.ANSWER_GIVEN)
        else:
            assert refused(result)[0] in (Code.ANSWER_LATE, Code.DISPUTE_RESOLVED)

    @rule(made=posed)
    def expire(self, made: Demanded) -> None:
        if made.state is not State.POSED:
            return
        item = self.account_of(made.posted)
        result = self.network.send("stranger", "expire", made.identity)
        if result.code != Code.OK:
            assert refused(result)[0] is Code.ANSWER_OPEN
            return
        if item.states[made.index] is State.OVERTURNED:
            made.state = self.step(Subject.DEMAND, made.state, Event.RESOLVED_OTHERWISE)
        else:
            made.state = self.step(Subject.DEMAND, made.state, Event.TIME_PASSED)
            self.overturn(made.posted, made.index, Event.TRACE_WITHHELD)

    @rule(posted=batches)
    def finalise(self, posted: Posted) -> None:
        item = self.account_of(posted)
        result = self.network.send("operator", "finalise", posted.key.id, posted.first)
        if result.code != Code.OK:
            assert refused(result)[0] in (Code.WINDOW_OPEN, Code.DISPUTE_WAITS, Code.BATCH_FINAL)
            return
        waiting = [made for made in self.demanded if made.posted is posted and made.state is State.POSED]
        assert not waiting
        for index, state in enumerate(item.states):
            if state is State.OPEN:
                item.states[index] = self.step(Subject.STATEMENT, state, Event.WINDOW_PASSED)

    @rule(posted=batches)
    def reward(self, posted: Posted) -> None:
        for index, state in enumerate(self.account_of(posted).states):
            result = self.network.send("stranger", "reward", posted.statements[index].hash)
            if result.code == Code.OK:
                assert state is State.OVERTURNED
            else:
                assert refused(result)[0] in (Code.REWARD_UNKNOWN, Code.REWARD_WAITS)

    @rule(part=st.integers(1, 100))
    def withdraw(self, part: int) -> None:
        free = self.network.bond_record().free
        result = self.network.send("operator", "withdraw", free * part // 1_000)
        if result.code != Code.OK:
            assert refused(result)[0] in (Code.DISPUTE_WAITS, Code.OUT_OF_RANGE)

    @rule(amount=st.integers(1, 10**18))
    def deposit(self, amount: int) -> None:
        self.network.do("operator", "deposit", value=amount)

    @rule(ms=st.sampled_from([1_000, 4_000, 11_000, 31_000, 61_000]))
    def wait(self, ms: int) -> None:
        self.network.pass_window(ms)

    @rule()
    def halt(self) -> None:
        self.network.chain.block(advance_ms=3_600_000)

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def money_is_conserved(self) -> None:
        if not hasattr(self, "network"):
            return
        assert self.network.supply() == self.supply
        self.network.check_money()

    @invariant()
    def records_say_what_happened(self) -> None:
        for item in getattr(self, "accounts", []):
            record = self.network.batch(item.posted)
            overturned = {index for index, state in enumerate(item.states) if state is State.OVERTURNED}
            assert set(record.overturned) == {item.posted.first + index for index in overturned}
            final = record.state is BatchState.FINAL
            assert all((state is State.FINAL) is final for state in item.states if state is not State.OVERTURNED)
            if not final:
                columns = [statement.columns for statement in item.posted.statements]
                rest = [entry for index, entry in enumerate(columns) if index not in overturned]
                assert record.held == sum(entry.amount for entry in rest)
                assert record.locked == sum(self.network.share(entry.amount, entry.terms) for entry in rest)

    def teardown(self) -> None:
        """In the end every bond that is nobody's to lose can be taken home."""
        if not getattr(self, "accounts", None):
            return
        network = self.network
        for _ in range(2):
            network.pass_window(network.rules.window_ms)
        for made in self.demanded:
            if made.state is State.POSED:
                network.do("stranger", "expire", made.identity)
        for made in self.open:
            if made.state is State.COMMITTED:
                committed = network.commitment(made.who, made.evidence, made.salt)
                network.send("stranger", "lapse", account(made.who), committed)
        for item in self.accounts:
            network.send("stranger", "finalise", item.posted.key.id, item.posted.first)
            for statement in item.posted.statements:
                network.send("stranger", "reward", statement.hash)
            assert network.batch(item.posted).state is BatchState.FINAL
        bond = network.bond_record()
        assert (bond.locked, bond.disputes) == (0, 0)
        if bond.amount:
            network.do("operator", "withdraw", bond.amount)
        assert network.held_by_module() == 0
        assert not list(network.store.iterate(b"disputes/challenge/"))
        assert not list(network.store.iterate(b"disputes/demand/"))
        assert not list(network.store.iterate(b"disputes/waiting/"))


TestDisputes = Disputes.TestCase
TestDisputes.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
