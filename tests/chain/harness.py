"""A chain in memory, driven by ABCI's grammar, with accounts and node keys whose statements it can sign.

chain = Chain()
key = chain.node(Method.VANILLA)                # registered, program published, price set, payer's allowance open
result = chain.settle(key, [key.sign() for _ in range(3)])
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from avow.chain import abci
from avow.chain.application import Application
from avow.chain.errors import Code, Refused
from avow.chain.execution import MODULES, Outcome
from avow.chain.genesis import AllowedMeasurement, Genesis
from avow.chain.host import refusal
from avow.chain.modules import bank, nodes, registry, settlement
from avow.chain.modules.batch import SignedAuthorisation, build_batch
from avow.chain.state import MemoryStore, Store
from avow.chain.transaction import address_of_private_key, sign_transaction
from avow.exact.program import INPUT, Operator, Program, Source, Tensor
from avow.methods.registration import registration_digest
from avow.methods.tee.attesters import DevelopmentAttester
from avow.receipt.audience import Audience
from avow.receipt.encoding import decode, encode, encode_trusted, tagged_hash
from avow.receipt.statement import (
    Columns,
    EngineIdentity,
    Method,
    NonceSource,
    Private,
    cose_sign1,
    first_head,
    key_id,
    next_head,
    private_hash,
    signature_input,
    statement_hash,
    statement_payload,
)

START_MS = 1_800_000_000_000
ETHER = 10**18
FUNDS = 1_000 * ETHER
EXACT = Program.build(
    name="harness", mode="once", context=1, inputs=[Tensor("int8", (1,), 0, 9)], constants=[],
    operators=[Operator("input", (Source(INPUT, 0, "int8", (1,), 0, 9),), "int8", (1,), 0, 9)], outputs=[0],
)  # fmt: skip
MANIFEST = encode({
    "version": 1, "name": "harness", "format": "exact", "engine": "exact", "files": [], "options": {"root": EXACT.root.hex()},
    "licence": "Apache-2.0", "source": "",
})  # fmt: skip
"""An exact program: optimistic statements are about declared ones alone."""
PROGRAM = tagged_hash(b"avow/program/1", MANIFEST)
DECLARATION = (MANIFEST, encode(EXACT.header()))
FAR_MS = START_MS + 10**12
_ES256 = ec.ECDSA(hashes.SHA256())


def secret(name: str) -> bytes:
    return hashlib.sha256(b"harness/" + name.encode()).digest()


def account(name: str) -> bytes:
    return address_of_private_key(secret(name))


NAMES = ("governance", "operator", "other operator", "payer", "second payer", "stranger", "watcher", "second watcher")


def point(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def cose(private: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    return cose_sign1(*decode_dss_signature(private.sign(signature_input(payload), _ES256)))


@dataclass(frozen=True)
class Statement:
    columns: Columns
    private: bytes
    hash: bytes
    head: bytes
    signature: bytes

    def evidence(self) -> bytes:
        """That it was signed."""
        return encode([self.columns.number, self.hash, self.head, self.signature])

    def delivered(self) -> bytes:
        """That its receipt was received."""
        statement = {"columns": self.columns.to_value(), "private": decode(self.private)}
        return encode([statement, self.head, self.signature])


@dataclass
class NodeKey:
    """A signing key and the statements that it made."""

    chain_id: str
    method: Method
    operator: str
    signing: ec.EllipticCurvePrivateKey
    transport: ec.EllipticCurvePrivateKey
    now_ms: int
    next: int = 0
    head: bytes = b""
    program: bytes = PROGRAM
    attester: DevelopmentAttester | None = None

    def __post_init__(self) -> None:
        self.head = first_head(self.chain_id, self.id)

    @property
    def id(self) -> bytes:
        return key_id(point(self.signing))

    def sign(
        self,
        *,
        payer: str = "payer",
        units: int = 10,
        amount: int = 1_000,
        price_version: int = 1,
        program: bytes | None = None,
        ended_ms: int | None = None,
        request: bytes = bytes(32),
        requester: bytes | None = None,
        authorised: bool = False,
        chain_id: str | None = None,
        key: bytes | None = None,
        trace: bytes = bytes(32),
        terms: int = 0,
        audience: Audience | None = None,
    ) -> Statement:
        """The next statement."""
        ended = self.now_ms if ended_ms is None else ended_ms
        optimistic = self.method is Method.OPTIMISTIC
        if optimistic and audience is None:
            audience = Audience()
        private = encode_trusted(
            Private(
                chain_id=chain_id or self.chain_id,
                node=account(self.operator),
                key=key or self.id,
                engine=EngineIdentity("stub", "1", ""),
                request=request,
                effective=bytes(32),
                response=bytes(32),
                nonce=self.next.to_bytes(8),
                nonce_source=NonceSource.CLIENT,
                requester=requester,
                authorised=authorised,
                started_ms=max(0, ended - 5),
                usage=(),
                stream=None,
                complete=True,
                audience=audience,
            ).to_value()
        )
        common = (self.next, program or self.program, account(payer), self.method, units, amount, price_version, ended)
        columns = Columns(*common, trace, terms) if optimistic else Columns(*common)
        digest = statement_hash(columns.pack(), private_hash(private))
        head = next_head(self.head, digest)
        signature = cose(self.signing, statement_payload(self.chain_id, self.id, self.next, digest, head))
        self.next, self.head = self.next + 1, head
        return Statement(columns, private, digest, head, signature)


@dataclass
class Chain:
    """See the module's text. `now_ms` is the time of the next block."""

    store: Store = field(default_factory=MemoryStore)
    measurements: tuple[AllowedMeasurement, ...] = ()
    roots: tuple[bytes, ...] = ()
    extra_accounts: tuple[tuple[bytes, int], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    now_ms: int = START_MS
    height: int = 0
    hashes: list[bytes] = field(default_factory=list)
    requests: list[abci.FinalizeBlockRequest] = field(default_factory=list)
    responses: list[abci.FinalizeBlockResponse] = field(default_factory=list)

    def __post_init__(self) -> None:
        accounts = sorted([(account(name), FUNDS) for name in NAMES] + list(self.extra_accounts))
        self.genesis = Genesis(
            time_ms=START_MS,
            governance=account("governance"),
            treasury=account("treasury"),
            accounts=tuple(accounts),
            attestation_roots=self.roots,
            measurements=self.measurements,
            **self.settings,
        )
        self.application = Application(self.store, self.genesis)
        if self.store.committed.height == 0:
            self.application.init_chain(
                abci.InitChainRequest(START_MS * 10**6, self.genesis.chain_id, (), self.genesis.to_bytes())
            )
            self.block()

    # --- blocks ---------------------------------------------------------------------------------------------------

    def block(self, *txs: bytes, advance_ms: int = 1_000, proposed: bool = False) -> list[abci.ExecTxResult]:
        """Finalize and commit the next block. `proposed` sends the transactions through proposal first."""
        self.now_ms += advance_ms
        self.height += 1
        if proposed:
            prepared = self.application.prepare_proposal(
                abci.PrepareProposalRequest(1 << 22, tuple(txs), self.height, self.now_ms * 10**6, bytes(20))
            )
            assert prepared.txs == txs
        block_hash = hashlib.sha256(self.height.to_bytes(8) + b"".join(self.hashes[-1:])).digest()
        request = (tuple(txs), block_hash, self.height, self.now_ms * 10**6, bytes(20))
        if proposed:
            assert self.application.process_proposal(abci.ProcessProposalRequest(*request)).accept
        self.requests.append(abci.FinalizeBlockRequest(*request))
        response = self.application.finalize_block(self.requests[-1])
        self.application.commit()
        self.hashes.append(block_hash)
        self.responses.append(response)
        return list(response.tx_results)

    def raw(
        self, who: str, to: bytes, data: bytes = b"", *, value: int = 0, gas: int = 20_000_000, **more: int
    ) -> bytes:
        """A signed transaction with the sender's next nonce."""
        fields = {"nonce": self.application.account(account(who))[0], "max_fee": self.genesis.base_fee} | more
        return sign_transaction(
            secret(who), chain_id=self.genesis.eip155, gas_limit=gas, to=to, value=value, data=data, **fields
        )

    def call_data(self, module: bytes, function: str, *arguments: object) -> bytes:
        return MODULES[module].interface.functions[function].encode_call(*arguments)

    def send(self, who: str, module: bytes, function: str, *arguments: object, value: int = 0) -> abci.ExecTxResult:
        """A transaction in a block of its own."""
        raw = self.raw(who, module, self.call_data(module, function, *arguments), value=value)
        return self.block(raw)[0]

    def do(self, who: str, module: bytes, function: str, *arguments: object, value: int = 0) -> list[object]:
        """The same, which must succeed; its outputs."""
        result = self.send(who, module, function, *arguments, value=value)
        assert result.code == Code.OK, (function, refused(result), result.log)
        item = decode(result.data)
        assert isinstance(item, dict) and item["to"] == module
        return MODULES[module].interface.functions[function].decode_output(item["output"])

    def view(self, module: bytes, function: str, *arguments: object, who: str = "stranger") -> list[object]:
        outcome = self.simulate(who, module, function, *arguments)
        assert outcome.code is Code.OK, outcome
        return MODULES[module].interface.functions[function].decode_output(outcome.data)

    def simulate(self, who: str, module: bytes, function: str, *arguments: object) -> Outcome:
        data = self.call_data(module, function, *arguments)
        return self.application.simulate(account(who), module, data, time_ms=self.now_ms + 1_000)

    def balance(self, who: str) -> int:
        return self.application.account(account(who))[1]

    # --- nodes ----------------------------------------------------------------------------------------------------

    def new_key(self, method: Method = Method.VANILLA, operator: str = "operator", generation: int = 0) -> NodeKey:
        name = f"{operator}/{method.label}/{generation}"
        private = [
            ec.derive_private_key(int.from_bytes(secret(f"{what} {name}")) >> 1 | 1, ec.SECP256R1())
            for what in ("signing", "transport")
        ]
        return NodeKey(self.genesis.chain_id, method, operator, private[0], private[1], self.now_ms)

    def attestation(self, key: NodeKey, *, attester: DevelopmentAttester | None = None) -> tuple[bytes, bytes]:
        """Block hash and evidence for registering a key."""
        block_hash = self.view(nodes.ADDRESS, "beacon")[0]
        assert isinstance(block_hash, bytes)
        digest = registration_digest(
            self.genesis.chain_id, account(key.operator), point(key.signing), point(key.transport), block_hash
        )
        if key.method is not Method.TEE:
            return block_hash, cose(key.signing, digest)
        assert attester is not None
        return block_hash, attester.attest(point(key.signing), digest)

    def register_arguments(self, key: NodeKey, attester: DevelopmentAttester | None = None) -> tuple[object, ...]:
        block_hash, evidence = self.attestation(key, attester=attester)
        return int(key.method), point(key.signing), point(key.transport), block_hash, evidence

    def register(self, key: NodeKey, attester: DevelopmentAttester | None = None) -> NodeKey:
        [found] = self.do(key.operator, nodes.ADDRESS, "register", *self.register_arguments(key, attester))
        assert found == key.id
        key.attester = attester
        return key

    def attester(self, home: Path) -> DevelopmentAttester:
        return DevelopmentAttester(home, programs=[PROGRAM], versions={}, clock_ms=lambda: self.now_ms)

    def node(self, method: Method = Method.VANILLA, attester: DevelopmentAttester | None = None) -> NodeKey:
        key = self.register(self.new_key(method), attester)
        self.do("operator", registry.ADDRESS, "publish", "harness", PROGRAM)
        if method is Method.OPTIMISTIC:
            self.do("operator", registry.ADDRESS, "declare", *DECLARATION)
        self.do("operator", nodes.ADDRESS, "setPrice", PROGRAM, int(method), 100)
        self.do("payer", bank.ADDRESS, "allow", account("operator"), ETHER, FAR_MS)
        key.now_ms = self.now_ms
        return key

    def batch(
        self,
        key: NodeKey,
        statements: Sequence[Statement],
        *,
        void: bytes | None = None,
        authorisations: Sequence[SignedAuthorisation] = (),
    ) -> bytes:
        pairs = [(statement.columns, statement.private) for statement in statements]
        return build_batch(key.id, pairs, statements[-1].signature, void=void, authorisations=authorisations)

    def settle(self, key: NodeKey, statements: Sequence[Statement], **more: object) -> abci.ExecTxResult:
        data = self.batch(key, statements, **more)  # type: ignore[arg-type]
        return self.send(key.operator, settlement.ADDRESS, "settle", data)

    def settle_batch(self, who: str, data: bytes) -> abci.ExecTxResult:
        return self.send(who, settlement.ADDRESS, "settle", data)


def refused(result: abci.ExecTxResult | Outcome) -> tuple[Code, int | None] | None:
    """The refusal that a result spells."""
    found = refusal(result.data)
    return (found.reason, found.index) if isinstance(found, Refused) else None


__all__ = ["Chain", "NodeKey", "Statement", "account", "refused", "replace", "secret"]
