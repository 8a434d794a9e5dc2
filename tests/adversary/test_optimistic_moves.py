"""Who plays the rules of disputes against a running network, by its JSON-RPC: no move of theirs pays, and none delays more than it may.

Everything here is over sockets: chain, node and gateway answer; adversaries hold keys and money, and nothing else.
"""

import asyncio
import secrets

import pytest

from avow.chain.errors import Code, Refused
from avow.chain.modules import challenges, optimistic
from avow.chain.modules.demands import build_demand
from avow.chain.modules.life import State as ChainState
from avow.chain.transaction import address_of_private_key
from avow.exact.descent import Demand
from avow.exact.fraud import FraudProof
from avow.nodes.gateway.account import account_key
from avow.nodes.watcher.states import State
from avow.receipt.finality import OptimisticParameters
from tests.nodes.optimistic import ETHER, network_of, until
from tests.nodes.watcher.command import MARKS, PATIENCE_S, lying, pay
from tests.nodes.watching import watcher_of

LONG = OptimisticParameters(window_ms=900_000, move_ms=300_000, reveal_blocks=1)
SHORT = OptimisticParameters(window_ms=25_000, move_ms=3_000, reveal_blocks=1)
pytestmark = MARKS


class Prosecution(Exception):
    """The watcher stops where it would commit."""


async def evidence_of(network, journal):
    """The case of the one statement, proven and not yet committed to."""
    async with watcher_of(network, journal=journal) as watcher:

        async def stop(case, now):
            del now
            assert case.state is State.PROVEN
            raise Prosecution

        watcher._moves.move = stop
        running = asyncio.create_task(watcher.run())

        async def proven():
            return next((case for case in watcher.journal.open_cases() if case.state is State.PROVEN), None)

        try:
            return await until(proven, PATIENCE_S)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def rich(network, wei=10 * ETHER):
    """A key with money that nobody knows."""
    key = secrets.token_bytes(32)
    async with network.client(network.governance) as client:
        await pay(client, network.governance, address_of_private_key(key), wei)
    return key


async def commit(client, case, evidence, salt, rules):
    network = await client.network()
    committed = challenges.commitment(network.chain_id, client.address, salt, evidence)
    await client.transact(optimistic.ADDRESS, "commit", case.key, case.first, committed, value=rules.challenge_bond)
    return committed


async def prove(client, evidence, salt):
    included = await client.transact(optimistic.ADDRESS, "prove", evidence, salt)
    return ChainState(int.from_bytes(included.output))


async def challenge(client, case, evidence, rules):
    salt = secrets.token_bytes(32)
    await commit(client, case, evidence, salt, rules)
    return await until(lambda: _proved(client, evidence, salt), PATIENCE_S)


async def _proved(client, evidence, salt):
    try:
        return await prove(client, evidence, salt)
    except Refused as refused:
        assert refused.reason is Code.CHALLENGE_TOO_EARLY
        return None


async def wealth(client, operator, others=()):
    """What operator and challenger hold together, the bond included."""
    amount, _, _ = await client.view(optimistic.ADDRESS, "bondOf", operator)
    return amount + sum([await client.balance(address) for address in (operator, *others)])


async def test_challenging_oneself_loses_half_of_the_share(tmp_path, capsys):
    """The node lies, and its owner's other account is the first to prove it. The ledger is printed."""
    async with network_of(tmp_path, engine=lying, rules=LONG) as network:
        receipt = await network.settled(await network.ask(1))
        operator, share = network.inference.node.operator, LONG.required_bond(receipt.statement.columns.amount, 0)
        key = await rich(network)
        case = await evidence_of(network, tmp_path / "own.db")
        async with network.client(key) as own, network.client() as reader:
            payer = address_of_private_key(network.payer)
            before = await wealth(reader, operator, (own.address,))
            paid = await reader.balance(payer)
            assert await challenge(own, case, case.evidence, LONG) is ChainState.UPHELD
            after = await wealth(reader, operator, (own.address,))
            fee = await reader.balance(payer) - paid
        lost = before - after
        with capsys.disabled():
            print(
                f"\nself-challenge, in wei: share {share}; reward to oneself {share // 2}; burnt {share - share // 2}; fee returned to the"
                f" payer {fee}; gas {lost - (share - share // 2)}; operator and challenger together lose {lost}"
            )
        assert fee == receipt.statement.columns.amount
        assert lost > share - share // 2 > LONG.gain_factor * receipt.statement.columns.amount


async def test_of_two_challengers_the_first_wins_and_the_second_gets_its_bond_back(tmp_path):
    async with network_of(tmp_path, engine=lying, rules=LONG) as network:
        receipt = await network.settled(await network.ask(1))
        case = await evidence_of(network, tmp_path / "own.db")
        share = LONG.required_bond(receipt.statement.columns.amount, 0)
        async with network.client(await rich(network)) as first, network.client(await rich(network)) as second:
            one, two = secrets.token_bytes(32), secrets.token_bytes(32)
            await commit(first, case, case.evidence, one, LONG)
            await commit(second, case, case.evidence, two, LONG)
            held = [await each.balance(each.address) for each in (first, second)]
            assert await until(lambda: _proved(second, case.evidence, two), PATIENCE_S) is ChainState.UPHELD  # sooner
            state = await prove(first, case.evidence, one)
            assert state is ChainState.UPHELD
            *_, winner, won, paid = await first.view(optimistic.ADDRESS, "statementOf", bytes.fromhex(receipt.id))
            assert (winner, won, paid) == (first.address, share // 2, True)
            gained = [
                await each.balance(each.address) - before for each, before in zip((first, second), held, strict=True)
            ]
            assert gained[0] > LONG.challenge_bond + share // 2 - LONG.challenge_bond // 2
            assert LONG.challenge_bond // 2 < gained[1] <= LONG.challenge_bond
            again = secrets.token_bytes(32)
            await commit(second, case, case.evidence, again, LONG)  # of what is overturned: nothing more
            assert await until(lambda: _proved(second, case.evidence, again), PATIENCE_S) is ChainState.MOOT


async def test_forged_openings_wrong_chunks_and_other_programs_convict_nobody_and_cost_the_bond(tmp_path):
    """Everything that an accuser could make up, against an honest node."""
    async with network_of(tmp_path / "guilty", engine=lying, rules=LONG) as guilty:
        await guilty.settled(await guilty.ask(1))
        case = await evidence_of(guilty, tmp_path / "guilty.db")
        proof = FraudProof.parse(
            challenges.fields.mapping(challenges.decode(case.evidence), "evidence", ("statement", "fault"))["fault"]
        )
    async with network_of(tmp_path / "honest", rules=LONG) as network:
        receipt = await network.ask(1)
        await network.settled(receipt)
        located = await located_of(network, tmp_path / "located.db")
        key = await rich(network)
        async with network.client(key) as accuser:
            before = await accuser.balance(accuser.address)
            tries = 0
            for forged in forgeries(proof, receipt):
                shown = challenges.evidence(located.located, forged)
                assert await challenge(accuser, located, shown, LONG) is ChainState.REJECTED
                tries += 1
            assert before - await accuser.balance(accuser.address) > tries * LONG.challenge_bond
            state, *_ = await accuser.view(optimistic.ADDRESS, "statementOf", bytes.fromhex(receipt.id))
            assert state == ChainState.OPEN
            assert (await accuser.view(optimistic.ADDRESS, "bondOf", network.inference.node.operator))[2] == 0


def forgeries(proof, receipt):
    """Of a proof that convicts another statement."""
    from dataclasses import replace

    header = receipt.opening.header
    yield proof.encoded()  # another statement's
    yield replace(proof, header=header).encoded()  # the right header, another's openings
    yield replace(proof, header=header, index=proof.index + 1).encoded()  # another value of the chunk
    tensors = tuple(
        replace(each, chunks=tuple((number, bytes(16) + chunk[16:]) for number, chunk in each.chunks))
        for each in proof.tensors
    )
    yield replace(proof, header=header, tensors=tensors).encoded()  # another salt
    moved = tuple(
        replace(each, chunks=tuple((number + 1, chunk) for number, chunk in each.chunks)) for each in proof.tensors
    )
    yield replace(proof, header=header, tensors=moved).encoded()  # another tile
    yield replace(proof, manifest=proof.manifest[:-1] + b"\x00").encoded()  # another program
    yield b""


async def located_of(network, journal):
    """Where the one statement settled, as a watcher reads it."""
    async with watcher_of(network, journal=journal) as watcher:
        await watcher.drain()
        [statement] = network.answers
        return watcher.journal.case(bytes.fromhex(statement))


async def test_the_last_moment_is_in_time_and_after_it_nothing_is(tmp_path):
    """A commitment in the window's last block is heard and delays by its reveal alone; what is final cannot be challenged."""
    async with network_of(tmp_path, rules=SHORT, settings={"heartbeat_ms": 500}) as network:
        await network.settled(await network.ask(1))
        case = await located_of(network, tmp_path / "own.db")
        async with network.client(await rich(network)) as late:

            async def left_ms():
                return case.deadline - (await late.optimistic()).clock

            await until(lambda: _below(left_ms, 2_500), PATIENCE_S)
            nonsense, salt = challenges.evidence(case.located, b"nonsense"), secrets.token_bytes(32)
            try:
                await commit(late, case, nonsense, salt, SHORT)
                in_time = True
            except Refused as refused:  # a machine so busy that the window closed first
                assert refused.reason in (Code.WINDOW_PASSED, Code.BATCH_FINAL)
                in_time = False

            async def final():
                return (await late.view(optimistic.ADDRESS, "batchOf", case.key, case.first))[7]

            if in_time:
                assert not await final()
            await until(final, PATIENCE_S)
            if in_time:
                clock = (await late.optimistic()).clock
                assert clock > case.deadline + SHORT.move_ms - 2_500  # its reveal was waited for
            with pytest.raises(Refused) as refused:
                await commit(late, case, nonsense, secrets.token_bytes(32), SHORT)
            assert refused.value.reason in (Code.BATCH_FINAL, Code.WINDOW_PASSED)


async def test_a_flood_of_demands_pays_the_node(tmp_path):
    """As many as one account may have waiting: the node answers each and is paid, and the watcher's check goes on meanwhile."""
    async with network_of(tmp_path, rules=LONG) as network:
        receipts = [await network.settled(await network.ask(seed, avow_audience="public")) for seed in range(4)]
        async with watcher_of(network, journal=tmp_path / "own.db") as watcher:
            await watcher.drain()
            cases = [watcher.journal.case(bytes.fromhex(receipt.id)) for receipt in receipts]
        node = address_of_private_key(account_key(network.home / "node" / "key"))
        async with network.client(await rich(network)) as spammer:
            before, earned = await spammer.balance(spammer.address), await spammer.balance(node)
            posed = 0
            for case in cases:
                data = build_demand(case.key, case.first, case.located, Demand().encoded(), case.private)
                await spammer.transact(optimistic.ADDRESS, "demand", data, value=LONG.demand_bond)
                posed += 1

            async def answered():
                return not (await spammer.view(optimistic.ADDRESS, "bondOf", network.inference.node.operator))[2]

            await until(answered, PATIENCE_S)
            assert before - await spammer.balance(spammer.address) > posed * LONG.demand_bond
            assert await spammer.balance(node) > earned
            for receipt in receipts:
                state, *_ = await spammer.view(optimistic.ADDRESS, "statementOf", bytes.fromhex(receipt.id))
                assert state == ChainState.OPEN


async def _below(measure, limit):
    return await measure() < limit
