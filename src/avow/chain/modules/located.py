"""A settled statement, shown to the chain again: its columns, the hash of its private part, and its place under its batch's root.

The chain keeps nothing per statement; who disputes one shows what the batch held.
"""

from dataclasses import dataclass
from typing import Self

from avow.receipt import fields, merkle
from avow.receipt.encoding import Value
from avow.receipt.finality import BatchRecord
from avow.receipt.merkle import NotIncluded
from avow.receipt.statement import Columns, Method, statement_hash

MAX_PATH = 12
"""Siblings in a tree of 4,096 leaves."""
_SETTLED = b"\x00"


@dataclass(frozen=True, slots=True)
class Located:
    """`path`: from the leaf, statement hash ‖ 00, up to the batch's root."""

    columns: Columns
    private: bytes
    path: tuple[bytes, ...]

    def hash(self) -> bytes:
        return statement_hash(self.columns.pack(), self.private)

    def check(self, batch: BatchRecord, first: int) -> bytes:
        """The statement's hash, once it is shown to have settled in this batch. Raises NotIncluded."""
        if self.columns.method is not Method.OPTIMISTIC:
            raise NotIncluded("the statement is not an optimistic one")
        statement = self.hash()
        index = self.columns.number - first
        if merkle.root_from_path(statement + _SETTLED, index, batch.count, self.path) != batch.root:
            raise NotIncluded("the statement did not settle in this batch")
        return statement

    def to_value(self) -> dict[str, Value]:
        return {"columns": self.columns.to_value(), "private": self.private, "path": list(self.path)}

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """Raises FieldError."""
        item = fields.mapping(value, "statement", ("columns", "private", "path"))
        path = fields.array(item["path"], "path", max_length=MAX_PATH)
        return cls(
            Columns.from_value(item["columns"]),
            fields.octets(item["private"], "private", 32),
            tuple([fields.octets(sibling, "path", 32) for sibling in path]),
        )
