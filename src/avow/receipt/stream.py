"""Streams: chunks that are authenticated as they come, and end in the same commitment as an answer in one piece.

Rules:
1. Chunk i is the exact bytes of one server-sent event's data, JSON. head(0) = H("avow/stream/1", request ‖ effective commitment);
   head(i) = H("avow/chunk/1", head(i-1) ‖ chunk i). The closing [DONE] and the event that carries the receipt are not chunks.
2. For a caller that sent an ephemeral P-256 key, each chunk carries the first 16 bytes of HMAC-SHA256(k, head(i)), where
   k = HKDF-SHA256(ECDH(caller's key, node's transport key), salt = request commitment, info = "avow/stream-mac/1" ‖ effective).
3. Signed heads (statement.stream_payload) prove to anyone what was delivered up to there: with the first chunk and at least once a second
   beside MACs, at least every 100 ms without them.
4. `assemble` joins the chunks to the body that the response commitment is over: one function, the same for node and caller.

Pure: no clock, no randomness, no input or output.
"""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from avow.errors import InputError
from avow.receipt.commitment import Part, response_parts
from avow.receipt.encoding import tagged_hash

MAC_LENGTH = 16
MAX_CHUNKS = 1 << 20

_CHUNK_TAG = b"\x0cavow/chunk/1"


class MalformedChunk(InputError):
    """A chunk of a stream is not one that can be joined to an answer."""

    code = "malformed_chunk"


def stream_start(request: bytes, effective: bytes) -> bytes:
    """head(0), bound to the commitments of request and effective parameters."""
    return tagged_hash(b"avow/stream/1", request, effective)


def stream_next(head: bytes, data: bytes) -> bytes:
    """The head after one more chunk."""
    return sha256(_CHUNK_TAG + head + data).digest()


def mac_key(shared_secret: bytes, request: bytes, effective: bytes) -> bytes:
    """Rule 2's k, 32 bytes, from the raw x coordinate of the ECDH result."""
    return HKDF(hashes.SHA256(), 32, salt=request, info=b"avow/stream-mac/1" + effective).derive(shared_secret)


def shared_secret(private_key: ec.EllipticCurvePrivateKey, public_point: bytes) -> bytes:
    """ECDH over P-256 with a 65-byte uncompressed point. Raises MalformedChunk for what is no such point."""
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_point)
    except ValueError:
        raise MalformedChunk("the stream key is not a point of P-256") from None
    return private_key.exchange(ec.ECDH(), public)


def chunk_mac(key: bytes, head: bytes) -> bytes:
    """The tag of the chunk that led to `head`."""
    return hmac.digest(key, head, "sha256")[:MAC_LENGTH]


class ChunkMAC:
    """`chunk_mac` for many heads under one key: HMAC's two inner states (RFC 2104) are kept, which halves its cost."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(sha256().block_size, b"\0")
        self._inner = sha256(bytes([byte ^ 0x36 for byte in block]))
        self._outer = sha256(bytes([byte ^ 0x5C for byte in block]))

    def tag(self, head: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(head)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[:MAC_LENGTH]


def mac_equal(one: bytes, other: bytes) -> bool:
    """Comparison in constant time."""
    return hmac.compare_digest(one, other)


def stream_parts(chunks: Sequence[bytes], head: bytes) -> list[Part]:
    """The parts of a streamed response (commitment.py, rule 3)."""
    return [*response_parts(assemble(chunks)), ("stream", head + len(chunks).to_bytes(8))]


_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def assemble(chunks: Sequence[bytes]) -> bytes:
    """The chat completion that a stream's chunks make, as JSON in one fixed form (`Assembly.answer`). Raises MalformedChunk."""
    if len(chunks) > MAX_CHUNKS:
        raise MalformedChunk("too many chunks", limit=MAX_CHUNKS)
    assembly = Assembly()
    for data in chunks:
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedChunk("a chunk is not JSON") from error
        assembly.add(chunk)
    try:
        return _encode(assembly.answer())
    except RecursionError as error:
        raise MalformedChunk("a chunk is nested too deep") from error


class Assembly:
    """The answer that chunks make, chunk by chunk."""

    __slots__ = ("_choices", "_first", "_usage")

    def __init__(self) -> None:
        self._first: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None

    def add(self, chunk: object) -> None:
        """The next chunk, decoded. Raises MalformedChunk."""
        if type(chunk) is dict and not chunk.get("usage") and self._add_text(chunk):
            return
        if not isinstance(chunk, dict):
            raise MalformedChunk("a chunk is not an object")
        if not self._first:
            self._first = chunk
        usage = chunk.get("usage")
        if usage:
            self._usage = usage
        for delta in _listed(chunk.get("choices")):
            index = delta.get("index")
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1024:
                raise MalformedChunk("a choice has no index")
            choice = self._choices.get(index)
            if choice is None:
                choice = self._choices[index] = _Choice(index)
            choice.add(delta)

    def _add_text(self, chunk: dict[str, Any]) -> bool:
        """Whether the chunk was a piece of text for one choice that has begun, and nothing else, as nearly all are."""
        choices = chunk.get("choices")
        if type(choices) is not list or len(choices) != 1 or type(choice := choices[0]) is not dict:
            return False
        get = choice.get
        index, delta = get("index"), get("delta")
        if type(index) is not int or type(delta) is not dict or len(delta) != 1:
            return False
        if get("finish_reason") is not None or get("logprobs") is not None:
            return False
        known, piece = self._choices.get(index), delta.get("content")
        if known is None or known.content is None or type(piece) is not str:
            return False
        known.content.append(piece)
        return True

    def answer(self) -> dict[str, Any]:
        """Members, in order: id, object, created, model, choices by index (index, message, logprobs, finish_reason), usage,
        and system_fingerprint where the stream had one. Contents, refusals, log-probabilities and tool-call arguments are
        concatenated.
        """
        first, choices = self._first, self._choices
        body: dict[str, Any] = {
            "id": first.get("id"),
            "object": "chat.completion",
            "created": first.get("created"),
            "model": first.get("model"),
            "choices": [choices[index].whole() for index in sorted(choices)],
            "usage": self._usage,
        }
        if first.get("system_fingerprint") is not None:
            body["system_fingerprint"] = first["system_fingerprint"]
        return body


def _listed(value: object) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedChunk("a list of objects was expected")
    for item in value:
        if not isinstance(item, dict):
            raise MalformedChunk("a list of objects was expected")
    return value


class _Choice:
    """One choice of a stream, growing."""

    __slots__ = ("content", "finish_reason", "index", "logprobs", "refusal", "role", "tool_calls")

    def __init__(self, index: int) -> None:
        self.index = index
        self.role: Any = "assistant"
        self.content: list[str] | None = None
        self.refusal: list[str] | None = None
        self.logprobs: dict[str, list[Any]] | None = None
        self.tool_calls: dict[int, dict[str, Any]] = {}
        self.finish_reason: Any = None

    def add(self, choice: dict[str, Any]) -> None:
        if choice.get("finish_reason") is not None:
            self.finish_reason = choice["finish_reason"]
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            grown = self.logprobs or {}
            for name, entries in logprobs.items():
                grown.setdefault(name, []).extend(_listed(entries))
            self.logprobs = grown
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        self.role = delta.get("role") or self.role
        self.content = _extend(self.content, delta.get("content"))
        self.refusal = _extend(self.refusal, delta.get("refusal"))
        for call in _listed(delta.get("tool_calls")):
            self._add_call(call)

    def _add_call(self, call: dict[str, Any]) -> None:
        index = call.get("index")
        function = call.get("function") or {}
        if not isinstance(index, int) or isinstance(index, bool) or not isinstance(function, dict):
            raise MalformedChunk("a tool call has no index")
        known = self.tool_calls.setdefault(index, {"id": None, "type": "function", "name": None, "arguments": []})
        known["id"] = call.get("id") or known["id"]
        known["type"] = call.get("type") or known["type"]
        known["name"] = function.get("name") or known["name"]
        known["arguments"] = _extend(known["arguments"], function.get("arguments"))

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": self.role,
            "content": None if self.content is None else "".join(self.content),
            "refusal": None if self.refusal is None else "".join(self.refusal),
        }
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": call["type"],
                    "function": {"name": call["name"], "arguments": "".join(call["arguments"])},
                }
                for _, call in sorted(self.tool_calls.items())
            ]
        return {
            "index": self.index,
            "message": message,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
        }


def _extend(grown: list[str] | None, piece: object) -> list[str] | None:
    if piece is None:
        return grown
    if not isinstance(piece, str):
        raise MalformedChunk("a text was expected")
    if grown is None:
        return [piece]
    grown.append(piece)
    return grown
