"""JSON-RPC as such: what is answered, and what is not."""

import asyncio
import io
import json
import tempfile
from pathlib import Path

import aiohttp
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avow.nodes.full import FullNodeConfig, create_network, running_chain
from avow.nodes.rpc.server import MAX_BATCH, MAX_BODY, RpcApplication
from tests.chain.harness import ETHER, account

HEIGHT = {"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []}


@pytest.fixture
def rpc(running):
    return RpcApplication(running.node)


async def ask(rpc, *calls, raw: bytes | None = None):
    body = raw if raw is not None else msgspec.json.encode(calls[0] if len(calls) == 1 else list(calls))
    answer = await rpc.answer(body)
    return json.loads(answer) if answer else None


async def error(rpc, method: str, *params) -> tuple[int, str]:
    answer = await ask(rpc, {"jsonrpc": "2.0", "id": "x", "method": method, "params": list(params)})
    assert answer["id"] == "x"
    return answer["error"]["code"], answer["error"]["message"]


async def test_one_call_and_a_batch(rpc):
    answer = await ask(rpc, HEIGHT)
    assert answer == {"jsonrpc": "2.0", "id": 1, "result": hex(rpc._node.engine.height)}
    both = await ask(rpc, HEIGHT, HEIGHT | {"id": "two", "method": "nothing"})
    assert [entry["id"] for entry in both] == [1, "two"]
    assert both[1]["error"]["code"] == -32601


async def test_notifications_get_no_answer(rpc):
    silent = {"jsonrpc": "2.0", "method": "eth_blockNumber"}
    assert await ask(rpc, silent) is None
    assert await ask(rpc, silent, silent) is None
    assert len(await ask(rpc, silent, HEIGHT)) == 1


NO_REQUESTS = [
    (b"", -32700),
    (b"{", -32700),
    (b"\xff", -32700),
    (b"[" * 100_000, -32700),
    (b"[]", -32600),
    (b"5", -32600),
    (b"null", -32600),
    (b'{"jsonrpc":"1.0","id":1,"method":"eth_chainId"}', -32600),
    (b'{"jsonrpc":"2.0","id":1}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600),
    (b'{"jsonrpc":"2.0","id":{},"method":"eth_chainId"}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":{}}', -32602),
    (msgspec.json.encode([HEIGHT] * (MAX_BATCH + 1)), -32600),
]


async def test_what_is_no_request(rpc):
    for raw, code in NO_REQUESTS:
        answer = await ask(rpc, raw=raw)
        assert answer["error"]["code"] == code, raw[:80]


ADDRESS = "0x" + account("payer").hex()
HASH = "0x" + "11" * 32


BAD_PARAMETERS = [
    ("eth_getBalance", [], -32602),
    ("eth_getBalance", ["0x12"], -32602),
    ("eth_getBalance", [5], -32602),
    ("eth_getBalance", ["0x" + "zz" * 20], -32602),
    ("eth_getBalance", [ADDRESS, "newest"], -32602),
    ("eth_getBalance", [ADDRESS, "0x"], -32602),
    ("eth_getBalance", [ADDRESS, {"blockHash": HASH}], -32000),
    ("eth_getBalance", [ADDRESS, {}], -32602),
    ("eth_getBalance", [ADDRESS, True], -32602),
    ("eth_getBlockByNumber", ["0x" + "f" * 70, False], -32602),
    ("eth_getBlockByNumber", ["latest", "yes"], -32602),
    ("eth_getBlockByHash", ["latest"], -32602),
    ("eth_call", [], -32602),
    ("eth_call", ["x"], -32602),
    ("eth_call", [{}], -32000),
    ("eth_call", [{"to": ADDRESS, "data": "0x1"}], -32602),
    ("eth_call", [{"to": ADDRESS, "data": "0x01", "input": "0x02"}], -32602),
    ("eth_call", [{"to": ADDRESS}, "latest", {ADDRESS: {}}], -32602),
    ("eth_sendRawTransaction", ["0x"], -32000),
    ("eth_sendRawTransaction", ["0x02c0"], -32000),
    ("eth_sendRawTransaction", ["00"], -32602),
    ("eth_sendRawTransaction", ["0x" + "00" * (1024 * 1024 + 1)], -32602),
    ("eth_feeHistory", ["0x1", "0xffffff"], -32000),
    ("eth_feeHistory", ["0x1", "latest", "x"], -32602),
    ("eth_getLogs", [{"fromBlock": "0x5", "toBlock": "0x1"}], -32602),
    ("eth_getLogs", [{"blockHash": HASH, "fromBlock": "0x1"}], -32602),
    ("eth_getLogs", [{"blockHash": HASH}], -32000),
    ("eth_getLogs", [{"topics": [[]] * 5}], -32602),
    ("eth_getLogs", [{"topics": "0x"}], -32602),
    ("eth_getLogs", [{"address": ["0x"]}], -32602),
    ("avow_standing", [], -32602),
    ("avow_standing", ["0x11"], -32602),
    ("avow_standing", ["!"], -32000),
    ("avow_settlement", [HASH, "0xffffff"], -32602),
    ("avow_history", [HASH], -32602),
    ("avow_waitForHeight", ["0x1", -1], -32602),
    ("avow_prove", ["0x" + "00" * 1025], -32602),
]


async def test_parameters_are_checked(rpc):
    for method, params, code in BAD_PARAMETERS:
        assert (await error(rpc, method, *params))[0] == code, (method, params)


async def test_what_is_not_there_is_null(rpc):
    for method, params in (
        ("eth_getTransactionByHash", [HASH]),
        ("eth_getTransactionReceipt", [HASH]),
        ("eth_getBlockByNumber", ["0x0", False]),
        ("eth_getBlockByNumber", ["0xffffff", False]),
        ("eth_getBlockByHash", [HASH, False]),
        ("eth_getBlockReceipts", ["0xffffff"]),
        ("eth_getTransactionByBlockNumberAndIndex", ["latest", "0x5"]),
        ("avow_standing", [HASH]),
        ("avow_settlement", [HASH]),
        ("avow_history", [HASH, "0x0"]),
        ("avow_waitForTransaction", [HASH, 1]),
        ("avow_dropped", [HASH]),
    ):
        answer = await ask(rpc, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        assert answer["result"] is None, (method, answer)


async def test_a_fault_of_ours_shows_no_details(rpc, caplog):
    async def broken(_):
        raise KeyError("secret path")

    rpc._methods["eth_chainId"] = broken
    code, message = await error(rpc, "eth_chainId")
    assert (code, message) == (-32603, "internal error")
    assert "secret path" in caplog.text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 1 << 70)
    | st.text(max_size=8)
    | st.sampled_from([ADDRESS, HASH, "0x1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["to", "data", "topics", "address", "fromBlock", "blockHash", "gas", "value", "from"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_parameters_break_a_method(data):
    """Every method with made-up parameters: an answer or an error with a code, never a fault of ours."""
    if not _shared:
        folder = tempfile.mkdtemp()
        _shared.append(Path(folder))
        create_network(Path(folder), governance=account("governance"), accounts=[(account("payer"), ETHER)])

    calls = data.draw(
        st.lists(st.tuples(st.integers(0, 100), st.lists(json_values, max_size=3)), min_size=60, max_size=60)
    )

    async def run():
        async with running_chain(FullNodeConfig(_shared[0])) as chain:
            rpc = RpcApplication(chain.node)
            names = sorted(set(rpc._methods) - {"avow_waitForHeight", "avow_waitForTransaction", "avow_settlement"})
            for place, params in calls:
                method = names[place % len(names)]
                answer = await ask(rpc, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
                assert "result" in answer or answer["error"]["code"] != -32603, (method, params, answer)

    asyncio.run(run())


_shared: list = []


# --- HTTP ------------------------------------------------------------------------------------------------------------


async def test_over_http(running):
    async with aiohttp.ClientSession() as session:
        async with session.post(running.url, json=HEIGHT) as response:
            assert response.status == 200
            assert response.content_type == "application/json"
        async with session.get(running.url) as response:
            assert (await response.json())["status"] == "ok"
        async with session.post(running.url, data=b"{}") as response:
            assert response.status == 415
        async with session.put(running.url) as response:
            assert response.status == 405
        headers = {"content-type": "application/json"}
        async with session.post(running.url, data=io.BytesIO(bytes(MAX_BODY + 1)), headers=headers) as response:
            assert response.status == 413


async def test_pages_of_other_sites_get_nothing(running):
    async with aiohttp.ClientSession() as session:
        async with session.post(running.url, json=HEIGHT, headers={"host": "evil.example"}) as response:
            assert response.status == 403
        for host in ("localhost:1", "127.0.0.1", "[::1]:80", "10.0.0.7:8545"):
            async with session.post(running.url, json=HEIGHT, headers={"host": host}) as response:
                assert response.status == 200
        async with session.options(running.url, headers={"origin": "https://evil.example"}) as response:
            assert "access-control-allow-origin" not in response.headers


async def test_allowed_origins_and_hosts(running):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": msgspec.json.encode(HEIGHT), "more_body": False}

    rpc = RpcApplication(running.node, hosts=("Chain.Example",), origins=("https://wallet.example",))
    headers = [
        (b"host", b"chain.example:8545"),
        (b"origin", b"https://wallet.example"),
        (b"content-type", b"application/json; charset=utf-8"),
    ]
    await rpc({"type": "http", "method": "POST", "headers": headers}, receive, send)
    assert sent[0]["status"] == 200
    assert (b"access-control-allow-origin", b"https://wallet.example") in sent[0]["headers"]
