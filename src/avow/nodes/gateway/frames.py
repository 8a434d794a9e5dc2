"""The bytes of an answer: the receipt spliced into a JSON body, and the server-sent events of a stream.

Rules:
1. The node's bytes are passed on verbatim; `avow` is added as the last member of a body, so what the response commitment is
   over is the body without it.
2. An event is "data: " ‖ chunk ‖ two newlines. What a verifying client needs beside it travels in comment lines (WHATWG HTML
   §9.2.6: lines that begin with a colon), which plain clients skip:
   ": b " base64url(CBOR {seed, effective, signing_key, standing, transport_key}) once, before the first chunk;
   ": m " base64url(16-byte MAC), before the chunk that it authenticates; ": h " count " " base64url(COSE), after chunk `count`.
3. The receipt comes as one more event of the shape of a chunk with empty `choices`, then "data: [DONE]".
4. An error after the first byte is an event that holds OpenAI's error envelope; nothing, not even [DONE], follows it.

Pure.
"""

from binascii import b2a_base64

import msgspec

from avow.errors import Unavailable
from avow.nodes.jobs import Begin, Chunks, Head
from avow.receipt.encoding import Value, encode_trusted

DONE = b"data: [DONE]\n\n"
_INCOMPLETE = '"complete":false,'
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class MalformedAnswer(Unavailable):
    """The node's answer is not a JSON object, or its stream has no first chunk."""

    code = "malformed_answer"
    http_status = 502


class ChunkHead(msgspec.Struct):
    """What the receipt's event repeats of a stream's chunks."""

    id: str
    created: int
    model: str


_decode_head = msgspec.json.Decoder(ChunkHead).decode
_encode = msgspec.json.Encoder().encode


def base64url_bytes(data: bytes) -> bytes:
    """RFC 4648 §5 without padding, as ASCII bytes."""
    return b2a_base64(data, newline=False).translate(_URL_SAFE).rstrip(b"=")


def avow_member(receipt_id: str, method: str, finality: str, receipt: bytes, seed: bytes, *, complete: bool) -> bytes:
    """The member `avow` of an answer, JSON. `receipt` is CBOR with its opening of seed and effective parameters.

    An answer that was cut short says so with "complete": false.
    """
    start = (
        f'{{"id":"{receipt_id}","method":"{method}","finality":"{finality}",{"" if complete else _INCOMPLETE}'
        f'"url":"/receipts/{receipt_id}","page":"/r/{receipt_id}#'
    )
    return b"".join((start.encode(), base64url_bytes(seed), b'","receipt":"', base64url_bytes(receipt), b'"}'))


def splice(body: bytes, member: bytes) -> bytes:
    """`body` with `"avow": member` as its last member. Raises MalformedAnswer unless body is a JSON object with members."""
    if len(body) < 3 or body[0] != 0x7B or body[-1] != 0x7D:
        raise MalformedAnswer
    return b"".join((body[:-1], b',"avow":', member, b"}"))


def stream_head(begin: Begin) -> bytes:
    """The comment before the first chunk."""
    value: dict[str, Value] = {
        "seed": begin.seed,
        "effective": begin.effective,
        "signing_key": begin.signing_key,
        "standing": begin.standing,
        "transport_key": begin.transport_key,
    }
    return b": b " + base64url_bytes(encode_trusted(value)) + b"\n"


def _mac_text(mac: bytes) -> bytes:
    """`base64url_bytes` of 16 bytes, whose padding is two characters."""
    return b2a_base64(mac, newline=False)[:-2].translate(_URL_SAFE)


def chunk_frames(chunks: Chunks) -> bytes:
    """The bytes of chunks that arrived together, for one write."""
    data, macs = chunks.data, chunks.macs
    if len(data) == 1:  # a trickle, as engines make it
        event = b"data: %b\n\n" % data[0]
        return b": m %b\n%b" % (_mac_text(macs[0]), event) if macs else event
    if not macs:
        return b"".join([b"data: %b\n\n" % item for item in data])
    pairs = zip(macs, data, strict=True)
    return b"".join([b": m %b\ndata: %b\n\n" % (_mac_text(mac), item) for mac, item in pairs])


def head_frame(head: Head) -> bytes:
    """A signed head, a comment of its own."""
    return b": h %d %b\n\n" % (head.count, base64url_bytes(head.signature))


def chunk_head(data: bytes) -> ChunkHead:
    """Raises MalformedAnswer for what is not a chat completion chunk."""
    try:
        return _decode_head(data)
    except msgspec.DecodeError:
        raise MalformedAnswer from None


def receipt_frame(head: ChunkHead, member: bytes) -> bytes:
    """Rule 3's event and the end of the stream."""
    shape = {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "choices": [],
    }
    return b"".join((b"data: ", _encode(shape)[:-1], b',"avow":', member, b"}\n\n", DONE))


def error_frame(body: bytes) -> bytes:
    """Rule 4's event; `body` is the envelope."""
    return b"data: %b\n\n" % body
