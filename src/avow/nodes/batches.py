"""From rows of the outbox to what the chain takes."""

import msgspec

from avow.chain.modules.batch import SignedAuthorisation, build_batch
from avow.nodes.jobs import Consent
from avow.nodes.outbox_rows import StoredStatement
from avow.receipt.statement import Columns

_PAYER = slice(40, 60)
_AMOUNT = slice(69, 85)
_ENDED = slice(89, 97)
PAYER_UNCOVERED = 4
"""The void cause whose statements show their authorisation, so that the chain sees it fail (chain/modules/voids.py)."""


def charge_of(columns: bytes) -> tuple[bytes, int]:
    """Payer and amount in wei, from packed columns."""
    return columns[_PAYER], int.from_bytes(columns[_AMOUNT])


def ended_ms(columns: bytes) -> int:
    """When the statement ended, by its node's clock."""
    return int.from_bytes(columns[_ENDED])


def batch_of(key: bytes, rows: list[StoredStatement]) -> bytes:
    """The settlement batch of consecutive statements."""
    authorisations = []
    for index, row in enumerate(rows):
        if row.authorisation is not None and row.void in (0, PAYER_UNCOVERED):
            consent = msgspec.msgpack.decode(row.authorisation, type=Consent)
            authorisations.append(
                SignedAuthorisation(
                    index,
                    row.private,
                    consent.most,
                    consent.expiry_ms,
                    consent.nonce,
                    consent.signature,
                )
            )
    return build_batch(
        key,
        [(Columns.unpack(row.columns), row.private) for row in rows],
        rows[-1].signature,
        void=bytes(row.void for row in rows),
        authorisations=authorisations,
    )
