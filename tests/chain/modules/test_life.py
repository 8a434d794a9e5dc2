"""Random lives of keys and statements, against a model of a few lines: Hypothesis drives both."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from avow.chain.errors import WHOLE_BATCH, Code
from avow.chain.modules import bank, nodes, registry, settlement
from avow.receipt.standing import KEY_LIFE, KeyEvent, KeyRecord, KeyState
from tests.chain.harness import FAR_MS, PROGRAM, Chain, NodeKey, account, refused

EVENTS = {"drain": KeyEvent.DRAIN, "retire": KeyEvent.RETIRE, "revoke": KeyEvent.REVOKE, "activate": KeyEvent.ACTIVATE}
SETTLING = (KeyState.ACTIVE, KeyState.DRAINING, KeyState.RETIRED)


@dataclass
class Model:
    """What the chain should think of one key."""

    key: NodeKey
    state: KeyState = KeyState.ACTIVE
    until_ms: int | None = None
    settled: int = 0
    waiting: list = field(default_factory=list)


class Lives(RuleBasedStateMachine):
    keys = Bundle("keys")

    @initialize()
    def begin(self):
        self.chain = Chain()
        self.models: dict[bytes, Model] = {}
        self.generation = 0
        self.allowance = 0
        self.offered = 1
        self.chain.do("operator", registry.ADDRESS, "publish", "harness", PROGRAM)
        self.chain.do("operator", nodes.ADDRESS, "setPrice", PROGRAM, 0, 100)
        self.money = self.total()

    def total(self) -> int:
        return sum(int.from_bytes(value[8:]) for _, value in self.chain.store.iterate(b"account/"))

    @rule(target=keys)
    def register(self):
        self.generation += 1
        key = self.chain.register(self.chain.new_key(generation=self.generation))
        self.models[key.id] = Model(key)
        return key.id

    @rule(key=keys, event=st.sampled_from(sorted(EVENTS)))
    def change(self, key, event):
        model = self.models[key]
        following = KEY_LIFE.get((model.state, EVENTS[event]))
        result = self.chain.send("operator", nodes.ADDRESS, event, key)
        if following is None:
            assert refused(result) == (Code.KEY_LIFE, None)
            return
        assert result.code == Code.OK
        model.state = following
        if event in ("drain", "retire"):
            end = self.chain.now_ms + self.chain.genesis.settlement_window_ms
            model.until_ms = end if model.until_ms is None else min(end, model.until_ms)

    @rule(cap=st.integers(0, 5_000))
    def allow(self, cap):
        self.chain.do("payer", bank.ADDRESS, "allow", account("operator"), cap, FAR_MS)
        self.allowance = cap

    @rule()
    def offer(self):
        if self.offered:
            self.chain.do("operator", registry.ADDRESS, "withdraw", "harness", self.offered)
            self.offered = 0
        else:
            [self.offered] = self.chain.do("operator", registry.ADDRESS, "publish", "harness", PROGRAM)

    @rule(hours=st.integers(1, 30))
    def wait(self, hours):
        self.chain.now_ms += hours * 3_600_000
        self.chain.block()

    @rule(key=keys, count=st.integers(1, 3), amount=st.integers(0, 1_100))
    def sign(self, key, count, amount):
        model = self.models[key]
        model.key.now_ms = self.chain.now_ms
        for _ in range(count):
            model.waiting.append((model.key.sign(amount=amount), amount, self.chain.now_ms))

    def expected(self, model: Model, void: bytes):
        """The refusal that the rules give for the next statements with these causes; None if they settle."""
        chain, now_ms = self.chain, self.chain.now_ms + 1_000
        if not all(void):
            if model.state not in SETTLING or (model.until_ms is not None and now_ms > model.until_ms):
                return Code.KEY_NOT_SETTLING, WHOLE_BATCH
            if model.waiting[0][2] < now_ms - chain.genesis.settlement_window_ms:
                return Code.BATCH_TIME, WHOLE_BATCH
        left = self.allowance
        for index, cause in enumerate(void):
            amount = model.waiting[index][1]
            if cause:
                holds = {1: model.state is KeyState.REVOKED, 3: not self.offered, 4: amount > left, 5: True}
                if not holds.get(cause, False):
                    return Code.VOID_WITHOUT_CAUSE, index
            elif not self.offered:
                return Code.PROGRAM_WITHDRAWN, index
            elif amount > 1_000:
                return Code.AMOUNT_EXCEEDS_PRICE, index
            elif amount > left:
                return Code.PAYER_NOT_CONSENTING, index
            else:
                left -= amount
        return None

    @rule(key=keys, data=st.data())
    def settle(self, key, data):
        model = self.models[key]
        if not model.waiting:
            return
        count = data.draw(st.integers(1, min(4, len(model.waiting))))
        void = bytes(data.draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5]), min_size=count, max_size=count)))
        expected = self.expected(model, void)
        result = self.chain.settle(model.key, [item for item, _, _ in model.waiting[:count]], void=void)
        assert refused(result) == expected, (result.log, expected)
        if expected is None:
            self.allowance -= sum(item[1] for item, cause in zip(model.waiting, void, strict=False) if not cause)
            model.settled += count
            del model.waiting[:count]

    @rule(key=keys)
    def replay(self, key):
        """What settled settles no second time."""
        model = self.models[key]
        if model.settled:
            twin = self.chain.new_key(generation=int(self.generation))
            assert twin is not model.key
            first = self.chain.view(settlement.ADDRESS, "next", key)[0]
            assert first == model.settled

    @rule(key=consumes(keys))
    def forget(self, key):
        """A key that nobody touches any more stays what it was."""

    @invariant()
    def the_chain_agrees(self):
        if not hasattr(self, "models"):
            return
        for key, model in self.models.items():
            record = KeyRecord.from_bytes(self.chain.store.get(b"nodes/key/" + key))
            assert (record.state, record.until_ms) == (model.state, model.until_ms)
            assert self.chain.view(settlement.ADDRESS, "next", key)[0] == model.settled
        assert self.total() == self.money


Lives.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLives = Lives.TestCase
