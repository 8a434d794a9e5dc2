"""A settlement batch: the columns of many statements, and how a full node gets their hashes from them.

Rules:
1. A batch is one canonical CBOR map: key, first number, the distinct programs and payers, and one big-endian column for each
   public field, with an entry per statement: program and payer (u16 index), units (u64), amount (u128), price version (u32),
   end time (u64, ms), void (u8: 0 settled, else the cause), private hash (32 bytes). Numbers follow from `first`, the method from the key.
   Batches of optimistic keys, and no others, have two more: trace (32 bytes) and terms (u8).
2. Programs and payers stand in the order of first use, each once: a batch has one encoding.
3. The signature is the key's over the last statement; it covers every statement before it through the chain of heads.
4. `authorisations`: [index, private part, max amount (16 bytes), expiry in ms, nonce, signature (65 bytes)], by rising index.
5. The root is over the leaves statement hash ‖ void (RFC 6962).

Pure: no clock, no randomness, no input or output.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from avow.errors import EncodingError
from avow.receipt import fields, merkle
from avow.receipt.encoding import Value, decode, encode
from avow.receipt.statement import KNOWN_TERMS, Columns, Method, private_hash

MAX_STATEMENTS = 4_096
MAX_BATCH = 512 * 1024
MAX_PRIVATE = 4_096
_MAX_ITEMS = 16
"""Beside one for each program (33 bytes), payer (21 bytes) and part of an authorisation (seven in some 700 bytes)."""

_NAMES = (
    "key",
    "first",
    "programs",
    "payers",
    "program",
    "payer",
    "units",
    "amount",
    "price",
    "ended",
    "void",
    "private",
    "signature",
    "authorisations",
)
_OPTIMISTIC_NAMES = ("trace", "terms")

_STATEMENT_TAG = b"\x10avow/statement/1"
_HEAD_TAG = b"\x0bavow/head/1"
_PREIMAGE = struct.Struct(">17sQ32s20sBQ16sIQ32s")
"""What a statement hash is over: tag, columns (statement.py, rule 2), private hash; in one piece because it is packed per statement."""
_OPTIMISTIC_PREIMAGE = struct.Struct(">17sQ32s20sBQ16sIQ32sB32s")


@dataclass(frozen=True, slots=True)
class SignedAuthorisation:
    """Rule 4's entry for the statement at `index`."""

    index: int
    private: bytes
    max_amount: int
    expiry_ms: int
    nonce: int
    signature: bytes

    def to_value(self) -> list[Value]:
        return [
            self.index,
            self.private,
            self.max_amount.to_bytes(16),
            self.expiry_ms,
            self.nonce,
            self.signature,
        ]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rule 1, columns unpacked. `amounts` in wei; `amount_bytes` and `private` as they are hashed. `trace` and `terms` are empty
    unless the batch is an optimistic key's.
    """

    key: bytes
    first: int
    programs: tuple[bytes, ...]
    payers: tuple[bytes, ...]
    program: tuple[int, ...]
    payer: tuple[int, ...]
    units: tuple[int, ...]
    amounts: Sequence[int]
    amount_bytes: Sequence[bytes]
    prices: tuple[int, ...]
    ended_ms: tuple[int, ...]
    void: bytes
    private: Sequence[bytes]
    signature: bytes
    authorisations: tuple[SignedAuthorisation, ...]
    trace: Sequence[bytes] = ()
    terms: bytes = b""

    @property
    def optimistic(self) -> bool:
        return bool(self.terms)

    def __len__(self) -> int:
        return len(self.void)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises EncodingError or TooLarge."""
        item = fields.mapping(
            decode(data, max_bytes=MAX_BATCH, max_items=_MAX_ITEMS + len(data) // 16),
            "batch",
            _NAMES,
            _OPTIMISTIC_NAMES,
        )
        void = fields.octets(item["void"], "void", 1, MAX_STATEMENTS)
        count = len(void)
        programs = _distinct(item["programs"], "programs", 32, count)
        payers = _distinct(item["payers"], "payers", 20, count)
        program = _column(item["program"], "program", "H", count)
        payer = _column(item["payer"], "payer", "H", count)
        _check_order(program, len(programs), "programs")
        _check_order(payer, len(payers), "payers")
        amount_column = fields.octets(item["amount"], "amount", 16 * count)
        halves = struct.unpack(f">{2 * count}Q", amount_column)
        private_column = fields.octets(item["private"], "private", 32 * count)
        first = fields.integer(item["first"], "first", maximum=(1 << 64) - 1 - MAX_STATEMENTS)
        trace, terms = _run(item, count)
        return cls(
            key=fields.octets(item["key"], "key", 32),
            first=first,
            programs=programs,
            payers=payers,
            program=program,
            payer=payer,
            units=_column(item["units"], "units", "Q", count),
            amounts=[high << 64 | low for high, low in zip(halves[::2], halves[1::2], strict=True)]
            if any(halves[::2])
            else halves[1::2],
            amount_bytes=[amount_column[at : at + 16] for at in range(0, 16 * count, 16)],
            prices=_column(item["price"], "price", "I", count),
            ended_ms=_column(item["ended"], "ended", "Q", count),
            void=void,
            private=[private_column[at : at + 32] for at in range(0, 32 * count, 32)],
            signature=fields.octets(item["signature"], "signature", 1, 256),
            authorisations=_authorisations(item["authorisations"], count),
            trace=trace,
            terms=terms,
        )

    def hash(self, method: int, head: bytes) -> tuple[list[bytes], bytes]:
        """The statement hashes, and the head after the last; `head` is the one before the first."""
        if self.terms:
            return self._hash_optimistic(method, head)
        pack, hash_of = _PREIMAGE.pack, sha256
        programs, payers = self.programs, self.payers
        statements = []
        columns = zip(
            range(self.first, self.first + len(self)),
            self.program,
            self.payer,
            self.units,
            self.amount_bytes,
            self.prices,
            self.ended_ms,
            self.private,
            strict=True,
        )
        for number, program, payer, units, amount, price, ended, private in columns:
            statement = hash_of(
                pack(
                    _STATEMENT_TAG,
                    number,
                    programs[program],
                    payers[payer],
                    method,
                    units,
                    amount,
                    price,
                    ended,
                    private,
                )
            ).digest()
            statements.append(statement)
            head = hash_of(_HEAD_TAG + head + statement).digest()
        return statements, head

    def _hash_optimistic(self, method: int, head: bytes) -> tuple[list[bytes], bytes]:
        pack, hash_of = _OPTIMISTIC_PREIMAGE.pack, sha256
        programs, payers = self.programs, self.payers
        statements = []
        columns = zip(
            range(self.first, self.first + len(self)),
            self.program,
            self.payer,
            self.units,
            self.amount_bytes,
            self.prices,
            self.ended_ms,
            self.trace,
            self.terms,
            self.private,
            strict=True,
        )
        for number, program, payer, units, amount, price, ended, trace, terms, private in columns:
            statement = hash_of(
                pack(
                    _STATEMENT_TAG,
                    number,
                    programs[program],
                    payers[payer],
                    method,
                    units,
                    amount,
                    price,
                    ended,
                    trace,
                    terms,
                    private,
                )
            ).digest()
            statements.append(statement)
            head = hash_of(_HEAD_TAG + head + statement).digest()
        return statements, head

    def root(self, statements: Sequence[bytes]) -> bytes:
        """Rule 5."""
        return merkle.root(leaves(statements, self.void))


def leaves(statements: Sequence[bytes], void: bytes) -> list[bytes]:
    """Leaf data of a batch's tree: 33 bytes each."""
    if not any(void):
        return [statement + b"\x00" for statement in statements]
    return [statement + void[at : at + 1] for at, statement in enumerate(statements)]


def build_batch(
    key: bytes,
    statements: Sequence[tuple[Columns, bytes]],
    signature: bytes,
    *,
    void: bytes | None = None,
    authorisations: Sequence[SignedAuthorisation] = (),
) -> bytes:
    """The batch of consecutive statements: (columns, CBOR of the private part) each. `void`: a cause per statement, 0 for none."""
    causes = void or bytes(len(statements))
    columns = [statement for statement, _ in statements]
    programs = list(dict.fromkeys([column.program for column in columns]))
    payers = list(dict.fromkeys([column.payer for column in columns]))
    count = len(columns)
    run: dict[str, Value] = {}
    if columns[0].method is Method.OPTIMISTIC:
        run = {
            "trace": b"".join([column.trace for column in columns]),
            "terms": bytes([column.terms for column in columns]),
        }
    return encode(
        {
            **run,
            "key": key,
            "first": columns[0].number,
            "programs": list(programs),
            "payers": list(payers),
            "program": struct.pack(f">{count}H", *[programs.index(column.program) for column in columns]),
            "payer": struct.pack(f">{count}H", *[payers.index(column.payer) for column in columns]),
            "units": struct.pack(f">{count}Q", *[column.units for column in columns]),
            "amount": b"".join([column.amount.to_bytes(16) for column in columns]),
            "price": struct.pack(f">{count}I", *[column.price_version for column in columns]),
            "ended": struct.pack(f">{count}Q", *[column.ended_ms for column in columns]),
            "void": causes,
            "private": b"".join([private_hash(private) for _, private in statements]),
            "signature": signature,
            "authorisations": [authorisation.to_value() for authorisation in authorisations],
        }
    )


def _run(item: dict[str, Value], count: int) -> tuple[Sequence[bytes], bytes]:
    """Traces and terms of an optimistic key's batch: both or neither."""
    if not any(name in item for name in _OPTIMISTIC_NAMES):
        return (), b""
    fields.mapping(item, "batch", _NAMES + _OPTIMISTIC_NAMES)
    column = fields.octets(item["trace"], "trace", 32 * count)
    terms = fields.octets(item["terms"], "terms", count)
    if max(terms) > KNOWN_TERMS:
        raise fields.FieldError("unknown terms", field="terms")
    return [column[at : at + 32] for at in range(0, 32 * count, 32)], terms


def _distinct(value: Value, field: str, length: int, count: int) -> tuple[bytes, ...]:
    items = tuple([fields.octets(item, field, length) for item in fields.array(value, field, max_length=count)])
    if len(set(items)) != len(items):
        raise fields.FieldError(f"{field} has an entry twice", field=field)
    return items


def _column(value: Value, field: str, code: str, count: int) -> tuple[int, ...]:
    layout = f">{count}{code}"
    return struct.unpack(layout, fields.octets(value, field, struct.calcsize(layout)))


def _check_order(column: tuple[int, ...], count: int, field: str) -> None:
    """Rule 2: indices appear for the first time as 0, 1, 2, …, and each is used."""
    if list(dict.fromkeys(column)) != list(range(count)):
        raise fields.FieldError(f"{field} are not in the order of first use", field=field)


def _authorisations(value: Value, count: int) -> tuple[SignedAuthorisation, ...]:
    result: list[SignedAuthorisation] = []
    for entry in fields.array(value, "authorisations", max_length=count):
        parts = fields.array(entry, "authorisation", max_length=6)
        if len(parts) != 6:
            raise fields.FieldError("an authorisation has six parts", field="authorisation")
        result.append(
            SignedAuthorisation(
                index=fields.integer(parts[0], "index", maximum=count - 1),
                private=fields.octets(parts[1], "private", 1, MAX_PRIVATE),
                max_amount=int.from_bytes(fields.octets(parts[2], "max_amount", 16)),
                expiry_ms=fields.integer(parts[3], "expiry_ms", maximum=fields.MAX_TIME_MS),
                nonce=fields.integer(parts[4], "nonce"),
                signature=fields.octets(parts[5], "signature", 65),
            )
        )
    indices = [authorisation.index for authorisation in result]
    if indices != sorted(set(indices)):
        raise EncodingError("authorisations are not by rising index")
    return tuple(result)
