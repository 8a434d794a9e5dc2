"""A chain's node that lies: whoever relies on headers and proofs is told nothing wrong, and goes on with an honest one."""

import contextlib
import time
from dataclasses import replace

import pytest
from aiohttp import ClientSession, web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain.errors import Refused
from avow.chain.genesis import Genesis
from avow.chain.modules import bank, nodes, registry
from avow.errors import AvowError, TrustNotPinned
from avow.nodes.chain_client import ChainClient, ChainUnavailable
from avow.nodes.gateway.account import PayerAccount, account_key
from avow.nodes.gateway.trust import NetworkTrust
from avow.nodes.headers import TRUSTING_PERIOD_NS, HeaderTrust, header_trust
from avow.nodes.operator_chain import OperatorChain
from avow.nodes.pin import BlockPin, find_pin, policy_of
from avow.nodes.proven import ProvenState
from avow.receipt.encoding import base64url, decode, encode, from_base64url
from avow.receipt.headers import SignedBlock, Validator, validators_hash
from avow.receipt.trust import TrustPolicy
from tests.nodes.network import allow, chain_of, make_home
from tests.nodes.test_headers import sign

REMOTE = "http://chain.example:8545"


@pytest.fixture
async def network(tmp_path):
    home = make_home(tmp_path, heartbeat_ms=200)
    async with chain_of(home) as running:
        yield home, running.url


@contextlib.asynccontextmanager
async def lying(url, lie):
    """A node of the chain whose every answer `lie(method, params, result)` may change."""

    async def answer(request):
        call = await request.json()
        async with ClientSession() as session, session.post(url, json=call) as response:
            shown = await response.json()
        if "result" in shown:
            shown["result"] = lie(call["method"], call["params"], shown["result"])
        return web.json_response(shown)

    application = web.Application()
    application.router.add_post("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


def packed(change):
    """A lie about a base64url CBOR answer."""
    return lambda shown: base64url(encode(change(decode(from_base64url(shown)))))


FORGER = Ed25519PrivateKey.from_private_bytes(b"\x66" * 32)


def forged(block: SignedBlock, **changes) -> SignedBlock:
    """The block as a stranger would sign it with a set of its own."""
    stranger = FORGER.public_key().public_bytes_raw()
    validators = (Validator(stranger, 1),)
    header = replace(block.header, validators_hash=validators_hash(validators), **changes)
    return sign(header, validators, {stranger: FORGER})


def more_money(item):
    return item | {"value": (item["value"] or bytes(40))[:8] + (10**30).to_bytes(32)}


def other_block(item):
    return item | {"block": forged(SignedBlock.from_value(item["block"])).to_value()}


def absent(item):
    return item | {"value": None}


LIES = {
    "a value": more_money,
    "a missing value": absent,
    "a stranger's block": other_block,
    "another history": lambda item: item | {"history_root": bytes(32)},
    "no proof": lambda item: item | {"proof": {"siblings": [], "other": None}},
    "a member more": lambda item: item | {"more": 1},
}


async def state_of(url, home, pin) -> tuple[ChainClient, ProvenState]:
    client = ChainClient(url)
    return client, ProvenState(client, HeaderTrust(home.genesis.chain_id, pin), home.genesis.chain_id)


async def pin_of(home, url) -> TrustPolicy:
    async with ChainClient(url) as client:
        return policy_of(home.genesis, await client.signed_block(1))


async def test_state_is_read_as_it_is(network):
    home, url = network
    await allow(home, url, cap=12_345)
    client, state = await state_of(url, home, await pin_of(home, url))
    async with client:
        assert await state.view(bank.ADDRESS, "allowance", home.payer, home.operator) == await client.view(
            bank.ADDRESS, "allowance", home.payer, home.operator
        )
        assert await state.balance(home.payer) == await client.balance(home.payer) > 0
        assert await state.view(registry.ADDRESS, "program", bytes(32)) == [0, 0]
        assert await state.view(nodes.ADDRESS, "beacon") == await client.view(nodes.ADDRESS, "beacon")
        with pytest.raises(Refused):
            await state.view(bank.ADDRESS, "allow", home.operator, 1, 1)
        policy = await state.policy()
        shown = await client.trust()
        assert replace(policy, height=0, time_ms=0) == replace(shown, height=0, time_ms=0)


@pytest.mark.parametrize("kind", LIES)
async def test_a_lie_about_the_state_is_refused_and_the_next_node_is_asked(network, kind):
    home, url = network
    pin = await pin_of(home, url)
    change = packed(LIES[kind])
    lie = lambda method, _, shown: change(shown) if method == "avow_prove" else shown  # noqa: E731
    async with lying(url, lie) as liar:
        client, state = await state_of(liar, home, pin)
        async with client:
            with pytest.raises(ChainUnavailable, match="does not follow"):
                await state.balance(home.payer)
        client, state = await state_of(f"{liar},{url}", home, pin)
        async with client:
            with pytest.raises(ChainUnavailable):
                await state.balance(home.payer)
            assert await state.balance(home.payer) == await client.balance(home.payer)


async def test_old_state_is_not_read_again(network):
    home, url = network
    kept = {}

    def lie(method, params, shown):
        return kept.setdefault(params[0], shown) if method == "avow_prove" else shown

    client, state = await state_of(url, home, await pin_of(home, url))
    async with lying(url, lie) as liar, client, ChainClient(liar) as stale:
        await stale.rpc("avow_prove", "0x" + (b"account/" + home.payer).hex())
        await allow(home, url)
        before = await state.balance(home.payer)
        state._client = stale
        with pytest.raises(ChainUnavailable):
            await state.balance(home.payer)
        state._client = client
        assert await state.balance(home.payer) == before


async def test_the_genesis_is_the_chains_own(network):
    """A liar that adds an attestation root of its own would have readers of a gateway's policy believe its enclaves."""
    home, url = network

    def other_roots(method, _, shown):
        if method != "avow_genesis":
            return shown
        genesis = Genesis.from_bytes(from_base64url(shown))
        return base64url(replace(genesis, attestation_roots=(b"mine",)).to_bytes())

    async with lying(url, other_roots) as liar:
        client, state = await state_of(liar, home, await pin_of(home, url))
        async with client:
            with pytest.raises(ChainUnavailable):
                await state.policy()


async def test_a_gateway_hands_out_no_policy_of_a_liar(network, tmp_path):
    """The liar's chain has headers that a stranger signed. The gateway hands out what was pinned instead."""
    home, url = network

    def strangers(method, _, shown):
        if method == "avow_header":
            return base64url(encode(forged(SignedBlock.from_value(decode(from_base64url(shown)))).to_value()))
        if method == "avow_trust":
            return shown | {"validators": [{"public_key": FORGER.public_key().public_bytes_raw().hex(), "power": 1}]}
        return shown

    pin = await pin_of(home, url)
    file = tmp_path / "pinned.json"
    file.write_bytes(pin.to_json())
    async with lying(url, strangers) as liar:
        client, state = await state_of(liar, home, pin)
        async with client:
            trust = NetworkTrust(lambda: _known(state), file)
            assert await trust.current() == pin
    client, state = await state_of(url, home, pin)
    async with client:
        current = await NetworkTrust(lambda: _known(state), file).current()
        assert current.height >= pin.height
        assert current.validators == pin.validators


async def _known(state):
    return state


async def test_a_gateway_allows_no_more_than_is_needed_though_a_node_says_nothing_is_left(network, tmp_path):
    home, url = network
    await allow(home, url, cap=10**18)
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "key").write_text(home.payer_key.hex())
    (tmp_path / "trust.json").write_bytes((await pin_of(home, url)).to_json())
    nothing = "0x" + bytes(64).hex()
    lie = lambda method, _, shown: nothing if method == "eth_call" else shown  # noqa: E731
    async with (
        lying(url, lie) as liar,
        PayerAccount.open(
            tmp_path / "gateway" / "key", liar, home=tmp_path, trust=str(tmp_path / "trust.json")
        ) as payer,
    ):
        left = await payer._bank.allowance(payer.address, home.operator)
        assert left[0] == 10**18
    assert account_key(tmp_path / "gateway" / "key") == home.payer_key


async def test_an_operator_works_for_nobody_whom_a_liar_calls_rich(network, tmp_path):
    home, url = network
    rich = "0x" + (10**30).to_bytes(32).hex() + (1 << 52).to_bytes(32).hex()
    lie = lambda method, _, shown: (  # noqa: E731
        rich if method == "eth_call" else hex(10**30) if method == "eth_getBalance" else shown
    )
    pin = tmp_path / "pin.json"
    pin.write_bytes((await pin_of(home, url)).to_json())
    key = account_key(home.folder / "node" / "key")
    async with lying(url, lie) as liar:
        chain = await OperatorChain.open(liar, key, tmp_path, trust=str(pin))
        try:
            assert await chain.spendable(b"\x55" * 20) == (0, 0)
            assert await chain.authorisation(b"\x55" * 20, 1) == (False, 0)
        finally:
            await chain.close()


async def test_an_operator_takes_no_standing_under_a_strangers_header(network, tmp_path):
    home, url = network

    def strangers(method, _, shown):
        if method != "avow_prove":
            return shown
        return packed(other_block)(shown)

    pin = tmp_path / "pin.json"
    pin.write_bytes((await pin_of(home, url)).to_json())
    async with lying(url, strangers) as liar:
        chain = await OperatorChain.open(liar, account_key(home.folder / "node" / "key"), tmp_path, trust=str(pin))
        try:
            with pytest.raises(ChainUnavailable):
                await chain.price(bytes(32), 0)
        finally:
            await chain.close()


# --- Where trust begins ----------------------------------------------------------------------------------------------


async def test_a_pin_by_height_and_hash(network):
    home, url = network
    async with ChainClient(url) as client:
        await client.wait_height(6)
        first, later = await client.signed_block(2), await client.signed_block(6)
        now_ns = time.time_ns()
        trust = HeaderTrust(home.genesis.chain_id, BlockPin(2, first.header.hash))
        await trust.follow(later, client.signed_block, now_ns=now_ns)
        assert trust.height == 6
        for pin in (BlockPin(2, bytes(32)), BlockPin(3, first.header.hash)):
            trust = HeaderTrust(home.genesis.chain_id, pin)
            with pytest.raises(AvowError, match="another one"):
                await trust.follow(later, client.signed_block, now_ns=now_ns)
            assert trust.height == 0
        trust = HeaderTrust(home.genesis.chain_id, BlockPin(2, first.header.hash))
        with pytest.raises(AvowError, match="trusting period"):
            await trust.follow(later, client.signed_block, now_ns=now_ns + TRUSTING_PERIOD_NS)


async def test_the_first_block_that_is_seen_is_not_trusted_with_a_pin(network):
    home, url = network
    async with ChainClient(url) as client:
        block = await client.signed_block(1)
        pinned = HeaderTrust(home.genesis.chain_id, policy_of(home.genesis, block))
        unpinned = HeaderTrust(home.genesis.chain_id)

        async def nothing(height):
            raise ChainUnavailable("nothing is here", height=height)

        with pytest.raises(AvowError):
            await pinned.follow(forged(block), nothing, now_ns=time.time_ns())
        await unpinned.follow(forged(block), nothing, now_ns=time.time_ns())
        assert (pinned.height, unpinned.height) == (0, 1)


async def test_trust_goes_on_after_a_restart_and_with_another_pin_begins_anew(network, tmp_path):
    home, url = network
    file = tmp_path / "headers.cbor"
    async with ChainClient(url) as client:
        first = await client.signed_block(1)
        pin = policy_of(home.genesis, first)
        trust = HeaderTrust(home.genesis.chain_id, pin, file=file)
        await trust.follow(first, client.signed_block, now_ns=time.time_ns())
        assert HeaderTrust(home.genesis.chain_id, pin, file=file).height == 1
        assert HeaderTrust(home.genesis.chain_id, BlockPin(1, first.header.hash), file=file).height == 0
        assert HeaderTrust("avow-0000000000000000", pin, file=file).height == 0
        file.write_bytes(file.read_bytes()[:-1])
        assert HeaderTrust(home.genesis.chain_id, pin, file=file).height == 0


def test_where_a_pin_is_found(tmp_path):
    validators = (Validator(b"\x01" * 32, 1),)
    old, new, other = [
        TrustPolicy(chain, height, height * 1_000, validators)
        for chain, height in (("avow-" + "0" * 16, 1), ("avow-" + "0" * 16, 9), ("avow-" + "1" * 16, 99))
    ]
    own = "http://127.0.0.1:1,http://[::1]:2,http://localhost:3"
    assert find_pin(tmp_path, own, None) is None
    for chain in (REMOTE, f"http://127.0.0.1:1,{REMOTE}", "http://10.0.0.1:8545", "http://127.0.0.1.example:1"):
        with pytest.raises(TrustNotPinned):
            find_pin(tmp_path, chain, None)
    (tmp_path / "pins").mkdir()
    (tmp_path / "trust.json").write_bytes(old.to_json())
    (tmp_path / "pins" / "gateway.json").write_bytes(new.to_json())
    (tmp_path / "pins" / "other.json").write_bytes(other.to_json())
    assert find_pin(tmp_path, REMOTE, None, old.chain_id) == new
    assert find_pin(tmp_path, REMOTE, None, other.chain_id) == other
    with pytest.raises(TrustNotPinned):
        find_pin(tmp_path, REMOTE, None, "avow-" + "2" * 16)
    assert find_pin(tmp_path, own, None, "avow-" + "2" * 16) is None
    assert find_pin(tmp_path, REMOTE, f"7:0x{'ab' * 32}") == BlockPin(7, b"\xab" * 32)
    assert find_pin(tmp_path, REMOTE, str(tmp_path / "trust.json"), old.chain_id) == old
    with pytest.raises(TrustNotPinned):
        find_pin(tmp_path, own, str(tmp_path / "trust.json"), other.chain_id)
    for wrong in ("7", "0:" + "ab" * 32, "7:" + "ab" * 31, "nowhere.json"):
        with pytest.raises(AvowError):
            find_pin(tmp_path, own, wrong)


def test_an_expired_policy(tmp_path):
    policy = TrustPolicy("avow-" + "0" * 16, 1, 1_000, (Validator(b"\x01" * 32, 1),))
    (tmp_path / "trust.json").write_bytes(policy.to_json())
    late = policy.time_ms + policy.trusting_period_ms + 1
    own = "http://127.0.0.1:1"
    assert header_trust(tmp_path, own, policy.chain_id, given=None, now_ms=late - 1).pinned
    assert not header_trust(tmp_path, own, policy.chain_id, given=None, now_ms=late).pinned
    for chain, given in ((REMOTE, None), (own, str(tmp_path / "trust.json"))):
        with pytest.raises(TrustNotPinned, match="trusting period"):
            header_trust(tmp_path, chain, policy.chain_id, given=given, now_ms=late)
