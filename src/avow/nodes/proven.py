"""The chain's state as its headers prove it: reads that a lying node of the chain cannot change.

Rules:
1. A value counts with its proof under a header's app hash, when that header follows from trusted ones (headers.py). Whoever shows
   another thing is left for the next address.
2. A view runs here, on proven values alone, all under one header: the module's own code, as every validator runs it.
3. No state is read that is older than one that was read before.
4. The genesis is the one whose hash the chain id is.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avow.chain.errors import BadGenesis, Code
from avow.chain.execution import MODULES, History, Machine
from avow.chain.genesis import Genesis
from avow.chain.host import ACCOUNT_PREFIX, Block, read_account, refusal
from avow.chain.state import Overlay
from avow.errors import EncodingError, InputError, VerificationError
from avow.nodes.chain_client import ChainClient, ChainUnavailable
from avow.nodes.headers import HeaderTrust, UnprovenHeader, header_trust
from avow.nodes.pin import policy_of
from avow.receipt import fields
from avow.receipt.encoding import decode, from_base64url
from avow.receipt.headers import SignedBlock, app_hash
from avow.receipt.merkle import SparseProof, sparse_root
from avow.receipt.trust import TrustPolicy

MAX_KEYS = 64
ROUNDS = 8
VIEW_GAS = 20_000_000
MAX_GENESIS = 8 * 1024 * 1024
MAX_VALUE = 1 << 20


class _Unread(Exception):
    """A view needs a key that was not read yet."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.key = key


@dataclass(slots=True)
class _Values:
    """Proven values, as the parent of an overlay."""

    values: dict[bytes, bytes | None]

    def get(self, key: bytes) -> bytes | None:
        try:
            return self.values[key]
        except KeyError:
            raise _Unread(key) from None

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        raise UnprovenHeader("a view that walks the state cannot be proven", prefix=prefix.hex())


async def open_proven(client: ChainClient, home: Path, chain: str, trust: str | None, *, name: str) -> "ProvenState":
    """The chain's state as a process in HOME judges it; `trust` is --trust, `name` that of its file under HOME.

    Raises ChainUnavailable, TrustNotPinned, InputError.
    """
    chain_id = (await client.network()).chain_id
    headers = header_trust(home, chain, chain_id, given=trust, now_ms=time.time_ns() // 1_000_000, name=name)
    return ProvenState(client, headers, chain_id)


class ProvenState:
    """Reads through `client`, judged by `headers`."""

    def __init__(self, client: ChainClient, headers: HeaderTrust, chain_id: str) -> None:
        self._client = client
        self._headers = headers
        self._chain_id = chain_id
        self._genesis: Genesis | None = None
        self._height = 0

    async def follow(self, block: SignedBlock) -> None:
        """Rule 1 for a header. Raises ChainUnavailable; the next address is asked then."""
        try:
            await self._headers.follow(block, self._client.signed_block, now_ns=time.time_ns())
        except VerificationError as error:
            raise self._lie(error) from error

    def _lie(self, error: Exception) -> ChainUnavailable:
        self._client.leave_node()
        reason = getattr(error, "code", type(error).__name__)
        return ChainUnavailable("the chain's node showed what does not follow from trusted headers", reason=reason)

    async def genesis(self) -> Genesis:
        """Rule 4; asked once."""
        if self._genesis is None:
            try:
                shown = from_base64url(await self._client.rpc("avow_genesis"), max_bytes=MAX_GENESIS)
                genesis = Genesis.from_bytes(shown)
                if genesis.chain_id != self._chain_id:
                    raise BadGenesis("the genesis is of another chain", expected=self._chain_id, found=genesis.chain_id)
            except InputError as error:
                raise self._lie(error) from error
            self._genesis = genesis
        return self._genesis

    async def policy(self) -> TrustPolicy:
        """What pins the network at its newest block."""
        genesis = await self.genesis()
        block = await self._client.signed_block((await self._client.status())["height"])
        await self.follow(block)
        return policy_of(genesis, block)

    async def read(self, keys: list[bytes]) -> tuple[dict[bytes, bytes | None], SignedBlock]:
        """The values of these keys, all under one header. Raises ChainUnavailable."""
        for _ in range(ROUNDS):
            values: dict[bytes, bytes | None] = {}
            blocks: dict[bytes, SignedBlock] = {}
            for key in keys:
                values[key], block = await self._read(key)
                blocks[block.header.app_hash] = block
            if len(blocks) == 1:
                [block] = blocks.values()
                return values, block
        raise ChainUnavailable("the chain's state changes faster than it can be read")

    async def _read(self, key: bytes) -> tuple[bytes | None, SignedBlock]:
        shown = await self._client.rpc("avow_prove", "0x" + key.hex())
        try:
            names = ("value", "proof", "history_root", "block")
            item = fields.mapping(decode(from_base64url(shown)), "proof", names)
            value = item["value"]
            found = None if value is None else fields.octets(value, "value", 0, MAX_VALUE)
            block = SignedBlock.from_value(item["block"])
            root = sparse_root(key, found, SparseProof.from_value(item["proof"]))
            if app_hash(root, fields.octets(item["history_root"], "history_root", 32)) != block.header.app_hash:
                raise UnprovenHeader("a value is not under the header's app hash")
            if block.header.height < self._height:
                raise UnprovenHeader("an older state than was read before", read=self._height)
        except (InputError, VerificationError) as error:
            raise self._lie(error) from error
        await self.follow(block)
        self._height = max(self._height, block.header.height)
        return found, block

    async def view(self, address: bytes, function: str, *arguments: Any, caller: bytes = bytes(20)) -> list[Any]:
        """Rule 2: a view's outputs. Raises Refused, ChainUnavailable."""
        genesis = await self.genesis()
        entry = MODULES[address].interface.functions[function]
        data = entry.encode_call(*arguments)
        keys: list[bytes] = []
        values: dict[bytes, bytes | None] = {}
        at = Block(0, genesis.time_ms)
        while len(keys) <= MAX_KEYS:
            machine = Machine(genesis, at, Overlay(_Values(values)), History(0))
            try:
                outcome = machine.call(caller, address, 0, data, VIEW_GAS, read_only=True)
            except _Unread as unread:
                keys.append(unread.key)
                values, block = await self.read(keys)
                at = Block(block.header.height, block.header.time_ns // 1_000_000)
                continue
            if outcome.code is not Code.OK:
                raise refusal(outcome.data) or EncodingError("the view fails", code=int(outcome.code))
            return entry.decode_output(outcome.data)
        raise EncodingError("the view reads too much of the state", keys=len(keys))

    async def balance(self, address: bytes) -> int:
        """Wei. Raises ChainUnavailable."""
        key = ACCOUNT_PREFIX + address
        values, _ = await self.read([key])
        return read_account(Overlay(_Values(values)), address)[1]
