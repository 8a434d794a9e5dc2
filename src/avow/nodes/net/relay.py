"""What stands between validators of one machine, so that they can be parted without the system's help.

Rules:
1. Each ordered pair has a port that passes bytes on to the target's own; content is never looked at (CometBFT encrypts it).
2. Parted validators are silent to each other, not disconnected: what flows is held back, as when a cable is pulled. A connection made
   meanwhile is taken and held. Joining them again lets everything flow on.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from avow.nodes.net.layout import Layout

_CHUNK = 65_536
_HOST = "127.0.0.1"


class Relays:
    """All relays of a network: `start`, `part`, `join`, `stop`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._parted: set[frozenset[int]] = set()
        self._joined = asyncio.Event()

    async def start(self) -> None:
        for source in self._layout.validators:
            for target in self._layout.validators:
                if source != target:
                    await self._listen(source.index, target.index, target.p2p_port)

    async def _listen(self, source: int, target: int, port: int) -> None:
        pair = frozenset((source, target))

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._connect(pair, port, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        where = self._layout.relay_port(source, target)
        self._servers.append(await asyncio.start_server(serve, _HOST, where, limit=_CHUNK))

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def part(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Rule 2."""
        self._parted |= {frozenset(pair) for pair in pairs}

    def join(self) -> None:
        """Let everything flow again."""
        self._parted.clear()
        self._joined.set()
        self._joined = asyncio.Event()

    @property
    def parted(self) -> list[tuple[int, int]]:
        return sorted([(min(pair), max(pair)) for pair in self._parted])

    async def _connect(
        self, pair: frozenset[int], port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await self._flowing(pair)
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(_HOST, port, limit=_CHUNK)
            with suppress(OSError, asyncio.IncompleteReadError):
                await asyncio.wait(
                    [
                        asyncio.ensure_future(self._pass_on(pair, reader, far_writer)),
                        asyncio.ensure_future(self._pass_on(pair, far_reader, writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            _close(far_writer)
        _close(writer)

    async def _pass_on(self, pair: frozenset[int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flowing(pair)
                writer.write(data)
                await writer.drain()

    async def _flowing(self, pair: frozenset[int]) -> None:
        while pair in self._parted:
            await self._joined.wait()


def _close(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):
        writer.close()


def pairs_between(groups: list[list[int]]) -> list[tuple[int, int]]:
    """Every pair whose two are in different groups."""
    return [
        (min(a, b), max(a, b))
        for at, group in enumerate(groups)
        for other in groups[at + 1 :]
        for a in group
        for b in other
    ]
