"""What travels between gateway, node and enclave: jobs, their terms, and what becomes of them.

Rules:
1. Everything is a msgspec Struct, encoded as MessagePack array: field order is the format, more fields are refused.
2. Amounts are in wei and travel as 16 big-endian bytes, as in the statement's columns.
3. `deadline_ms` is a duration from arrival: clocks of different processes are never compared.
"""

from typing import Annotated, Literal

import msgspec

from avow.errors import InputError
from avow.receipt.authorisation import StatedAuthorisation

Hash32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Address = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
Point = Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)]
Uint = Annotated[int, msgspec.Meta(ge=0)]

MAX_BODY = 16 * 1024 * 1024
MAX_DEADLINE_MS = 3_600_000
DEFAULT_DEADLINE_MS = 600_000

CHAT = "POST /v1/chat/completions"


class Job(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One inference, as the gateway asks for it.

    `endpoint` is method and path as committed. `seed` is the opening secret if the caller chose it. `requester` and its
    EIP-712 signature over the request commitment come together or not at all. `authorisation` is the payer's consent to
    this one charge where no allowance on chain covers it. `client_key` is the caller's ephemeral P-256 point for MACs.
    For optimistic, `audience` (the CBOR of receipt/audience.py) says who may check the answer, the default where it is None, and
    `payer_opens` that the payer alone may open it on chain.
    """

    endpoint: Annotated[str, msgspec.Meta(max_length=256)]
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY)]
    program: Hash32
    method: Annotated[int, msgspec.Meta(ge=0, le=3)]
    nonce: Annotated[bytes, msgspec.Meta(min_length=8, max_length=64)]
    nonce_source: Literal["client", "gateway"]
    payer: Address
    seed: Hash32 | None = None
    requester: Address | None = None
    requester_signature: Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)] | None = None
    authorisation: Annotated[bytes, msgspec.Meta(max_length=1024)] | None = None
    client_key: Point | None = None
    stream: bool = False
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_DEADLINE_MS)] = DEFAULT_DEADLINE_MS
    audience: Annotated[bytes, msgspec.Meta(max_length=512)] | None = None
    payer_opens: bool = False


class Consent(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A payer's EIP-712 authorisation as it travels with a job (receipt/authorisation.py); `max_amount` 16 bytes."""

    max_amount: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    expiry_ms: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    nonce: Annotated[int, msgspec.Meta(ge=0)]
    signature: Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)]

    @property
    def most(self) -> int:
        """Wei that may be charged."""
        return int.from_bytes(self.max_amount)

    @classmethod
    def stated(cls, authorisation: StatedAuthorisation) -> "Consent":
        """What a caller's header says, but for the node, which is the one that gets it."""
        return cls(
            authorisation.max_amount.to_bytes(16), authorisation.expiry_ms, authorisation.nonce, authorisation.signature
        )

    def to_bytes(self) -> bytes:
        """As `Job.authorisation` holds it."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def of(cls, job: Job) -> "Consent | None":
        """What comes with a job, if anything. Raises InputError."""
        if job.authorisation is None:
            return None
        try:
            return msgspec.msgpack.decode(job.authorisation, type=Consent)
        except msgspec.DecodeError as error:
            raise InputError("not an authorisation", param="avow-authorisation") from error


class Terms(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The price that the node charges for a job: wei per unit as 16 bytes, and the version of the published price."""

    per_unit: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    price_version: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]


class Begin(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The start of a stream: what the reader needs to follow its hash chain, before the first chunk.

    `standing` is the CBOR of the key's standing; the runner leaves it empty and the node fills it in.
    """

    seed: Hash32
    effective: bytes
    signing_key: Point
    transport_key: Point
    standing: bytes = b""


class Chunks(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Chunks that became ready together, in order; `macs` has one tag each, or none where the caller sent no key."""

    data: list[bytes]
    macs: list[bytes]


class Head(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A signed stream head: COSE_Sign1 over the chain after `count` chunks."""

    signature: bytes
    count: Uint


class Signed(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A signed statement: packed columns, private part as CBOR, its place in the key's chain, and its signature."""

    number: Uint
    id: Hash32
    columns: bytes
    private: bytes
    previous_head: Hash32
    head: Hash32
    signature: bytes


class Result(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a run ends in. `body` is empty for a stream; `sealed` is the whole opening, sealed under the seed.

    `header` is the trace's (exact/hashing.py) for optimistic, else empty.
    """

    signed: Signed
    body: bytes
    seed: Hash32
    effective: bytes
    sealed: bytes
    complete: bool
    usage: dict[str, int]
    header: bytes = b""


class Answer(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What the gateway gets: the body as committed, and the receipt (CBOR), its opening the seed and effective parameters.

    `body` is empty at the end of a stream. `trust_gap_ms`: how long the oldest unsettled answer has been waiting, by the
    node's monotonic clock. `key` is the id of the key that `number` belongs to, `usage` the counts in the statement.
    """

    id: Hash32
    body: bytes
    receipt: bytes
    seed: Hash32
    number: Uint
    method: int
    complete: bool
    trust_gap_ms: Uint
    key: bytes = b""
    usage: dict[str, int] = {}


class Chunk(msgspec.Struct, frozen=True):
    """One chunk of a stream as NodeClient yields it."""

    data: bytes
    mac: bytes | None


class ProgramDescription(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A program that a node serves. `methods` and `prices` (wei per unit, decimal text) go together.

    `metadata` is the Open Inference Protocol's model metadata, JSON, of a tensor program.
    """

    name: str
    program: Hash32
    kind: Literal["chat", "tensor"]
    methods: list[int]
    prices: list[str]
    price_versions: list[int]
    engine: str
    engine_version: str
    manifest: bytes = b""
    metadata: bytes = b""


class KeyDescription(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A signing key of the node's, and since when it stands."""

    method: int
    key: Hash32
    signing_key: Point
    transport_key: Point
    attester: str = ""


class NodeDescription(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Whom the gateway talks to: what it offers, and the keys that can answer now.

    `starting`: methods that the node is set up for and has offered nothing by since its start.
    """

    chain_id: str
    operator: Address
    programs: list[ProgramDescription]
    keys: list[KeyDescription]
    starting: list[int] = []


class KeyStatus(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """How far a key is: the number of statements made durable, and of those whose settlement is proven."""

    key: Hash32
    method: int
    durable: Uint
    settled: Uint


class NodeStatus(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A node's state now.

    `trust_gap_ms`: age of the oldest answer that is not settled, on the node's monotonic clock. `methods`: those with a key
    that stands. `chain_ok`, `outbox_ok`: whether the chain answers and statements can be made durable. `bond` and `locked` in wei, decimal
    text, and the number of optimistic statements that can still be challenged; nothing of it where there is no such method.
    """

    outbox_depth: Uint
    trust_gap_ms: Uint
    running: Uint
    methods: list[int]
    chain_ok: bool
    outbox_ok: bool
    standing_age_ms: Uint
    keys: list[KeyStatus]
    bond: str = ""
    locked: str = ""
    open_statements: Uint = 0
