"""`python -m tests.e2e.faulty`: a validator's process (avow.nodes.full) with the fault that HOME/fault.json asks for.

{"fail_index": 7, "kill_application": true}   the next CometBFT exits at its own crash point 7 (FAIL_TEST_INDEX), once
{"crash": "in commit"}                        this process is killed at a point of CRASHES, in the next block with transactions, once
{"byzantine": ["garbage", …], "then": […]}    whenever it proposes, it proposes the next of these kinds (byzantine.py), then of those,
                                              again and again

What happened is a line of JSON in HOME/faults.log. The product knows nothing of this: its classes are replaced here.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avow.chain import abci
from avow.chain.application import Application
from avow.chain.transaction import transaction_hash
from avow.consensus.cometbft import engine
from avow.consensus.cometbft.driver import Driver
from avow.consensus.cometbft.process import CometProcess
from avow.nodes import full
from tests.e2e import byzantine

CRASHES = ("before finalize", "after finalize", "before commit", "in commit", "after commit", "before publish")
FILE, LOG = "fault.json", "faults.log"


class Faults:
    """The fault of this process's home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def wanted(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads((self.home / FILE).read_bytes())
        return {}

    def note(self, **what: Any) -> None:
        with (self.home / LOG).open("a") as file:
            file.write(json.dumps(what) + "\n")

    def take(self, name: str) -> dict[str, Any] | None:
        """The fault, if it is of this name: not again."""
        found = self.wanted()
        if name not in found:
            return None
        (self.home / FILE).unlink()
        return found

    def crash(self, point: str) -> None:
        if self.wanted().get("crash") == point and self.take("crash") is not None:
            self.note(crash=point)
            os.kill(os.getpid(), signal.SIGKILL)


FAULTS = Faults(Path())


class FaultyApplication(Application):
    """Honest unless a byzantine fault is asked for; notes every proposal that it refuses."""

    kinds: Iterator[str] | None = None
    last: tuple[bytes, ...] = ()

    def prepare_proposal(self, request: abci.PrepareProposalRequest) -> abci.PrepareProposalResponse:
        wanted = FAULTS.wanted()
        if "byzantine" not in wanted:
            return super().prepare_proposal(request)
        if FaultyApplication.kinds is None:
            FaultyApplication.kinds = itertools.chain(wanted["byzantine"], itertools.cycle(wanted["then"]))
        kind = next(FaultyApplication.kinds)
        txs = byzantine.KINDS[kind](self, FaultyApplication.last)
        FAULTS.note(proposed=kind, height=request.height, txs=[transaction_hash(tx).hex() for tx in txs])
        return abci.PrepareProposalResponse(tuple(txs))

    def process_proposal(self, request: abci.ProcessProposalRequest) -> abci.ProcessProposalResponse:
        verdict = super().process_proposal(request)
        if FAULTS.wanted().get("byzantine"):
            return abci.ProcessProposalResponse(accept=True)
        if not verdict.accept:
            FAULTS.note(rejected=request.height, txs=[transaction_hash(tx).hex() for tx in request.txs])
        return verdict

    def finalize_block(self, request: abci.FinalizeBlockRequest) -> abci.FinalizeBlockResponse:
        if request.txs:
            FaultyApplication.last = request.txs
            FAULTS.crash("before finalize")
        response = super().finalize_block(request)
        if request.txs:
            FAULTS.crash("after finalize")
        return response

    def commit(self) -> abci.CommitResponse:
        response = super().commit()
        if FaultyDriver.busy:
            FAULTS.crash("in commit")  # written, and not yet durable: the driver's transaction is open
        return response


class FaultyDriver(Driver):
    """Crashes around Commit."""

    busy = False

    def _commit(self) -> abci.CommitResponse:
        FaultyDriver.busy = bool(self._executed and self._executed.txs)
        if FaultyDriver.busy:
            FAULTS.crash("before commit")
        response = super()._commit()
        if FaultyDriver.busy:
            FAULTS.crash("after commit")
        return response


async def run_once(self: CometProcess) -> int:
    """CometBFT with its crash point, if one is asked for."""
    wanted = FAULTS.take("fail_index")
    if wanted is None:
        return await _run_once(self)
    os.environ["FAIL_TEST_INDEX"] = str(wanted["fail_index"])
    try:
        status = await _run_once(self)
    finally:
        del os.environ["FAIL_TEST_INDEX"]
    FAULTS.note(fail_index=wanted["fail_index"], status=status)
    if wanted.get("kill_application"):
        os.kill(os.getpid(), signal.SIGKILL)
    return status


def tell(self: engine.CometBFTEngine, blocks: Any) -> None:
    if any(block.txs for block in blocks):
        FAULTS.crash("before publish")
    _tell(self, blocks)


_run_once = CometProcess._run_once
_tell = engine.CometBFTEngine._tell


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--home", type=Path, required=True)
    FAULTS.home = parser.parse_known_args()[0].home
    full.Application = FaultyApplication
    engine.Driver = FaultyDriver
    CometProcess._run_once = run_once
    engine.CometBFTEngine._tell = tell
    full.main()


if __name__ == "__main__":
    main()
