"""Which of several nodes of a chain is asked."""

import pytest
from aiohttp import web

from avow.errors import InputError
from avow.nodes.chain_client import ChainClient, ChainRejected, ChainUnavailable
from avow.nodes.endpoints import LEAST_STALE_S, LOOK_S, Endpoints


def test_the_next_is_asked_when_one_fails_and_only_once():
    found = Endpoints.parse(" http://a , http://b,http://a ,http://c")
    assert found.urls == ("http://a", "http://b", "http://c")
    found.next("http://a")
    found.next("http://a")  # a second call that was on its way there
    assert found.url == "http://b"
    found.next("http://b")
    found.next("http://c")
    assert found.url == "http://a"
    with pytest.raises(InputError):
        Endpoints.parse(" , ")


def test_one_that_stands_still_is_left():
    found = Endpoints.parse("http://a,http://b")
    assert found.look_due(0.0)
    assert not found.look_due(LOOK_S - 1)
    found.seen(7, 1_000, 0.0)
    found.seen(7, 1_000, LEAST_STALE_S - 1)
    assert found.url == "http://a"
    found.seen(8, 1_000, LEAST_STALE_S)
    found.seen(8, 1_000, LEAST_STALE_S + 1)
    assert found.url == "http://a"
    found.seen(8, 1_000, 2 * LEAST_STALE_S + 1)
    assert found.url == "http://b"
    assert found.look_due(2 * LEAST_STALE_S + 1)
    alone = Endpoints.parse("http://a")
    alone.next("http://a")
    assert alone.url == "http://a" and not alone.look_due(1e9)


class Node:
    """A chain's RPC that can be told to fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.answer: dict = {"result": 1}

    async def start(self) -> str:
        async def handle(request: web.Request) -> web.Response:
            call = await request.json()
            self.calls.append(call["method"])
            return web.json_response({"jsonrpc": "2.0", "id": call["id"]} | self.answer)

        application = web.Application()
        application.router.add_post("/", handle)
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"


async def test_a_client_goes_on_with_the_next_node():
    first, second = Node(), Node()
    urls = [await first.start(), await second.start()]
    async with ChainClient(",".join(urls)) as client:
        assert await client.rpc("a") == 1
        await first.runner.cleanup()
        assert await client.rpc("b") == 1
        assert await client.rpc("c") == 1
        assert [name for name in second.calls if name != "avow_status"] == ["b", "c"]
        second.answer = {"error": {"code": -32000, "message": "no"}}
        with pytest.raises(ChainRejected):  # an answer is an answer
            await client.rpc("d")
        await second.runner.cleanup()
        with pytest.raises(ChainUnavailable):
            await client.rpc("e")
