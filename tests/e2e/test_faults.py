"""Crashes at named points, and a proposer that lies: nothing diverges, nothing is lost, and the chain goes on."""

import asyncio
import itertools
import json
import os

import pytest

from avow.chain.errors import Code
from avow.chain.modules import bank, nodes, registry
from avow.methods.registration import registration_digest
from avow.nodes.chain_client import ChainClient
from avow.receipt.statement import Method
from tests.chain.harness import ETHER, FAR_MS, account, cose, point, secret
from tests.e2e import byzantine, faulty
from tests.e2e.load import Transaction
from tests.e2e.manifest import RETURN_S, Manifest
from tests.e2e.runner import Run
from tests.patience import patient_s

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.xdist_group("cometbft network"),
    pytest.mark.usefixtures("faulty"),
]
LONG = bool(os.environ.get("AVOW_E2E_LONG"))
LIES_S = 200.0
POINTS = 11
"""CometBFT v0.40 passes so many crash points for each height (internal/fail)."""


def log_of(run, index=0):
    path = run.home / f"validator{index}" / faulty.LOG
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def arm(run, index=0, **fault):
    path = run.home / f"validator{index}" / faulty.FILE
    path.with_suffix(".new").write_text(json.dumps(fault))
    path.with_suffix(".new").replace(path)


async def happens(run, count, index=0, timeout_s=60):
    async with asyncio.timeout(patient_s(timeout_s)):
        while len(log_of(run, index)) < count:
            await asyncio.sleep(0.05)


@pytest.mark.timeout(2_400)
async def test_every_crash_point_of_cometbft(tmp_path):
    """With the application left alive, and killed too; in the short form each point by one of the two ways."""
    run = Run(Manifest(31, 1, "flood", 1_000, 0, 0, 2, 4), tmp_path)
    wanted = [(number, bool(number % 2)) for number in range(POINTS)]
    if LONG:
        wanted += [(number, not kill) for number, kill in wanted]

    async def course():
        for number, (crash_point, kill) in enumerate(wanted, 1):
            arm(run, fail_index=crash_point, kill_application=kill)
            await run.command("kill", 0, process="cometbft")
            await happens(run, number)
            assert (await run.returns(0))[1] < RETURN_S
            run.load.check()

    outcome = await run.run(course)
    assert outcome.violations == []
    assert [(found["fail_index"], found["status"]) for found in log_of(run)] == [(number, 1) for number, _ in wanted]


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("validators", [1, 4] if LONG else [4])
async def test_the_application_dies_around_commit(tmp_path, validators):
    run = Run(Manifest(32, validators, "flood", 1_000, 0, 0, 2, 4), tmp_path)

    async def course():
        for number, crash_point in enumerate(faulty.CRASHES):
            arm(run, crash=crash_point)
            await happens(run, number + 1)
            assert (await run.returns(0))[1] < RETURN_S
            run.load.check()

    outcome = await run.run(course)
    assert outcome.violations == []
    assert [found["crash"] for found in log_of(run)] == list(faulty.CRASHES)


@pytest.mark.timeout(2_400)
async def test_one_of_four_proposes_lies(tmp_path):
    run = Run(Manifest(33, 4, "flood", 1_000, 0, 0, 2, 4), tmp_path)
    liar = 2

    async def course():
        await register_liar(run)
        # A proposal that comes too late is none: so each kind is proposed until it was judged, or stands in a block.
        arm(run, liar, byzantine=list(byzantine.KINDS), then=[*byzantine.REFUSED, *byzantine.REJECTED])
        try:
            async with asyncio.timeout(patient_s(LIES_S)):
                while missing(run, liar):
                    run.watch.check()
                    run.load.check()
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"not judged after {LIES_S:g} s: {missing(run, liar)}") from None
        (tmp_path / f"validator{liar}" / faulty.FILE).unlink()
        await run.returns(liar)
        await asyncio.sleep(3.0)
        for found in log_of(run, liar):
            for digest in map(bytes.fromhex, found["txs"]):
                if found["proposed"] in byzantine.REFUSED and digest in run.watch.places:
                    run.load.sent[digest] = Transaction(b"", 0)
        await check_proposals(run, liar)

    assert (await run.run(course)).violations == []


def missing(run, liar):
    """The kinds that were not yet both proposed and rejected by an honest validator, or included, as they should."""
    found = log_of(run, liar)
    judged = judgements(run, liar)
    rejected = {item["proposed"] for item in found if tuple(item["txs"]) in judged}
    included = {item["proposed"] for item in found if bytes.fromhex(item["txs"][0]) in run.watch.places}
    proposed = {item["proposed"] for item in found}
    return sorted({*byzantine.KINDS} - proposed | {*byzantine.REJECTED} - rejected | {*byzantine.REFUSED} - included)


def judgements(run, liar):
    """The transactions of each proposal that an honest validator rejected."""
    honest = [index for index in range(4) if index != liar]
    return {tuple(item["txs"]) for index in honest for item in log_of(run, index) if "rejected" in item}


async def check_proposals(run, liar):
    """What must be rejected is in no block; what was refused moved nothing; and nothing else was rejected."""
    found = log_of(run, liar)
    assert judgements(run, liar) <= {tuple(item["txs"]) for item in found if item["proposed"] in byzantine.REJECTED}
    for item in found:
        for digest in map(bytes.fromhex, item["txs"]):
            if item["proposed"] in byzantine.REFUSED and digest in run.watch.places:
                receipt = await run.load.clients[0].rpc("avow_waitForTransaction", "0x" + digest.hex(), hex(0))
                assert receipt["code"] == Code.REVERTED, (item["proposed"], receipt)
            elif item["proposed"] in byzantine.REJECTED and item["proposed"] != "replay":
                assert digest not in run.watch.places, item["proposed"]
    signer = byzantine.key(run.load.key.chain_id)
    for client in run.load.clients:
        assert await client.next_number(signer.id) == 0
        assert (await client.allowance(account("payer"), account(byzantine.NAME)))[0] == ETHER


async def register_liar(run):
    """The liar's operator is a registered node, with a price and a payer's allowance: only its lies are wrong."""
    urls = run.load.urls
    async with (
        ChainClient(urls[0], secret(byzantine.NAME)) as operator,
        ChainClient(urls[0], secret("payer")) as payer,
    ):
        signer = byzantine.key((await operator.network()).chain_id)
        block_hash, _, _ = await operator.beacon()
        digest = registration_digest(
            signer.chain_id, operator.address, point(signer.signing), point(signer.transport), block_hash
        )
        evidence = cose(signer.signing, digest)
        keys = (point(signer.signing), point(signer.transport))
        made = [
            await operator.transact(nodes.ADDRESS, "register", int(Method.VANILLA), *keys, block_hash, evidence),
            await operator.transact(registry.ADDRESS, "publish", "liar", signer.program),
            await operator.transact(nodes.ADDRESS, "setPrice", signer.program, int(Method.VANILLA), byzantine.PRICE),
            await payer.transact(bank.ADDRESS, "allow", operator.address, ETHER, FAR_MS),
        ]
    for found in made:
        run.load.sent[found.hash] = Transaction(b"", 0)
    assert all(first.height <= second.height for first, second in itertools.pairwise(made[:3]))
