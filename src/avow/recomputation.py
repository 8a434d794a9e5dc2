"""Running an optimistic receipt's program again: `avow verify --recompute`.

Needs the program in the local store, and avow[exact]. What it finds is compared by the checks `recomputed` and `processing`
(methods/optimistic/verify.py); here is only the run.
"""

import json
from dataclasses import replace
from typing import Any, cast

import msgspec

from avow.engines.inference_protocol import parse_infer
from avow.engines.interface import TracedEngine, load
from avow.engines.openai import parse_chat
from avow.errors import InputError
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Header, Salts
from avow.models.store import Store
from avow.receipt import merkle
from avow.receipt.commitment import response_body
from avow.receipt.receipt import Opening, Receipt
from avow.receipt.statement import Method
from avow.receipt.stream import stream_parts
from avow.receipt.verify import Recomputation

_CUT = ("messages", "tools", "inputs")


class CannotRecompute(InputError):
    """The receipt does not hold what it takes to run its program again."""

    code = "cannot_recompute"


def recompute(receipt: Receipt, store: Store, request: bytes | None = None) -> Recomputation:
    """Run the receipt's program on its request again. `request`: the body, where the receipt does not show it.

    Raises CannotRecompute, UnknownProgram where the store lacks the program, and what the engine raises.
    """
    columns, private, opening = receipt.statement.columns, receipt.statement.private, receipt.opening
    if columns.method is not Method.OPTIMISTIC:
        raise CannotRecompute("only an optimistic answer comes from a program that gives the same bits everywhere")
    if opening is None or opening.header is None:
        raise CannotRecompute("the receipt is redacted: its seed and its trace's header are needed")
    body = request if request is not None else body_of(opening)
    header = Header.parse(opening.header)
    program = store.get(columns.program)
    loaded = load(program)
    try:
        if program.manifest.engine != "exact":
            raise CannotRecompute("the program has no exact meaning", engine=program.manifest.engine)
        engine = cast("TracedEngine", loaded)
        effective = json.loads(opening.effective)
        parsed: Any = parse_chat(body).body if loaded.kind == "chat" else parse_infer(body).body
        if not private.complete:
            return Recomputation(_followed(engine, parsed, effective, opening, header), None)
        if loaded.kind != "chat":
            answer, trace = engine.traced_infer(parsed, opening.seed)
            return Recomputation(trace.header, tuple(response_body(answer)[1]))
        chunks: list[bytes] = []

        def emit(chunk: dict[str, Any]) -> bool:
            chunks.append(msgspec.json.encode(chunk))
            return False

        streamed = private.stream is not None
        said = _said(opening)
        answer, trace = engine.traced_chat(parsed, effective, opening.seed, emit if streamed else None, said=said)
        parts = stream_parts(chunks, bytes(32)) if streamed else response_body(answer)[1]
        return Recomputation(trace.header, tuple(parts))
    finally:
        loaded.close()


def _said(opening: Opening) -> str:
    """What the answer says, where the receipt shows it: known tokens make a run several times cheaper."""
    try:
        return msgspec.json.decode(dict(opening.response or ()).get("/choices/0/message/content", b'""'), type=str)
    except msgspec.DecodeError:  # it says nothing
        return ""


def _followed(engine: TracedEngine, parsed: Any, effective: dict[str, Any], opening: Opening, header: Header) -> bytes:
    """The header of a run that follows a claimed one for as many steps: for an answer that its caller cut off."""
    salts = Salts(opening.seed)
    run = engine.replay(parsed, effective, salts, header, said=_said(opening))
    return replace(
        header,
        leaves=len(run.leaves),
        root=merkle.root(list(run.leaves)),
        inputs=tuple(salts.digest(INPUT_SLOT + at, run.tensor(INPUT_SLOT + at)) for at in range(len(header.inputs))),
        outputs=tuple(
            salts.digest(OUTPUT_SLOT + at, run.tensor(OUTPUT_SLOT + at)) for at in range(len(header.outputs))
        ),
        salts=salts.commitment,
    ).encoded()


def body_of(opening: Opening) -> bytes:
    """A request's JSON from the parts that an opening shows: each member's bytes are as they were sent. Raises CannotRecompute."""
    if opening.request is None:
        raise CannotRecompute("the receipt does not show the request", hint="give its body with --request")
    members: dict[bytes, bytes | list[bytes]] = {}
    for name, data in opening.request[1:]:
        member, _, index = name[1:].partition("/")
        key = json.dumps(member.replace("~1", "/").replace("~0", "~")).encode()  # RFC 6901 §4
        found = members.get(key)
        if index and isinstance(found, list):
            found.append(data)
        else:
            members[key] = [] if _is_cut(member, data) else data
    return b"{" + b",".join(key + b":" + _value(data) for key, data in members.items()) + b"}"


def _is_cut(member: str, data: bytes) -> bool:
    """Whether a part stands for an array that was cut, "[n]" (commitment.py, rule 2)."""
    return member in _CUT and data[:1] == b"[" and data[1:-1].isdigit()


def _value(data: bytes | list[bytes]) -> bytes:
    return data if isinstance(data, bytes) else b"[" + b",".join(data) + b"]"
