"""What the world may know of a prompt: nothing that is on chain, at rest, or served by id tells it."""

import hashlib
import itertools
import json
import sqlite3
import time
import urllib.error
import urllib.request

import pytest

from avow.chain.modules.batch import Batch
from avow.receipt.commitment import commit, effective_parts, request_parts
from avow.receipt.encoding import from_base64url
from avow.receipt.receipt import Receipt

pytestmark = [pytest.mark.network, pytest.mark.model, pytest.mark.xdist_group("network")]

CHAT = "POST /v1/chat/completions"
PROMPT = "My landlord Ebenezer Quibblethorpe owes me money. Should I say yes or no?"


def post(url, body, **headers):
    request = urllib.request.Request(
        url + "/v1/chat/completions", body, {"content-type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.loads(response.read()), dict(response.headers)


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
        return response.read()


@pytest.fixture(scope="module")
def asked(network):
    body = json.dumps(
        {"model": network.chat_model, "max_tokens": 24, "messages": [{"role": "user", "content": PROMPT}]}
    ).encode()
    answer, headers = post(network.url, body, **{"avow-method": "tee", "avow-finality": "settled"})
    return body, answer, {name.lower(): value for name, value in headers.items()}


def everything_on_disk(folder):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()


def rpc(network, method, *params):
    chain = json.loads((network.home / "network.json").read_text())["chain"]
    address = chain if isinstance(chain, str) else chain["url"]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}).encode()
    request = urllib.request.Request(address, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())["result"]


def test_neither_the_prompt_nor_the_answer_is_stored_in_the_clear(network, asked):
    _, answer, _ = asked
    said = answer["choices"][0]["message"]["content"]
    needles = [PROMPT.encode(), b"Quibblethorpe", *([said.encode()] if len(said) > 12 else [])]
    secret = from_base64url(asked[2]["avow-secret"])
    seen = 0
    for path, data in everything_on_disk(network.home):
        seen += 1
        for needle in needles:
            assert needle not in data, path
        assert secret not in data, path
    assert seen > 5


def batches(network):
    """Every settlement transaction's batch, read from the chain as anyone can."""
    for height in range(1, int(rpc(network, "eth_blockNumber"), 16) + 1):
        for transaction in rpc(network, "eth_getBlockByNumber", hex(height), True)["transactions"]:
            if (transaction["to"] or "").endswith("0a04"):
                data = bytes.fromhex(transaction["input"][2:])
                length = int.from_bytes(data[36:68])
                yield Batch.from_bytes(data[68 : 68 + length])


def test_a_dictionary_finds_nothing_in_what_the_chain_shows(network, asked):
    """The attacker knows the very request, every public value, and guesses the seed as anything that can be made of them."""
    body, answer, _ = asked
    receipt = Receipt.from_bytes(from_base64url(answer["avow"]["receipt"]))
    private, columns = receipt.statement.private, receipt.statement.columns
    parts = request_parts(CHAT, body)
    assert commit("request", receipt.opening.seed, parts) == private.request, "with the seed it opens"
    shown = list(batches(network))
    assert any(receipt.statement.private.key == batch.key for batch in shown), "the statement is on chain"
    public = [
        b"", bytes(32), body, PROMPT.encode(), private.nonce, private.key, private.node, private.request, private.effective, private.response,
        columns.pack(), columns.program, columns.payer, receipt.statement.hash(), receipt.evidence.signing_key, receipt.evidence.signature,
        receipt.evidence.previous_head, str(private.started_ms).encode(), str(columns.ended_ms).encode(), columns.ended_ms.to_bytes(8),
    ]  # fmt: skip
    guesses = {hashlib.sha256(one + other).digest() for one, other in itertools.product(public, public)}
    guesses |= {(value * 32)[:32] for value in public if value}
    guesses |= {number.to_bytes(32) for number in range(512)}
    for guess in guesses:
        assert commit("request", guess, parts) != private.request
        assert commit("effective", guess, effective_parts(receipt.opening.effective)) != private.effective


def test_by_id_anyone_gets_the_redacted_receipt_alone(network, asked):
    _, answer, headers = asked
    url = f"{network.url}/receipts/{answer['avow']['id']}"
    redacted = Receipt.from_json(get(url))
    assert redacted.opening is None
    assert not redacted.disclosures
    assert b"Quibblethorpe" not in get(url)
    opened = Receipt.from_json(get(url, **{"avow-secret": headers["avow-secret"]}))
    assert any(b"Quibblethorpe" in data for _, data in opened.opening.request)
    for wrong in ("A" * 43, headers["avow-secret"][:-2] + "AA"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(url, **{"avow-secret": wrong})
        assert refused.value.code in (400, 401, 403, 404, 410)
        assert b"Quibblethorpe" not in refused.value.read()


def test_logs_name_no_prompt(network):
    log = network.home.parent / "up.log"
    assert b"Quibblethorpe" not in log.read_bytes()


def test_the_outbox_holds_noise_without_the_secret(network, asked):
    """The operator's own database: sealed openings do not compress to, or hold, what was said."""
    time.sleep(0.2)
    for path in network.home.rglob("*.db"):
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in connection.execute(f"select * from {table}"):
                for value in row:
                    raw = value if isinstance(value, bytes) else str(value).encode()
                    assert b"Quibblethorpe" not in raw
        connection.close()
