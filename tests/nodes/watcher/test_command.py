"""`avow watch` as people run it: what it says and how it ends."""

import asyncio
import json
import secrets

from avow.chain.transaction import address_of_private_key
from avow.nodes.full import FullNodeConfig, running_chain
from avow.nodes.watcher.journal import Journal, read_summary
from avow.nodes.watcher.states import State
from avow.receipt.finality import OptimisticParameters
from tests.nodes.liars import Lie, LyingEngine
from tests.nodes.optimistic import ETHER, make_home, network_of
from tests.nodes.watcher.command import MARKS, PATIENCE_S, avow, pay, spawn, watcher_home, watching

RULES = OptimisticParameters(window_ms=120_000, move_ms=20_000, reveal_blocks=1)
pytestmark = MARKS


def no_traceback(errors):
    assert "Traceback" not in errors, errors
    return errors


async def test_it_checks_says_so_in_json_and_ends_at_ctrl_c(tmp_path):
    async with network_of(tmp_path, rules=RULES) as network:
        home = watcher_home(network)
        async with watching(network, home=home) as watch:
            receipt = await network.settled(await network.ask(1))
            await watch.until_state("agreed")
            assert await watch.interrupt() == 0
            assert "stopped: 1 agreed" in no_traceback(await watch.errors())
        assert watch.states == ["chosen", "agreed"]
        last = watch.changes[-1]
        assert last["statement"] == receipt.id
        assert last["alarm"] is False
        assert last["program"] == network.program_id.hex()
        code, out, errors = await avow("watch", "--status", "--json", home=home)
        assert (code, json.loads(out)["cases"], json.loads(out)["faults"]) == (0, {"agreed": 1}, []), errors
        once = ("watch", "--once", "--chain", network.url, "--gateway", network.gateway)
        code, out, errors = await avow(*once, home=home)  # for people
        assert code == 0
        assert "appointed" in out
        assert network.inference.node.chain_id in out
        no_traceback(errors)


async def test_once_ends_with_one_where_something_was_wrong(tmp_path):
    liars = []

    def lying(engine):
        liars.append(LyingEngine(engine, [Lie(0, 4)]))
        return liars[0]

    async with network_of(tmp_path, rules=RULES, engine=lying) as network:
        await network.settled(await network.ask(1))
        async with watching(network, "--once") as watch:
            assert await asyncio.wait_for(watch.ended(), PATIENCE_S) == 1
            no_traceback(await watch.errors())
        assert watch.states == ["chosen", "proven", "committed", "upheld", "won"]
        assert [change["alarm"] for change in watch.changes] == [False, True, False, False, False]


async def test_a_fault_is_found_without_money_and_challenged_when_it_comes(tmp_path):
    key = secrets.token_bytes(32)

    def lying(engine):
        return LyingEngine(engine, [Lie(0, 4)])

    async with network_of(tmp_path, rules=RULES, engine=lying) as network:
        home = watcher_home(network, tmp_path / "poor", key)
        await network.settled(await network.ask(1, avow_audience="public"))
        async with watching(network, home=home) as watch:
            await watch.until_state("proven")
            await asyncio.sleep(1)
            assert watch.states[-1] == "proven"
            async with network.client(network.governance) as rich:
                await pay(rich, network.governance, address_of_private_key(key), ETHER)
            await watch.until_state("won")
            assert await watch.interrupt() == 0
            errors = no_traceback(await watch.errors())
        assert "cannot pay a bond" in errors
        assert "send it" in errors or "holds 0 wei" in errors


async def test_what_it_cannot_work_with_is_one_message_with_what_to_do(tmp_path):
    """Without a chain, with what is none, with another network's journal or gateway, an account that there is not, a journal in use."""
    home = tmp_path / "home"
    cases = [
        (["watch"], 2, "bad_input", "avow up"),
        (["watch", "--chain", "http://127.0.0.1:1"], 1, "chain_unavailable", "--chain"),
        (["watch", "--chain", "http://127.0.0.1:1", "--account", "nobody"], 2, "not_found", "avow key create nobody"),
    ]
    found = await asyncio.gather(*(avow(*arguments, "--json", home=home) for arguments, *_ in cases))
    for (arguments, wanted, name, hint), (code, out, errors) in zip(cases, found, strict=True):
        error = json.loads(out)["error"]
        assert (code, error["code"]) == (wanted, name), arguments
        assert hint in error["hint"], arguments
        no_traceback(errors)
    async with network_of(tmp_path / "one", rules=RULES) as network:
        watcher = watcher_home(network)
        other = tmp_path / "other"
        (other / "run").mkdir(parents=True)
        make_home(other, RULES, network.watcher, network.governance)
        async with running_chain(FullNodeConfig(other)) as chain:
            Journal(watcher / "elsewhere.db", "avow-0123456789abcdef").close()
            here = ("--chain", network.url, "--gateway", network.gateway)
            cases = [
                (["watch", "--chain", chain.url, "--gateway", network.gateway], 2, "other_network", "--gateway"),
                (["watch", *here, "--journal", watcher / "elsewhere.db"], 1, "other_journal", "--journal"),
                (["watch", "--chain", network.gateway], 1, "chain_unavailable", "--chain"),
            ]
            found = await asyncio.gather(*(avow(*arguments, "--json", home=watcher) for arguments, *_ in cases))
            for (arguments, wanted, name, hint), (code, out, errors) in zip(cases, found, strict=True):
                error = json.loads(out)["error"]
                assert (code, error["code"]) == (wanted, name), (arguments, error)
                assert hint in error["hint"], arguments
                no_traceback(errors)
            with Journal(watcher / "watcher" / "journal.db", network.inference.node.chain_id):
                code, out, errors = await avow("watch", *here, "--json", home=watcher)
                assert (code, json.loads(out)["error"]["code"]) == (1, "journal_busy")


async def test_a_program_that_it_lacks_is_said_and_one_that_it_has_is_checked(tmp_path):
    async with network_of(tmp_path, rules=RULES) as network:
        home = watcher_home(network)
        (home / "models").unlink()
        await network.settled(await network.ask(1))
        async with watching(network, "--once", home=home) as watch:
            assert await asyncio.wait_for(watch.ended(), PATIENCE_S) == 0
            assert "avow model add" in await watch.errors()
        assert watch.states == ["chosen", "unknown_program"]


async def test_a_reader_that_leaves_ends_it_as_ctrl_c_does(tmp_path):
    """`avow watch --json | head -1`."""
    async with network_of(tmp_path, rules=RULES) as network:
        home = watcher_home(network)
        process = await spawn(
            "watch", "--json", "--chain", network.url, "--gateway", network.gateway, "--rate", "1", home=home
        )
        try:
            await network.settled(await network.ask(1))
            await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
            process._transport.get_pipe_transport(1).close()
            for seed in range(2, 6):
                await network.settled(await network.ask(seed))
            errors = (await asyncio.wait_for(process.stderr.read(), PATIENCE_S)).decode()
            assert await process.wait() == 0
            no_traceback(errors)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert State.CHOSEN not in read_summary(home / "watcher" / "journal.db").cases or errors
