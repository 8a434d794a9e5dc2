"""What a watcher reads from the chain, and the moves that it makes there.

Rules:
1. Batches come from Posted events and the transactions behind them; the record of a batch (root, deadline) is taken only with its proof
   under a header that follows from trusted ones, so that no node of the chain can make the watcher challenge what never settled.
2. Moves are made from the watcher's account. What the chain refuses is told by its code.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from avow.chain import abi
from avow.chain.errors import Code, Refused
from avow.chain.modules import optimistic, settlement
from avow.chain.modules.batch import Batch, leaves
from avow.chain.modules.challenges import commitment
from avow.chain.modules.life import State
from avow.chain.modules.located import Located
from avow.errors import EncodingError, InputError, VerificationError
from avow.nodes.chain_client import ChainClient, ChainUnavailable, OptimisticRules, function_of
from avow.nodes.headers import HeaderTrust
from avow.nodes.watcher.errors import BondMissing
from avow.receipt import merkle
from avow.receipt.finality import BatchRecord
from avow.receipt.statement import Columns, Method

GAS_OF_MOVES = 4_000_000
"""A commitment, the reveal of the largest proof, and the claim of the reward."""


@dataclass(frozen=True, slots=True)
class Posted:
    """A settled batch of optimistic statements. `deadline`: of the window clock, in milliseconds."""

    key: bytes
    operator: bytes
    first: int
    count: int
    deadline: int
    height: int
    transaction: bytes


@dataclass(frozen=True, slots=True)
class Overturned:
    """Who overturned a statement; `winner` empty while nobody has."""

    winner: bytes = b""
    won: int = 0
    paid: bool = False


class Settlements:
    """`client` belongs to the watcher's account."""

    def __init__(self, client: ChainClient, chain_id: str, headers: HeaderTrust | None = None) -> None:
        self._client = client
        self._headers = headers or HeaderTrust(chain_id)
        self.chain_id = chain_id
        self.address = client.address

    async def rules(self) -> OptimisticRules:
        return await self._client.optimistic()

    async def height(self) -> int:
        return int((await self._client.status())["height"])

    async def balance(self) -> int:
        return await self._client.balance(self.address)

    async def check_funds(self, bond: int) -> None:
        """That the account can pay a bond and what the moves that follow cost. Raises BondMissing."""
        price = int(await self._client.rpc("eth_gasPrice"), 16)
        needed, balance = bond + GAS_OF_MOVES * price, await self.balance()
        if balance < needed:
            raise BondMissing(
                f"the account 0x{self.address.hex()} holds {balance} wei, and a bond and its transactions take {needed}",
                hint=f"send it {needed - balance} wei or more before the window is over",
            )

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def posted(self, from_height: int, to_height: int) -> list[Posted]:
        """The batches that settled in these blocks, both ends included."""
        logs = await self._client.logs(settlement.ADDRESS, "Posted", from_height, to_height)
        found = []
        for log in logs:
            first, count, deadline, _locked = log.values
            key, operator = log.indexed[0], log.indexed[1][-20:]
            found.append(Posted(key, operator, int(first), int(count), int(deadline), log.height, log.transaction))
        return found

    async def beacon(self, height: int) -> bytes:
        """The hash of the block at a height."""
        block = await self._client.rpc("eth_getBlockByNumber", hex(height), False)
        if not isinstance(block, dict):
            raise ChainUnavailable("the chain's node does not have a block that it should have", height=height)
        return bytes.fromhex(block["hash"][2:])

    async def statements(self, posted: Posted) -> list[Located]:
        """The statements of a batch that settled (not the void ones), each with its place. Raises EncodingError."""
        shown = await self._client.rpc("eth_getTransactionByHash", "0x" + posted.transaction.hex())
        if not isinstance(shown, dict):
            raise ChainUnavailable("the chain's node does not have a transaction that it should have")
        data = bytes.fromhex(shown["input"][2:])
        settle = function_of(settlement.ADDRESS, "settle")
        if data[:4] != settle.selector:
            raise EncodingError("a batch that was posted is in no settlement transaction")
        [encoded] = abi.decode([parameter.kind for parameter in settle.inputs], data[4:])
        batch = Batch.from_bytes(encoded)
        columns = [_columns(batch, index) for index in range(len(batch))]
        bare = [Located(item, private, ()) for item, private in zip(columns, batch.private, strict=True)]
        tree = merkle.tree(leaves([item.hash() for item in bare], batch.void))
        return [
            Located(item.columns, item.private, tuple(merkle.path_in(tree, index)))
            for index, item in enumerate(bare)
            if not batch.void[index]
        ]

    async def batch(self, key: bytes, first: int) -> BatchRecord | None:
        """Rule 1's record; None while its proof is not there yet."""
        proof = await self._client.finality(key, first)
        if proof is None:
            return None
        try:
            await self._headers.follow(proof.block, self._client.signed_block, now_ns=time.time_ns())
            return proof.check_membership(key)
        except VerificationError as error:
            self._client.leave_node()
            raise ChainUnavailable("the chain's node showed a record that does not hold", reason=error.code) from error

    async def overturned(self, statement: bytes) -> Overturned:
        state, _, _, _, winner, won, paid = await self._client.view(optimistic.ADDRESS, "statementOf", statement)
        if state != State.OVERTURNED:
            return Overturned()
        return Overturned(winner, int(won), bool(paid))

    # --- Demands ----------------------------------------------------------------------------------------------------

    async def posed(self, key: bytes, statement: bytes, asked: bytes, from_height: int) -> bytes | None:
        """The id of a demand of ours for this, if it was posed."""
        for log in await self._client.logs(optimistic.ADDRESS, "Demanded", from_height, indexed=(key,)):
            _number, found, *_, what = log.values
            if found == statement and what == asked and log.indexed[2][-20:] == self.address:
                return log.indexed[1]
        return None

    async def demand(self, data: bytes, bond: int) -> None:
        """Raises Refused."""
        await self._client.transact(optimistic.ADDRESS, "demand", data, value=bond)

    async def answer(self, key: bytes, demand: bytes, from_height: int) -> bytes | None:
        """What was answered to a demand, if it was."""
        for log in await self._client.logs(optimistic.ADDRESS, "Answered", from_height, indexed=(key, demand)):
            return bytes(log.values[1])
        return None

    async def last_answer(self, demand: bytes) -> tuple[int, int] | None:
        """Height and clock until both of which a demand may be answered; None when it waits no more."""
        demander, _, _, height, clock, _ = await self._client.view(optimistic.ADDRESS, "demandOf", demand)
        return (int(height), int(clock)) if any(demander) else None

    async def expire(self, demand: bytes) -> bool:
        """Whether the demand's time was over; what it overturns is `overturned`'s to say."""
        return await self._moved("expire", (Code.ANSWER_OPEN,), demand)

    # --- Challenges -------------------------------------------------------------------------------------------------

    def commitment(self, evidence: bytes, salt: bytes) -> bytes:
        return commitment(self.chain_id, self.address, salt, evidence)

    async def commit(self, key: bytes, first: int, evidence: bytes, salt: bytes, bond: int) -> None:
        """Raises Refused; a commitment that is there already is none."""
        try:
            committed = self.commitment(evidence, salt)
            await self._client.transact(optimistic.ADDRESS, "commit", key, first, committed, value=bond)
        except Refused as refused:
            if refused.reason is not Code.CHALLENGE_EXISTS:
                raise

    async def committed(self, evidence: bytes, salt: bytes) -> bool:
        """Whether the commitment waits for its reveal."""
        committed = self.commitment(evidence, salt)
        key, *_ = await self._client.view(optimistic.ADDRESS, "challengeOf", self.address, committed)
        return any(key)

    async def prove(self, evidence: bytes, salt: bytes) -> State | None:
        """What became of the challenge; None while it is too early. Raises Refused."""
        try:
            included = await self._client.transact(optimistic.ADDRESS, "prove", evidence, salt)
        except Refused as refused:
            if refused.reason is Code.CHALLENGE_TOO_EARLY:
                return None
            raise
        [state] = function_of(optimistic.ADDRESS, "prove").decode_output(included.output)
        return State(state)

    async def reward(self, statement: bytes) -> bool:
        """Whether it is paid now, to whom it belongs."""
        return await self._moved("reward", (Code.REWARD_WAITS, Code.REWARD_UNKNOWN), statement)

    async def finalise(self, key: bytes, first: int) -> bool:
        return await self._moved("finalise", (Code.WINDOW_OPEN, Code.DISPUTE_WAITS, Code.BATCH_FINAL), key, first)

    async def _moved(self, function: str, waits: Sequence[Code], *arguments: bytes | int) -> bool:
        try:
            await self._client.transact(optimistic.ADDRESS, function, *arguments)
        except Refused as refused:
            if refused.reason in waits:
                return False
            raise
        return True


def _columns(batch: Batch, index: int) -> Columns:
    try:
        return Columns(
            number=batch.first + index,
            program=batch.programs[batch.program[index]],
            payer=batch.payers[batch.payer[index]],
            method=Method.OPTIMISTIC,
            units=batch.units[index],
            amount=batch.amounts[index],
            price_version=batch.prices[index],
            ended_ms=batch.ended_ms[index],
            trace=batch.trace[index],
            terms=batch.terms[index],
        )
    except IndexError:
        raise InputError("a batch that was posted holds no traces") from None
