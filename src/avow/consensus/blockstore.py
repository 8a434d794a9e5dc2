"""Blocks in the store's records, beside the state that they made.

Rules:
1. `append` writes a block in the transaction that its caller holds open: block, results, last-signed height and the
   caller's state become durable together or not at all.
2. Heights have no gaps: `base` to `height`. What lies below a retained height is dropped, a few blocks at a time.
3. A height at or below the last signed one is never appended again (`WouldSignTwice`).

Records: "block/" ‖ u64 → {header, commit, app_hash}; "txs/" ‖ u64 → [bytes …]; "results/" ‖ u64 → [[…] …], both absent when
empty; "consensus" → {height, base, signed_height, signed_hash, validators}.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from avow.chain.abci import Event, EventAttribute, ExecTxResult
from avow.chain.state import Store
from avow.consensus.block import Decided
from avow.consensus.errors import NoSuchBlock, StateMismatch, WouldSignTwice
from avow.receipt import fields
from avow.receipt.encoding import Value, decode, encode_trusted
from avow.receipt.headers import Commit, Header, Validator, validators_from_value

_BLOCK = b"block/"
_TXS = b"txs/"
_RESULTS = b"results/"
_POSITION = b"consensus"
_MAX_RECORD = 256 * 1024 * 1024
PRUNED_AT_ONCE = 16
CACHED_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class Position:
    """Where the chain stands. Height 0: no block yet."""

    height: int = 0
    base: int = 1
    signed_height: int = 0
    signed_hash: bytes = b""
    validators: tuple[Validator, ...] = ()


class BlockStore:
    """The blocks of one chain. `position` is what the last committed transaction left; `reload` after an undone one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache: OrderedDict[int, Decided] = OrderedDict()
        self.position = Position()
        self.reload()

    def reload(self) -> None:
        """Read the position back from the store."""
        self._cache.clear()
        encoded = self._store.record(_POSITION)
        self.position = Position() if encoded is None else _decode_position(encoded)

    def append(self, block: Decided, *, retain_height: int = 0) -> None:
        """Write the next block and drop some below `retain_height`. The caller holds the transaction."""
        position = self.position
        if block.height <= position.signed_height:
            raise WouldSignTwice("this height was signed before", height=block.height, signed=position.signed_height)
        if block.height != position.height + 1:
            raise StateMismatch("not the next height", expected=position.height + 1, found=block.height)
        key = block.height.to_bytes(8)
        head: Value = {
            "header": block.header.to_value(),
            "commit": block.commit.to_value(),
            "app_hash": block.app_hash,
        }
        items: list[tuple[bytes, bytes | None]] = [(_BLOCK + key, encode_trusted(head))]
        if block.txs:
            items.append((_TXS + key, encode_trusted(list(block.txs))))
            items.append((_RESULTS + key, encode_trusted([_result_value(item) for item in block.results])))
        base = position.base
        while base < min(retain_height, block.height) and base < position.base + PRUNED_AT_ONCE:
            items += [(prefix + base.to_bytes(8), None) for prefix in (_BLOCK, _TXS, _RESULTS)]
            self._cache.pop(base, None)
            base += 1
        position = Position(block.height, base, block.height, block.header.hash, block.validators)
        items.append((_POSITION, _encode_position(position)))
        self._store.put_records(items)
        self.position = position
        self._cache[block.height] = block
        while len(self._cache) > CACHED_BLOCKS:
            self._cache.popitem(last=False)

    def load(self, height: int) -> Decided:
        """Raises NoSuchBlock."""
        position = self.position
        if not position.base <= height <= position.height:
            raise NoSuchBlock("there is no such block", height=height, base=position.base, last=position.height)
        cached = self._cache.get(height)
        if cached is not None:
            return cached
        key = height.to_bytes(8)
        head = self._store.record(_BLOCK + key)
        if head is None:
            raise StateMismatch("a block is missing from the store", height=height)
        items = fields.mapping(decode(head), "block", ("header", "commit", "app_hash"))
        return Decided(
            Header.from_value(items["header"]),
            Commit.from_value(items["commit"]),
            tuple(cast("list[bytes]", self._list(_TXS + key))),
            tuple(_result(item) for item in self._list(_RESULTS + key)),
            fields.octets(items["app_hash"], "app_hash", 32),
            position.validators,
        )

    def last(self) -> Decided | None:
        return self.load(self.position.height) if self.position.height else None

    def _list(self, key: bytes) -> Sequence[Value]:
        encoded = self._store.record(key)
        return () if encoded is None else cast("list[Value]", decode(encoded, max_bytes=_MAX_RECORD))


def _encode_position(position: Position) -> bytes:
    return encode_trusted(
        {
            "height": position.height,
            "base": position.base,
            "signed_height": position.signed_height,
            "signed_hash": position.signed_hash,
            "validators": [item.to_value() for item in position.validators],
        }
    )


def _decode_position(data: bytes) -> Position:
    items = fields.mapping(decode(data), "consensus", ("height", "base", "signed_height", "signed_hash", "validators"))
    return Position(
        fields.integer(items["height"], "height"),
        fields.integer(items["base"], "base"),
        fields.integer(items["signed_height"], "signed_height"),
        fields.octets(items["signed_hash"], "signed_hash", 0, 32),
        validators_from_value(items["validators"]),
    )


def _result_value(result: ExecTxResult) -> Value:
    return [
        result.code,
        result.data,
        result.gas_wanted,
        result.gas_used,
        result.log,
        [[event.type, [[item.key, item.value, item.index] for item in event.attributes]] for event in result.events],
        result.info,
        result.codespace,
    ]


def _result(value: Value) -> ExecTxResult:
    """The inverse of `_result_value`, for records that we wrote ourselves."""
    code, data, gas_wanted, gas_used, log, events, info, codespace = cast("list[Any]", value)
    return ExecTxResult(
        code,
        data,
        gas_wanted,
        gas_used,
        log,
        tuple(Event(kind, tuple(EventAttribute(*item) for item in attributes)) for kind, attributes in events),
        info,
        codespace,
    )
