"""A chain with an optimistic node: statements with traces, and the moves of disputes about them.

The referee is injected (`refereed`): a fraud proof is the bytes `fault(statement)`, and holds if the statement is one of `guilty`. Demands
and answers are real, about the little trace that every statement carries.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from avow.chain import abci
from avow.chain.errors import Code
from avow.chain.execution import MODULES
from avow.chain.genesis import Genesis
from avow.chain.modules import bonds, challenges, demands, optimistic, referee
from avow.chain.modules.batch import leaves
from avow.chain.modules.located import Located
from avow.chain.state import MemoryStore, Store
from avow.exact import descent, hashing
from avow.receipt import merkle
from avow.receipt.encoding import decode, tagged_hash
from avow.receipt.finality import BatchRecord, BondRecord, OptimisticParameters, batch_key, bond_key
from avow.receipt.statement import Method, private_hash
from tests.chain.harness import ETHER, Chain, NodeKey, Statement, account, refused, secret

ADDRESS = optimistic.ADDRESS
RULES = OptimisticParameters(watchers=(account("watcher"),))
OPERATORS = 3
FAULT_TAG = b"guilty "


def fault(statement: bytes) -> bytes:
    """The bytes that stand for a fraud proof against a statement (its trace is unique)."""
    return FAULT_TAG + statement


@dataclass
class Run:
    """What a node committed to: the trace, and all that it can open."""

    seed: bytes
    trace: hashing.Trace
    tensors: dict[int, bytes]

    def header(self) -> bytes:
        return self.trace.header

    def key(self) -> bytes:
        return hashing.Salts(self.seed).key

    def leaves(self) -> Sequence[bytes]:
        return self.trace.leaves

    def tensor(self, slot: int) -> tuple[int, Sequence[bytes]]:
        return len(self.tensors[slot]), self.salted(slot)

    def salted(self, slot: int) -> Sequence[bytes]:
        salts = hashing.Salts(self.seed)
        return [salts.salt(slot, number) + chunk for number, chunk in enumerate(hashing.chunks(self.tensors[slot]))]


def make_run(name: str, size: int = 3_000) -> Run:
    """Three operators, one step; tensors of `size` bytes."""
    seed = hashlib.sha256(name.encode()).digest()
    tensors = {slot: (seed * (size // 32 + 1))[:size] + bytes([slot]) for slot in range(OPERATORS)}
    recorder = hashing.Recorder(seed, OPERATORS)
    for slot, tensor in tensors.items():
        recorder.record(0, slot, tensor)
    trace = recorder.finish(
        program=bytes(32), steps=1, prompt=0, parameters={}, finish="whole", inputs=[b"in"], outputs=[b"out"]
    )
    return Run(seed, trace, tensors)


@dataclass
class Posted:
    """A settled batch: its statements, where they are, and their runs."""

    key: NodeKey
    statements: list[Statement]
    runs: list[Run]
    void: bytes

    @property
    def first(self) -> int:
        return self.statements[0].columns.number

    def located(self, index: int) -> Located:
        statement = self.statements[index]
        hashed = leaves([item.hash for item in self.statements], self.void)
        return Located(statement.columns, private_hash(statement.private), tuple(merkle.path(hashed, index)))

    def evidence(self, index: int, shown: bytes | None = None) -> bytes:
        return challenges.evidence(
            self.located(index), fault(self.statements[index].columns.trace) if shown is None else shown
        )


@dataclass
class Optimistic:
    """The network; `chain` drives it, `guilty` are the traces with a fault."""

    rules: OptimisticParameters = RULES
    store: Store = field(default_factory=MemoryStore)
    guilty: set[bytes] = field(default_factory=set)
    bond: int = 10 * ETHER
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chain = Chain(store=self.store, settings={"optimistic": self.rules, **self.settings})
        self.key = self.chain.node(Method.OPTIMISTIC)
        self.count = 0
        if self.bond:
            self.do("operator", "deposit", value=self.bond)

    @property
    def genesis(self) -> Genesis:
        return self.chain.genesis

    # --- calls ------------------------------------------------------------------------------------------------------

    def send(self, who: str, function: str, *arguments: object, value: int = 0) -> abci.ExecTxResult:
        return self.chain.send(who, ADDRESS, function, *arguments, value=value)

    def do(self, who: str, function: str, *arguments: object, value: int = 0) -> list[Any]:
        return self.chain.do(who, ADDRESS, function, *arguments, value=value)

    def refusal(self, who: str, function: str, *arguments: object, value: int = 0) -> Code:
        """The code of a call that must be refused."""
        result = self.send(who, function, *arguments, value=value)
        found = refused(result)
        assert found is not None, (result.code, result.log)
        return found[0]

    def view(self, function: str, *arguments: object) -> list[Any]:
        return self.chain.view(ADDRESS, function, *arguments)

    def pass_window(self, ms: int | None = None) -> None:
        """Blocks without transactions until the window clock has moved on by this much (default: the window) and a bit."""
        left = (self.rules.window_ms if ms is None else ms) + 1
        while left > 0:
            step = min(left, self.genesis.heartbeat_ms)
            self.chain.block(advance_ms=step)
            left -= step

    # --- statements -------------------------------------------------------------------------------------------------

    def sign(self, **fields: Any) -> tuple[Statement, Run]:
        run = make_run(f"run {self.count}")
        self.count += 1
        self.key.now_ms = self.chain.now_ms
        return self.key.sign(trace=run.trace.trace, **fields), run

    def post(self, count: int = 1, *, void: bytes | None = None, **fields: Any) -> Posted:
        """A settled batch."""
        made = [self.sign(**fields) for _ in range(count)]
        posted = Posted(self.key, [item for item, _ in made], [run for _, run in made], void or bytes(count))
        result = self.chain.settle(self.key, posted.statements, void=posted.void)
        assert result.code == Code.OK, refused(result)
        return posted

    def cheat(self, count: int = 1, at: int = 0, **fields: Any) -> Posted:
        """A settled batch whose statement `at` has a fault."""
        posted = self.post(count, **fields)
        self.guilty.add(posted.statements[at].columns.trace)
        return posted

    def batch(self, posted: Posted) -> BatchRecord:
        record = self.store.get(batch_key(posted.key.id, posted.first))
        assert record is not None
        return BatchRecord.from_bytes(record)

    def bond_record(self, who: str = "operator") -> BondRecord:
        record = self.store.get(bond_key(account(who)))
        return BondRecord() if record is None else BondRecord.from_bytes(record)

    def share(self, amount: int = 1_000, terms: int = 0) -> int:
        return self.rules.required_bond(amount, terms)

    # --- moves ------------------------------------------------------------------------------------------------------

    def commitment(self, who: str, evidence: bytes, salt: bytes = bytes(32)) -> bytes:
        return challenges.commitment(self.genesis.chain_id, account(who), salt, evidence)

    def commit(self, who: str, posted: Posted, evidence: bytes, salt: bytes = bytes(32)) -> bytes:
        committed = self.commitment(who, evidence, salt)
        self.do(who, "commit", posted.key.id, posted.first, committed, value=self.rules.challenge_bond)
        return committed

    def prove(self, who: str, evidence: bytes, salt: bytes = bytes(32)) -> int:
        with self.refereed():
            [state] = self.do(who, "prove", evidence, salt)
        assert isinstance(state, int)
        return state

    def challenge(self, who: str, posted: Posted, index: int = 0, shown: bytes | None = None) -> int:
        evidence = posted.evidence(index, shown)
        salt = tagged_hash(b"salt", who.encode(), self.chain.height.to_bytes(8))
        self.commit(who, posted, evidence, salt)
        return self.prove(who, evidence, salt)

    def demand_data(
        self, posted: Posted, index: int = 0, asked: descent.Demand | None = None, *, private: bool = False
    ) -> bytes:
        return demands.build_demand(
            posted.key.id,
            posted.first,
            posted.located(index),
            (asked or descent.Demand()).encoded(),
            posted.statements[index].private if private else None,
        )

    def demand(
        self, who: str, posted: Posted, index: int = 0, asked: descent.Demand | None = None, **more: bool
    ) -> bytes:
        data = self.demand_data(posted, index, asked, **more)
        [identity] = self.do(who, "demand", data, value=self.rules.demand_bond)
        assert isinstance(identity, bytes)
        return identity

    @contextmanager
    def refereed(self) -> Iterator[None]:
        def shows_fault(shown: bytes, _program: bytes, trace: bytes) -> bool:
            return shown == fault(trace) and trace in self.guilty

        with patch.object(referee, "shows_fault", shows_fault):
            yield

    # --- money ------------------------------------------------------------------------------------------------------

    def supply(self) -> int:
        """All money there is; it never changes."""
        return sum(int.from_bytes(record[8:]) for _, record in self.store.iterate(b"account/"))

    def owed(self) -> int:
        """What the module owes by its records: bonds, held fees, bonds of what waits, unpaid rewards."""
        total = 0
        for name, record in self.store.iterate(b"disputes/"):
            if name.startswith(b"disputes/bond/"):
                total += BondRecord.from_bytes(record).amount
            elif name.startswith(b"disputes/batch/"):
                total += BatchRecord.from_bytes(record).held
            elif name.startswith(b"disputes/challenge/"):
                total += self.rules.challenge_bond
            elif name.startswith(b"disputes/demand/"):
                total += self.rules.demand_bond
            elif name.startswith(b"disputes/statement/"):
                item = decode(record)
                assert isinstance(item, dict)
                total += 0 if item["paid"] else int.from_bytes(item["reward"])  # type: ignore[arg-type]
        return total

    def held_by_module(self) -> int:
        return self.chain.application.account(ADDRESS)[1]

    def burnt(self) -> int:
        return self.chain.application.account(bonds.BURNT)[1]

    def locked(self) -> int:
        """What open batches lock."""
        records = [BatchRecord.from_bytes(record) for _, record in self.store.iterate(b"disputes/batch/")]
        return sum(record.locked for record in records)

    def check_money(self) -> None:
        assert self.held_by_module() == self.owed()
        assert self.bond_record().locked == self.locked()

    def events(self, name: str) -> list[list[Any]]:
        """Data of the events of the last block, by name."""
        event = MODULES[ADDRESS].interface.events[name]
        found = []
        for result in self.chain.responses[-1].tx_results:
            for entry in result.events:
                values = {attribute.key: attribute.value for attribute in entry.attributes}
                topics = [attribute.value for attribute in entry.attributes if attribute.key == "topic"]
                if topics[0] == event.topic.hex():
                    found.append(event.decode_data(bytes.fromhex(values["data"])))
        return found


__all__ = ["Optimistic", "Posted", "Run", "fault", "replace", "secret"]
