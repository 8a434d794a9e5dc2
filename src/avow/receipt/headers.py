"""Headers, commits and validator sets: CometBFT's structures, their hashes and the bytes that validators sign.

Rules (CometBFT v0.40, spec/core/data_structures and spec/core/encoding):
1. A header's hash is the RFC 6962 root over its 14 fields, each in its protobuf encoding; single values are wrapped in
   a message, empty ones are the empty string.
2. A validator signs the length-prefixed CanonicalVote: precommit type, height and round as fixed 64 bits, block id
   (left out when voting nil), its own timestamp, chain id.
3. A validator set's hash is the root over (public key, power) in the set's order; an address is the first 20 bytes of
   SHA-256 of the key.
4. last_results_hash is the root over the results' deterministic fields, data_hash that over the transactions' hashes.
5. Times are nanoseconds since the epoch, 0 to 2^63-1. `None` is the zero time (year 1) of an absent vote.

`to_value`/`from_value` are the CBOR forms inside receipts: exact maps, every size bounded. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from hashlib import sha256
from typing import Self

from avow.receipt import fields, merkle
from avow.receipt.encoding import Value, tagged_hash
from avow.receipt.protobuf import (
    bytes_field,
    fixed64_field,
    message_field,
    timestamp,
    varint,
    varint_field,
)

BLOCK_PROTOCOL = 11
MAX_CHAIN_ID = 50
MAX_VALIDATORS = 10_000
MAX_INT64 = (1 << 63) - 1
MAX_APP_HASH = 64
PRECOMMIT = 2


class BlockIDFlag(IntEnum):
    """What a validator's place in a commit says (types.proto)."""

    ABSENT = 1
    COMMIT = 2
    NIL = 3


def app_hash(state_root: bytes, history_root: bytes) -> bytes:
    """What a header's app_hash binds: the sparse map over all state, and the history of settled batches."""
    return tagged_hash(b"avow/app/1", state_root, history_root)


def validator_address(public_key: bytes) -> bytes:
    """20 bytes (rule 3)."""
    return sha256(public_key).digest()[:20]


@dataclass(frozen=True, slots=True)
class BlockID:
    """A block's hash, and the root and count of the 64 KiB parts of its encoding. All empty before the first block."""

    hash: bytes = b""
    parts_total: int = 0
    parts_hash: bytes = b""

    def encoded(self) -> bytes:
        parts = varint_field(1, self.parts_total) + bytes_field(2, self.parts_hash)
        return bytes_field(1, self.hash) + message_field(2, parts)

    def to_value(self) -> Value:
        return {"hash": self.hash, "parts_total": self.parts_total, "parts_hash": self.parts_hash}

    @classmethod
    def from_value(cls, value: Value, field: str = "block_id", *, may_be_empty: bool = False) -> Self:
        items = fields.mapping(value, field, ("hash", "parts_total", "parts_hash"))
        result = cls(
            fields.octets(items["hash"], f"{field}.hash", 0, 32),
            fields.integer(items["parts_total"], f"{field}.parts_total", maximum=(1 << 32) - 1),
            fields.octets(items["parts_hash"], f"{field}.parts_hash", 0, 32),
        )
        if result == cls() and may_be_empty:
            return result
        if len(result.hash) != 32 or len(result.parts_hash) != 32 or result.parts_total == 0:
            raise fields.FieldError(f"{field} is not a block id", field=field)
        return result


@dataclass(frozen=True)
class Header:
    """The 14 fields, in the order in which they are hashed (versions are one field)."""

    block_version: int
    app_version: int
    chain_id: str
    height: int
    time_ns: int
    last_block_id: BlockID
    last_commit_hash: bytes
    data_hash: bytes
    validators_hash: bytes
    next_validators_hash: bytes
    consensus_hash: bytes
    app_hash: bytes
    last_results_hash: bytes
    evidence_hash: bytes
    proposer_address: bytes

    @cached_property
    def hash(self) -> bytes:
        """Rule 1; 32 bytes."""
        return merkle.root(
            (
                varint_field(1, self.block_version) + varint_field(2, self.app_version),
                bytes_field(1, self.chain_id.encode("utf-8")),
                varint_field(1, self.height),
                timestamp(self.time_ns),
                self.last_block_id.encoded(),
                *(bytes_field(1, item) for item in self._hashes()),
            )
        )

    def _hashes(self) -> tuple[bytes, ...]:
        return (
            self.last_commit_hash,
            self.data_hash,
            self.validators_hash,
            self.next_validators_hash,
            self.consensus_hash,
            self.app_hash,
            self.last_results_hash,
            self.evidence_hash,
            self.proposer_address,
        )

    def encoded(self) -> bytes:
        """The protobuf Header, as blocks carry it."""
        return b"".join(
            (
                message_field(1, varint_field(1, self.block_version) + varint_field(2, self.app_version)),
                bytes_field(2, self.chain_id.encode("utf-8")),
                varint_field(3, self.height),
                message_field(4, timestamp(self.time_ns)),
                message_field(5, self.last_block_id.encoded()),
                *(bytes_field(number, item) for number, item in enumerate(self._hashes(), 6)),
            )
        )

    def to_value(self) -> Value:
        return {
            "block_version": self.block_version,
            "app_version": self.app_version,
            "chain_id": self.chain_id,
            "height": self.height,
            "time_ns": self.time_ns,
            "last_block_id": self.last_block_id.to_value(),
            **dict(zip(_HASH_FIELDS, self._hashes(), strict=True)),
        }

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """Raises FieldError for a header that no CometBFT block could have."""
        items = fields.mapping(value, "header", _HEADER_FIELDS)
        height = fields.integer(items["height"], "header.height", maximum=MAX_INT64)
        block_version = fields.integer(items["block_version"], "header.block_version")
        if height == 0 or block_version != BLOCK_PROTOCOL:
            raise fields.FieldError("header has height 0 or an unknown block version", field="header")
        chain_id = fields.text(items["chain_id"], "header.chain_id", max_length=MAX_CHAIN_ID)
        if len(fields.octets(items["last_results_hash"], "header.last_results_hash", 0, 32)) not in (0, 32):
            raise fields.FieldError("header.last_results_hash is no hash", field="header.last_results_hash")
        hashes = {name: fields.octets(items[name], f"header.{name}", 32) for name in _HASH_FIELDS[:5]}
        return cls(
            block_version,
            fields.integer(items["app_version"], "header.app_version"),
            chain_id,
            height,
            fields.integer(items["time_ns"], "header.time_ns", maximum=MAX_INT64),
            BlockID.from_value(items["last_block_id"], "header.last_block_id", may_be_empty=True),
            **hashes,
            app_hash=fields.octets(items["app_hash"], "header.app_hash", 0, MAX_APP_HASH),
            last_results_hash=fields.octets(items["last_results_hash"], "header.last_results_hash", 0, 32),
            evidence_hash=fields.octets(items["evidence_hash"], "header.evidence_hash", 32),
            proposer_address=fields.octets(items["proposer_address"], "header.proposer_address", 20),
        )


_HASH_FIELDS = (
    "last_commit_hash",
    "data_hash",
    "validators_hash",
    "next_validators_hash",
    "consensus_hash",
    "app_hash",
    "last_results_hash",
    "evidence_hash",
    "proposer_address",
)
_HEADER_FIELDS = ("block_version", "app_version", "chain_id", "height", "time_ns", "last_block_id", *_HASH_FIELDS)


@dataclass(frozen=True, slots=True)
class CommitSig:
    """One validator's place in a commit. Absent: no address, no time, no signature."""

    flag: BlockIDFlag
    address: bytes = b""
    time_ns: int | None = None
    signature: bytes = b""

    def encoded(self) -> bytes:
        return b"".join(
            (
                varint_field(1, self.flag),
                bytes_field(2, self.address),
                message_field(3, timestamp(self.time_ns)),
                bytes_field(4, self.signature),
            )
        )

    def to_value(self) -> Value:
        return {
            "flag": int(self.flag),
            "address": self.address,
            "time_ns": self.time_ns,
            "signature": self.signature,
        }

    @classmethod
    def from_value(cls, value: Value) -> Self:
        items = fields.mapping(value, "signature", ("flag", "address", "time_ns", "signature"))
        number = fields.integer(items["flag"], "signature.flag", maximum=3)
        if number == 0:
            raise fields.FieldError("signature.flag is unknown", field="signature.flag")
        flag = BlockIDFlag(number)
        if flag is BlockIDFlag.ABSENT:
            if items["address"] or items["time_ns"] is not None or items["signature"]:
                raise fields.FieldError("an absent vote says something", field="signature")
            fields.octets(items["address"], "signature.address", 0)
            fields.octets(items["signature"], "signature.signature", 0)
            return cls(flag)
        return cls(
            flag,
            fields.octets(items["address"], "signature.address", 20),
            fields.integer(items["time_ns"], "signature.time_ns", maximum=MAX_INT64),
            fields.octets(items["signature"], "signature.signature", 64),
        )


@dataclass(frozen=True, slots=True)
class Commit:
    """The precommits that decided a block, one place per validator, in the set's order."""

    height: int
    round: int
    block_id: BlockID
    signatures: tuple[CommitSig, ...]

    @property
    def hash(self) -> bytes:
        """The next header's last_commit_hash."""
        return merkle.root([item.encoded() for item in self.signatures])

    def encoded(self) -> bytes:
        """The protobuf Commit, as the next block carries it."""
        return b"".join(
            (
                varint_field(1, self.height),
                varint_field(2, self.round),
                message_field(3, self.block_id.encoded()),
                *(message_field(4, item.encoded()) for item in self.signatures),
            )
        )

    def sign_bytes(self, chain_id: str, vote: CommitSig) -> bytes:
        """What the validator of this place signed. Raises ValueError for an absent one."""
        if vote.flag is BlockIDFlag.ABSENT:
            raise ValueError("an absent validator signed nothing")
        block_id = self.block_id if vote.flag is BlockIDFlag.COMMIT else None
        return vote_sign_bytes(chain_id, self.height, self.round, block_id, vote.time_ns)

    def to_value(self) -> Value:
        return {
            "height": self.height,
            "round": self.round,
            "block_id": self.block_id.to_value(),
            "signatures": [item.to_value() for item in self.signatures],
        }

    @classmethod
    def from_value(cls, value: Value) -> Self:
        items = fields.mapping(value, "commit", ("height", "round", "block_id", "signatures"))
        height = fields.integer(items["height"], "commit.height", maximum=MAX_INT64)
        signatures = fields.array(items["signatures"], "commit.signatures", max_length=MAX_VALIDATORS)
        return cls(
            height,
            fields.integer(items["round"], "commit.round", maximum=(1 << 31) - 1),
            BlockID.from_value(items["block_id"], "commit.block_id", may_be_empty=height == 0),
            tuple(CommitSig.from_value(item) for item in signatures),
        )


@dataclass(frozen=True, slots=True)
class Validator:
    """`public_key`: 32 bytes, Ed25519; `power` > 0."""

    public_key: bytes
    power: int

    @property
    def address(self) -> bytes:
        return validator_address(self.public_key)

    def encoded(self) -> bytes:
        """SimpleValidator (types/validator.proto): the leaf under validators_hash."""
        return message_field(1, bytes_field(1, self.public_key)) + varint_field(2, self.power)

    def to_value(self) -> Value:
        return {"public_key": self.public_key, "power": self.power}

    @classmethod
    def from_value(cls, value: Value) -> Self:
        items = fields.mapping(value, "validator", ("public_key", "power"))
        power = fields.integer(items["power"], "validator.power", maximum=MAX_INT64)
        if power == 0:
            raise fields.FieldError("a validator has no power", field="validator.power")
        return cls(fields.octets(items["public_key"], "validator.public_key", 32), power)


@dataclass(frozen=True, slots=True)
class SignedHeader:
    header: Header
    commit: Commit


@dataclass(frozen=True, slots=True)
class SignedBlock:
    """All that a reader needs of a block: its header, who signed it, and the set that they are of."""

    header: Header
    commit: Commit
    validators: tuple[Validator, ...]

    @property
    def signed_header(self) -> SignedHeader:
        return SignedHeader(self.header, self.commit)

    def to_value(self) -> Value:
        return {
            "header": self.header.to_value(),
            "commit": self.commit.to_value(),
            "validators": [item.to_value() for item in self.validators],
        }

    @classmethod
    def from_value(cls, value: Value) -> Self:
        items = fields.mapping(value, "block", ("header", "commit", "validators"))
        return cls(
            Header.from_value(items["header"]),
            Commit.from_value(items["commit"]),
            validators_from_value(items["validators"]),
        )


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """The fields of an ExecTxResult that are hashed (spec/abci, "Determinism"). `gas_*` are int64, `code` uint32."""

    code: int
    data: bytes
    gas_wanted: int
    gas_used: int

    def leaf(self) -> bytes:
        """The leaf data under last_results_hash."""
        return b"".join(
            (
                varint_field(1, self.code),
                bytes_field(2, self.data),
                varint_field(5, self.gas_wanted),
                varint_field(6, self.gas_used),
            )
        )

    def to_value(self) -> Value:
        return {"code": self.code, "data": self.data, "gas_wanted": self.gas_wanted, "gas_used": self.gas_used}

    @classmethod
    def from_value(cls, value: Value, *, max_data: int = 1 << 20) -> Self:
        items = fields.mapping(value, "result", ("code", "data", "gas_wanted", "gas_used"))
        return cls(
            fields.integer(items["code"], "result.code", maximum=(1 << 32) - 1),
            fields.octets(items["data"], "result.data", 0, max_data),
            fields.integer(items["gas_wanted"], "result.gas_wanted", maximum=MAX_INT64),
            fields.integer(items["gas_used"], "result.gas_used", maximum=MAX_INT64),
        )


def validators_from_value(value: Value) -> tuple[Validator, ...]:
    """A validator set from its CBOR form: an array of {"public_key", "power"}."""
    items = fields.array(value, "validators", max_length=MAX_VALIDATORS)
    return tuple(Validator.from_value(item) for item in items)


def sorted_validators(validators: Iterable[Validator]) -> tuple[Validator, ...]:
    """In a set's order: power from high to low, then by address (types/validator_set.go)."""
    return tuple(sorted(validators, key=lambda item: (-item.power, item.address)))


def validators_hash(validators: Sequence[Validator]) -> bytes:
    """Rule 3; the order is the caller's, as the set stands."""
    return merkle.root([item.encoded() for item in validators])


def last_results_hash(results: Iterable[TransactionResult]) -> bytes:
    """What the next header says of these results (rule 4)."""
    return merkle.root([item.leaf() for item in results])


def data_hash(transactions: Iterable[bytes]) -> bytes:
    """What a header says of its block's transactions (rule 4)."""
    return merkle.root([sha256(item).digest() for item in transactions])


def vote_sign_bytes(
    chain_id: str, height: int, round_: int, block_id: BlockID | None, time_ns: int | None, *, kind: int = PRECOMMIT
) -> bytes:
    """The bytes that a vote signs (rule 2). `kind`: 1 prevote, 2 precommit, 0 unset."""
    body = b"".join(
        (
            varint_field(1, kind),
            fixed64_field(2, height),
            fixed64_field(3, round_),
            b"" if block_id is None else message_field(4, block_id.encoded()),
            message_field(5, timestamp(time_ns)),
            bytes_field(6, chain_id.encode("utf-8")),
        )
    )
    return varint(len(body)) + body
