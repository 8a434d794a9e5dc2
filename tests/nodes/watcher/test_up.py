"""`avow up` with an exact program: the node's bond is there, a watcher is appointed and runs, and `avow status` shows both."""

import asyncio
import json
import signal

import httpx2

from avow.nodes.chain_client import ChainClient
from tests.nodes.optimistic import NAME, body_of, install, small_program, until
from tests.nodes.watcher.command import MARKS, PATIENCE_S, avow, spawn

pytestmark = MARKS

UP = """
import asyncio, json, sys
from pathlib import Path
from avow.nodes.up import UpConfig, up

async def ready(state):
    print(json.dumps(state), flush=True)

asyncio.run(up(UpConfig(Path(sys.argv[1]), port=0, programs=(sys.argv[2],)), ready))
"""


async def test_a_network_comes_up_with_its_watcher(tmp_path):
    home, program = tmp_path / "home", small_program()
    install(home, program)
    process = await spawn(home, NAME, home=home, program=UP)
    errors = asyncio.create_task(process.stderr.read())
    try:
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
        assert line, (await errors).decode()
        state = json.loads(line)
        assert "watcher" in state["processes"]
        async with ChainClient(state["chain"]) as chain:
            rules = (await chain.optimistic()).parameters
            assert state["accounts"]["watcher"] in ["0x" + address.hex() for address in rules.watchers]
        headers = {"content-type": "application/json", "avow-method": "optimistic"}
        async with httpx2.AsyncClient(base_url=state["url"], timeout=PATIENCE_S, trust_env=False) as http:
            for seed in range(40):  # the posted rate is one in twenty
                answer = await http.post(f"/v2/models/{NAME}/infer", content=body_of(program, seed), headers=headers)
                assert answer.status_code == 200, answer.text

            async def seen():
                code, out, said = await avow("status", "--json", home=home)
                assert code == 0, said
                view = json.loads(out)
                return view if view["watcher"]["seen"] >= 40 else None

            view = await until(seen, PATIENCE_S)
        assert "optimistic" in view["methods"]
        assert set(view["watcher"]["cases"]) <= {"chosen", "agreed"}
        assert view["watcher"]["own_errors"] == 0
        [stake] = [node["optimistic"] for node in view["nodes"] if node.get("optimistic")]
        assert int(stake["bond_wei"]) > 0
        _, out, _ = await avow("status", home=home)
        assert "bond" in out
        assert "40 statements seen" in out
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        assert "Traceback" not in (await errors).decode()
        log = (home / "run" / "watcher.log").read_text()
        assert "Traceback" not in log
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await asyncio.gather(errors, return_exceptions=True)
