"""A payer's signature for one request (receipt/authorisation.py), as a batch shows it beside a statement.

Rules:
1. The private part shown is the statement's own, names this chain, operator and key, and says that it was authorised; its
   requester signed for its request and this operator, and is the payer. Else the entry is refused.
2. It covers the statement if the amount is within it, block time not past it, its nonce not used, and the payer has the money.
"""

from avow.chain import gas
from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.chain.modules import bank
from avow.chain.modules.batch import Batch, SignedAuthorisation
from avow.chain.modules.books import Books
from avow.errors import InputError
from avow.receipt.authorisation import Authorisation, BadAuthorisation
from avow.receipt.encoding import decode
from avow.receipt.statement import Private, private_hash


def authorisation_fault(host: Host, batch: Batch, books: Books, shown: SignedAuthorisation) -> Code | None:
    """Why an authorisation does not cover its statement (rule 2). Raises Refused (AUTHORISATION_REFUSED) by rule 1."""
    _check_signed(host, batch, books, shown)
    place = batch.payer[shown.index]
    amount = batch.amounts[shown.index]
    if amount > shown.max_amount:
        return Code.AUTHORISATION_EXCEEDED
    if host.block.time_ms > shown.expiry_ms:
        return Code.AUTHORISATION_EXPIRED
    if bank.authorisation_used(host, batch.payers[place], shown.nonce):
        return Code.AUTHORISATION_USED
    return Code.PAYER_UNCOVERED if amount > books.balance[place] else None


def _check_signed(host: Host, batch: Batch, books: Books, shown: SignedAuthorisation) -> None:
    """Rule 1."""
    payer, operator = batch.payers[batch.payer[shown.index]], books.record.operator
    host.charge(gas.SECP256K1_RECOVER + gas.PARSE)
    try:
        if private_hash(shown.private) != batch.private[shown.index]:
            raise Refused(Code.AUTHORISATION_REFUSED, shown.index)
        private = Private.from_value(decode(shown.private))
        message = Authorisation(operator, private.request, shown.max_amount, shown.expiry_ms, shown.nonce)
        signer = message.signer(host.genesis.chain_id, shown.signature)
    except (InputError, BadAuthorisation):
        raise Refused(Code.AUTHORISATION_REFUSED, shown.index) from None
    stated = (private.chain_id, private.node, private.key, private.authorised)
    if stated != (host.genesis.chain_id, operator, batch.key, True) or not signer == private.requester == payer:
        raise Refused(Code.AUTHORISATION_REFUSED, shown.index)
