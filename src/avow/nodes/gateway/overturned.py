"""Which transaction overturned an optimistic answer: looked up in the chain's log, for who wants to know.

A receipt proves that its answer was overturned, not by what. What is said here is the word of the chain's node;
`eth_getTransactionReceipt` shows the transaction, with the proof in it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from avow.chain.modules import optimistic
from avow.chain.modules.keys import RevocationCause
from avow.errors import NotFound, Unavailable
from avow.nodes.chain_client import Log
from avow.receipt.receipt import Receipt

MAX_BLOCKS = 100_000
"""How far beyond its settlement an answer is looked for: what the chain's node searches at once, and more than a window has."""

_CAUSES = {RevocationCause.FRAUD: "fraud", RevocationCause.TRACE_WITHHELD: "trace_withheld"}


class Logs(Protocol):
    """What is needed of the chain (chain_client.py)."""

    async def logs(
        self, module: bytes, name: str, from_height: int, to_height: int | None = None, *, indexed: Sequence[bytes] = ()
    ) -> list[Log]: ...


async def overturned_by(chain: Logs | None, receipt: Receipt) -> dict[str, Any]:
    """{"transaction", "height", "cause", "winner"} of what overturned the answer. Raises NotFound, or Unavailable without a chain."""
    if chain is None:
        raise Unavailable("this gateway knows no chain to ask")
    statement, settlement = receipt.statement, receipt.settlement
    if settlement is None:
        raise NotFound("the answer has not settled, so nothing has overturned it", receipt=receipt.id)
    found = await chain.logs(
        optimistic.ADDRESS,
        "Overturned",
        settlement.height,
        settlement.height + MAX_BLOCKS,
        indexed=(statement.private.key, statement.hash()),
    )
    if not found:
        raise NotFound("the chain's log does not show that the answer was overturned", receipt=receipt.id)
    log = found[0]
    _, cause, _ = log.values
    return {
        "transaction": "0x" + log.transaction.hex(),
        "height": log.height,
        "cause": _CAUSES.get(cause, "unknown"),
        "winner": "0x" + log.indexed[2][12:].hex(),
    }
