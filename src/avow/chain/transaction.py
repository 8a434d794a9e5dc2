"""Ethereum transactions: legacy with replay protection (EIP-155) and dynamic fee (EIP-1559, type 2).

Rules:
1. A transaction is its bytes: one RLP encoding, every other refused; at most MAX_TRANSACTION bytes.
2. It names this chain. Legacy transactions without EIP-155's chain id would count on every chain and are refused.
3. The sender is recovered from the signature (secp256k1, s ≤ n/2: EIP-2). Its hash is keccak-256 of the bytes.
4. Contract creation needs the EVM and is refused here with a code of its own.
5. Quantities are bounded as Ethereum bounds them: nonce < 2^64 - 1 (EIP-2681), gas limit < 2^64, fees and value
   < 2^256, max priority fee ≤ max fee, and gas limit * max fee + value < 2^256.

Pure: signing is deterministic (RFC 6979).
"""

from dataclasses import dataclass
from enum import IntEnum

from coincurve import PrivateKey, PublicKey

from avow.chain import rlp
from avow.chain.errors import Code, TransactionRefused
from avow.errors import EncodingError
from avow.receipt.requester import address_of, keccak256

SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141  # SEC 2 §2.4.1
MAX_TRANSACTION = 512 * 1024
MAX_ACCESS_LIST = 1_024

# Gas before any call: Yellow Paper appendix G, EIP-2028 (data), EIP-2930 (access list).
GAS_TRANSACTION = 21_000
GAS_DATA_ZERO = 4
GAS_DATA_NONZERO = 16
GAS_ACCESS_ADDRESS = 2_400
GAS_ACCESS_STORAGE_KEY = 1_900


class TransactionType(IntEnum):
    """EIP-2718's numbers; LEGACY has no envelope."""

    LEGACY = 0
    DYNAMIC_FEE = 2


AccessList = tuple[tuple[bytes, tuple[bytes, ...]], ...]


def intrinsic_gas(data: bytes, access_list: AccessList = ()) -> int:
    """The gas of a transaction with this call data, before its call."""
    zeros = data.count(0)
    return (
        GAS_TRANSACTION
        + zeros * GAS_DATA_ZERO
        + (len(data) - zeros) * GAS_DATA_NONZERO
        + len(access_list) * GAS_ACCESS_ADDRESS
        + sum([len(storage) for _, storage in access_list]) * GAS_ACCESS_STORAGE_KEY
    )


@dataclass(frozen=True, slots=True)
class Transaction:
    """A decoded transaction and who sent it. Fees are wei per gas; for LEGACY both fees are its gas price."""

    kind: TransactionType
    chain_id: int
    nonce: int
    max_priority_fee: int
    max_fee: int
    gas_limit: int
    to: bytes
    value: int
    data: bytes
    access_list: AccessList
    y_parity: int
    r: int
    s: int
    sender: bytes
    intrinsic: int
    """What `intrinsic_gas` says of it: asked for several times in its life."""

    def intrinsic_gas(self) -> int:
        """What the transaction costs before its call."""
        return self.intrinsic

    def effective_gas_price(self, base_fee: int) -> int:
        """Wei per gas that the sender pays at this base fee (EIP-1559)."""
        return min(self.max_fee, base_fee + self.max_priority_fee)

    def max_cost(self) -> int:
        """The balance that the sender must have."""
        return self.gas_limit * self.max_fee + self.value

    @property
    def v(self) -> int:
        """The recovery value as JSON-RPC shows it."""
        return self.y_parity if self.kind else self.chain_id * 2 + 35 + self.y_parity


def transaction_hash(raw: bytes) -> bytes:
    """Rule 3's hash; 32 bytes."""
    return keccak256(raw)


def decode_transaction(raw: bytes, chain_id: int) -> Transaction:
    """The transaction that `raw` is on the chain with EIP-155 id `chain_id`. Raises TransactionRefused."""
    if len(raw) > MAX_TRANSACTION:
        raise TransactionRefused(
            Code.TOO_LARGE, f"oversized data: transaction size {len(raw)}, limit {MAX_TRANSACTION}"
        )
    try:
        if raw[:1] == b"\x02":
            return _dynamic_fee(raw[1:], chain_id)
        if raw and raw[0] >= 0xC0:
            return _legacy(rlp.decode(raw), chain_id)
    except EncodingError as error:
        raise TransactionRefused(Code.MALFORMED, f"rlp: {error.detail}") from None
    raise TransactionRefused(Code.MALFORMED, "transaction type not supported")


_LEGACY_KINDS: list[type] = [bytes] * 9
_DYNAMIC_FEE_KINDS: list[type] = [*[bytes] * 8, list, *[bytes] * 3]


def _fields(item: rlp.Item, kinds: list[type]) -> list[rlp.Item]:
    if not isinstance(item, list) or len(item) != len(kinds):
        raise TransactionRefused(Code.MALFORMED, f"a transaction of this type has {len(kinds)} fields")
    found = [*map(type, item)]
    if found != kinds:
        index = [one is other for one, other in zip(found, kinds, strict=True)].index(False)
        raise TransactionRefused(Code.MALFORMED, f"field {index} has the wrong kind")
    return item


def _legacy(item: rlp.Item, chain_id: int) -> Transaction:
    fields = _fields(item, _LEGACY_KINDS)
    v = rlp.to_integer(fields[6], 8)
    if v in (27, 28):
        raise TransactionRefused(Code.WRONG_CHAIN, "only replay-protected (EIP-155) transactions allowed over RPC")
    if v < 35 or (v - 35) // 2 != chain_id:
        raise TransactionRefused(Code.WRONG_CHAIN, f"invalid chain id for signer: have {(v - 35) // 2} want {chain_id}")
    signed = rlp.encode([*fields[:6], rlp.integer(chain_id), b"", b""])
    gas_price = rlp.to_integer(fields[1], 32)
    return _transaction(
        TransactionType.LEGACY,
        chain_id,
        (fields[0], gas_price, gas_price, fields[2], fields[3], fields[4], fields[5]),
        (),
        (v - 35) & 1,
        (fields[7], fields[8]),
        signed,
    )


def _dynamic_fee(body: bytes, chain_id: int) -> Transaction:
    fields = _fields(rlp.decode(body), _DYNAMIC_FEE_KINDS)
    found = rlp.to_integer(fields[0], 32)
    if found != chain_id:
        raise TransactionRefused(Code.WRONG_CHAIN, f"invalid chain id for signer: have {found} want {chain_id}")
    y_parity = rlp.to_integer(fields[9], 1)
    if y_parity > 1:
        raise TransactionRefused(Code.MALFORMED, "y parity is 0 or 1")
    return _transaction(
        TransactionType.DYNAMIC_FEE,
        chain_id,
        (
            fields[1],
            rlp.to_integer(fields[2], 32),
            rlp.to_integer(fields[3], 32),
            fields[4],
            fields[5],
            fields[6],
            fields[7],
        ),
        _access_list(fields[8]),
        y_parity,
        (fields[10], fields[11]),
        b"\x02" + rlp.first_items(body, 9),
    )


def _access_list(item: rlp.Item) -> AccessList:
    entries = item if isinstance(item, list) else []
    result = []
    total = 0
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2:
            raise TransactionRefused(Code.MALFORMED, "an access list entry is an address and its storage keys")
        address, keys = entry
        if not isinstance(address, bytes) or len(address) != 20 or not isinstance(keys, list):
            raise TransactionRefused(Code.MALFORMED, "an access list entry is an address and its storage keys")
        storage = [key for key in keys if isinstance(key, bytes) and len(key) == 32]
        total += 1 + len(keys)
        if len(storage) != len(keys) or total > MAX_ACCESS_LIST:
            raise TransactionRefused(Code.MALFORMED, "storage keys have 32 bytes and are few")
        result.append((address, tuple(storage)))
    return tuple(result)


def _transaction(
    kind: TransactionType,
    chain_id: int,
    body: tuple[rlp.Item, int, int, rlp.Item, rlp.Item, rlp.Item, rlp.Item],
    access_list: AccessList,
    y_parity: int,
    signature: tuple[rlp.Item, rlp.Item],
    signed: bytes,
) -> Transaction:
    """Rules 3 to 5 over the fields that both types share. `body`: nonce, priority fee, fee, gas, to, value, data."""
    nonce_item, max_priority_fee, max_fee, gas_item, to, value_item, data = body
    nonce, gas_limit = rlp.to_integer(nonce_item, 8), rlp.to_integer(gas_item, 8)
    value = rlp.to_integer(value_item, 32)
    if not isinstance(to, bytes) or not isinstance(data, bytes) or len(to) not in (0, 20):
        raise TransactionRefused(Code.MALFORMED, "the recipient is an address of 20 bytes")
    if not to:
        raise TransactionRefused(Code.NO_CREATION, "contract creation is not supported by this chain")
    if nonce >= (1 << 64) - 1:
        raise TransactionRefused(Code.MALFORMED, "nonce has max value")
    if max_priority_fee > max_fee:
        raise TransactionRefused(Code.MALFORMED, "max priority fee per gas higher than max fee per gas")
    if gas_limit * max_fee + value >= 1 << 256:
        raise TransactionRefused(Code.MALFORMED, "the transaction's cost is beyond 256 bits")
    r, s = rlp.to_integer(signature[0], 32), rlp.to_integer(signature[1], 32)
    return Transaction(
        kind=kind,
        chain_id=chain_id,
        nonce=nonce,
        max_priority_fee=max_priority_fee,
        max_fee=max_fee,
        gas_limit=gas_limit,
        to=to,
        value=value,
        data=data,
        access_list=access_list,
        y_parity=y_parity,
        r=r,
        s=s,
        sender=_recover(keccak256(signed), y_parity, r, s),
        intrinsic=intrinsic_gas(data, access_list),
    )


def _recover(digest: bytes, y_parity: int, r: int, s: int) -> bytes:
    """The signer's address. Raises TransactionRefused."""
    if not (0 < r < SECP256K1_ORDER and 0 < s <= SECP256K1_ORDER // 2):
        raise TransactionRefused(Code.BAD_SIGNATURE, "invalid transaction v, r, s values")
    signature = r.to_bytes(32) + s.to_bytes(32) + bytes((y_parity,))
    try:
        public = PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except ValueError:
        raise TransactionRefused(Code.BAD_SIGNATURE, "invalid sender: no key can have made this signature") from None
    return address_of(public.format(compressed=False))


def address_of_private_key(private_key: bytes) -> bytes:
    """The account of a secp256k1 private key (32 bytes)."""
    return address_of(PrivateKey(private_key).public_key.format(compressed=False))


def sign_transaction(
    private_key: bytes,
    *,
    chain_id: int,
    nonce: int,
    gas_limit: int,
    to: bytes,
    max_fee: int,
    max_priority_fee: int = 0,
    value: int = 0,
    data: bytes = b"",
) -> bytes:
    """The bytes of a signed dynamic fee transaction."""
    fields: list[rlp.Item] = [
        *(rlp.integer(number) for number in (chain_id, nonce, max_priority_fee, max_fee, gas_limit)),
        to,
        rlp.integer(value),
        data,
        [],
    ]
    digest = keccak256(b"\x02" + rlp.encode(fields))
    signature = PrivateKey(private_key).sign_recoverable(digest, hasher=None)
    tail: list[rlp.Item] = [
        rlp.integer(signature[64]),
        rlp.integer(int.from_bytes(signature[:32])),
        rlp.integer(int.from_bytes(signature[32:64])),
    ]
    return b"\x02" + rlp.encode([*fields, *tail])
