"""The other commands: receipts, keys, trust, status, demo, models, completion, help."""

import json

import pytest

from avow.client.accounts import checksummed
from avow.client.pins import Pins, fingerprint, is_loopback, origin_of
from avow.errors import InputError
from avow.receipt.receipt import Receipt
from tests.simulated_gateway import SimulatedGateway
from tests.simulator import Simulator


def test_help_names_every_command(avow):
    text = avow("--help").out
    for name in ("ask", "infer", "verify", "receipts", "model", "key", "trust", "status", "demo", "up", "node"):
        assert name in text
    assert avow("--version").out.startswith("avow ")
    ran = avow("verfy")
    assert ran.code == 2
    assert "verify" in ran.err


@pytest.mark.parametrize(
    "command",
    ["ask", "infer", "verify", "status", "demo", "receipts list", "receipts show", "receipts refresh", "receipts fetch",
     "receipts verify", "key create", "key list", "key show", "trust show", "trust pin", "model add", "model list",
     "model show", "model remove", "completion"],
)  # fmt: skip
def test_every_command_has_help(avow, command):
    ran = avow(*command.split(), "--help")
    assert ran.code == 0
    assert "Usage: avow" in ran.out


def test_kept_receipts(avow, gateway, home, tmp_path):
    assert avow("receipts", "list").out == ""
    avow("ask", "hello")
    avow("ask", "world", "--settled")
    listed = avow("receipts", "list", "--json").json
    assert [item["settled"] for item in listed] == [True, False]
    waiting = listed[1]["id"]
    assert waiting[:16] in avow("receipts", "list").out
    assert "hello" in avow("receipts", "show", waiting[:12]).out
    shown = avow("receipts", "show", waiting, "--json").out.strip().encode()
    assert Receipt.from_json(shown).id == waiting
    assert avow("receipts", "verify", waiting).code == 0
    assert avow("receipts", "verify", waiting, "--require", "settled").code == 1
    ran = avow("receipts", "refresh", "--wait", "1")
    assert (ran.code, ran.out) == (0, f"{waiting[:16]}  settled\n")
    assert avow("receipts", "verify", waiting, "--require", "settled", "--json").json["verdict"] == "warn"
    assert avow("receipts", "refresh", "--json").json == []
    assert [item["id"] for item in avow("receipts", "list", "--json").json] == [item["id"] for item in listed]
    assert avow("receipts", "refresh", waiting, "--json").json == [
        {"id": waiting, "settled": True, "overturned": False}
    ]


def test_long_parts_are_cut_for_people(avow, gateway):
    avow("ask", "x" * 5_000)
    [kept] = avow("receipts", "list", "--json").json
    shown = avow("receipts", "show", kept["id"]).out
    assert max(len(line) for line in shown.splitlines()) < 2_100
    assert "characters)" in shown
    assert "x" * 5_000 in avow("receipts", "show", kept["id"], "--json").out
    ran = avow("receipts", "show", kept["id"], "--only", "response/nothing")
    assert ran.code == 2
    assert "avow receipts show" in ran.err


def test_a_redacted_or_partly_disclosed_copy(avow, gateway, tmp_path):
    avow("ask", "my secret")
    [kept] = avow("receipts", "list", "--json").json
    file = tmp_path / "copy.json"
    assert avow("receipts", "show", kept["id"], "--redacted", "--save", file).code == 0
    assert b"my secret" not in file.read_bytes()
    assert avow("verify", file).code == 0
    assert (
        avow("receipts", "show", kept["id"], "--only", "response/choices/0/message/content", "--save", file).code == 0
    )
    assert b"You said" in file.read_bytes()
    assert b'"my secret"' not in file.read_bytes()
    assert avow("verify", file, "--require", "response").code == 0
    assert avow("receipts", "show", kept["id"], "--only", "response/nothing").code == 2


def test_ids_that_are_none(avow, gateway, home):
    assert avow("receipts", "show", "zz").code == 2
    assert avow("receipts", "show", "abcd").code == 2
    (home / "receipts").mkdir()
    for name in ("abcd1", "abcd2", "abcd3"):
        (home / "receipts" / f"{name}.json").write_text("{}")
    assert "3 receipts" in avow("receipts", "show", "abcd").err
    assert avow("receipts", "show", "abcd1").code == 2
    assert avow("receipts", "list", "--json").json == []


def test_a_receipt_by_its_id(avow, gateway, network):
    from avow.receipt.encoding import base64url

    ran = avow("ask", "hello", "--no-keep", "--json")
    identity = ran.json["receipt"]["id"]
    assert avow("receipts", "fetch", identity).code == 0
    secret = base64url(gateway.receipts[identity].opening.seed)
    assert avow("receipts", "fetch", identity, "--secret", secret, "--json").json["id"] == identity
    assert avow("receipts", "fetch", "0" * 64).code == 1
    assert avow("receipts", "fetch", "../trust").code == 2


def test_accounts(avow, home):
    assert avow("key", "list").out == ""
    ran = avow("key", "create", "alice")
    address = ran.out.strip()
    file = home / "keys" / "alice.key"
    assert file.stat().st_mode & 0o777 == 0o600
    secret = file.read_text().strip()
    everything = [
        ran,
        avow("key", "list"),
        avow("key", "show", "alice"),
        avow("key", "list", "--json"),
        avow("key", "create", "alice", "--json"),
    ]
    assert all(secret not in shown.out + shown.err for shown in everything)
    assert avow("key", "show", "alice", "--json").json == {"name": "alice", "address": address}
    assert avow("key", "create", "alice").code == 2
    assert avow("key", "create", "../alice").code == 2
    assert avow("key", "show", "bob").code == 2
    file.write_text("nonsense")
    assert avow("key", "show", "alice").code == 2


def test_addresses_have_their_checksum():
    # The examples of EIP-55.
    for text in ("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"):
        assert checksummed(bytes.fromhex(text[2:])) == text


def test_trust_is_pinned_by_a_person(avow, home, monkeypatch):
    network = Simulator("remote")
    with SimulatedGateway(network) as gateway:
        ran = avow("trust", "pin", gateway.url, "--json")
        assert ran.code == 1
        name = fingerprint(network.trust())
        assert name in ran.json["error"]["hint"]
        assert avow("trust", "pin", gateway.url, "--fingerprint", "0" * 32).code == 1
        assert avow("trust", "show").code == 1
        assert avow("trust", "pin", gateway.url, "--fingerprint", name).code == 0
        assert name in avow("trust", "show", gateway.url).out
        assert avow("trust", "show", "--json").json[0]["chain_id"] == network.chain_id
        assert Pins(home).for_url(gateway.url) == network.trust()
        assert avow("trust", "pin", gateway.url, "--yes", "--json").json["pinned"] is True
    assert avow("trust", "pin", "http://127.0.0.1:9", "--yes").code == 1
    assert avow("trust", "show", "https://example.org").code == 1
    assert avow("trust", "show", "ftp://example.org").code == 2


def test_a_policy_from_a_file(avow, home, tmp_path):
    network = Simulator("remote")
    (tmp_path / "p.json").write_bytes(network.trust().to_json())
    assert avow("trust", "pin", "https://example.org", "--policy", tmp_path / "p.json").code == 0
    assert avow("trust", "show", "https://EXAMPLE.org:443/v1", "--json").json[0]["chain_id"] == network.chain_id
    (tmp_path / "p.json").write_text("{}")
    assert avow("trust", "pin", "https://example.org", "--policy", tmp_path / "p.json").code == 2


def test_status(avow, gateway):
    ran = avow("status", "--json")
    assert ran.code == 0
    assert ran.json["status"] == "ok"
    assert ran.json["methods"] == ["tee", "vanilla"]
    assert ran.json["trust"]
    assert "echo" in avow("status").out
    assert avow("status", "--url", "http://127.0.0.1:9").code == 1
    assert avow("status", "--url", "http://127.0.0.1:9", "--json").json["status"] == "unreachable"


def test_the_demo(avow, gateway, tmp_path):
    ran = avow("demo", "--json", "--out", tmp_path / "demo")
    assert ran.code == 0, ran.out
    assert ran.json["ok"] is True
    answers = ran.json["answers"]
    assert [(item["method"], item["stream"]) for item in answers] == [
        (method, stream) for stream in (False, True, False) for method in ("vanilla", "tee")
    ]
    for item in answers:
        assert set(item) == {"program", "method", "stream", "receipt", "checks", "delivered_ms", "settled_ms"}
        assert avow("verify", item["receipt"], "--require", "settled,opened").code == 0
    ran = avow("demo", "--out", tmp_path / "demo")
    assert ran.code == 0
    assert ran.out.count("✓ echo") == 4


def test_the_demo_fails_with_its_network(avow, gateway, tmp_path):
    from tests.simulated_gateway import splice

    gateway.answer = lambda body, receipt: splice(body[:-1] + b',"x":1}', receipt)
    ran = avow("demo", "--json", "--out", tmp_path / "demo")
    assert ran.code == 1
    assert ran.json["ok"] is False
    assert [("error" in item) for item in ran.json["answers"]] == [True, True, False, False, True, True]
    assert avow("demo").code == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(avow, shell):
    assert "_AVOW_COMPLETE" in avow("completion", shell).out


def test_models(avow, tmp_path):
    ran = avow("model", "list", "--json")
    assert {item["name"] for item in ran.json["catalogue"]} >= {"smollm2-135m-instruct", "magika"}
    assert "smollm2" in avow("model", "list").out
    assert avow("model", "add", "nothing-of-that-name").code == 2
    assert avow("model", "add", "package==1").code == 2
    assert avow("model", "show", "nothing").code == 2
    assert avow("model", "remove", "nothing").code == 2
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04.")
    assert avow("model", "add", tmp_path / "x.pkl").code == 2


def test_a_model_of_ones_own(avow, tmp_path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "relu.onnx")
    ran = avow("model", "add", tmp_path / "relu.onnx", "--name", "relu", "--licence", "Apache-2.0", "--json")
    assert ran.code == 0, ran.out
    assert avow("model", "show", "relu", "--check").code == 0
    shown = avow("model", "show", "relu", "--json").json
    assert shown["program"] == ran.json["program"]
    assert "relu" in avow("model", "list").out
    assert avow("model", "remove", "relu", "--json").json["removed"] == ran.json["program"]


@pytest.mark.parametrize(
    ("url", "loopback"),
    [("http://127.0.0.1:8600", True), ("localhost:1", True), ("http://[::1]:1", True), ("http://127.8.9.1", True),
     ("https://example.org", False), ("http://127.0.0.1.example.org", False), ("http://10.0.0.1", False), ("http://localhost.example.org", False)],
)  # fmt: skip
def test_what_counts_as_this_machine(url, loopback):
    assert is_loopback(url) is loopback


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "ftp://x:80", "http://", "http://a b", "http://x:99999", "http://x/../..", "javascript://x"]
)
def test_addresses(url):
    if url == "http://x/../..":
        assert origin_of(url) == "http://x:80"
        return
    with pytest.raises(InputError):
        origin_of(url)


def test_a_home_that_cannot_be_written(avow, tmp_path):
    (tmp_path / "file").write_text("")
    ran = avow("key", "create", "alice", "--home", tmp_path / "file" / "home")
    assert ran.code in (1, 2)
    assert ran.err.startswith("error: ")


def test_trust_shows_the_file_in_force(avow, gateway, home):
    assert avow("trust", "show", gateway.url).out.splitlines()[0] == str(home / "trust.json")


def test_state_that_is_no_json_is_passed_over(avow, gateway, home, monkeypatch):
    monkeypatch.setattr("avow.client.session.DEFAULT_URL", "http://127.0.0.1:9")  # a network may run at the usual port
    (home / "gateway" / "state.json").write_text(json.dumps([1]))
    assert avow("status").code == 1


@pytest.mark.parametrize("name", ["chain", "enclave", "node", "gateway"])
def test_a_process_has_its_own_help_and_errors(avow, name):
    pytest.importorskip("uvicorn")
    ran = avow(name, "--help")
    assert ran.code == 0
    assert f"avow {name}" in ran.out
    assert avow(name, "--no-such-option").code == 2


def test_up_passes_its_options_on(avow, home, monkeypatch):
    module = pytest.importorskip("avow.nodes.up")
    given = []

    async def up(config, ready, progress):
        given.append(config)
        progress(1, 2, "working")
        await ready(
            dict.fromkeys(("chain", "node", "enclave", "home", "chain_id"), "x") | {"url": "http://127.0.0.1:9"}
        )

    monkeypatch.setattr(module, "up", up)
    ran = avow("up", "--port", "0", "--model", "magika", "--threads", "2")
    assert ran.code == 0
    assert ran.out.endswith("ready http://127.0.0.1:9\n")
    assert "working: 50 %" in ran.err
    assert (given[0].home, given[0].port, given[0].threads) == (home, 0, 2)
    assert given[0].programs == module.programs_for("magika")
    assert given[0].programs[0] == "magika"
    assert avow("up", "--json").json["url"] == "http://127.0.0.1:9"
    ran = avow("up", "--demo")
    assert ran.code == 1
    assert "trust_not_pinned" in ran.err


def test_up_with_the_demo(avow, gateway, home, monkeypatch):
    module = pytest.importorskip("avow.nodes.up")

    async def up(config, ready, progress):
        await ready(dict.fromkeys(("chain", "node", "enclave", "home", "chain_id"), "x") | {"url": gateway.url})

    monkeypatch.setattr(module, "up", up)
    ran = avow("up", "--demo")
    assert ran.code == 0, ran.err
    assert ran.out.index("✓ echo") < ran.out.index("ready http")
    assert avow("up", "--demo", "--json").json["demo"]["ok"] is True
    gateway.settles = False
    monkeypatch.setattr("avow.cli.demo.SETTLE_S", 0.1)
    assert "did not hold" in avow("up", "--demo").err


def test_without_a_nodes_packages(avow, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="uvicorn")

    monkeypatch.setattr("avow.cli.network.import_module", missing)
    ran = avow("up")
    assert ran.code == 1
    assert "avow[node]" in ran.err


@pytest.mark.parametrize("group", ["receipts", "trust", "key", "model", "net"])
def test_a_group_lists_its_commands_with_whole_sentences(avow, group):
    text = avow(group, "--help").out
    assert "Commands:" in text
    assert "..." not in text.partition("Commands:")[2]
