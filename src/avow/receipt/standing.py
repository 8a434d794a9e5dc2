"""The standing of a node's key: its record on chain, and the proof that the record stood there at a known time.

Rules:
1. The chain keeps one record per key, under the state key "nodes/key/" ‖ key id. Its life is the table `KEY_LIFE`; nothing deletes it.
2. Standing is that record, a sparse Merkle proof of it, and a signed block: the record is under state_root, and
   app_hash = H("avow/app/1", state_root ‖ history_root) stands in the block's header.
3. A header's app hash is the state *before* that block: the record is what held when the header was made.

Pure: no clock, no randomness, no input or output.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from avow.errors import VerificationError
from avow.receipt import fields
from avow.receipt.encoding import Value, decode, encode
from avow.receipt.headers import SignedBlock, app_hash
from avow.receipt.merkle import SparseProof, sparse_root
from avow.receipt.statement import Method

KEY_PREFIX = b"nodes/key/"
MAX_RECORD = 2_048


class KeyState(IntEnum):
    """Where a key is in its life."""

    REGISTERED = 0
    ACTIVE = 1
    DRAINING = 2
    RETIRED = 3
    REVOKED = 4


class KeyEvent(IntEnum):
    """What moves a key on."""

    ACTIVATE = 0
    DRAIN = 1
    RETIRE = 2
    REVOKE = 3


KEY_LIFE: dict[tuple[KeyState, KeyEvent], KeyState] = {
    (KeyState.REGISTERED, KeyEvent.ACTIVATE): KeyState.ACTIVE,
    (KeyState.REGISTERED, KeyEvent.REVOKE): KeyState.REVOKED,
    (KeyState.ACTIVE, KeyEvent.DRAIN): KeyState.DRAINING,
    (KeyState.ACTIVE, KeyEvent.RETIRE): KeyState.RETIRED,
    (KeyState.ACTIVE, KeyEvent.REVOKE): KeyState.REVOKED,
    (KeyState.DRAINING, KeyEvent.RETIRE): KeyState.RETIRED,
    (KeyState.DRAINING, KeyEvent.REVOKE): KeyState.REVOKED,
    (KeyState.RETIRED, KeyEvent.REVOKE): KeyState.REVOKED,
}
"""What is not in the table cannot happen. New statements are made by ACTIVE keys; DRAINING and RETIRED ones settle what they signed."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as the chain has it. Times are block time in milliseconds; `until_ms` None means until further notice.

    `measurement`, `attestation` (hash of the attested payload) and `root` (SHA-256 of the attestation root certificate) are there
    for keys of the method tee. `compromised_from`: statements from that height on are refused.
    """

    operator: bytes
    method: Method
    signing_key: bytes
    transport_key: bytes
    measurement: bytes | None
    attestation: bytes | None
    root: bytes | None
    state: KeyState
    from_height: int
    from_ms: int
    until_ms: int | None
    compromised_from: int | None

    def to_bytes(self) -> bytes:
        return encode(
            {
                "operator": self.operator,
                "method": int(self.method),
                "signing_key": self.signing_key,
                "transport_key": self.transport_key,
                "measurement": self.measurement,
                "attestation": self.attestation,
                "root": self.root,
                "state": int(self.state),
                "from_height": self.from_height,
                "from_ms": self.from_ms,
                "until_ms": self.until_ms,
                "compromised_from": self.compromised_from,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        item = fields.mapping(decode(data, max_bytes=MAX_RECORD), "key record", tuple(cls.__dataclass_fields__))
        return cls(
            operator=fields.octets(item["operator"], "operator", 20),
            method=Method(fields.integer(item["method"], "method", maximum=max(Method))),
            signing_key=fields.octets(item["signing_key"], "signing_key", 65),
            transport_key=fields.octets(item["transport_key"], "transport_key", 65),
            measurement=_optional(item["measurement"], "measurement"),
            attestation=_optional(item["attestation"], "attestation"),
            root=_optional(item["root"], "root"),
            state=KeyState(fields.integer(item["state"], "state", maximum=max(KeyState))),
            from_height=fields.integer(item["from_height"], "from_height"),
            from_ms=fields.integer(item["from_ms"], "from_ms", maximum=fields.MAX_TIME_MS),
            until_ms=None
            if item["until_ms"] is None
            else fields.integer(item["until_ms"], "until_ms", maximum=fields.MAX_TIME_MS),
            compromised_from=None
            if item["compromised_from"] is None
            else fields.integer(item["compromised_from"], "compromised_from"),
        )


def _optional(value: Value, field: str) -> bytes | None:
    return None if value is None else fields.octets(value, field, 32)


class StandingMismatch(VerificationError):
    """The record is not under the header's app hash."""

    code = "standing_mismatch"


@dataclass(frozen=True, slots=True)
class Standing:
    """Rule 2's proof. `record` is the record's CBOR, as hashed."""

    record: bytes
    proof: SparseProof
    history_root: bytes
    block: SignedBlock

    def to_value(self) -> dict[str, Value]:
        return {
            "record": self.record,
            "proof": self.proof.to_value(),
            "history_root": self.history_root,
            "block": self.block.to_value(),
        }

    @classmethod
    def from_value(cls, value: Value) -> Self:
        item = fields.mapping(value, "standing", ("record", "proof", "history_root", "block"))
        return cls(
            record=fields.octets(item["record"], "record", 1, MAX_RECORD),
            proof=SparseProof.from_value(item["proof"]),
            history_root=fields.octets(item["history_root"], "history_root", 32),
            block=SignedBlock.from_value(item["block"]),
        )

    def check_membership(self, key: bytes) -> KeyRecord:
        """The record of key id `key`, once it is shown to be under the header's app hash. The block's signatures are checked elsewhere.

        Raises StandingMismatch.
        """
        root = sparse_root(KEY_PREFIX + key, self.record, self.proof)
        if app_hash(root, self.history_root) != self.block.header.app_hash:
            raise StandingMismatch("the key's record is not under the header's app hash")
        return KeyRecord.from_bytes(self.record)
