"""What CometBFT's RPC and configuration say, and what is made of wrong answers."""

import copy
import json
import tomllib

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.consensus.cometbft import rpc as rpc_module
from avow.consensus.cometbft.configuration import (
    Folder,
    Settings,
    StateSync,
    config_toml,
    node_identity,
    read_config,
    write_folder,
)
from avow.consensus.cometbft.errors import BadConfiguration, RpcFailed
from avow.consensus.cometbft.rpc import CallRefused, CometRpc, read_signed_header, read_validators
from avow.errors import EncodingError
from avow.receipt import light
from tests.chain.harness import Chain

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)

HEADER = {
    "version": {"block": "11", "app": "1"},
    "chain_id": "avow-x",
    "height": "5",
    "time": "2026-11-21T04:36:46.446846949Z",
    "last_block_id": {"hash": "AA" * 32, "parts": {"total": 1, "hash": "BB" * 32}},
    "last_commit_hash": "01" * 32,
    "data_hash": "02" * 32,
    "validators_hash": "03" * 32,
    "next_validators_hash": "04" * 32,
    "consensus_hash": "05" * 32,
    "app_hash": "06" * 32,
    "last_results_hash": "07" * 32,
    "evidence_hash": "08" * 32,
    "proposer_address": "09" * 20,
}
SIGNATURES = [
    {
        "block_id_flag": 2,
        "validator_address": "09" * 20,
        "timestamp": "2026-11-21T04:36:47Z",
        "signature": "AA" * 42 + "AA==",
    },
    {"block_id_flag": 1, "validator_address": "", "timestamp": "0001-01-01T00:00:00Z", "signature": None},
]
ANSWER = {
    "signed_header": {
        "header": HEADER,
        "commit": {"height": "5", "round": 1, "block_id": HEADER["last_block_id"], "signatures": SIGNATURES},
    },
    "canonical": True,
}


def test_a_signed_header_is_read():
    header, commit = read_signed_header(ANSWER)
    assert (header.height, header.time_ns) == (5, 1795235806446846949)
    assert header.app_hash == b"\x06" * 32
    assert [item.flag for item in commit.signatures] == [2, 1]
    assert commit.signatures[0].time_ns == 1795235807 * 10**9
    assert commit.signatures[1].time_ns is None


def paths(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from paths(item, (*path, at))
    else:
        yield path


PATHS = [path for path in paths(ANSWER) if path[0] == "signed_header"]


@settings(max_examples=200)
@given(
    st.sampled_from(PATHS),
    st.one_of(
        st.none(),
        st.integers(-2, 1 << 70),
        st.text(max_size=8),
        st.booleans(),
        st.sampled_from(
            ["2026-13-01T00:00:00Z", "2026-11-21T04:36:46", "99999999999999999999", "zz", "AAA=", "0" * 5000]
        ),
    ),
)
def test_any_answer_is_a_header_or_an_error(path, value):
    answer = copy.deepcopy(ANSWER)
    at = answer
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    try:
        read_signed_header(answer)
    except EncodingError:
        pass


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"signed_header": None}, {"signed_header": {"header": [], "commit": {}}}]
)
def test_other_shapes_are_refused(answer):
    with pytest.raises(EncodingError):
        read_signed_header(answer)
    with pytest.raises(EncodingError):
        read_validators(answer)


def test_recorded_answers_are_read_and_verify(shared_fixtures):
    for path in sorted((shared_fixtures / "cometbft").glob("*.json")):
        item = json.loads(path.read_bytes())
        header, commit = read_signed_header(item["commit"])
        validators, total = read_validators(item["validators"])
        assert total == len(validators)
        light.verify_commit(header.chain_id, validators, light.SignedHeader(header, commit))


class Server:
    """An RPC that answers what it is told to."""

    def __init__(self) -> None:
        self.answer = lambda calls: [{"jsonrpc": "2.0", "id": call["id"], "result": {}} for call in calls]

    async def start(self, path) -> str:
        async def handle(request: web.Request) -> web.Response:
            answer = self.answer(await request.json())
            return web.Response(body=answer) if isinstance(answer, bytes) else web.json_response(answer)

        application = web.Application()
        application.router.add_post("/", handle)
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        await web.UnixSite(self.runner, str(path)).start()
        return f"unix://{path}"


async def test_calls_their_refusals_and_faults(tmp_path, monkeypatch):
    server = Server()
    rpc = CometRpc(await server.start(tmp_path / "rpc.sock"))
    server.answer = lambda calls: [
        {"id": 0, "result": {"ok": 1}},
        {"id": 1, "error": {"code": -32603, "message": "Internal error", "data": "tx already exists in cache"}},
    ][: len(calls)]
    first, second = await rpc.batch([("a", {}), ("b", {})])
    assert first == {"ok": 1}
    assert isinstance(second, CallRefused) and "cache" in second.fields["reason"]
    for wrong in (b"", b"{", b"[]", b'"x"', b"[1]", b'[{"id":0,"result":1},{"id":1,"result":1}]'):
        server.answer = lambda _, wrong=wrong: wrong
        with pytest.raises(RpcFailed):
            await rpc.call("status")
    monkeypatch.setattr(rpc_module, "MAX_ANSWER", 1_000)
    server.answer = lambda calls: b" " * 2_000
    with pytest.raises(RpcFailed, match="too large"):
        await rpc.call("status")
    server.answer = lambda calls: {"id": -1, "error": {"code": -32600, "message": "batch too large"}}
    with pytest.raises(CallRefused):
        await rpc.call("status")
    await server.runner.cleanup()
    with pytest.raises(RpcFailed):
        await rpc.call("status")
    await rpc.close()


# --- Configuration ------------------------------------------------------------------------------------------------------


@pytest.fixture
def genesis():
    return Chain(settings={"validators": ((KEY.public_key().public_bytes_raw(), 10),)}).genesis


def test_a_folder_is_written_once_and_what_was_signed_is_never_forgotten(tmp_path, genesis):
    folder = Folder(tmp_path / "cometbft")
    write_folder(folder, genesis, KEY, Settings(persistent_peers=("a@1.2.3.4:5", "b@1.2.3.4:6")))
    for secret in (folder.validator_key, folder.node_key, folder.signed_state):
        assert secret.stat().st_mode & 0o777 == 0o600
    values = tomllib.loads(folder.config.read_text())
    assert values["mempool"]["type"] == "flood"
    assert values["consensus"]["create_empty_blocks"] is False
    assert values["consensus"]["create_empty_blocks_interval"] == f"{genesis.heartbeat_ms - 400}ms"
    assert values["consensus"]["skip_timeout_commit"] is False
    assert values["p2p"]["persistent_peers"] == "a@1.2.3.4:5,b@1.2.3.4:6"
    assert values["rpc"]["laddr"].endswith(str(folder.rpc_socket))
    identity, files = node_identity(folder), {path: path.read_bytes() for path in folder.path.rglob("*.json")}
    folder.signed_state.write_text('{"height": "9", "round": 0, "step": 3}')
    folder.config.write_text("[mempool]\ntype = 'app'\n[rpc]\nladdr = 'tcp://0.0.0.0:1, unix:///x'\n")
    write_folder(folder, genesis, KEY, Settings())
    assert json.loads(folder.signed_state.read_bytes())["height"] == "9"
    assert node_identity(folder) == identity
    assert len(identity) == 40
    assert all(path.read_bytes() == data for path, data in files.items() if path != folder.signed_state)
    found = read_config(folder)
    assert (found.mempool_type, found.rpc_addresses) == ("app", ("tcp://0.0.0.0:1", "unix:///x"))


@pytest.mark.parametrize("text", ["[mempool]\ntype = 'nop'\n", "[mempool\n", "mempool = 3\n", "\xff"])
def test_a_configuration_that_cannot_work_is_refused(tmp_path, genesis, text):
    folder = Folder(tmp_path)
    with pytest.raises(BadConfiguration, match="no config"):
        read_config(folder)
    write_folder(folder, genesis, KEY, Settings())
    folder.config.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadConfiguration):
        read_config(folder)


def test_settings_that_cannot_work_are_refused(tmp_path, genesis):
    with pytest.raises(BadConfiguration):
        write_folder(Folder(tmp_path), genesis, KEY, Settings(mempool_type="nop"))
    with pytest.raises(BadConfiguration):
        config_toml(Folder(tmp_path), genesis, Settings(state_sync=StateSync(("a:1",), 5, "AA" * 32)))
    text = config_toml(Folder(tmp_path), genesis, Settings(moniker='a"b\n', mempool_type="app"))
    values = tomllib.loads(text)
    assert values["moniker"] == 'a"b\n'
    assert values["consensus"]["create_empty_blocks"] is True
    node_identity(Folder(tmp_path))
    Folder(tmp_path).node_key.write_text("{}")
    with pytest.raises(BadConfiguration):
        node_identity(Folder(tmp_path))


def test_sockets_of_a_long_path_stand_elsewhere(tmp_path):
    short, long = Folder(tmp_path), Folder(tmp_path / ("x" * 90))
    assert short.abci_socket.parent == tmp_path
    assert len(str(long.abci_socket)) < 100
    assert long.abci_socket.parent == long.rpc_socket.parent != tmp_path
    assert long.abci_socket.parent.stat().st_mode & 0o777 == 0o700
    long.abci_socket.parent.rmdir()
