"""Whole answers without a task: one write or many pieces, in line, hung up on, too late."""

import asyncio
import contextlib
import json
from urllib.parse import urlsplit

import pytest

from avow.nodes.gateway import protocol
from avow.nodes.gateway.config import Limits
from avow.nodes.gateway.inference import Inference
from avow.receipt.encoding import from_base64url
from avow.receipt.receipt import Receipt
from tests.nodes.gateway.simulated_node import SimulatedNode, chat


@pytest.fixture
async def gateway(make_gateway):
    async with make_gateway(SimulatedNode()) as running:
        yield running


@pytest.fixture
def nothing_by_asgi(monkeypatch):
    """Whatever is not answered directly fails."""

    async def refuse(*_):
        raise AssertionError("this went to ASGI")

    monkeypatch.setattr(Inference, "chat", refuse)


def request(body, *lines):
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


@contextlib.asynccontextmanager
async def connected(gateway):
    parts = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answered(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    return int(head.split()[1]), head, json.loads(await reader.readexactly(length))


async def test_one_connection_many_answers_in_one_write_or_in_pieces(nothing_by_asgi, gateway):
    async with connected(gateway) as (reader, writer):
        for text in ("first", "second"):
            writer.write(request(chat(text), "avow-method: tee"))
            status, head, answer = await answered(reader)
            assert (status, answer["avow"]["method"]) == (200, "tee")
            assert text in answer["choices"][0]["message"]["content"]
            receipt = Receipt.from_bytes(from_base64url(answer["avow"]["receipt"], max_bytes=1 << 20))
            assert f"avow-receipt-id: {receipt.id}" in head
        whole = request(chat("third"))
        for at in range(0, len(whole), 40):
            writer.write(whole[at : at + 40])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await answered(reader))[0] == 200
        body = chat("fourth")
        head, _, _ = request(b"", "Transfer-Encoding: chunked").partition(b"\r\nContent-Length")
        writer.write(head + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert (await answered(reader))[0] == 200


async def test_requests_in_line_are_answered_in_their_order(gateway):
    gateway.node.hold = asyncio.Event()
    async with connected(gateway) as (reader, writer):
        writer.write(b"".join([request(chat(text)) for text in ("one", "two", "three")]))
        await asyncio.sleep(0.05)
        gateway.node.hold.set()
        for text in ("one", "two", "three"):
            status, _, answer = await answered(reader)
            assert status == 200
            assert text in answer["choices"][0]["message"]["content"]


async def test_a_client_that_hangs_up_cancels_the_job(nothing_by_asgi, gateway):
    gateway.node.hold = asyncio.Event()
    async with connected(gateway) as (_, writer):
        writer.write(request(chat()))
        while not gateway.node.jobs:
            await asyncio.sleep(0.01)
    for _ in range(200):
        if gateway.node.cancelled:
            break
        await asyncio.sleep(0.01)
    assert len(gateway.node.cancelled) == 1
    gateway.node.hold.set()
    metrics = (await gateway.http.get("/metrics")).text
    assert 'avow_gateway_errors_total{code="client_gone"} 1' in metrics


async def test_the_deadline_ends_the_request_and_not_the_connection(nothing_by_asgi, make_gateway):
    node = SimulatedNode()
    async with make_gateway(node, limits=Limits(deadline_ms=100)) as gateway:
        node.hold = asyncio.Event()
        async with connected(gateway) as (reader, writer):
            writer.write(request(chat()))
            status, _, answer = await answered(reader)
            assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
            for _ in range(100):
                if node.cancelled:
                    break
                await asyncio.sleep(0.01)
            assert len(node.cancelled) == 1
            node.hold.set()
            writer.write(request(chat()))
            assert (await answered(reader))[0] == 200


async def test_what_the_node_refuses_is_told_in_the_envelope(nothing_by_asgi, gateway):
    from avow.nodes.errors import Busy

    gateway.node.failure = Busy("all slots are taken")
    async with connected(gateway) as (reader, writer):
        writer.write(request(chat()))
        status, head, answer = await answered(reader)
        assert (status, answer["error"]["code"]) == (429, "busy")
        assert "retry-after: 1" in head
        gateway.node.failure = None
        writer.write(request(chat(), "Connection: close"))
        status, head, _ = await answered(reader)
        assert status == 200
        assert "connection: close" in head
        assert await reader.read() == b""


async def test_a_body_that_is_late_is_read_by_asgi(gateway, monkeypatch):
    monkeypatch.setattr(protocol, "HOLD_S", 0.01)
    whole = request(chat("late"))
    async with connected(gateway) as (reader, writer):
        writer.write(whole[:-20])
        await asyncio.sleep(0.1)
        writer.write(whole[-20:])
        assert (await answered(reader))[0] == 200


async def test_a_large_body_and_every_wrong_one_go_to_asgi(gateway):
    async with connected(gateway) as (reader, writer):
        writer.write(request(chat("x" * (protocol.HOLD_BYTES + 1))))
        assert (await answered(reader))[0] == 200
        for body, status in ((b"{", 400), (b'{"model":"none","messages":[]}', 404), (b'{"model":7}', 400)):
            writer.write(request(body))
            assert (await answered(reader))[0] == status
        writer.write(request(chat()).replace(b"application/json", b"text/plain"))
        assert (await answered(reader))[0] == 415
        writer.write(request(chat()).replace(b"localhost", b"elsewhere.example"))
        assert (await answered(reader))[0] in (403, 421)
