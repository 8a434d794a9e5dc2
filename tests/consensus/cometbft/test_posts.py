"""POSTs over kept connections, to servers that answer as they like."""

import asyncio
from collections.abc import Callable
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.consensus.cometbft.errors import RpcFailed
from avow.consensus.cometbft.posts import Posts

LIMIT = 1_000


def answer(body: bytes, *more: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *more, b"", body))


class Server:
    """Answers each request by `reply`; b"" closes the connection."""

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self.reply = reply
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
                reply = self.reply(await reader.readexactly(int(length[16:])))
                if not reply:
                    break
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


async def test_a_connection_is_kept_and_requests_at_once_have_their_own():
    async with Server(answer) as server:
        posts = Posts(server.address, timeout_s=5)
        assert [await posts.post(b"%d" % number, LIMIT) for number in range(5)] == [b"%d" % n for n in range(5)]
        assert server.connections == 1
        found = await asyncio.gather(*[posts.post(b"%d" % number, LIMIT) for number in range(9)])
        assert list(found) == [b"%d" % number for number in range(9)]
        assert 2 <= server.connections <= 9
        posts.close()


async def test_chunks_and_other_statuses_are_read():
    async with Server(
        lambda _: b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    ) as server:
        posts = Posts(server.address, timeout_s=5)
        assert [await posts.post(b"", LIMIT) for _ in range(3)] == [b"abc"] * 3
        assert server.connections == 1
        posts.close()


@pytest.mark.parametrize(
    "reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nab", b"no\r\n\r\n"]
)
async def test_a_server_that_breaks_off_is_a_fault_and_the_next_request_is_well(reply):
    replies = [reply, answer(b"well")]
    async with Server(lambda _: replies.pop(0)) as server:
        posts = Posts(server.address, timeout_s=0.5)
        with pytest.raises(RpcFailed):
            await posts.post(b"x", LIMIT)
        assert await posts.post(b"x", LIMIT) == b"well"
        posts.close()


async def test_an_answer_that_is_too_large_is_not_read_on():
    async with Server(lambda body: answer(b"x" * int(body))) as server:
        posts = Posts(server.address, timeout_s=5)
        assert len(await posts.post(b"1000", LIMIT)) == LIMIT
        with pytest.raises(RpcFailed, match="too large"):
            await posts.post(b"1001", LIMIT)
        assert len(await posts.post(b"7", LIMIT)) == 7
        posts.close()


async def test_what_nobody_asked_for_answers_nothing():
    """Two answers to one request: the second is not the next request's."""
    async with Server(lambda body: answer(body) + answer(b"forged")) as server:
        posts = Posts(server.address, timeout_s=5)
        for number in range(4):
            with_forgery = await asyncio.gather(posts.post(b"%d" % number, LIMIT), return_exceptions=True)
            assert with_forgery[0] == b"%d" % number or isinstance(with_forgery[0], RpcFailed)
            await asyncio.sleep(0.02)
        posts.close()


async def test_one_that_closes_kept_connections_and_one_that_is_not_there():
    async with Server(lambda body: answer(body, b"Connection: close")) as server:
        posts = Posts(server.address, timeout_s=5)
        assert [await posts.post(b"a", LIMIT) for _ in range(3)] == [b"a"] * 3
        assert server.connections == 3
    with pytest.raises(RpcFailed):
        await Posts("unix:///nowhere/at/all", timeout_s=1).post(b"", LIMIT)


async def test_silence_is_a_fault_in_time():
    async with Server(lambda _: b"HTTP/1.1 200 OK\r\n") as server:
        posts = Posts(server.address, timeout_s=0.1)
        with pytest.raises(RpcFailed, match="does not answer"):
            await posts.post(b"", LIMIT)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(min_size=1, max_size=300), st.binary(max_size=60).map(lambda tail: answer(b"ok") + tail)))
def test_any_bytes_are_an_answer_or_a_fault(reply):
    async def ask() -> None:
        async with Server(lambda _: reply) as server:
            posts = Posts(server.address, timeout_s=0.05)
            for _ in range(2):
                try:
                    assert len(await posts.post(b"", LIMIT)) <= LIMIT
                except RpcFailed:
                    pass
            posts.close()

    asyncio.run(ask())
