"""A stream, checked chunk by chunk before anybody sees it.

Rules:
1. First comes the begin comment: opening secret (the client's own), effective parameters, the node's keys and their standing. The
   key must stand in the pinned trust, for the method asked; its transport key is the registered one. Nothing is yielded before.
2. Each chunk extends the hash chain (receipt/stream.py) and must carry the MAC of the new head under the key shared with the node.
3. A signed head must be of the chain as it came, at its count. The last one is what a broken stream's receipt rests on.
4. The event that carries the receipt comes once, after the chunks, then [DONE]. Its statement must hold this stream's head and count,
   and everything that check.py asks of an answer in one piece.
5. Whatever ends a stream earlier raises StreamCut with the receipt of what was delivered, or the rule's own error.

Sans-I/O: feed what the socket gave, take the chunks that hold.
"""

from binascii import b2a_base64
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from avow.client.check import MAX_ANSWER, Verified, check_receipt, read_receipt
from avow.client.errors import (
    AnswerRefused,
    ChunkNotAuthentic,
    HeadNotAuthentic,
    MalformedStream,
    MethodMismatch,
    NoReceipt,
    OpeningMismatch,
    ReceiptRefused,
    StreamCut,
    StreamMismatch,
)
from avow.client.events import BEGIN, DATA, HEAD, MAC, EventReader, Line
from avow.client.exchange import Sent
from avow.errors import AvowError, EncodingError, TooLarge
from avow.receipt import fields
from avow.receipt.commitment import commit, effective_parts, request_parts, response_parts
from avow.receipt.encoding import decode, from_base64url
from avow.receipt.partial import PartialReceipt, check_key
from avow.receipt.receipt import Opening, Receipt
from avow.receipt.standing import KeyRecord, Standing
from avow.receipt.statement import key_id, stream_payload, verify_signature
from avow.receipt.stream import (
    MAX_CHUNKS,
    assemble,
    chunk_mac,
    mac_equal,
    mac_key,
    shared_secret,
    stream_next,
    stream_start,
)
from avow.receipt.trust import TrustPolicy

MAX_COMMENT = 1 << 20
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True, slots=True)
class _Begun:
    """What the begin comment said, once it is checked."""

    effective: bytes
    effective_commitment: bytes
    signing_key: bytes
    standing: Standing
    record: KeyRecord
    macs: bytes


class _Event(msgspec.Struct):
    """What may stand in an event without a MAC: the receipt, or an error."""

    avow: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    choices: list[msgspec.Raw] | None = None


class _Error(msgspec.Struct):
    message: str = ""
    code: str | None = None


_read_event = msgspec.json.Decoder(_Event).decode
_read_error = msgspec.json.Decoder(_Error).decode


class LiveStream:
    """One stream under way. `verified` is the whole answer, once `finish` has returned."""

    def __init__(self, sent: Sent, trust: TrustPolicy, now_ms: int) -> None:
        """`now_ms`: the reader's time at the start, by which the key's standing is judged.

        Raises MalformedStream for a request that asked for no stream.
        """
        if sent.client_key is None:
            raise MalformedStream("a stream came where none was asked for")
        self._client_key = sent.client_key
        self._sent = sent
        self._trust = trust
        self._now_ms = now_ms
        self._reader = EventReader()
        self._begun: _Begun | None = None
        self._mac: bytes | None = None
        self._head = b""
        self._heads: list[bytes] = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._signed: tuple[int, bytes] | None = None
        self._receipt: Receipt | None = None
        self._done = False
        self._remote = ""
        self.verified: Verified | None = None

    @property
    def done(self) -> bool:
        """Whether [DONE] has come: nothing more is to be read."""
        return self._done

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The chunks that became whole and hold, in order. Raises an AnswerRefused at the first thing that does not."""
        for line in self._reader.feed(received):
            if self._done:
                raise MalformedStream("the stream goes on after its end")
            kind, text = line
            if kind == MAC:
                if self._mac is not None:
                    raise MalformedStream("two authentication codes for one chunk")
                self._mac = text
            elif kind != DATA:
                self._comment(line)
            elif self._mac is None:
                self._unauthenticated(text)
            else:
                self._chunk(text, self._mac)
                self._mac = None
                yield text

    def finish(self, now_ms: int) -> Verified:
        """The stream is over: check it as a whole. Raises StreamCut when its receipt did not come, or what rule 4 raises."""
        if self._receipt is None or not self._done:
            raise self.cut(self._remote or "the stream ended before its receipt")
        private = self._receipt.statement.private
        if private.stream is None or (private.stream.head, private.stream.chunks) != (self._head, len(self._chunks)):
            raise StreamMismatch("the final statement's stream is not the one that was delivered")
        begun = self._start()
        if self._receipt.evidence.signing_key != begun.signing_key:
            raise StreamMismatch("another key signed the final statement than the stream's")
        body = assemble(self._chunks)
        parts = [*response_parts(body), ("stream", self._head + len(self._chunks).to_bytes(8))]
        report = check_receipt(self._sent, self._receipt, parts, self._trust, now_ms)
        self.verified = Verified(body, self._receipt, report, tuple(parts))
        return self.verified

    def cut(self, detail: str) -> StreamCut:
        """The error for a stream that breaks off here, with the receipt of what was signed, if anything was."""
        receipt = self.partial()
        count = 0 if receipt is None else receipt.chunks
        return StreamCut(
            detail,
            receipt,
            hint="the error's receipt proves what was delivered" if receipt else "",
            delivered=len(self._chunks),
            signed=count,
        )

    def partial(self) -> PartialReceipt | None:
        """The receipt of the stream so far, up to its last signed head. It is marked as not whole."""
        begun, signed = self._begun, self._signed
        if begun is None or signed is None:
            return None
        count, signature = signed
        sent = self._sent
        asked = tuple(request_parts(sent.endpoint, sent.body))
        return PartialReceipt(
            chain_id=self._trust.chain_id,
            request=sent.request,
            effective=begun.effective_commitment,
            chunks=count,
            head=self._heads[count - 1],
            method=begun.record.method,
            signature=signature,
            signing_key=begun.signing_key,
            standing=begun.standing,
            opening=Opening(sent.seed, sent.endpoint, begun.effective, request=asked),
            data=tuple(self._chunks[:count]),
        )

    def _comment(self, line: Line) -> None:
        if len(line.text) > MAX_COMMENT:
            raise MalformedStream("a comment is too long", limit=MAX_COMMENT)
        try:
            text = line.text.decode("ascii")
            if line.kind == HEAD:
                count, _, signature = text.partition(" ")
                self._signed_head(count, from_base64url(signature, max_bytes=256))
            elif line.kind == BEGIN:
                self._begin(from_base64url(text))
        except UnicodeDecodeError:
            raise MalformedStream("a comment of the stream is not ASCII") from None
        except (EncodingError, TooLarge) as error:
            raise MalformedStream(f"a comment of the stream cannot be read: {error.detail}") from error

    def _start(self) -> _Begun:
        if self._begun is None:
            raise MalformedStream("the stream does not begin with its keys")
        return self._begun

    def _begin(self, data: bytes) -> None:
        """Rule 1."""
        if self._begun is not None:
            raise MalformedStream("the stream begins twice")
        names = ("seed", "effective", "signing_key", "standing", "transport_key")
        item = fields.mapping(decode(data, max_bytes=MAX_COMMENT), "begin", names)
        if item["seed"] != self._sent.seed:
            raise OpeningMismatch("the stream's opening secret is not the one that was sent")
        effective = fields.octets(item["effective"], "effective", 0, MAX_COMMENT)
        signing_key = fields.octets(item["signing_key"], "signing_key", 65)
        standing = Standing.from_value(decode(fields.octets(item["standing"], "standing", 1, MAX_COMMENT)))
        try:
            record = check_key(standing, signing_key, self._trust, self._now_ms)
        except (EncodingError, TooLarge):
            raise
        except AvowError as error:
            raise ReceiptRefused(f"standing: {error.detail}", None, check="standing", cause=error.code) from error
        asked = self._sent.options.method
        if asked is not None and record.method is not asked:
            raise MethodMismatch(
                f"{asked.label} was asked for, the stream's key is registered for {record.method.label}"
            )
        if item["transport_key"] != record.transport_key:
            raise ReceiptRefused("standing: the transport key is not the registered one", None, check="standing")
        commitment = commit("effective", self._sent.seed, effective_parts(effective))
        secret = shared_secret(self._client_key, record.transport_key)
        macs = mac_key(secret, self._sent.request, commitment)
        self._head = stream_start(self._sent.request, commitment)
        self._begun = _Begun(effective, commitment, signing_key, standing, record, macs)

    def _chunk(self, data: bytes, mac: bytes) -> None:
        """Rule 2. `mac` is the code as it came, compared in its one encoding."""
        if self._receipt is not None:
            raise MalformedStream("a chunk comes after the receipt")
        begun = self._begun or self._start()
        head = stream_next(self._head, data)
        if not mac_equal(_encoded(chunk_mac(begun.macs, head)), mac):
            raise ChunkNotAuthentic(f"chunk {len(self._chunks) + 1} is not what the node sent, or not in its place")
        self._size += len(data)
        if self._size > MAX_ANSWER or len(self._chunks) >= MAX_CHUNKS:
            raise MalformedStream("the stream is too long", limit=MAX_ANSWER)
        self._head = head
        self._heads.append(head)
        self._chunks.append(data)

    def _unauthenticated(self, data: bytes) -> None:
        """An event without a MAC: the receipt's, an error's, or the end's. A chunk without one is refused."""
        if data == b"[DONE]":
            self._done = True
            return
        try:
            event = _read_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MalformedStream("an event is not a JSON object") from None
        if bytes(event.error):
            self._remote = _remote_error(bytes(event.error))
            raise self.cut(self._remote)
        if not bytes(event.avow) or event.choices:
            raise ChunkNotAuthentic(f"chunk {len(self._chunks) + 1} carries no authentication code")
        if self._receipt is not None:
            raise NoReceipt("the stream has two receipts")
        self._receipt = read_receipt(bytes(event.avow))

    def _signed_head(self, count_text: str, signature: bytes) -> None:
        """Rule 3."""
        if not count_text.isdigit() or len(count_text) > 8 or not 1 <= int(count_text) <= len(self._heads):
            raise HeadNotAuthentic("a signed head counts chunks that did not come")
        begun, count = self._start(), int(count_text)
        payload = stream_payload(
            self._trust.chain_id,
            key_id(begun.signing_key),
            self._sent.request,
            begun.effective_commitment,
            count,
            self._heads[count - 1],
        )
        try:
            verify_signature(begun.signing_key, payload, signature)
        except AnswerRefused:
            raise
        except AvowError as error:
            raise HeadNotAuthentic(f"the head signed after chunk {count} does not hold: {error.detail}") from error
        if self._signed is None or count > self._signed[0]:
            self._signed = (count, signature)


def _encoded(mac: bytes) -> bytes:
    """Base64url without padding of 16 bytes."""
    return b2a_base64(mac, newline=False).translate(_URL_SAFE)[:22]


def _remote_error(raw: bytes) -> str:
    """What the gateway says of the break; nobody vouches for these words."""
    try:
        said = _read_error(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "the gateway broke the stream off"
    return f"the gateway broke the stream off: {said.message[:500]}" + (f" ({said.code[:64]})" if said.code else "")
