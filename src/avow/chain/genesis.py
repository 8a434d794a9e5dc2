"""The first state of a network, from which its name follows.

Rules:
1. A genesis is canonical CBOR. Its digest is SHA-256 over that encoding without the member `chain_id`.
2. The chain id is "avow-" and the first 16 hex digits of the digest; the EIP-155 id is the digest's first 52 bits. So two
   networks with different rules, money or keys cannot have the same name, and no signature counts on both.
3. Everything that a full node's verdict depends on and that is not in a block stands here: gas price, heartbeat, windows,
   attestation roots, the governance account, what optimistic statements put at stake.

Pure: no clock, no randomness, no input or output.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Self

from avow.chain.errors import BadGenesis
from avow.errors import InputError
from avow.receipt import fields
from avow.receipt.encoding import Value, decode, encode
from avow.receipt.finality import OptimisticParameters
from avow.receipt.requester import eip155_chain_id

VERSION = 1
MAX_GENESIS = 1024 * 1024
HOUR_MS = 3_600_000
MAX_BALANCE = (1 << 128) - 1
"""The sum of all balances is held below 2^128, so that no sum of amounts can pass 2^256."""


@dataclass(frozen=True, slots=True)
class AllowedMeasurement:
    """Keys with `measurement` may run `program` (None: any) from `from_ms` until `until_ms` (None: no end)."""

    measurement: bytes
    program: bytes | None
    from_ms: int
    until_ms: int | None


@dataclass(frozen=True)
class Genesis:
    """Times and windows in milliseconds, money in wei, gas prices in wei per gas.

    `accounts` are (address, balance), `validators` (Ed25519 public key, power). `treasury` receives the gas fees.
    `validators_fixed`: nobody changes the validators, as with the embedded engine; it is encoded only where it holds.
    `settlement_window_ms`: a statement that ended longer ago is overdue and settles no more. `retain_blocks` 0 keeps all.
    """

    time_ms: int
    governance: bytes
    treasury: bytes
    accounts: tuple[tuple[bytes, int], ...]
    validators: tuple[tuple[bytes, int], ...] = ()
    attestation_roots: tuple[bytes, ...] = ()
    measurements: tuple[AllowedMeasurement, ...] = ()
    base_fee: int = 1_000_000_000
    block_gas_limit: int = 100_000_000
    block_max_bytes: int = 4 * 1024 * 1024
    heartbeat_ms: int = 10_000
    settlement_window_ms: int = 24 * HOUR_MS
    price_grace_ms: int = 10 * 60_000
    registration_window_ms: int = 10 * 60_000
    clock_slack_ms: int = 5_000
    retain_blocks: int = 0
    validators_fixed: bool = False
    optimistic: OptimisticParameters = OptimisticParameters()  # noqa: RUF009 - frozen

    @cached_property
    def chain_id(self) -> str:
        return "avow-" + sha256(encode(self._value())).hexdigest()[:16]

    @cached_property
    def eip155(self) -> int:
        """The chain id as Ethereum's transactions carry it, below 2^52."""
        return eip155_chain_id(self.chain_id)

    def to_bytes(self) -> bytes:
        return encode({**self._value(), "chain_id": self.chain_id})

    def _value(self) -> dict[str, Value]:
        return {
            "version": VERSION,
            "time_ms": self.time_ms,
            "governance": self.governance,
            "treasury": self.treasury,
            "accounts": [[address, balance.to_bytes(16)] for address, balance in self.accounts],
            "validators": [[public_key, power] for public_key, power in self.validators],
            "attestation_roots": list(self.attestation_roots),
            "measurements": [
                [item.measurement, item.program, item.from_ms, item.until_ms] for item in self.measurements
            ],
            "optimistic": self.optimistic.to_value(),
            **{name: getattr(self, name) for name in _NUMBERS},
            **({_FIXED: True} if self.validators_fixed else {}),
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises BadGenesis."""
        try:
            value = decode(data, max_bytes=MAX_GENESIS)
            item = fields.mapping(value, "genesis", _NAMES, (_FIXED,))
            if item.get(_FIXED, True) is not True:
                raise fields.FieldError("validators are fixed, or it is not said", field=_FIXED)
            fields.version(item["version"], "genesis", VERSION)
            genesis = cls(
                governance=fields.octets(item["governance"], "governance", 20),
                treasury=fields.octets(item["treasury"], "treasury", 20),
                accounts=_accounts(item["accounts"]),
                validators=_validators(item["validators"]),
                attestation_roots=tuple(
                    fields.octets(root, "root", 1, 4096)
                    for root in fields.array(item["attestation_roots"], "attestation_roots", max_length=64)
                ),
                measurements=tuple(
                    _measurement(entry) for entry in fields.array(item["measurements"], "measurements", max_length=1024)
                ),
                validators_fixed=_FIXED in item,
                optimistic=OptimisticParameters.from_value(item["optimistic"]),
                **{name: fields.integer(item[name], name, maximum=1 << 53) for name in ("time_ms", *_NUMBERS)},
            )
            stated = fields.text(item["chain_id"], "chain_id", max_length=32)
        except InputError as error:
            raise BadGenesis(error.detail) from error
        if stated != genesis.chain_id:
            raise BadGenesis("the chain id does not belong to this genesis", stated=stated, found=genesis.chain_id)
        return genesis


_FIXED = "validators_fixed"
_NUMBERS = (
    "base_fee",
    "block_gas_limit",
    "block_max_bytes",
    "heartbeat_ms",
    "settlement_window_ms",
    "price_grace_ms",
    "registration_window_ms",
    "clock_slack_ms",
    "retain_blocks",
)
_NAMES = (
    "version",
    "chain_id",
    "time_ms",
    "governance",
    "treasury",
    "accounts",
    "validators",
    "attestation_roots",
    "measurements",
    "optimistic",
    *_NUMBERS,
)


def _pair(value: Value, field: str) -> list[Value]:
    pair = fields.array(value, field, max_length=2)
    if len(pair) != 2:
        raise fields.FieldError(f"{field} is not a pair", field=field)
    return pair


def _accounts(value: Value) -> tuple[tuple[bytes, int], ...]:
    accounts = []
    for item in fields.array(value, "accounts", max_length=10_000):
        address, balance = _pair(item, "account")
        balance_bytes = fields.octets(balance, "balance", 16)
        accounts.append((fields.octets(address, "address", 20), int.from_bytes(balance_bytes)))
    if [address for address, _ in accounts] != sorted({address for address, _ in accounts}):
        raise fields.FieldError("accounts are not in order, or one is there twice", field="accounts")
    if sum([balance for _, balance in accounts]) > MAX_BALANCE:
        raise fields.FieldError("more money than 2^128", field="accounts")
    return tuple(accounts)


def _validators(value: Value) -> tuple[tuple[bytes, int], ...]:
    validators = []
    for item in fields.array(value, "validators", max_length=1000):
        public_key, power = _pair(item, "validator")
        validators.append(
            (fields.octets(public_key, "public_key", 32), fields.integer(power, "power", maximum=1 << 53))
        )
    return tuple(validators)


def _measurement(value: Value) -> AllowedMeasurement:
    parts = fields.array(value, "measurement", max_length=4)
    if len(parts) != 4:
        raise fields.FieldError("a measurement's entry has four parts", field="measurement")
    measurement, program, from_ms, until_ms = parts
    return AllowedMeasurement(
        measurement=fields.octets(measurement, "measurement", 32),
        program=None if program is None else fields.octets(program, "program", 32),
        from_ms=fields.integer(from_ms, "from_ms", maximum=fields.MAX_TIME_MS),
        until_ms=None if until_ms is None else fields.integer(until_ms, "until_ms", maximum=fields.MAX_TIME_MS),
    )
