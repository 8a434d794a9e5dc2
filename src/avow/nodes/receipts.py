"""Receipts out of the outbox: by id, with their settlement, and for their secret with everything in them."""

from collections import OrderedDict

from avow.nodes.assembly import Backing, assemble_receipt, whole_opening
from avow.nodes.errors import OpeningGone, ReceiptNotFound
from avow.nodes.jobs import Signed
from avow.nodes.opening import unseal
from avow.nodes.outbox import UNDELIVERED, Outbox
from avow.nodes.outbox_rows import StoredBatch, StoredStatement
from avow.receipt import merkle
from avow.receipt.encoding import Value, decode, encode_trusted
from avow.receipt.fields import FieldError, octets
from avow.receipt.statement import Private

LEAF_BYTES = 33
_KEPT_TREES = 64


class Receipts:
    """Reads one outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._trees: OrderedDict[tuple[int, int], list[list[bytes]]] = OrderedDict()

    def find(self, statement_id: bytes) -> StoredStatement:
        """Raises ReceiptNotFound, also for what was never delivered: its private part would prove the contrary to the chain."""
        row = self._outbox.statement(statement_id)
        if row is None or row.backing is None or row.void == UNDELIVERED:
            raise ReceiptNotFound("no receipt has this id", id=statement_id.hex())
        return row

    def build(self, statement_id: bytes, secret: bytes | None, finality: bytes = b"") -> bytes:
        """The receipt's CBOR: redacted without a secret. Raises ReceiptNotFound, or OpeningGone for a wrong or late secret.

        `finality`: CBOR of the batch's finality as the chain shows it now, for as long as the outbox has none.
        """
        row = self.find(statement_id)
        opening = b"" if secret is None else self._opening(row, secret)
        batch = self._outbox.batch_of(row.key_number, row.number)
        settlement = (
            b"" if batch is None or batch.proof is None else self._settlement(row, batch, batch.proof, finality)
        )
        signed = Signed(
            row.number, row.id, row.columns, row.private, row.previous_head, row.previous_head, row.signature
        )
        backing = Backing.load(b"", self._outbox.backing(row.backing or 0))
        return assemble_receipt(
            signed,
            backing,
            requester_signature=row.requester_signature,
            opening=opening,
            settlement=settlement,
        )

    def _opening(self, row: StoredStatement, secret: bytes) -> bytes:
        sealed = None if row.opening is None else self._outbox.sealed_opening(row.opening)
        if sealed is None:
            raise OpeningGone("the opening was deleted after its retention time")
        try:
            octets(secret, "secret", 32)
        except FieldError as error:
            raise OpeningGone("the secret does not open this receipt") from error
        request = Private.from_value(decode(row.private)).request
        opening = unseal(sealed, secret, request)
        return whole_opening(
            secret,
            opening.endpoint,
            opening.effective,
            opening.request_parts(),
            opening.response_parts(),
            opening.header,
        )

    def _settlement(self, row: StoredStatement, batch: StoredBatch, proof: bytes, finality: bytes) -> bytes:
        """The statement's own place, added to what its batch has in common."""
        place = (batch.key_number, batch.first)
        tree = self._trees.get(place)
        if tree is None:
            leaves = [batch.leaves[at : at + LEAF_BYTES] for at in range(0, len(batch.leaves), LEAF_BYTES)]
            tree = self._trees[place] = merkle.tree(leaves)
            if len(self._trees) > _KEPT_TREES:
                self._trees.popitem(last=False)
        leaf = row.number - batch.first
        common = decode(proof)
        assert isinstance(common, dict)
        path: list[Value] = list(merkle.path_in(tree, leaf))
        own: dict[str, Value] = {"leaf": leaf, "leaves": batch.count, "leaf_path": path}
        void = batch.leaves[LEAF_BYTES * (leaf + 1) - 1]
        ended = batch.finality or finality
        if ended and not void:
            own["finality"] = decode(ended)
        return encode_trusted({**common, **own, "void": void})
