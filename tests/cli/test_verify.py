"""`avow verify`: exit codes, checks in plain words, demands; and that it starts without a node's packages."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from avow.receipt.statement import Method
from tests.simulator import CHAT, Simulator


@pytest.fixture
def made(network, tmp_path):
    """A settled, opened receipt with its request and response, as files."""
    request = network.chat_body("hello")
    response, receipt = network.answer(CHAT, request, Method.TEE)
    [settled] = network.settle([receipt])
    files = {
        "receipt": settled.opened(request, response).to_json(),
        "cbor": settled.to_bytes(),
        "redacted": settled.redacted().to_json(),
        "unsettled": receipt.to_json(),
        "request": request,
        "response": response,
        "trust": network.trust().to_json(),
        "other": Simulator("other").trust().to_json(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return SimpleNamespace(**{name: tmp_path / name for name in files}, value=settled)


def test_it_holds(avow, made):
    for file in (made.receipt, made.cbor, made.redacted, made.unsettled):
        ran = avow("verify", file, "--trust", made.trust)
        assert ran.code == 0, ran.out
        assert "it holds" in ran.out
        assert "does not prove" in ran.out


def test_json(avow, made):
    ran = avow("verify", made.receipt, "--trust", made.trust, "--json")
    assert ran.code == 0
    assert ran.json["verdict"] == "warn"
    assert {"name", "outcome", "detail"} <= set(ran.json["checks"][0])


def test_request_and_response(avow, made, tmp_path):
    ran = avow("verify", made.cbor, "--trust", made.trust, "--request", made.request, "--response", made.response)
    assert ran.code == 0
    (tmp_path / "lie").write_bytes(made.response.read_bytes().replace(b"You", b"Me!"))
    ran = avow("verify", made.cbor, "--trust", made.trust, "--request", made.request, "--response", tmp_path / "lie")
    assert ran.code == 1
    assert "commitment_mismatch" in ran.out
    assert avow("verify", made.cbor, "--trust", made.trust, "--request", made.response).code == 1


@pytest.mark.parametrize(
    ("demands", "code"),
    [
        (["settled"], 0),
        (["settled,opened"], 0),
        (["tee"], 1),
        (["vanilla"], 1),
        (["settled", "fresh"], 1),
        (["magic"], 2),
    ],
)
def test_demands(avow, made, demands, code):
    options = [item for demand in demands for item in ("--require", demand)]
    assert avow("verify", made.receipt, "--trust", made.trust, *options).code == code


def test_without_trust_nothing_is_anchored(avow, made):
    ran = avow("verify", made.receipt)
    assert ran.code == 1
    assert "unanchored" in ran.out
    assert "avow trust pin" in ran.err
    assert avow("verify", made.receipt, "--trust", made.other).code == 1


def test_trust_is_found_by_the_receipts_chain(avow, made, home):
    home.mkdir()
    (home / "trust.json").write_bytes(made.trust.read_bytes())
    assert avow("verify", made.receipt).code == 0


def test_a_changed_receipt(avow, made, tmp_path):
    columns = replace(made.value.statement.columns, amount=1)
    lie = replace(made.value, statement=replace(made.value.statement, columns=columns))
    (tmp_path / "lie").write_bytes(lie.to_json())
    ran = avow("verify", tmp_path / "lie", "--trust", made.trust)
    assert ran.code == 1
    assert "bad_signature" in ran.out


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"hello", b"\xa1", b'{"statement":1,"evidence":2,"version":9}', b"\xff" * 99]
)
def test_not_a_receipt(avow, tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    ran = avow("verify", tmp_path / "x")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert avow("verify", tmp_path / "x", "--json").json["error"]["code"]


def test_files_that_are_not_there(avow, made, tmp_path):
    assert avow("verify", tmp_path / "nothing").code == 2
    assert avow("verify", tmp_path).code == 2
    assert avow("verify", made.receipt, "--trust", tmp_path / "nothing").code == 2
    assert avow("verify", made.receipt, "--trust", made.receipt).code == 2
    assert avow("verify").code == 2


def test_standard_input(avow, made, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(made.receipt.read_bytes())))
    assert avow("verify", "-", "--trust", made.trust).code == 0


def test_at_another_time(avow, made, network):
    later = network.now_ms + 30 * 24 * 3_600_000
    assert avow("verify", made.receipt, "--trust", made.trust, "--at", later).code == 1


def test_it_starts_without_a_nodes_packages(made):
    """No HTTP client, no terminal library, nothing of numpy or a server is imported for a check."""
    code = (
        "import sys; from avow.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stopped: assert stopped.code == 0, stopped.code\n"
        "heavy = {'httpx2', 'rich', 'numpy', 'aiohttp', 'uvicorn', 'starlette', 'onnxruntime', 'asyncio', 'eth_account'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "verify", str(made.receipt), "--trust", str(made.trust), "--json"],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["verdict"] == "warn"
