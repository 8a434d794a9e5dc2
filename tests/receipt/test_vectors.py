"""The published vectors: what another verifier must agree with us about, to the check."""

import json
from pathlib import Path

import pytest

from avow.errors import EncodingError
from avow.methods import checks
from avow.receipt.commitment import commit, request_parts, response_parts
from avow.receipt.encoding import decode, encode, from_base64url, from_json, to_json
from avow.receipt.receipt import Receipt
from avow.receipt.stream import chunk_mac, stream_next, stream_parts, stream_start
from avow.receipt.trust import TrustPolicy
from avow.receipt.verify import Question

VECTORS = Path(__file__).parent.parent / "vectors"


def load(name):
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", load("receipts"), ids=lambda vector: vector["name"])
def test_receipts(vector):
    receipt = Receipt.from_bytes(from_base64url(vector["receipt"]))
    trust = None if vector["trust"] is None else TrustPolicy.from_json(json.dumps(vector["trust"]).encode())
    nonce = None if vector["nonce"] is None else bytes.fromhex(vector["nonce"])
    report = checks.verify(receipt, trust, Question(vector["now_ms"], nonce=nonce))
    assert receipt.id == vector["id"]
    assert report.verdict == vector["verdict"]
    assert {check.name.value: check.outcome.value for check in report.checks} == vector["checks"]
    assert {check.name.value: check.code for check in report.checks if check.code} == vector["codes"]
    assert Receipt.from_json(receipt.to_json()) == receipt
    assert Receipt.from_json(receipt.to_json()).to_bytes() == from_base64url(vector["receipt"])


def test_every_check_is_seen_to_fail_or_warn():
    seen = {
        name for vector in load("receipts") for name, outcome in vector["checks"].items() if outcome in ("fail", "warn")
    }
    assert {
        "chain",
        "signature",
        "anchor",
        "standing",
        "attestation",
        "request",
        "effective",
        "response",
        "freshness",
        "settlement",
    } <= seen


def test_encodings():
    vectors = load("encoding")
    for vector in vectors["accepted"]:
        data = bytes.fromhex(vector["cbor"])
        value = decode(data)
        assert encode(value) == data
        assert to_json(value) == vector["json"].encode()
        assert from_json(vector["json"].encode()) == value
    for refused in vectors["refused_cbor"]:
        with pytest.raises(EncodingError):
            decode(bytes.fromhex(refused))
    for refused in vectors["refused_json"]:
        with pytest.raises(EncodingError):
            from_json(refused.encode())


@pytest.mark.parametrize("vector", load("commitments"), ids=lambda vector: vector["kind"])
def test_commitments(vector):
    body = vector["body"].encode()
    parts = request_parts(vector["endpoint"], body) if vector["kind"] == "request" else response_parts(body)
    assert [[name, data.decode()] for name, data in parts] == vector["parts"]
    assert commit(vector["kind"], bytes.fromhex(vector["seed"]), parts).hex() == vector["commitment"]


def test_stream():
    vector = load("stream")
    head = stream_start(bytes.fromhex(vector["request"]), bytes.fromhex(vector["effective"]))
    heads, macs = [head.hex()], []
    chunks = [chunk.encode() for chunk in vector["chunks"]]
    for chunk in chunks:
        head = stream_next(head, chunk)
        heads.append(head.hex())
        macs.append(chunk_mac(bytes.fromhex(vector["mac_key"]), head).hex())
    assert heads == vector["heads"]
    assert macs == vector["macs"]
    assert [[name, data.hex()] for name, data in stream_parts(chunks, head)] == vector["parts"]
