"""Write tests/vectors/: receipts, valid and not, each with the verdict and the checks that refuse it; encodings; commitments; streams.

What is published is frozen: a receipt that is there already, by its name, stays as it is, and only new names are added.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from avow.exact.hashing import Header, Salts, trace_of  # noqa: E402
from avow.methods import checks  # noqa: E402
from avow.receipt.audience import Audience, AudienceKind  # noqa: E402
from avow.receipt.commitment import commit, request_parts, response_parts  # noqa: E402
from avow.receipt.encoding import base64url, encode, to_json  # noqa: E402
from avow.receipt.finality import BatchState, BondRecord, FinalityProof  # noqa: E402
from avow.receipt.receipt import Receipt  # noqa: E402
from avow.receipt.standing import KeyState  # noqa: E402
from avow.receipt.statement import Method  # noqa: E402
from avow.receipt.stream import chunk_mac, stream_next, stream_parts, stream_start  # noqa: E402
from avow.receipt.trust import TrustPolicy  # noqa: E402
from avow.receipt.verify import Question  # noqa: E402
from tests.simulator import CHAT, INFER, SAMPLED, Simulator  # noqa: E402

SEED = bytes(range(32))
CHAT_LIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("under the salts of another seed", {"salts": Salts(SEED).commitment}),
    ("with a shorter prompt", {"prompt": 2}),
    ("with more tokens counted than chosen", {"steps": 5}),
    ("sampled with another seed", {"parameters": {**SAMPLED, "seed": 8}}),
    ("sampled at another temperature", {"parameters": {**SAMPLED, "temperature_m": 16_384, "temperature_s": 14}}),
    ("that ended at its length", {"finish": "length"}),
    ("that was broken off", {"finish": "text"}),
)
TENSOR_LIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("with other inputs", {"inputs": (bytes(32),)}),
    ("with other outputs", {"outputs": (bytes(32),)}),
    ("with an input more", {"inputs": (bytes(32), bytes(32))}),
)
OUTPUT_LIES: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = (
    ("with an answer that is twice there", ({"data": [99]}, {})),
    ("with an answer of another name", ({"name": "other"},)),
    ("with an answer that holds no numbers", ({"data": ["-6"]},)),
    ("with an answer that holds nothing", ({"data": None},)),
)


def receipts() -> Iterator[tuple[str, Receipt, TrustPolicy | None, Question]]:
    for method in (Method.VANILLA, Method.TEE):
        network = Simulator(f"vectors {method.label}", validators=4 if method is Method.TEE else 1)
        if method is Method.TEE:
            network.register(method)
        body = network.chat_body("What is the capital of France?")
        response, plain = network.answer(CHAT, body, method, nonce=b"vector nonce")
        _, other = network.answer(CHAT, network.chat_body("other"), method, nonce=b"other nonce")
        [settled, _] = network.settle([plain, other])
        opened = settled.opened(body, response)
        trust, ask = network.trust(), Question(network.now_ms)
        evidence = opened.evidence
        label = method.label
        yield f"{label} settled and opened", opened, trust, ask
        yield f"{label} not settled", plain, trust, ask
        yield f"{label} redacted", settled.redacted(), trust, ask
        yield f"{label} disclosed", opened.disclosing(["request/messages/0", "effective"]), trust, ask
        yield f"{label} refreshed", network.refresh(settled), trust, replace(ask, now_ms=network.now_ms)
        yield f"{label} without a policy", opened, None, ask
        yield f"{label} of another chain", opened, replace(trust, chain_id="avow-0000000000000000"), ask
        yield (
            f"{label} beyond the trusting period",
            opened,
            trust,
            replace(ask, now_ms=trust.time_ms + trust.trusting_period_ms + 1),
        )
        yield f"{label} with a replayed nonce", opened, trust, replace(ask, nonce=b"other nonce")
        yield f"{label} with another number", _columns(opened, number=1), trust, ask
        yield f"{label} with another amount", _columns(opened, amount=1), trust, ask
        yield (
            f"{label} with another signature",
            replace(opened, evidence=replace(evidence, signature=other.evidence.signature)),
            trust,
            ask,
        )
        yield (
            f"{label} with another head before it",
            replace(opened, evidence=replace(evidence, previous_head=bytes(32))),
            trust,
            ask,
        )
        opening = opened.opening
        assert opening is not None
        assert opened.settlement is not None
        yield f"{label} with another seed", replace(opened, opening=replace(opening, seed=bytes(32))), trust, ask
        yield (
            f"{label} with other effective parameters",
            replace(opened, opening=replace(opening, effective=b"{}")),
            trust,
            ask,
        )
        yield f"{label} with another answer", replace(opened, opening=replace(opening, response=())), trust, ask
        proof = opened.settlement
        yield (
            f"{label} with a forged leaf path",
            replace(opened, settlement=replace(proof, leaf_path=(bytes(32),))),
            trust,
            ask,
        )
        yield (
            f"{label} with the wrong header",
            replace(opened, settlement=replace(proof, block=network.blocks[0])),
            trust,
            ask,
        )
        too_few = network.sign_block(proof.block.header, signers=0 if method is Method.VANILLA else 2)
        yield f"{label} with too few votes", replace(opened, settlement=replace(proof, block=too_few)), trust, ask
        ended = opened.statement.columns.ended_ms
        for name, change in (
            ("of a revoked key", {"state": KeyState.REVOKED}),
            ("of an expired key", {"state": KeyState.ACTIVE, "until_ms": ended - 1}),
            ("of a compromised key", {"until_ms": None, "compromised_from": 1}),
        ):
            network.set_record(method, replace(network.keys[method].record, **change))
            shown = replace(plain, evidence=replace(plain.evidence, standing=network.standing(method)))
            yield f"{label} {name}", shown, trust, replace(ask, now_ms=network.now_ms)
    yield from optimistic_receipts()
    network = Simulator("vectors stream")
    body = network.chat_body("stream it", stream=True)
    streamed = network.stream(body)
    stream = streamed.receipt.statement.private.stream
    assert stream is not None
    parts = stream_parts([event.data for event in streamed.events], stream.head)
    yield "a stream", streamed.receipt.opened(body, parts), network.trust(), Question(network.now_ms)


def optimistic_receipts() -> Iterator[tuple[str, Receipt, TrustPolicy | None, Question]]:
    network = Simulator("vectors optimistic", validators=4)
    network.register(Method.OPTIMISTIC)
    body = network.chat_body("What is the capital of France?")
    response, plain = network.answer(CHAT, body, Method.OPTIMISTIC, nonce=b"vector nonce")
    keys = (bytes(19) + b"\1", bytes(19) + b"\2")
    _, other = network.answer(
        CHAT, network.chat_body("other"), Method.OPTIMISTIC, audience=Audience(AudienceKind.WATCHERS, keys)
    )
    [settled, second] = network.settle([plain, other])
    _, later = network.answer(CHAT, network.chat_body("later"), Method.OPTIMISTIC)
    [later] = network.settle([later])
    open_still = network.finality(settled.opened(body, response))
    final = network.finality(open_still, state=BatchState.FINAL)
    trust, ask = network.trust(), Question(network.now_ms)
    assert final.settlement is not None
    assert final.opening is not None
    assert plain.evidence.bond is not None
    yield "optimistic not settled", plain, trust, ask
    yield "optimistic settled, finality not shown", settled, trust, ask
    yield "optimistic open", open_still, trust, ask
    yield "optimistic final and opened", final, trust, ask
    yield "optimistic redacted", final.redacted(), trust, ask
    yield "optimistic without a policy", final, None, ask
    yield "optimistic overturned", network.finality(final, overturned=(0,)), trust, replace(ask, now_ms=network.now_ms)
    shown = network.finality(second, state=BatchState.FINAL, overturned=(0,))
    yield "optimistic, another statement of a batch overturned", shown, trust, replace(ask, now_ms=network.now_ms)
    wrong = network.finality(later, state=BatchState.FINAL).settlement
    assert wrong is not None
    ask = replace(ask, now_ms=network.now_ms)
    yield "optimistic with another batch's record", _finality(final, wrong.finality), trust, ask
    proof = final.settlement.finality
    assert proof is not None
    forged = open_still.settlement.finality if open_still.settlement is not None else None
    assert forged is not None
    yield "optimistic with a forged record", _finality(final, replace(forged, record=proof.record)), trust, ask
    opening = replace(final.opening, header=final.opening.header + b"\0") if final.opening.header else final.opening
    yield "optimistic with another trace", replace(final, opening=opening), trust, ask
    yield "optimistic with another trace in the columns", _columns(final, trace=bytes(32)), trust, ask
    bond = replace(plain.evidence.bond, record=BondRecord(10**30).to_bytes())
    yield "optimistic with a forged bond", replace(plain, evidence=replace(plain.evidence, bond=bond)), trust, ask
    yield "optimistic without a proof of bond", replace(plain, evidence=replace(plain.evidence, bond=None)), trust, ask
    dressed = replace(plain.evidence, attestation=b"x")
    yield "optimistic with an attestation", replace(plain, evidence=dressed), trust, ask
    for name, audience, terms in (
        ("anybody", Audience(AudienceKind.PUBLIC), 0),
        ("the payer alone", Audience(AudienceKind.PAYER), 0),
        ("the payer alone on chain", Audience(), 1),
    ):
        _, receipt = network.answer(CHAT, body, Method.OPTIMISTIC, audience=audience, terms=terms)
        yield f"optimistic, checked by {name}", receipt, trust, replace(ask, now_ms=network.now_ms)
    yield from optimistic_ends(network, trust, body)
    for name, bond in (
        ("without a bond", None),
        ("with a bond of one wei", BondRecord(1)),
        ("with a bond that others hold", BondRecord(10**17, 10**17)),
    ):
        network.set_bond(bond)
        _, receipt = network.answer(CHAT, body, Method.OPTIMISTIC)
        yield f"optimistic {name}", receipt, trust, replace(ask, now_ms=network.now_ms)
    unruled = replace(trust, stake=None)
    yield "optimistic without a rule for the stake", receipt, unruled, replace(ask, now_ms=network.now_ms)


def optimistic_ends(
    network: Simulator, trust: TrustPolicy, body: bytes
) -> Iterator[tuple[str, Receipt, TrustPolicy | None, Question]]:
    """Runs whose two ends do not fit request, answer and statement, all else as it should be: each is signed anew."""
    tensors = json.dumps(
        {"inputs": [{"name": "input", "shape": [3], "datatype": "FP64", "data": [1, -7, 300]}]}
    ).encode()
    key = network.keys[Method.OPTIMISTIC]
    for label, endpoint, asked, changes in (
        ("a chat", CHAT, body, CHAT_LIES),
        ("tensors", INFER, tensors, TENSOR_LIES),
    ):
        response, receipt = network.answer(endpoint, asked, Method.OPTIMISTIC)
        opened = receipt.opened(asked, response)
        opening, columns = opened.opening, opened.statement.columns
        assert opening is not None
        assert opening.header is not None
        yield f"optimistic, {label}", opened, trust, Question(network.now_ms)
        for name, lie in changes:
            header = replace(Header.parse(opening.header), **lie).encoded()
            statement = replace(opened.statement, columns=replace(columns, trace=trace_of(header)))
            lied = network.state_and_sign(key, statement, replace(opening, header=header))
            yield f"optimistic, {label} {name}", lied, trust, Question(network.now_ms)
    for name, beside in OUTPUT_LIES:
        parts = [part for part in opening.response or () if not part[0].startswith("/outputs/")]
        right = json.loads(dict(opening.response or ())["/outputs/0"])
        shown = [json.dumps({**right, **change}).encode() for change in beside]
        parts += [(f"/outputs/{at}", data) for at, data in enumerate(shown)]
        private = replace(opened.statement.private, response=commit("response", opening.seed, parts))
        changed = replace(opening, response=tuple(parts))
        lied = network.state_and_sign(key, replace(opened.statement, private=private), changed)
        yield f"optimistic, tensors {name}", lied, trust, Question(network.now_ms)


def _finality(receipt: Receipt, proof: FinalityProof | None) -> Receipt:
    assert receipt.settlement is not None
    return receipt.with_settlement(replace(receipt.settlement, finality=proof))


def _columns(receipt: Receipt, **changes: Any) -> Receipt:
    return replace(receipt, statement=replace(receipt.statement, columns=replace(receipt.statement.columns, **changes)))


def receipt_vectors() -> list[dict[str, Any]]:
    vectors = []
    for name, receipt, trust, question in receipts():
        report = checks.verify(receipt, trust, question)
        vectors.append(
            {
                "name": name,
                "now_ms": question.now_ms,
                "nonce": None if question.nonce is None else question.nonce.hex(),
                "trust": None if trust is None else json.loads(trust.to_json()),
                "id": receipt.id,
                "receipt": base64url(receipt.to_bytes()),
                "verdict": report.verdict.value,
                "checks": {check.name.value: check.outcome.value for check in report.checks},
                "codes": {check.name.value: check.code for check in report.checks if check.code},
            }
        )
    return vectors


def encoding_vectors() -> dict[str, Any]:
    values: list[Any] = [
        0, 23, 24, 255, 256, 65535, 65536, (1 << 64) - 1, -1, -(1 << 63), b"", b"\0", b"text", bytes(65), "", "é", "hex:00", "text:",
        [], [1, [2]], {}, {"b": 1, "a": 2, "aa": 3}, None, True, False, 1 << 53, -(1 << 53),
    ]  # fmt: skip
    refused = [
        "1800",
        "1b00000000ffffffff",
        "5f4100ff",
        "9fff",
        "bfff",
        "c240",
        "f97c00",
        "f7",
        "a2616201616100",
        "a2616101616100",
        "a10000",
        "61ff",
        "0000",
        "",
    ]
    return {
        "accepted": [{"cbor": encode(value).hex(), "json": to_json(value).decode()} for value in values],
        "refused_cbor": refused,
        "refused_json": [
            '{"a": 1}',
            '{"b":1,"a":2}',
            '{"a":1.0}',
            '{"a":"hex:AB"}',
            '{"a":"int:5"}',
            '{"a":"text:plain"}',
            '{"a":1}\n',
        ],
    }


def commitment_vectors() -> list[dict[str, Any]]:
    request = b'{"model":"m", "messages":[{"role":"user","content":"a"} , {"role":"user","content":"b"}],"temperature":0.70,"a/b":{"~":1}}'
    response = (
        b'{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hi",'
        b'"tool_calls":[{"id":"1"}]}}],"usage":{},"avow":{"receipt":"r"}}'
    )
    shown = []
    for kind, body, parts in (
        ("request", request, request_parts(CHAT, request)),
        ("response", response, response_parts(response)),
    ):
        shown.append(
            {
                "kind": kind,
                "endpoint": CHAT if kind == "request" else None,
                "body": body.decode(),
                "seed": SEED.hex(),
                "parts": [[name, data.decode()] for name, data in parts],
                "commitment": commit(kind, SEED, parts).hex(),  # type: ignore[arg-type]
            }
        )
    return shown


def stream_vector() -> dict[str, Any]:
    chunks = [
        b'{"id":"c","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"a"}}]}',
        b'{"id":"c","choices":[]}',
    ]
    head = stream_start(b"\x01" * 32, b"\x02" * 32)
    heads, macs = [head.hex()], []
    for chunk in chunks:
        head = stream_next(head, chunk)
        heads.append(head.hex())
        macs.append(chunk_mac(b"\x03" * 32, head).hex())
    parts = [[name, data.hex()] for name, data in stream_parts(chunks, head)]
    return {
        "request": "01" * 32,
        "effective": "02" * 32,
        "mac_key": "03" * 32,
        "chunks": [c.decode() for c in chunks],
        "heads": heads,
        "macs": macs,
        "parts": parts,
    }


def with_published(made: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """What was published before, then what is new by its name."""
    published = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    names = {vector["name"] for vector in published}
    return [*published, *(vector for vector in made if vector["name"] not in names)]


def main() -> None:
    folder = ROOT / "tests" / "vectors"
    made = {
        "receipts": with_published(receipt_vectors(), folder / "receipts.json"),
        "encoding": encoding_vectors(),
        "commitments": commitment_vectors(),
        "stream": stream_vector(),
    }
    for name, content in made.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for vector in made["receipts"]:
        print(f"{vector['verdict']:10} {vector['name']}: {vector['codes']}")


if __name__ == "__main__":
    main()
