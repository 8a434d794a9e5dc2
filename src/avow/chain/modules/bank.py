"""The bank: what payers let nodes charge. Money itself moves through the host.

Rules:
1. A payer consents by an allowance for one node (cap, expiry, remaining) or by a signed authorisation for one request
   (receipt/authorisation.py). Nobody is charged without one; an operator may charge its own account.
2. An allowance is spent, never topped up by itself; `allow` replaces it.
3. An authorisation's nonce is one bit, and is set once.
"""

from avow.chain.errors import Code, Refused
from avow.chain.host import Host, Module, bind
from avow.chain.solidity import load_interface

ADDRESS = bytes.fromhex("0000000000000000000000000000000000000a01")

_ALLOWANCE = b"bank/allowance/"
_USED = b"bank/authorisations/"
_NONCES_PER_WORD = 256


def allow(host: Host, node: bytes, cap: int, expiry_ms: int) -> None:
    key = _ALLOWANCE + host.caller + node
    host.store(key, cap.to_bytes(32) + expiry_ms.to_bytes(8) if cap else None)
    host.log("Allowed", host.caller, node, cap, expiry_ms)


def allowance(host: Host, payer: bytes, node: bytes) -> tuple[int, int]:
    """What remains, in wei, and until when (block time, milliseconds)."""
    record = host.load(_ALLOWANCE + payer + node)
    return (int.from_bytes(record[:32]), int.from_bytes(record[32:])) if record else (0, 0)


def spendable(host: Host, payer: bytes, node: bytes) -> int:
    """What `node` may charge `payer` in this block by allowance."""
    remaining, expiry_ms = allowance(host, payer, node)
    return remaining if host.block.time_ms <= expiry_ms else 0


def spend_allowance(host: Host, payer: bytes, node: bytes, amount: int) -> None:
    """Raises Refused (PAYER_NOT_CONSENTING) when less than `amount` remains."""
    remaining, expiry_ms = allowance(host, payer, node)
    if amount > remaining or host.block.time_ms > expiry_ms:
        raise Refused(Code.PAYER_NOT_CONSENTING)
    left = remaining - amount
    host.store(_ALLOWANCE + payer + node, left.to_bytes(32) + expiry_ms.to_bytes(8) if left else None)


def cancel_authorisation(host: Host, nonce: int) -> None:
    if not use_authorisation(host, host.caller, nonce):
        raise Refused(Code.AUTHORISATION_USED)
    host.log("AuthorisationCancelled", host.caller, nonce)


def authorisation_used(host: Host, payer: bytes, nonce: int) -> bool:
    word = host.load(_word_key(payer, nonce))
    return word is not None and int.from_bytes(word) >> (nonce % _NONCES_PER_WORD) & 1 == 1


def use_authorisation(host: Host, payer: bytes, nonce: int) -> bool:
    """Use a nonce up; False when it already was."""
    key = _word_key(payer, nonce)
    word = int.from_bytes(host.load(key) or b"")
    bit = 1 << nonce % _NONCES_PER_WORD
    if word & bit:
        return False
    host.store(key, (word | bit).to_bytes(32))
    return True


def _word_key(payer: bytes, nonce: int) -> bytes:
    return _USED + payer + (nonce // _NONCES_PER_WORD).to_bytes(8)


def balance_of(host: Host, account: bytes) -> int:
    return host.balance(account)


MODULE: Module = bind(
    ADDRESS,
    load_interface("avow.chain.modules", "bank.sol"),
    {
        "allow": allow,
        "allowance": allowance,
        "cancelAuthorisation": cancel_authorisation,
        "authorisationUsed": authorisation_used,
        "balanceOf": balance_of,
    },
)
