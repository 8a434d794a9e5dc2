"""Transfers, by their short way, and the cache before the state: the same as the long way, whoever sends to whom."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.chain.errors import Code
from avow.chain.execution import CACHED_KEYS, CachedState, History, Machine
from avow.chain.genesis import Genesis
from avow.chain.host import Block, move, read_account, write_account
from avow.chain.state import MemoryStore, Overlay
from avow.chain.transaction import address_of_private_key, decode_transaction, sign_transaction
from avow.receipt.encoding import encode

KEYS = [hashlib.sha256(bytes([number])).digest() for number in range(3)]
ACCOUNTS = [address_of_private_key(key) for key in KEYS]
GENESIS = Genesis(time_ms=1, governance=bytes(20), treasury=ACCOUNTS[2], accounts=())


def machine(balance):
    state = Overlay(MemoryStore())
    for address in ACCOUNTS[:2]:
        write_account(state, address, 0, balance)
    return Machine(GENESIS, Block(1, 1), state, History(0))


def long_way(state, sender, to, value, fee):
    """Yellow Paper, section 6: nonce and gas first, then the value, then what is left and the fee."""
    nonce, balance = read_account(state, sender)
    write_account(state, sender, nonce + 1, balance - fee)
    move(state, sender, to, value)
    nonce, balance = read_account(state, GENESIS.treasury)
    write_account(state, GENESIS.treasury, nonce, balance + fee)


@given(
    st.sampled_from(KEYS[:2]),
    st.sampled_from([*ACCOUNTS, bytes(19) + b"\xee"]),
    st.sampled_from([0, 1, 10**18]),
    st.binary(max_size=9),
)
def test_a_transfer_is_what_its_parts_are(key, to, value, data):
    raw = sign_transaction(
        key, chain_id=GENESIS.eip155, nonce=0, gas_limit=50_000, to=to, max_fee=3 * 10**9, value=value, data=data
    )
    transaction = decode_transaction(raw, GENESIS.eip155)
    ran, expected = machine(10**19), machine(10**19)
    outcome = ran.execute(transaction)
    long_way(expected.state, transaction.sender, to, value, transaction.intrinsic_gas() * GENESIS.base_fee)
    assert outcome.code is Code.OK
    assert outcome.gas_used == transaction.intrinsic_gas()
    assert outcome.data == encode({"to": to, "output": b""})
    kept = [[change for change in item.state.changes() if change[1] is not None] for item in (ran, expected)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("held", [0, 3, CACHED_KEYS - 1])
def test_what_is_expected_is_what_the_store_holds(held):
    store = MemoryStore()
    store.commit(store.prepare({b"a": b"1", b"b": b"2"}), 1)
    cache = CachedState(store)
    cache.expect([b"old/%d" % number for number in range(held)])
    cache.expect([b"a", b"b", b"none", b"a"])
    assert [cache.get(key) for key in (b"a", b"b", b"none")] == [b"1", b"2", None]
    cache.committed([(b"a", b"3"), (b"none", b"4"), (b"b", None)])
    assert [cache.get(key) for key in (b"a", b"b", b"none")] == [b"3", None, b"4"]
