"""Whom a reader trusts. Nothing in a receipt can add to it.

Rules:
1. A policy pins a chain id, a validator set at a height and time, the attestation roots, and the methods accepted.
   `measurements` and `programs`, where given, narrow it further; empty means "whatever the chain allows". `stake` is the chain's rule
   for what an optimistic statement has to lock; without it a bond cannot be judged.
2. A signed block is anchored when its chain id is the pinned one, more than two thirds of its own validators signed it, and those are
   the pinned validators or carry more than a third of the pinned power (CometBFT, "Light client", skipping verification).
   So it is the pinned power that counts: a block's own set can be of anybody's making. Its signatures are looked at last.
3. Outside the trusting period around the pin, and once the pin itself is older than that, nothing is anchored: pin again, and
   refresh old receipts.

Pure: the reader's time comes in as a parameter.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from avow.errors import EncodingError, TooLarge, VerificationError
from avow.receipt import light
from avow.receipt.finality import MILLION, StakeRule
from avow.receipt.light import SignedBlock, Validator
from avow.receipt.statement import Method

VERSION = 1
MAX_POLICY = 1 << 20
DAY_MS = 24 * 3600 * 1000
ROOT_KINDS = ("nitro", "development")
_WEI = re.compile(r"0|[1-9][0-9]{0,38}")

T = TypeVar("T")


class BadPolicy(EncodingError):
    """The trust policy cannot be read."""

    code = "bad_policy"


class NotAnchored(VerificationError):
    """The pinned trust does not reach this block."""

    code = "not_anchored"


@dataclass(frozen=True, slots=True)
class AttestationRoot:
    """A certificate authority for enclaves. `kind` "development" means that it is software, not hardware."""

    name: str
    kind: str
    certificate: bytes


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """Rule 1. Times in milliseconds."""

    chain_id: str
    height: int
    time_ms: int
    validators: tuple[Validator, ...]
    trusting_period_ms: int = 14 * DAY_MS
    max_standing_age_ms: int = 10 * 60 * 1000
    methods: tuple[Method, ...] = (Method.VANILLA, Method.OPTIMISTIC, Method.TEE)
    attestation_roots: tuple[AttestationRoot, ...] = ()
    measurements: tuple[bytes, ...] = ()
    programs: tuple[bytes, ...] = field(default=())
    stake: StakeRule | None = None

    @property
    def fewest_to_forge(self) -> int:
        """How many of the pinned validators could together sign a block that rule 2 accepts; 1 where one alone could."""
        total, power = sum(validator.power for validator in self.validators), 0
        for count, validator in enumerate(light.sorted_validators(self.validators), 1):
            power += validator.power
            if power * 3 > total:
                return count
        return 0

    def check_anchor(self, block: SignedBlock, now_ms: int) -> None:
        """Rules 2 and 3.

        Raises NotAnchored (outside the trusting period), or the light client's errors.
        """
        header = block.header
        header_ms = header.time_ns // 1_000_000
        if now_ms > self.time_ms + self.trusting_period_ms:
            raise NotAnchored("the pinned trust is older than its trusting period", hint="pin the network again")
        if abs(header_ms - self.time_ms) > self.trusting_period_ms:
            raise NotAnchored(
                "the block is outside the trusting period of the pinned trust",
                hint="`avow receipts refresh` re-anchors an old receipt",
            )
        if header.chain_id != self.chain_id:
            raise light.WrongChain("the block is of another chain", expected=self.chain_id, found=header.chain_id)
        if block.validators != self.validators:
            light.verify_overlap(self.chain_id, self.validators, block.signed_header)
        light.verify_commit(self.chain_id, block.validators, block.signed_header)

    def root(self, fingerprint: bytes | None) -> AttestationRoot | None:
        """The pinned root with this SHA-256 of its certificate."""
        for root in self.attestation_roots:
            if hashlib.sha256(root.certificate).digest() == fingerprint:
                return root
        return None

    def to_json(self) -> bytes:
        return json.dumps(self._view(), indent=2, sort_keys=True).encode() + b"\n"

    def _view(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "chain_id": self.chain_id,
            "height": self.height,
            "time_ms": self.time_ms,
            "validators": [{"public_key": v.public_key.hex(), "power": v.power} for v in self.validators],
            "trusting_period_ms": self.trusting_period_ms,
            "max_standing_age_ms": self.max_standing_age_ms,
            "methods": [method.label for method in self.methods],
            "attestation_roots": [
                {"name": root.name, "kind": root.kind, "certificate": root.certificate.hex()}
                for root in self.attestation_roots
            ],
            "measurements": [measurement.hex() for measurement in self.measurements],
            "programs": [program.hex() for program in self.programs],
            **({} if self.stake is None else {"stake": _stake_view(self.stake)}),
        }

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises BadPolicy or TooLarge."""
        if len(data) > MAX_POLICY:
            raise TooLarge("the trust policy is too large", limit=MAX_POLICY)
        try:
            view = json.loads(data.decode("utf-8"))
            return cls._from_view(view)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise BadPolicy("the trust policy is not JSON") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadPolicy(f"the trust policy is malformed: {error}") from error

    @classmethod
    def _from_view(cls, view: Mapping[str, Any]) -> Self:
        if view["version"] != VERSION:
            raise BadPolicy("unknown version of the trust policy", hint="a newer avow may know it")
        unknown = sorted(set(view) - _MEMBERS)
        if unknown:
            raise BadPolicy(f"the trust policy has an unknown member {unknown[0]!r}")
        known = {method.label: method for method in Method}
        return cls(
            chain_id=_typed(view["chain_id"], str),
            height=_typed(view["height"], int),
            time_ms=_typed(view["time_ms"], int),
            validators=tuple(
                Validator(bytes.fromhex(item["public_key"]), _typed(item["power"], int)) for item in view["validators"]
            ),
            trusting_period_ms=_typed(view["trusting_period_ms"], int),
            max_standing_age_ms=_typed(view["max_standing_age_ms"], int),
            methods=tuple(known[label] for label in view["methods"]),
            attestation_roots=tuple(
                AttestationRoot(_typed(item["name"], str), _kind(item["kind"]), bytes.fromhex(item["certificate"]))
                for item in view["attestation_roots"]
            ),
            measurements=tuple(bytes.fromhex(item) for item in view.get("measurements", ())),
            programs=tuple(bytes.fromhex(item) for item in view.get("programs", ())),
            stake=_stake(view["stake"]) if "stake" in view else None,
        )


_MEMBERS = {
    "version",
    "chain_id",
    "height",
    "time_ms",
    "validators",
    "trusting_period_ms",
    "max_standing_age_ms",
    "methods",
    "attestation_roots",
    "measurements",
    "programs",
    "stake",
}


def _stake_view(stake: StakeRule) -> dict[str, Any]:
    return {
        "bond_floor": str(stake.bond_floor),
        "audit_ppm": stake.audit_ppm,
        "gain_factor": stake.gain_factor,
    }


def _stake(view: Mapping[str, Any]) -> StakeRule:
    """Wei as decimal text: it is more than what every reader of JSON holds as a number."""
    if set(view) != {"bond_floor", "audit_ppm", "gain_factor"}:
        raise BadPolicy("the rule for stakes has other members than its own")
    floor = _typed(view["bond_floor"], str)
    audit_ppm, gain_factor = _typed(view["audit_ppm"], int), _typed(view["gain_factor"], int)
    fits = _WEI.fullmatch(floor) and 1 <= audit_ppm <= MILLION and 1 <= gain_factor <= 1 << 40
    if not fits:
        raise BadPolicy("the rule for stakes is out of range")
    return StakeRule(int(floor), audit_ppm, gain_factor)


def _kind(value: Any) -> str:
    """A kind that is not known must not pass for hardware."""
    if value not in ROOT_KINDS:
        raise BadPolicy("unknown kind of attestation root", hint=f"one of {', '.join(ROOT_KINDS)}")
    return _typed(value, str)


def _typed(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{kind.__name__} expected")
    return value
