"""What a lying proposer puts into a block. REJECTED: honest validators refuse the proposal. REFUSED: what it says may be true of a state, and its
sender pays for it, so it may stand in a block; executing it gives a refusal, and nothing moves but the sender's fee.

OVERSIZED blocks never leave the proposer: its own CometBFT's consensus panics over them, and is killed and started anew.
"""

import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec

from avow.chain.application import Application
from avow.chain.modules import nodes, settlement
from avow.chain.modules.batch import SignedAuthorisation, build_batch
from avow.chain.transaction import sign_transaction
from avow.consensus.cometbft.bundle import encode_bundles
from avow.nodes.chain_client import function_of
from avow.receipt.statement import Method
from tests.chain.harness import FAR_MS, NodeKey, account, point, secret

NAME = "byzantine"
PRICE = 100
Kind = Callable[[Application, tuple[bytes, ...]], list[bytes]]


def key(chain_id: str) -> NodeKey:
    """The node key of the byzantine validator's operator; its statements would be number 0 and on."""
    private = [
        ec.derive_private_key(int.from_bytes(secret(f"{what} {NAME}")) >> 1 | 1, ec.SECP256R1())
        for what in ("signing", "transport")
    ]
    return NodeKey(chain_id, Method.VANILLA, NAME, *private, time.time_ns() // 1_000_000)


def transaction(application: Application, *, who: str = NAME, nonce_more: int = 0, **fields: object) -> bytes:
    genesis = application.genesis
    given = {"gas_limit": 30_000, "to": b"\x0b" * 20, "max_fee": genesis.base_fee, "value": 1} | fields
    nonce, _ = application.account(account(who))
    return sign_transaction(secret(who), chain_id=genesis.eip155, nonce=nonce + nonce_more, **given)


def bad_signature(application: Application, _: tuple[bytes, ...]) -> list[bytes]:
    raw = bytearray(transaction(application))
    raw[-1] ^= 1
    return [bytes(raw)]


def settle(application: Application, spoil: Callable[[dict], None], who: str = NAME) -> list[bytes]:
    """A settlement with one thing wrong."""
    signer = key(application.genesis.chain_id)
    options: dict = {"units": 3, "amount": 3 * PRICE}
    spoil(options)
    wrong = options.pop("signature", False)
    authorised = options.pop("authorisation", False)
    statement = signer.sign(**options)
    signature = bytearray(statement.signature)
    signature[-1] ^= wrong
    shown = [SignedAuthorisation(0, statement.private, 10**18, FAR_MS, 1, bytes(65))] if authorised else []
    batch = build_batch(signer.id, [(statement.columns, statement.private)], bytes(signature), authorisations=shown)
    call = function_of(settlement.ADDRESS, "settle").encode_call(batch)
    return [transaction(application, who=who, to=settlement.ADDRESS, data=call, value=0, gas_limit=5_000_000)]


def invalid_evidence(application: Application, _: tuple[bytes, ...]) -> list[bytes]:
    """A registration whose evidence is nobody's signature."""
    signer = key(application.genesis.chain_id)
    beacon = function_of(nodes.ADDRESS, "beacon")
    found = application.simulate(account(NAME), nodes.ADDRESS, beacon.encode_call(), time_ms=time.time_ns() // 10**6)
    recent = beacon.decode_output(found.data)[0]
    arguments = (int(Method.VANILLA), point(signer.transport), point(signer.signing), recent, bytes(64))
    call = function_of(nodes.ADDRESS, "register").encode_call(*arguments)
    return [transaction(application, to=nodes.ADDRESS, data=call, value=0, gas_limit=5_000_000)]


def false_report(application: Application, _: tuple[bytes, ...]) -> list[bytes]:
    """Two signatures of one number that are none."""
    signer = key(application.genesis.chain_id)
    call = function_of(nodes.ADDRESS, "reportEquivocation").encode_call(signer.id, b"\x80", b"\x80")
    return [transaction(application, to=nodes.ADDRESS, data=call, value=0, gas_limit=5_000_000)]


def more_than_it_has(application: Application, _: tuple[bytes, ...]) -> list[bytes]:
    """Each is affordable by itself."""
    _, balance = application.account(account(NAME))
    return [transaction(application, nonce_more=n, value=balance * 2 // 3) for n in range(2)]


REJECTED: dict[str, Kind] = {
    "garbage": lambda _a, _l: [bytes(range(256)) * 4],
    "empty transaction": lambda _a, _l: [b""],
    "bad signature": bad_signature,
    "fee too low": lambda a, _: [transaction(a, max_fee=a.genesis.base_fee - 1)],
    "no money": lambda a, _: [transaction(a, value=10**40)],
    "gas beyond the block's": lambda a, _: [
        transaction(a, nonce_more=n, gas_limit=a.genesis.block_gas_limit // 2) for n in range(3)
    ],
    "nonce ahead": lambda a, _: [transaction(a, nonce_more=1)],
    "twice": lambda a, _: [transaction(a)] * 2,
    "replay": lambda a, last: [*last[:3]] or [b"nothing to replay"],
    "another chain": lambda a, _: [
        sign_transaction(
            secret(NAME), chain_id=a.genesis.eip155 + 1, nonce=0, gas_limit=30_000, to=bytes(20), max_fee=10**10
        )
    ],
    "bundle": lambda a, _: list(encode_bundles([transaction(a), transaction(a, nonce_more=1)])),
    "more than it has": more_than_it_has,
    "settlement with a bad signature": lambda a, _: settle(a, lambda o: o.update(signature=True)),
    "settlement with a wrong fee": lambda a, _: settle(a, lambda o: o.update(amount=3 * PRICE + 1)),
    "settlement of tomorrow": lambda a, _: settle(a, lambda o: o.update(ended_ms=time.time_ns() // 10**6 + 86_400_000)),
    "settlement with a consent that nobody gave": lambda a, _: settle(a, lambda o: o.update(authorisation=True)),
    "invalid evidence": invalid_evidence,
    "false report": false_report,
}
OVERSIZED: dict[str, Kind] = {"oversized": lambda a, _: [bytes(a.genesis.block_max_bytes + 1)]}
REFUSED: dict[str, Kind] = {
    "settlement of a stranger": lambda a, _: settle(a, lambda o: o.update(payer="stranger")),
}
KINDS = REJECTED | OVERSIZED | REFUSED
