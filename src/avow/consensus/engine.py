"""What an engine is to those who stand on it: ordered blocks with their proofs, and a way in for transactions.

Rules:
1. A height that `height` names is durable here with header, commit, validators and results. The application's committed state is
   never behind it; with a distributed engine it may be a block or two ahead for the moment that a commit takes to arrive.
2. `submit` returns when the transaction is durable; a code other than 0 is the application's refusal.
3. Everything happens on one event loop's thread.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from avow.chain import abci
from avow.consensus.block import Decided
from avow.consensus.errors import EngineStopped
from avow.receipt.headers import SignedBlock, SignedHeader, Validator

OnBlock = Callable[[Decided], None]


class Engine(Protocol):
    """`EmbeddedEngine` and `CometBFTEngine`."""

    @property
    def height(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    def block(self, height: int) -> Decided: ...
    def signed_header(self, height: int) -> SignedHeader: ...
    def signed_block(self, height: int) -> SignedBlock: ...
    def validators(self, height: int) -> Sequence[Validator]: ...
    def results(self, height: int) -> Sequence[abci.ExecTxResult]: ...
    def on_block(self, listener: OnBlock) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def stopped(self) -> None: ...
    async def wait_height(self, height: int) -> None: ...
    async def submit(self, tx: bytes) -> abci.CheckTxResponse: ...


class HeightWaiters:
    """Those who wait for a height."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], int] = {}

    async def wait(self, height: int) -> None:
        """Returns when `reached` is told a height so great. Raises what `fail` is told. Cancelling is fine."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = height
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)

    def reached(self, height: int) -> None:
        for waiter, wanted in list(self._waiting.items()):
            if wanted <= height and not waiter.done():
                waiter.set_result(None)

    def fail(self, reason: str) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(EngineStopped("the engine has stopped", reason=reason))
