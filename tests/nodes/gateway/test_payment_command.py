"""`avow ask --pay`: an account without allowance pays by its signature; and what is said where it cannot."""

import asyncio
import json

import pytest

from tests.nodes.gateway.test_payment import MOST, balance, paid_network
from tests.nodes.watcher.command import avow

pytestmark = [pytest.mark.network, pytest.mark.xdist_group("network")]


async def test_an_account_pays_for_its_answers(tmp_path):
    async with paid_network(tmp_path) as (home, chain, url, _, trust):
        reader = tmp_path / "reader"
        (reader / "keys").mkdir(parents=True)
        (reader / "trust.json").write_bytes(trust.to_json())
        (reader / "keys" / "alice.key").write_text(home.payer_key.hex() + "\n")
        (reader / "keys" / "alice.key").chmod(0o600)
        ask = ("ask", "hello there", "--url", url, "--model", "stub", "--json", "--no-keep")
        before = await balance(chain, home.payer)
        node = "0x" + home.operator.hex()
        found = await asyncio.gather(
            avow(*ask, "--account", "alice", "--pay", MOST, "--method", "vanilla", "--settled", home=reader),
            avow(*ask, "--account", "alice", "--pay", MOST, "--pay-node", node, "--stream", home=reader),
            avow(*ask, "--account", "alice", "--pay", 1, home=reader),
            avow(*ask, "--pay", MOST, home=reader),
            avow(*ask, "--pay-node", node, home=reader),
            avow(*ask, "--account", "alice", "--pay", MOST, "--pay-node", "0x00", home=reader),
        )
        paid, streamed, poor, unsigned, unlimited, nobody = [(code, json.loads(out)) for code, out, _ in found]
        for code, view in (paid, streamed):
            assert code == 0
            assert int(view["receipt"]["amount_wei"]) <= MOST
        assert await balance(chain, home.payer) < before
        assert (poor[0], poor[1]["error"]["code"]) == (1, "remote_error")
        assert poor[1]["error"]["fields"]["remote_code"] == "payer_uncovered"
        assert (unsigned[0], "--account" in unsigned[1]["error"]["hint"]) == (2, True)
        assert (unlimited[0], "--pay" in unlimited[1]["error"]["hint"]) == (2, True)
        assert (nobody[0], nobody[1]["error"]["code"]) == (2, "bad_option")
