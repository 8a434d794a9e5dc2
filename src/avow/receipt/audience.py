"""Who may check an optimistic statement by running its program again: the statement's private part says so.

Rules:
1. `public`: anybody. `payer`: the payer alone. `watchers`: the payer, the network's appointed watchers, and the keys named.
2. Only `watchers` names keys; they are addresses in rising order, each once. Naming none leaves payer and appointed watchers: the
   default.
3. The node serves the openings to exactly those; on chain they may demand what it withholds (chain/modules/demands.py).

Pure: no clock, no randomness, no input or output.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from avow.receipt import fields
from avow.receipt.encoding import Value

MAX_KEYS = 16
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


class AudienceKind(StrEnum):
    PUBLIC = "public"
    PAYER = "payer"
    WATCHERS = "watchers"


@dataclass(frozen=True, slots=True)
class Audience:
    """Rule 1. `keys` are addresses of 20 bytes."""

    kind: AudienceKind = AudienceKind.WATCHERS
    keys: tuple[bytes, ...] = ()

    def to_value(self) -> dict[str, Value]:
        return {"kind": self.kind.value, "keys": list(self.keys)}

    @classmethod
    def from_value(cls, value: Value) -> Self:
        """Raises FieldError."""
        item = fields.mapping(value, "audience", ("kind", "keys"))
        kind = fields.text(item["kind"], "audience.kind", max_length=16)
        if kind not in (AudienceKind.PUBLIC, AudienceKind.PAYER, AudienceKind.WATCHERS):
            raise fields.FieldError("unknown audience", field="audience.kind")
        given = fields.array(item["keys"], "audience.keys", max_length=MAX_KEYS)
        keys = tuple([fields.octets(key, "audience.keys", 20) for key in given])
        if list(keys) != sorted(set(keys)):
            raise fields.FieldError(
                "the audience's keys are not in order, or one is there twice", field="audience.keys"
            )
        if keys and kind != AudienceKind.WATCHERS:
            raise fields.FieldError("only an audience of watchers names keys", field="audience.keys")
        return cls(AudienceKind(kind), keys)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From "public", "payer", or "watchers" and addresses after it: "watchers,0x…,0x…" in any order. Raises FieldError."""
        kind, *keys = text.split(",")
        if len(keys) > MAX_KEYS:
            raise fields.FieldError(f"an audience names at most {MAX_KEYS} keys", field="audience")
        if not all(_ADDRESS.fullmatch(key) for key in keys):
            raise fields.FieldError("an audience's keys are addresses, 0x and 40 hexadecimal digits", field="audience")
        named: list[Value] = [*sorted(bytes.fromhex(key[2:]) for key in keys)]
        return cls.from_value({"kind": kind, "keys": named})

    def to_text(self) -> str:
        """The inverse."""
        return ",".join((self.kind.value, *("0x" + key.hex() for key in self.keys)))

    def admits(self, address: bytes, *, payer: bytes, appointed: Collection[bytes]) -> bool:
        """Whether `address` is one of the audience. `appointed`: the network's watchers."""
        if self.kind is AudienceKind.PUBLIC or address == payer:
            return True
        return self.kind is AudienceKind.WATCHERS and (address in self.keys or address in appointed)
