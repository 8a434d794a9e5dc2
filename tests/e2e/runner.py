"""Runs a manifest: a network under load, perturbed step by step, looked at all the time, and audited at the end.

A run fails (`Outcome.violations`) when two validators disagree, a validator is not back in time, a transaction is lost or doubled, counters or
money do not add up, or a receipt does not verify with the policy that was pinned at the start.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import avow
from avow.chain.genesis import Genesis
from avow.errors import AvowError
from avow.nodes.net.layout import BLOCK, MAX_VALIDATORS, RELAYS, NetConfig, create
from avow.nodes.net.run import Net
from avow.receipt.trust import TrustPolicy
from tests.chain.harness import account
from tests.e2e.load import Load
from tests.e2e.manifest import AWAY_S, RETURN_S, Kind, Manifest, Perturbation
from tests.e2e.watch import Watch
from tests.patience import patient_s

log = logging.getLogger(__name__)

BETWEEN_S = 3.0
"""A network rests so long between two perturbations, as CometBFT's runner lets it."""
GIVE_UP_S = 120.0
BEHIND = 2
"""A validator is at the others' height when it is not further behind than this: blocks go on being made."""


@dataclass
class Done:
    """`answered_s`, `returned_s`: from the validator's return to its first answer, and to the others' height."""

    what: Perturbation
    answered_s: float
    returned_s: float


@dataclass
class Outcome:
    manifest: Manifest
    done: list[Done] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def to_value(self) -> dict[str, Any]:
        kinds: dict[str, dict[str, Any]] = {}
        for kind in Kind:
            found = [done for done in self.done if done.what.kind is kind]
            if found:
                returned = [done.returned_s for done in found]
                kinds[kind] = {
                    "count": len(found),
                    "answered_s_max": round(max(done.answered_s for done in found), 2),
                    "returned_s_p50": round(statistics.median(returned), 2),
                    "returned_s_max": round(max(returned), 2),
                }
        return {
            "manifest": self.manifest.to_value(),
            "perturbations": len(self.done),
            "kinds": kinds,
            "violations": self.violations,
            **self.figures,
        }


def free_ports(validators: int) -> int:
    """The first of the ports that a network with relays takes."""
    for _ in range(100):
        first = random.randrange(10_000, 19_000, 100)
        wanted = [first + BLOCK * index + offset for index in range(validators) for offset in range(3)]
        wanted += [first + RELAYS + MAX_VALIDATORS * a + b for a in range(validators) for b in range(validators)]
        with contextlib.ExitStack() as stack:
            try:
                for port in wanted:
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise RuntimeError("no free ports")


class Run:
    """One network, from its making to its audit."""

    def __init__(self, manifest: Manifest, home: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.manifest, self.home, self.say = manifest, home, say
        self.outcome = Outcome(manifest)
        names = ["operator", "payer", "byzantine", *[f"sender {number}" for number in range(manifest.senders)]]
        self.layout = create(
            NetConfig(
                home,
                validators=manifest.validators,
                port=free_ports(manifest.validators),
                heartbeat_ms=manifest.heartbeat_ms,
                relay=manifest.validators > 1,
                mempool_type=manifest.mempool,
                accounts=tuple([account(name) for name in names]),
                retain_blocks=manifest.retain_blocks,
            )
        )
        self.net = Net(home, snapshot_interval=manifest.snapshot_interval)
        urls = [f"http://127.0.0.1:{place.rpc_port}" for place in self.layout.validators]
        self.watch = Watch(urls)
        self.load = Load(urls, manifest.seed, manifest.senders, manifest.batch)
        self.policy: TrustPolicy | None = None

    async def steps(self, steps: int, perturbations: int = 0, until_s: float = 0.0) -> None:
        """`steps` of the manifest; fewer when `perturbations` are done, or the monotonic clock is past `until_s`."""
        for number, step in zip(range(steps), self.manifest.steps(), strict=False):
            for what in step:
                await self._perturb(number, what)
            if not step:
                await asyncio.sleep(1.0)
            enough = perturbations and len(self.outcome.done) >= perturbations
            if enough or (until_s and time.monotonic() > until_s):
                break

    async def run(self, course: Callable[[], Awaitable[None]]) -> Outcome:
        """Start the network and the load, let `course` take its way, and audit."""
        started = time.monotonic()
        try:
            await self.net.start()
            self.watch.start()
            self.policy = await self.load.clients[0].trust()
            await self.load.start()
            await course()
            await self._audit()
        except Exception as error:  # the run's verdict, not an end without one
            log.exception("the run ended early")
            self.outcome.violations.append(f"{type(error).__name__}: {error}")
        finally:
            self._figures(time.monotonic() - started)
            await self.load.close()
            await self.watch.stop()
            await self.net.stop()
        return self.outcome

    # --- Perturbations ----------------------------------------------------------------------------------------------

    async def command(self, command: str, validator: int, **more: Any) -> Any:
        return await self.net._answer({"command": command, "validator": str(validator), **more})

    async def _perturb(self, step: int, what: Perturbation) -> None:
        await self._befall(what)
        answered_s, returned_s = await self.returns(what.validator)
        self.outcome.done.append(Done(what, answered_s, returned_s))
        count = len(self.outcome.done)
        self.say(f"step {step}, {count}: {what}: answers after {answered_s:.1f} s, back after {returned_s:.1f} s")
        if returned_s > RETURN_S:
            self.outcome.violations.append(f"{what}: back after {returned_s:.1f} s, at load {os.getloadavg()[0]:.1f}")
        self.watch.check()
        self.load.check()
        await asyncio.sleep(BETWEEN_S)

    async def _befall(self, what: Perturbation) -> None:
        at = what.validator
        if what.kind is Kind.KILL:
            await self.command("kill", at, process=what.process)
        elif what.kind is Kind.PAUSE:
            place = self.layout.validators[at]
            pids = [pid for name, pid in self.net.pids(place).items() if pid and what.process in (name, "both")]
            for number, pause_s in ((signal.SIGSTOP, AWAY_S), (signal.SIGCONT, 0.0)):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                await asyncio.sleep(pause_s)
        elif what.kind is Kind.DISCONNECT:
            await self.net._answer({"command": "partition", "groups": [[str(at)]]})
            await asyncio.sleep(AWAY_S)
            await self.net._answer({"command": "heal"})
        else:
            await self.command("stop", at)
            await self.command("start", at)

    async def returns(self, index: int) -> tuple[float, float]:
        """Seconds from now until the validator answers, and until it has a block made since and is where the others are."""
        since = time.monotonic()
        answered: float | None = None
        before: int | None = None
        others = [at for at in range(self.manifest.validators) if at != index]
        while True:
            heights = await asyncio.gather(*[self.height(at) for at in (index, *others)])
            now = time.monotonic() - since
            if heights[0] is not None and answered is None:
                answered = now
            known = [height for height in heights if height is not None]
            before = max(known) if before is None and known else before
            if heights[0] is not None and heights[0] > before and heights[0] >= max(known) - BEHIND:
                return answered, now
            if now > patient_s(GIVE_UP_S):
                raise AssertionError(f"validator{index} is not back after {now:.0f} s")
            await asyncio.sleep(0.1)

    async def height(self, index: int) -> int | None:
        try:
            return (await self.load.clients[index].status())["height"]
        except AvowError:
            return None

    # --- Audit ------------------------------------------------------------------------------------------------------

    async def _audit(self) -> None:
        await self.load.stop()
        heights = [height for index in range(self.manifest.validators) if (height := await self.height(index))]
        await self.watch.until(max(heights) + 1)
        self.watch.check()
        lost = [item for digest, item in self.load.sent.items() if digest not in self.watch.places]
        strange = [digest.hex() for digest in self.watch.places if digest not in self.load.sent]
        if lost or strange:
            self.outcome.violations.append(f"{len(lost)} transactions are in no block, {len(strange)} are nobody's")
        genesis = Genesis.from_bytes((self.home / "genesis.cbor").read_bytes())
        for index, client in enumerate(self.load.clients):
            try:
                await self.load.check_state(client, dict(genesis.accounts))
            except AssertionError as error:
                self.outcome.violations.append(f"validator{index}: {error}")
        self._verify_receipts()

    def _verify_receipts(self) -> None:
        verified = 0
        for batch in self.load.batches:
            for receipt in batch.receipts(self.load.key):
                report = avow.verify(receipt.to_bytes(), self.policy, require=("settled",))
                if report.ok:
                    verified += 1
                else:
                    failed = [(check.name, check.detail) for check in report.checks if check.outcome == "fail"]
                    self.outcome.violations.append(f"receipt {receipt.id}: {failed}")
        self.outcome.figures["receipts_verified"] = verified

    def _figures(self, seconds: float) -> None:
        transactions = list(self.load.sent.values())
        took = sorted(item.took_s for item in transactions if item.took_s)
        self.outcome.figures |= {
            "seconds": round(seconds, 1),
            "height": max(self.watch.heights),
            "blocks_compared": self.watch.compared,
            "transactions": len(self.watch.places),
            "statements_settled": self.load.statements,
            "batches": len(self.load.batches),
            "batches_refused_as_they_must": self.load.refused,
            "submit_to_block_s_p50": round(statistics.median(took), 3) if took else None,
            "submit_to_block_s_max": round(took[-1], 2) if took else None,
            "retries": self.load.retries,
            "load_average": round(os.getloadavg()[0], 1),
        }
