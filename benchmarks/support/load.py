"""Load: requests one after another on each of several kept connections, answers read to their end and no further."""

import asyncio
import time
from urllib.parse import urlsplit

LIMIT = 4 * 1024 * 1024


async def _one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[float, bytes]:
    start = time.perf_counter()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"{head!r} {await reader.read(4096)!r}")
    if b"transfer-encoding: chunked" in head:
        body = await reader.readuntil(b"\r\n0\r\n\r\n")
    else:
        body = await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
    return time.perf_counter() - start, body


async def _client(url: str, request: bytes, count: int) -> tuple[list[float], bytes]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=LIMIT)
    times, body = [], b""
    for _ in range(count):
        seconds, body = await _one(reader, writer, request)
        times.append(seconds)
    writer.close()
    return times, body


def request(url: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A POST to the chat endpoint, as bytes on the wire."""
    lines = {"host": urlsplit(url).netloc, "content-type": "application/json", "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in (lines | (headers or {})).items())
    return b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + b"\r\n" + body


def run(url: str, data: bytes, *, count: int, clients: int) -> tuple[list[float], float, bytes]:
    """Latencies in seconds, wall seconds for all, and the last answer's body."""

    async def all_clients():
        return await asyncio.gather(*(_client(url, data, count // clients) for _ in range(clients)))

    start = time.perf_counter()
    results = asyncio.run(all_clients())
    wall = time.perf_counter() - start
    return [seconds for times, _ in results for seconds in times], wall, results[0][1]
