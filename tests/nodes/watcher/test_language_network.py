"""A chat program on a network: whole answers, streams, and a stream that its caller leaves; the watcher's process agrees with each."""

import json

from avow.receipt.finality import OptimisticParameters
from tests.nodes.optimistic import network_of, small_program
from tests.nodes.watcher.command import MARKS, watching
from tests.nodes.watcher.language import NAME, install_chat, request_of

RULES = OptimisticParameters(window_ms=900_000, move_ms=300_000, reveal_blocks=1)
pytestmark = MARKS
HEADERS = {"content-type": "application/json", "avow-method": "optimistic"}


async def test_whole_streamed_and_left_answers_are_agreed_to(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.nodes.optimistic.install", install_chat)
    async with network_of(tmp_path, small_program(), rules=RULES) as network:
        path = "/v1/chat/completions"
        answer = await network.http.post(path, content=request_of(), headers=HEADERS)
        assert answer.status_code == 200, answer.text
        assert json.loads(answer.content)["model"] == NAME
        streamed = await network.http.post(path, content=request_of(stream=True, stop=["e"]), headers=HEADERS)
        assert streamed.status_code == 200
        async with network.http.stream(
            "POST", path, content=request_of(stream=True, max_tokens=150), headers=HEADERS
        ) as left:
            async for _ in left.aiter_lines():
                break  # and the connection is closed
        async with watching(network) as watch:
            await watch.until(lambda seen: seen.states.count("agreed") == 3)
            assert set(watch.states) == {"chosen", "agreed"}
            assert await watch.interrupt() == 0
            assert "Traceback" not in await watch.errors()
