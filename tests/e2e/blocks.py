"""A chain of mixed transactions, written to a file: what replay.py executes again under other circumstances.

Transfers, allowances, batches of all methods (settled, void, refused), registrations with real attestation documents, prices, names,
disputes (challenges, demands, answers, expiries), changes of validators, calls that revert or run out of gas, and bytes that are no
transaction: in an order that a seed decides. The file: one JSON object a line; first the genesis, then a block a line.
"""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from avow.chain.errors import Code
from avow.chain.execution import MODULES
from avow.chain.genesis import AllowedMeasurement
from avow.chain.modules import bank, nodes, optimistic, registry, validators
from avow.exact import descent
from avow.methods.tee.attesters import DevelopmentAttester
from avow.receipt.encoding import decode
from avow.receipt.statement import Method
from tests.chain.harness import ETHER, FAR_MS, NAMES, PROGRAM, START_MS, Chain, NodeKey, account, refused
from tests.chain.optimistic import RULES, Optimistic, Posted

GAS = 5_000_000
VALIDATOR = b"\x21" * 32


@dataclass
class Mixed(Optimistic):
    """A network with nodes of every method, and a seeded choice of what they do. `folder` holds the enclave's keys."""

    folder: Path = Path()
    seed: int = 0
    posted: list[Posted] = field(default_factory=list)
    demanded: list[tuple[Posted, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        enclave = DevelopmentAttester(self.folder, programs=[PROGRAM], versions={}, clock_ms=lambda: START_MS)
        self.chain = Chain(
            store=self.store,
            roots=(enclave.root,),
            measurements=(AllowedMeasurement(enclave.measurement, None, 0, None),),
            settings={"optimistic": RULES, "validators": ((VALIDATOR, 10),)},
        )
        self.enclave = self.chain.attester(self.folder)
        self.key = self.chain.node(Method.OPTIMISTIC)
        self.keys = {Method.OPTIMISTIC: self.key, Method.VANILLA: self.chain.register(self.chain.new_key())}
        self.keys[Method.TEE] = self.chain.register(self.chain.new_key(Method.TEE), self.enclave)
        for method in (Method.VANILLA, Method.TEE):
            self.chain.do("operator", nodes.ADDRESS, "setPrice", PROGRAM, int(method), 100)
        self.do("operator", "deposit", value=10 * ETHER)
        self.count = 0
        self.generation = 0
        self.refusals: Counter[Code] = Counter()

    # --- What happens -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One block, or a few."""
        chance = self.chance.random()
        if chance < 0.15:
            self.chain.block(advance_ms=self.chance.choice([1, 500, 1_000, 9_999]))
        elif chance < 0.6:
            self.chain.block(*self.plain(), advance_ms=self.chance.randint(1, 2_000))
        elif chance < 0.8:
            self.settled()
        elif chance < 0.97:
            self.disputed()
        else:
            self.governed()

    def plain(self) -> list[bytes]:
        """Transactions of different senders, some of which fail."""
        kinds: list[Callable[[str], bytes]] = [self.transfer, self.transfer, self.call, self.wrong]
        names = self.chance.sample(NAMES, self.chance.randint(1, 4))
        made = [self.chance.choice(kinds)(who) for who in names]
        if self.chance.random() < 0.1:
            made.insert(self.chance.randrange(len(made) + 1), self.chance.randbytes(self.chance.randint(0, 200)))
        return made

    def transfer(self, who: str) -> bytes:
        to = sha256(self.chance.randbytes(2)).digest()[:20]
        return self.chain.raw(who, to, value=self.chance.randint(0, 10**15), gas=21_000 + self.chance.choice([0, 999]))

    def call(self, who: str) -> bytes:
        node = account(self.chance.choice(NAMES))
        calls = [
            (bank.ADDRESS, "allow", node, self.chance.randint(0, ETHER) if who != "payer" else ETHER, FAR_MS),
            (bank.ADDRESS, "cancelAuthorisation", self.chance.randrange(1_000)),
            (registry.ADDRESS, "publish", f"name-{self.chance.randrange(300)}", self.chance.randbytes(32)),
            (nodes.ADDRESS, "setPrice", self.chance.randbytes(32), 0, self.chance.randrange(1_000)),
            (nodes.ADDRESS, "retire", self.chance.randbytes(32)),
            (validators.ADDRESS, "setPower", self.chance.randbytes(32), 5),
        ]
        module, function, *arguments = self.chance.choice(calls)
        gas = self.chance.choice([GAS, GAS, GAS, 30_000])
        return self.chain.raw(who, module, self.chain.call_data(module, function, *arguments), gas=gas)

    def wrong(self, who: str) -> bytes:
        fields = self.chance.choice([{"nonce": 10**6}, {"max_fee": 1}, {"value": 10**30}, {"gas": 20_999}, {}])
        return self.chain.raw(who, bank.ADDRESS, self.chance.randbytes(8), **{"gas": 100_000} | fields)

    def settled(self) -> None:
        method = self.chance.choice(list(self.keys))
        count = self.chance.choice([1, 1, 2, 5, 20])
        if method is Method.OPTIMISTIC:
            self.post_if_covered(count)
            return
        key = self.keys[method]
        key.now_ms = self.chain.now_ms
        state = (key.next, key.head)
        wrong = self.chance.random() < 0.1
        statements = [key.sign(amount=1_001 if wrong else self.chance.randint(0, 1_000)) for _ in range(count)]
        result = self.chain.settle(key, statements)
        if not result.code:
            assert not wrong
            return
        key.next, key.head = state
        reason = refused(result)[0]
        self.refusals[reason] += 1
        if not wrong and reason not in (Code.PAYER_NOT_CONSENTING, Code.BALANCE_TOO_LOW):
            self.generation += 1  # the key's time is over, for example: a boot later there is another
            fresh = self.chain.new_key(method, generation=self.generation)
            self.keys[method] = self.chain.register(fresh, self.enclave if method is Method.TEE else None)

    def post_if_covered(self, count: int) -> None:
        """An optimistic batch; refused, and signed anew later, when the bond does not cover it."""
        state, made = (self.key.next, self.key.head), [self.sign() for _ in range(count)]
        posted = Posted(self.key, [item for item, _ in made], [run for _, run in made], bytes(count))
        result = self.chain.settle(self.key, posted.statements)
        if result.code:
            assert refused(result)[0] is Code.BOND_INSUFFICIENT
            self.key.next, self.key.head = state
        else:
            self.posted = [*self.posted[-20:], posted]

    def disputed(self) -> None:
        if not self.posted:
            return
        posted = self.chance.choice(self.posted)
        index = self.chance.randrange(len(posted.statements))
        kind = self.chance.randrange(4)
        if kind == 0:
            evidence = posted.evidence(index)
            committed = self.commitment("watcher", evidence)
            value = self.rules.challenge_bond
            self.send("watcher", "commit", posted.key.id, posted.first, committed, value=value)
            self.send("watcher", "prove", evidence, bytes(32))  # no fault that a referee would see
        elif kind == 1:
            data = self.demand_data(posted, index)
            result = self.send("watcher", "demand", data, value=self.rules.demand_bond)
            if not result.code:
                self.send(
                    "operator", "answer", _identity(result), descent.answer_to(descent.Demand(), posted.runs[index])
                )
        elif kind == 2:
            self.send("payer", "expire", self.chance.randbytes(32))
        else:
            self.send("operator", "deposit", value=self.chance.randrange(ETHER // 10))

    def governed(self) -> None:
        self.generation += 1
        kind = self.chance.randrange(3)
        if kind == 0:
            self.chain.send("governance", validators.ADDRESS, "setPower", VALIDATOR, self.chance.randint(1, 100))
        elif kind == 1:
            fresh: NodeKey = self.chain.new_key(Method.VANILLA, generation=self.generation)
            self.keys[Method.VANILLA] = self.chain.register(fresh)
        else:
            key = self.chain.new_key(Method.TEE, generation=self.generation)
            self.chain.send("operator", nodes.ADDRESS, "register", *self.chain.register_arguments(key, self.enclave))


def _identity(result) -> bytes:
    """The demand that a transaction made."""
    function = MODULES[optimistic.ADDRESS].interface.functions["demand"]
    return function.decode_output(decode(result.data)["output"])[0]


def write(path: Path, folder: Path, *, blocks: int, seed: int) -> Counter:
    """At least `blocks` blocks; how often each code came."""
    mixed = Mixed(folder=folder, seed=seed)
    while mixed.chain.height < blocks:
        mixed.step()
    chain = mixed.chain
    codes: Counter = Counter()
    with path.open("w") as file:
        file.write(json.dumps({"genesis": chain.genesis.to_bytes().hex()}) + "\n")
        for request, response in zip(chain.requests, chain.responses, strict=True):
            codes.update(result.code for result in response.tx_results)
            line = {
                "height": request.height,
                "time_ns": request.time_ns,
                "hash": request.hash.hex(),
                "txs": [tx.hex() for tx in request.txs],
                "app_hash": response.app_hash.hex(),
            }
            file.write(json.dumps(line) + "\n")
    return codes


__all__ = ["Mixed", "write"]
