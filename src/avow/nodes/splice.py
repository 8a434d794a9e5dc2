"""Deterministic CBOR put together from pieces, for what is built for every answer.

What comes out is byte for byte what receipt/encoding.py gives (tests hold the two equal); names stand in the order of RFC 8949
§4.2.1 because they are written down in it.
"""

from avow.receipt.audience import Audience
from avow.receipt.encoding import encode_trusted
from avow.receipt.statement import EngineIdentity, NonceSource, StreamEnd


def head(major: int, argument: int) -> bytes:
    """Major type and argument in their shortest form (RFC 8949 §3)."""
    first = major << 5
    if argument < 24:
        return bytes((first | argument,))
    if argument < 1 << 8:
        return bytes((first | 24, argument))
    if argument < 1 << 16:
        return bytes((first | 25,)) + argument.to_bytes(2)
    if argument < 1 << 32:
        return bytes((first | 26,)) + argument.to_bytes(4)
    return bytes((first | 27,)) + argument.to_bytes(8)


def octets(data: bytes) -> bytes:
    return head(2, len(data)) + data


def text(value: str) -> bytes:
    data = value.encode()
    return head(3, len(data)) + data


def uint(number: int) -> bytes:
    return _SMALL[number] if number < len(_SMALL) else head(0, number)


_SMALL = tuple([head(0, number) for number in range(2_048)])
TRUE, FALSE, NULL = b"\xf5", b"\xf4", b"\xf6"
HASH = b"\x58\x20"
"""The head of 32 bytes."""

_NONCE_SOURCES = {str(source): text(source.value) for source in NonceSource}


_MAX_NAMES = 1_024
_names: dict[str, bytes] = {}


def _name(name: str) -> bytes:
    """`text`, remembered: usage has the same few names in every answer."""
    known = _names.get(name)
    if known is None:
        known = text(name)
        if len(_names) < _MAX_NAMES:
            _names[name] = known
    return known


def _usage(usage: tuple[tuple[str, int], ...]) -> bytes:
    entries = sorted([_name(name) + uint(count) for name, count in usage])
    return head(5, len(entries)) + b"".join(entries)


class PrivateEncoder:
    """The private part of statements by one key on one engine (statement.Private)."""

    def __init__(self, chain_id: str, node: bytes, key: bytes, engine: EngineIdentity) -> None:
        self._before_nonce = b"".join((text("key"), octets(key), text("node"), octets(node), text("nonce")))
        self._engine = b"".join(
            (
                text("engine"),
                head(5, 3),
                text("name"),
                text(engine.name),
                text("runtime"),
                text(engine.runtime),
                text("version"),
                text(engine.version),
                text("stream"),
            )
        )
        self._version = text("version") + uint(1)
        self._chain_id = text("chain_id") + text(chain_id) + text("complete")

    def encode(
        self,
        *,
        request: bytes,
        effective: bytes,
        response: bytes,
        nonce: bytes,
        nonce_source: str,
        requester: bytes | None,
        authorised: bool,
        started_ms: int,
        usage: tuple[tuple[str, int], ...],
        stream: StreamEnd | None,
        complete: bool,
        audience: Audience | None = None,
    ) -> bytes:
        end = NULL
        if stream is not None:
            end = b"".join((b"\xa2\x64head", HASH, stream.head, b"\x66chunks", uint(stream.chunks)))
        return b"".join(
            (
                b"\xb0" if audience is None else b"\xb1",
                self._before_nonce,
                octets(nonce),
                b"\x65usage",
                _usage(usage),
                self._engine,
                end,
                b"\x67request",
                HASH,
                request,
                self._version,
                b"" if audience is None else b"\x68audience" + encode_trusted(audience.to_value()),
                self._chain_id,
                TRUE if complete else FALSE,
                b"\x68response",
                HASH,
                response,
                b"\x69effective",
                HASH,
                effective,
                b"\x69requester",
                NULL if requester is None else octets(requester),
                b"\x6aauthorised",
                TRUE if authorised else FALSE,
                b"\x6astarted_ms",
                uint(started_ms),
                b"\x6cnonce_source",
                _NONCE_SOURCES[nonce_source],
            )
        )


class SignatureInputs:
    """What the signatures of one key cover (statement.signature_input of statement_payload)."""

    def __init__(self, chain_id: str, key: bytes) -> None:
        self._payload = b"".join((b"\x86", text("avow/signature/1"), text(chain_id), octets(key)))

    def statement(self, number: int, statement: bytes, following: bytes) -> bytes:
        payload = b"".join((self._payload, uint(number), HASH, statement, HASH, following))
        return b"\x84\x6aSignature1\x43\xa1\x01\x26\x40" + octets(payload)
