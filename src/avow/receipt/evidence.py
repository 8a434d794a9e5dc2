"""What stands behind a statement: the evidence of its method, and the proof of its settlement.

Rules:
1. Evidence holds the signature over the statement (statement.py, rule 4), the head before it, the signing key, and the key's standing.
   Method tee adds the attestation document and the block hash that its user data binds; method optimistic the operator's bond, under
   the same app hash as the standing.
2. A settlement proof places the statement in a batch, and the batch in a signed block, in one of two ways:
   result   the batch's result is under `last_results_hash` of the block at height + 1 (RFC 6962 tree, CometBFT encoding);
   history  the batch is in the chain's append-only history, under the app hash of any later block.
3. Batch leaf = statement hash ‖ u8 void cause. A result counts when its code is 0 and its data is the CBOR {"to": settlement module,
   "output": ABI (bytes32 root, bytes32 key, uint64 first, uint64 count)}: only a direct call of the module makes these bytes.
4. An optimistic batch has a record, which says until when it can be challenged, or what became of it: `finality` (finality.py).
5. History leaf = H("avow/history-leaf/1", u64 height ‖ key ‖ u64 first ‖ u64 count ‖ root).

Pure: no clock, no randomness, no input or output.
"""

from dataclasses import dataclass
from typing import Self

from avow.errors import VerificationError
from avow.receipt import fields
from avow.receipt.encoding import Value, decode, tagged_hash
from avow.receipt.finality import BondProof, FinalityProof
from avow.receipt.headers import SignedBlock, TransactionResult, app_hash
from avow.receipt.merkle import HistoryProof, root_from_history, root_from_path
from avow.receipt.standing import Standing
from avow.receipt.statement import Method

MAX_ATTESTATION = 32_768
MAX_BATCH = 65_536
SETTLEMENT_ADDRESS = bytes.fromhex("0000000000000000000000000000000000000a04")

VOID_CAUSES = {
    0: "settled",
    1: "the key was revoked",
    2: "the measurement had expired",
    3: "the program was withdrawn",
    4: "the payer did not cover it",
    5: "the answer was never delivered, says the node",
}


class NotSettled(VerificationError):
    """The settlement proof does not show this statement in this block."""

    code = "not_settled"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rule 1. `signing_key` is a 65-byte P-256 point; `requester_signature` 65 bytes, over the request (requester.py)."""

    method: Method
    signature: bytes
    previous_head: bytes
    signing_key: bytes
    standing: Standing | None
    attestation: bytes | None = None
    registration_block: bytes | None = None
    requester_signature: bytes | None = None
    bond: BondProof | None = None

    def to_value(self) -> dict[str, Value]:
        value: dict[str, Value] = {
            "method": self.method.label,
            "signature": self.signature,
            "previous_head": self.previous_head,
            "signing_key": self.signing_key,
        }
        if self.standing is not None:
            value["standing"] = self.standing.to_value()
        if self.attestation is not None:
            value["attestation"] = self.attestation
        if self.registration_block is not None:
            value["registration_block"] = self.registration_block
        if self.requester_signature is not None:
            value["requester_signature"] = self.requester_signature
        if self.bond is not None:
            value["bond"] = self.bond.to_value()
        return value

    @classmethod
    def from_value(cls, value: Value) -> Self:
        item = fields.mapping(
            value,
            "evidence",
            ("method", "signature", "previous_head", "signing_key"),
            ("standing", "attestation", "registration_block", "requester_signature", "bond"),
        )
        label = fields.text(item["method"], "evidence.method", max_length=16)
        method = next((known for known in Method if known.label == label), None)
        if method is None:
            raise fields.FieldError(f"unknown method {label!r}", field="evidence.method")
        return cls(
            method=method,
            signature=fields.octets(item["signature"], "signature", 0, 256),
            previous_head=fields.octets(item["previous_head"], "previous_head", 32),
            signing_key=fields.octets(item["signing_key"], "signing_key", 65),
            standing=Standing.from_value(item["standing"]) if "standing" in item else None,
            attestation=_optional(item, "attestation", 1, MAX_ATTESTATION),
            registration_block=_optional(item, "registration_block", 32),
            requester_signature=_optional(item, "requester_signature", 65),
            bond=BondProof.from_value(item["bond"]) if "bond" in item else None,
        )


def _optional(item: dict[str, Value], name: str, length: int, most: int | None = None) -> bytes | None:
    return fields.octets(item[name], name, length, most) if name in item else None


@dataclass(frozen=True, slots=True)
class ResultAnchor:
    """The batch's transaction was number `index` of `total` in its block; `path` leads to the next header's last_results_hash."""

    index: int
    total: int
    result: TransactionResult
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class HistoryAnchor:
    """The batch is leaf `index` of the history under a later block's app hash, whose other half is `state_root`."""

    index: int
    first: int
    root: bytes
    proof: HistoryProof
    state_root: bytes


@dataclass(frozen=True, slots=True)
class Settlement:
    """Rule 2's proof: leaf `leaf` of `leaves` in a batch of the block at `height`, shown by the signed `block`."""

    height: int
    leaf: int
    leaves: int
    leaf_path: tuple[bytes, ...]
    void: int
    anchor: ResultAnchor | HistoryAnchor
    block: SignedBlock
    finality: FinalityProof | None = None

    def to_value(self) -> dict[str, Value]:
        anchor = self.anchor
        shown: dict[str, Value]
        if isinstance(anchor, ResultAnchor):
            shown = {
                "index": anchor.index,
                "total": anchor.total,
                "result": anchor.result.to_value(),
                "path": list(anchor.path),
            }
        else:
            shown = {
                "index": anchor.index,
                "first": anchor.first,
                "root": anchor.root,
                "history": anchor.proof.to_value(),
                "state_root": anchor.state_root,
            }
        value: dict[str, Value] = {
            "height": self.height,
            "leaf": self.leaf,
            "leaves": self.leaves,
            "leaf_path": list(self.leaf_path),
            "void": self.void,
            "anchor": shown,
            "block": self.block.to_value(),
        }
        if self.finality is not None:
            value["finality"] = self.finality.to_value()
        return value

    @classmethod
    def from_value(cls, value: Value) -> Self:
        names = ("height", "leaf", "leaves", "leaf_path", "void", "anchor", "block")
        item = fields.mapping(value, "settlement", names, ("finality",))
        return cls(
            height=fields.integer(item["height"], "height", maximum=(1 << 63) - 2),
            leaf=fields.integer(item["leaf"], "leaf", maximum=MAX_BATCH),
            leaves=fields.integer(item["leaves"], "leaves", maximum=MAX_BATCH),
            leaf_path=_hashes(item["leaf_path"], "leaf_path"),
            void=fields.integer(item["void"], "void", maximum=max(VOID_CAUSES)),
            anchor=_anchor(item["anchor"]),
            block=SignedBlock.from_value(item["block"]),
            finality=FinalityProof.from_value(item["finality"]) if "finality" in item else None,
        )

    def check_membership(self, statement: bytes, key: bytes, number: int) -> None:
        """Check that statement `number` of `key`, with hash `statement`, is where the proof says.

        The block's signatures are checked elsewhere. Raises NotSettled, or NotIncluded for a path that does not fit.
        """
        root = root_from_path(statement + self.void.to_bytes(1), self.leaf, self.leaves, self.leaf_path)
        header = self.block.header
        if isinstance(self.anchor, HistoryAnchor):
            anchor = self.anchor
            if anchor.root != root or anchor.first + self.leaf != number:
                raise NotSettled("the statement is not in the batch that the history shows")
            leaf = history_leaf(self.height, key, anchor.first, self.leaves, root)
            history = root_from_history(leaf, anchor.index, anchor.proof)
            if app_hash(anchor.state_root, history) != header.app_hash:
                raise NotSettled("the batch is not in the history under the header's app hash")
            if header.height <= self.height:
                raise NotSettled("the header is not later than the settlement")
            return
        if header.height != self.height + 1:
            raise NotSettled("results stand in the header of the next height", height=header.height)
        _check_result(self.anchor, header.last_results_hash)
        if _settled(self.anchor.result) != (root, key, number - self.leaf, self.leaves):
            raise NotSettled("the batch in the block is not the one that holds this statement")


def _anchor(value: Value) -> ResultAnchor | HistoryAnchor:
    if isinstance(value, dict) and "history" in value:
        item = fields.mapping(value, "anchor", ("index", "first", "root", "history", "state_root"))
        return HistoryAnchor(
            index=fields.integer(item["index"], "anchor.index"),
            first=fields.integer(item["first"], "anchor.first"),
            root=fields.octets(item["root"], "anchor.root", 32),
            proof=HistoryProof.from_value(item["history"]),
            state_root=fields.octets(item["state_root"], "anchor.state_root", 32),
        )
    item = fields.mapping(value, "anchor", ("index", "total", "result", "path"))
    return ResultAnchor(
        index=fields.integer(item["index"], "anchor.index", maximum=1 << 31),
        total=fields.integer(item["total"], "anchor.total", maximum=1 << 31),
        result=TransactionResult.from_value(item["result"], max_data=4096),
        path=_hashes(item["path"], "anchor.path"),
    )


def _hashes(value: Value, field: str) -> tuple[bytes, ...]:
    return tuple(fields.octets(node, field, 32) for node in fields.array(value, field, max_length=64))


def _check_result(anchor: ResultAnchor, last_results_hash: bytes) -> None:
    if root_from_path(anchor.result.leaf(), anchor.index, anchor.total, anchor.path) != last_results_hash:
        raise NotSettled("the result is not under the header's last_results_hash")


def _settled(result: TransactionResult) -> tuple[bytes, bytes, int, int]:
    """Batch root, key, first number and count that a settlement transaction returned (rule 3)."""
    if result.code != 0:
        raise NotSettled("the settlement transaction failed", result_code=result.code)
    item = fields.mapping(decode(result.data), "result", ("to", "output"))
    if item["to"] != SETTLEMENT_ADDRESS:
        raise NotSettled("the result is not one of the settlement module")
    output = fields.octets(item["output"], "output", 128)
    return output[:32], output[32:64], int.from_bytes(output[64:96]), int.from_bytes(output[96:])


def history_leaf(height: int, key: bytes, first: int, count: int, root: bytes) -> bytes:
    """Rule 5's leaf of one settled batch."""
    return tagged_hash(b"avow/history-leaf/1", height.to_bytes(8), key, first.to_bytes(8), count.to_bytes(8), root)
