"""What a verification says: named checks in a fixed order, and the verdict that they add up to.

The table `VERDICT` is literal: each check × outcome gives a verdict, and the receipt's is the worst of them.
"""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    PASS = "pass"  # noqa: S105 (a verdict, not a password)
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


class Verdict(StrEnum):
    """From best to worst. Only the first two are acceptance."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    UNANCHORED = "unanchored"
    FAIL = "fail"


class CheckName(StrEnum):
    """The checks, in their order. From `trace` to `recomputed`, and `finality`, are in reports on optimistic statements only."""

    CHAIN = "chain"
    STATEMENT = "statement"
    SIGNATURE = "signature"
    ANCHOR = "anchor"
    STANDING = "standing"
    ATTESTATION = "attestation"
    METHOD = "method"
    TRACE = "trace"
    ENDS = "ends"
    AUDIENCE = "audience"
    BOND = "bond"
    PROCESSING = "processing"
    RECOMPUTED = "recomputed"
    PROGRAM = "program"
    ENGINE = "engine"
    REQUEST = "request"
    EFFECTIVE = "effective"
    RESPONSE = "response"
    STREAM = "stream"
    FRESHNESS = "freshness"
    REQUESTER = "requester"
    PAYMENT = "payment"
    SETTLEMENT = "settlement"
    FINALITY = "finality"
    REQUIRED = "required"


_P, _W, _U, _F = Verdict.PASS, Verdict.WARN, Verdict.UNANCHORED, Verdict.FAIL

#                           pass warn fail skipped
_ROWS: dict[CheckName, tuple[Verdict, Verdict, Verdict, Verdict]] = {
    CheckName.CHAIN: (_P, _W, _F, _U),
    CheckName.STATEMENT: (_P, _W, _F, _F),
    CheckName.SIGNATURE: (_P, _W, _F, _F),
    CheckName.ANCHOR: (_P, _W, _F, _U),
    CheckName.STANDING: (_P, _W, _F, _U),
    CheckName.ATTESTATION: (_P, _W, _F, _P),
    CheckName.METHOD: (_P, _W, _F, _U),
    CheckName.TRACE: (_P, _W, _F, _P),
    CheckName.ENDS: (_P, _W, _F, _P),
    CheckName.AUDIENCE: (_P, _W, _F, _P),
    CheckName.BOND: (_P, _W, _F, _W),
    CheckName.PROCESSING: (_P, _W, _F, _P),
    CheckName.RECOMPUTED: (_P, _W, _F, _P),
    CheckName.PROGRAM: (_P, _W, _F, _P),
    CheckName.ENGINE: (_P, _W, _F, _P),
    CheckName.REQUEST: (_P, _W, _F, _P),
    CheckName.EFFECTIVE: (_P, _W, _F, _P),
    CheckName.RESPONSE: (_P, _W, _F, _P),
    CheckName.STREAM: (_P, _W, _F, _P),
    CheckName.FRESHNESS: (_P, _W, _F, _P),
    CheckName.REQUESTER: (_P, _W, _F, _P),
    CheckName.PAYMENT: (_P, _W, _F, _P),
    CheckName.SETTLEMENT: (_P, _W, _F, _W),
    CheckName.FINALITY: (_P, _W, _F, _W),
    CheckName.REQUIRED: (_P, _W, _F, _P),
}
_ORDER = (Outcome.PASS, Outcome.WARN, Outcome.FAIL, Outcome.SKIPPED)

VERDICT: dict[tuple[CheckName, Outcome], Verdict] = {
    (name, outcome): verdict for name, row in _ROWS.items() for outcome, verdict in zip(_ORDER, row, strict=True)
}

_WORST = (Verdict.FAIL, Verdict.UNANCHORED, Verdict.WARN, Verdict.PASS)


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


@dataclass(frozen=True, slots=True)
class Check:
    """One check's outcome, with a sentence for people and, for a failure, the stable code of its cause."""

    name: CheckName
    outcome: Outcome
    detail: str
    code: str = ""

    def __post_init__(self) -> None:
        """Receipts are written by strangers: what is no visible character is shown as its escape, never sent to a terminal."""
        if not self.detail.isprintable():
            object.__setattr__(self, "detail", "".join(map(_visible, self.detail)))

    def as_json(self) -> dict[str, str]:
        view = {"name": self.name.value, "outcome": self.outcome.value, "detail": self.detail}
        return view | {"code": self.code} if self.code else view


@dataclass(frozen=True, slots=True)
class Report:
    """The verification of one receipt."""

    receipt: str
    checks: tuple[Check, ...]
    not_proven: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        found = {VERDICT[check.name, check.outcome] for check in self.checks}
        return next(verdict for verdict in _WORST if verdict in found)

    @property
    def ok(self) -> bool:
        """Whether a reader may rely on it: verdict pass or warn."""
        return self.verdict in (Verdict.PASS, Verdict.WARN)

    def __getitem__(self, name: str) -> Check:
        """The check of that name. Raises KeyError."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def as_json(self) -> dict[str, object]:
        return {
            "verdict": self.verdict.value,
            "receipt": self.receipt,
            "checks": [check.as_json() for check in self.checks],
            "not_proven": list(self.not_proven),
        }
