"""What an optimistic node owes the chain: its bond, the ends of its batches, answers to demands."""

import asyncio

from avow.chain.errors import Code
from avow.chain.modules import optimistic
from avow.chain.modules.demands import build_demand
from avow.chain.modules.life import State
from avow.chain.modules.located import Located
from avow.exact import hashing
from avow.exact.descent import Demand, check_answer
from avow.nodes.errors import OpeningGone
from avow.receipt.encoding import base64url, encode
from avow.receipt.finality import BatchState, OptimisticParameters
from avow.receipt.receipt import Receipt
from avow.receipt.report import CheckName, Outcome
from avow.receipt.statement import private_hash
from avow.verification import verify
from tests.nodes.optimistic import ETHER, network_of, until

SHORT = OptimisticParameters(window_ms=1_500, move_ms=500)
LONG = OptimisticParameters(window_ms=60_000, move_ms=2_000)


def outcome(report, name):
    return next(check for check in report.checks if check.name == name)


async def test_the_bond_is_filled_locked_and_free_again_and_the_fee_is_held_until_the_end(tmp_path):
    async with network_of(tmp_path, rules=SHORT, bond=3 * ETHER) as network, network.client() as chain:
        operator = network.inference.node.operator
        amount, locked, _ = await chain.view(optimistic.ADDRESS, "bondOf", operator)
        assert (amount, locked) == (3 * ETHER, 0)
        receipt = await network.ask()
        await network.settled(receipt)
        _, locked, _ = await chain.view(optimistic.ADDRESS, "bondOf", operator)
        assert locked == SHORT.required_bond(receipt.statement.columns.amount, 0)

        async def free():
            return (await chain.view(optimistic.ADDRESS, "bondOf", operator))[1] == 0

        await until(free)


async def test_a_receipt_says_open_then_final_with_proofs_that_hold_offline(tmp_path):
    async with network_of(tmp_path, rules=SHORT) as network, network.client() as chain:
        receipt = await network.ask()
        trust = await chain.trust()
        report = verify(receipt, trust)
        assert outcome(report, CheckName.BOND).outcome is Outcome.PASS
        assert outcome(report, CheckName.TRACE).outcome is Outcome.PASS
        assert outcome(report, CheckName.FINALITY).outcome is Outcome.SKIPPED
        opened = await network.settled(receipt)
        assert outcome(verify(opened, await chain.trust()), CheckName.FINALITY).outcome is Outcome.WARN
        final = await network.receipt(receipt.id, is_final)
        report = verify(final, await chain.trust(), require=("final",))
        assert outcome(report, CheckName.FINALITY).outcome is Outcome.PASS
        assert report.ok


def is_final(receipt):
    if receipt.settlement is None or receipt.settlement.finality is None:
        return False
    record = receipt.settlement.finality.check_membership(receipt.statement.private.key)
    return record.state is BatchState.FINAL


async def test_with_its_secret_a_final_receipt_still_shows_everything(tmp_path):
    async with network_of(tmp_path, rules=SHORT) as network:
        receipt = await network.ask()
        await network.receipt(receipt.id, is_final)
        headers = {"accept": "application/cbor", "avow-secret": _secret(receipt)}
        found = await network.http.get(f"/receipts/{receipt.id}", headers=headers)
        opened = Receipt.from_bytes(found.content).opening
        assert opened.header == receipt.opening.header
        assert opened.request is not None


def _secret(receipt):
    return base64url(receipt.opening.seed)


async def test_more_than_the_bond_covers_is_refused_until_statements_are_final(tmp_path):
    share = SHORT.required_bond(10**9, 0)
    async with network_of(tmp_path, rules=SHORT, bond=2 * share) as network:
        assert await network.ask(1)
        assert await network.ask(2)
        assert await network.ask(3, status=503) == "bond_exhausted"

        async def asked():
            answer = await network.http.get("/v1/models")
            assert answer.status_code == 200
            try:
                return await network.ask(4)
            except AssertionError:
                return None

        assert await until(asked)
        assert await network.ask(5, status=503, avow_opening="payer") == "bond_exhausted"  # locks four times as much


async def test_a_demand_on_chain_is_answered_in_time(tmp_path):
    async with network_of(tmp_path, rules=LONG) as network, network.client(network.watcher) as chain:
        receipt = await network.settled(await network.ask())
        demand, data = Demand(), demand_of(receipt, Demand())
        await chain.transact(optimistic.ADDRESS, "demand", data, value=LONG.demand_bond)
        key = receipt.statement.private.key

        async def answered():
            return await chain.logs(optimistic.ADDRESS, "Answered", 0, indexed=(key,))

        [answer] = await until(answered)
        trace = receipt.statement.columns.trace
        header = check_answer(demand, answer.values[1], trace).data
        assert hashing.trace_of(header) == trace
        [resolved] = await chain.logs(optimistic.ADDRESS, "DemandResolved", 0, indexed=(key,))
        assert resolved.values[1] == State.ANSWERED


def demand_of(receipt, demand):
    columns, private = receipt.statement.columns, encode(receipt.statement.private.to_value())
    located = Located(columns, private_hash(private), receipt.settlement.leaf_path)
    return build_demand(
        receipt.statement.private.key, columns.number - receipt.settlement.leaf, located, demand.encoded(), private
    )


async def test_a_node_that_lost_its_key_answers_no_more_by_it_and_what_is_left_is_void(tmp_path):
    """As after an overturned answer: the chain settles nothing of the key any more."""
    rules = OptimisticParameters(window_ms=20_000, move_ms=400, reveal_blocks=1)
    async with network_of(tmp_path, rules=rules) as network, network.client(network.watcher) as chain:
        first = await network.settled(await network.ask(1))
        network.inference.node.upkeep.openings.answer_of = silent
        await chain.transact(optimistic.ADDRESS, "demand", demand_of(first, Demand()), value=rules.demand_bond)
        [log] = await chain.logs(optimistic.ADDRESS, "Demanded", 0)
        demand, statement = log.indexed[1], log.values[1]

        async def expired():
            refused = await chain.refusal(optimistic.ADDRESS, "expire", demand)
            if refused is not None:
                assert refused.reason is Code.ANSWER_OPEN
                await asyncio.sleep(0.2)
                return False
            await chain.transact(optimistic.ADDRESS, "expire", demand)
            return True

        await until(expired)
        state, *_ = await chain.view(optimistic.ADDRESS, "statementOf", statement)
        assert state == State.OVERTURNED
        shown = await network.receipt(first.id, overturned)
        report = verify(shown, await chain.trust())
        assert outcome(report, CheckName.FINALITY).code == "overturned"
        assert not report.ok
        answer = await network.ask(2, status=None)
        if answer != "not_ready":  # it was under way when the key went: it is void, and nobody pays for it
            settled = await network.settled(answer)
            assert settled.settlement.void == 1

        async def refused():
            return await network.ask(3, status=None) in ("not_ready", "no_node")

        await until(refused)


async def silent(_row, _demand):
    raise OpeningGone("this node says nothing")


def overturned(receipt):
    if receipt.settlement is None or receipt.settlement.finality is None:
        return False
    record = receipt.settlement.finality.check_membership(receipt.statement.private.key)
    return receipt.statement.columns.number in record.overturned
