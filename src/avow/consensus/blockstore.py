"""Blocks in the store's records, beside the state that they made.

Rules:
1. `append` writes a block in the transaction that its caller holds open: block, results, last-signed height and the
   caller's state become durable together or not at all.
2. Heights have no gaps: `base` to `height`. What lies below a retained height is dropped, a few blocks at a time.
3. A height at or below the last signed one is never appended again (`WouldSignTwice`).

4. A driver whose blocks are decided elsewhere writes what a block did (`put_executed`) with the state, and appends the block
   with its commit when it has that; `start_after` begins the blocks at the height that a snapshot restored.

Records: "block/" ‖ u64 → {header, commit, app_hash}; "txs/" ‖ u64 → [bytes …]; "results/" ‖ u64 → [[…] …], both absent when
empty; "executed/" ‖ u64 → {hash, app_hash}, until the block is appended; "validators/" ‖ hash → [validator …];
"consensus" → {height, base, signed_height, signed_hash, validators}.
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
_EXECUTED = b"executed/"
_VALIDATORS = b"validators/"
_POSITION = b"consensus"
_MAX_RECORD = 256 * 1024 * 1024
PRUNED_AT_ONCE = 16
CACHED_BLOCKS = 64
KEPT_EXECUTED = 16


@dataclass(frozen=True, slots=True)
class Executed:
    """What a block did, before its header and commit are here (rule 4). `hash` is the header's."""

    height: int
    hash: bytes
    txs: tuple[bytes, ...]
    results: tuple[ExecTxResult, ...]
    app_hash: bytes


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
        self._executed: dict[int, Executed] = {}
        self.position = Position()
        self.reload()

    def reload(self) -> None:
        """Read the position back from the store."""
        self._cache.clear()
        self._executed.clear()
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
        items += self._bodies(key, block.txs, block.results)
        items += self._set(block.header.validators_hash, block.validators)
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

    def append_executed(self, blocks: Sequence[Decided], *, retain_height: int = 0) -> None:
        """Write blocks whose bodies `put_executed` wrote. The caller holds the transaction."""
        for block in blocks:
            self.append(block, retain_height=retain_height)
            self._store.put_records([(_EXECUTED + block.height.to_bytes(8), None)])
            self._executed.pop(block.height, None)

    def put_executed(self, executed: Executed) -> None:
        """Rule 4. The caller holds the transaction in which the state is written."""
        key = executed.height.to_bytes(8)
        head: Value = {"hash": executed.hash, "app_hash": executed.app_hash}
        self._store.put_records(
            [(_EXECUTED + key, encode_trusted(head)), *self._bodies(key, executed.txs, executed.results)]
        )
        if len(self._executed) < KEPT_EXECUTED:
            self._executed[executed.height] = executed

    def executed(self, height: int) -> Executed:
        """Raises NoSuchBlock."""
        kept = self._executed.get(height)
        if kept is not None:
            return kept
        key = height.to_bytes(8)
        head = self._store.record(_EXECUTED + key)
        if head is None:
            raise NoSuchBlock("this block is not among those executed", height=height)
        items = fields.mapping(decode(head), "executed", ("hash", "app_hash"))
        return Executed(
            height,
            fields.octets(items["hash"], "hash", 32),
            *self._body(key),
            fields.octets(items["app_hash"], "app_hash", 32),
        )

    def start_after(self, height: int) -> None:
        """Rule 4, in the caller's transaction: the next block is `height` + 1, and none before it is here."""
        if self.position.height:
            raise StateMismatch("there are blocks already", height=self.position.height)
        self.position = Position(height, height + 1, height)
        self._store.put_records([(_POSITION, _encode_position(self.position))])

    def validators(self, validators_hash: bytes) -> tuple[Validator, ...] | None:
        """The set with this hash, as far as a block of it is here."""
        encoded = self._store.record(_VALIDATORS + validators_hash)
        return None if encoded is None else validators_from_value(decode(encoded, max_bytes=_MAX_RECORD))

    def _set(self, validators_hash: bytes, validators: tuple[Validator, ...]) -> list[tuple[bytes, bytes | None]]:
        """The record of a set that is not there yet."""
        if validators == self.position.validators or self._store.record(_VALIDATORS + validators_hash) is not None:
            return []
        return [(_VALIDATORS + validators_hash, encode_trusted([item.to_value() for item in validators]))]

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
        items = fields.mapping(decode(head, max_bytes=_MAX_RECORD), "block", ("header", "commit", "app_hash"))
        header = Header.from_value(items["header"])
        validators = self.validators(header.validators_hash)
        if validators is None:
            raise StateMismatch("a block's validators are missing from the store", height=height)
        return Decided(
            header,
            Commit.from_value(items["commit"]),
            *self._body(key),
            fields.octets(items["app_hash"], "app_hash", 32),
            validators,
        )

    def _body(self, key: bytes) -> tuple[tuple[bytes, ...], tuple[ExecTxResult, ...]]:
        txs = tuple(cast("list[bytes]", self._list(_TXS + key)))
        return txs, tuple(_result(item) for item in self._list(_RESULTS + key))

    def _bodies(
        self, key: bytes, txs: Sequence[bytes], results: Sequence[ExecTxResult]
    ) -> list[tuple[bytes, bytes | None]]:
        if not txs or self._store.record(_EXECUTED + key) is not None:
            return []
        return [
            (_TXS + key, encode_trusted(list(txs))),
            (_RESULTS + key, encode_trusted([_result_value(item) for item in results])),
        ]

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
