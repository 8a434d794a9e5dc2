"""Frames and calls: what arrives is what was sent, however it is cut; what breaks the rules ends the connection."""

import asyncio
import struct
import threading

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.errors import InputError
from avow.nodes import wire
from avow.nodes.calls import Caller, EventQueue
from avow.nodes.enclave import Binding, EnclaveJob
from avow.nodes.errors import ConnectionLost, WireError
from avow.nodes.jobs import Answer, Begin, Chunks, Consent, Head, Job, NodeDescription, Result, Signed
from avow.nodes.service import Service, ask_payload
from avow.nodes.wire import Connection, Kind

HELLO = struct.pack(">IBI", 6, Kind.HELLO, 0) + wire.encode(wire.VERSION)


class FakeTransport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.closing = False

    def write(self, data):
        self.written += data

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def close(self):
        self.closing = True


def accept(frames):
    connection = Connection(lambda _c, kind, call, payload: frames.append((kind, call, payload)), accepting=True)
    transport = FakeTransport()
    connection.connection_made(transport)
    return connection, transport


frame = st.tuples(
    st.sampled_from([Kind.ASK, Kind.JOB, Kind.CANCEL, Kind.PAUSE, Kind.RESUME, Kind.NOTE]),
    st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=2000),
)


@given(st.lists(frame, max_size=20), st.lists(st.integers(1, 500), max_size=50))
def test_frames_survive_every_cut(frames, cuts):
    async def check():
        seen = []
        connection, _ = accept(seen)
        stream = HELLO + b"".join(struct.pack(">IBI", len(p) + 5, k, c) + p for k, c, p in frames)
        at = 0
        for cut in cuts:
            connection.data_received(stream[at : at + cut])
            at += cut
        connection.data_received(stream[at:])
        assert seen == frames

    asyncio.run(check())


@settings(max_examples=300)
@given(st.booleans(), st.binary(max_size=200))
def test_noise_closes_or_waits_and_never_raises(greeted, noise):
    async def check():
        connection, _ = accept([])
        connection.data_received((HELLO if greeted else b"") + noise)

    asyncio.run(check())


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">IBI", 4, Kind.ASK, 0),
        struct.pack(">IBI", wire.MAX_FRAME + 1, Kind.ASK, 0),
        struct.pack(">IBI", 5, 99, 0),
        struct.pack(">IBI", 5, Kind.REPLY, 0),
        HELLO,
    ],
)
async def test_a_broken_frame_ends_the_connection(data):
    connection, transport = accept([])
    connection.data_received(HELLO)
    assert not transport.closing
    connection.data_received(data)
    assert transport.closing


@pytest.mark.parametrize("data", [struct.pack(">IBI", 5, Kind.ASK, 0), HELLO[:-1] + b"\x02", struct.pack(">I", 65)])
async def test_who_does_not_greet_first_is_not_heard(data):
    connection, transport = accept([])
    connection.data_received(data)
    assert transport.closing


class OpenJob:
    def __init__(self, port):
        self.port = port
        self.cancelled = asyncio.Event()
        self.paused = False

    def cancel(self, cause=None):
        self.cancelled.set()

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False


@pytest.fixture
async def served(tmp_path):
    jobs, notes = [], []

    def start(port, payload):
        if payload == b"refuse":
            raise InputError("not this one", param="body")
        if payload == b"at once":
            port.finish(b"done")
        job = OpenJob(port)
        jobs.append(job)
        return job

    async def echo(args):
        return args

    async def broken(args):
        raise RuntimeError("no")

    service = Service(start, {"echo": echo, "broken": broken}, notes.append)
    address = f"unix:{tmp_path}/s.sock"
    await service.listen(address)
    caller = Caller()
    await caller.connect(address)
    yield service, caller, jobs, notes
    await caller.close()
    await service.close()


async def test_questions_and_their_errors(served, caplog):
    service, caller, _, notes = served
    assert await caller.ask(ask_payload("echo", ["a", 1])) == wire.encode(["a", 1])
    caller.note(b"psst")
    with pytest.raises(Exception, match="not known here") as caught:
        await caller.ask(ask_payload("nonsense"))
    assert (caught.value.code, caught.value.http_status) == ("bad_input", 400)
    with pytest.raises(Exception, match="not a question"):
        await caller.ask(b"\xff")
    with pytest.raises(Exception, match="internal"):
        await caller.ask(ask_payload("broken"))
    assert "could not be answered" in caplog.text
    assert notes == [b"psst"]
    big = b"x" * 5_000_000
    assert await caller.ask(ask_payload("echo", big)) == wire.encode(big)


async def test_jobs_end_once_and_leave_nothing_behind(served):
    service, caller, jobs, _ = served
    events = []
    caller.open(Kind.JOB, b"refuse", lambda kind, payload: events.append((kind, payload)))
    caller.open(Kind.JOB, b"at once", lambda kind, payload: events.append((kind, payload)))
    call = caller.open(Kind.JOB, b"wait", lambda kind, payload: events.append((kind, payload)))
    await caller.ask(ask_payload("echo"))
    assert [kind for kind, _ in events] == [Kind.FAILED, Kind.END]
    error = wire.decode_failure(events[0][1])
    assert (error.code, error.fields) == ("bad_input", {"param": "body"})
    assert service.open_jobs == 1
    caller.control(call, Kind.PAUSE)
    await caller.ask(ask_payload("echo"))
    assert jobs[-1].paused
    caller.control(call, Kind.CANCEL)
    await asyncio.wait_for(jobs[-1].cancelled.wait(), 2)
    jobs[-1].port.finish(b"end")
    await caller.ask(ask_payload("echo"))
    assert events[-1] == (Kind.END, b"end")
    assert service.open_jobs == 0


async def test_a_lost_connection_fails_calls_and_cancels_jobs(served):
    service, caller, jobs, _ = served
    events = []
    lost = asyncio.Event()
    caller.on_lost = lost.set
    caller.open(Kind.JOB, b"wait", lambda kind, payload: events.append((kind, payload)))
    await caller.ask(ask_payload("echo"))
    next(iter(service._connections)).close()
    await asyncio.wait_for(lost.wait(), 2)
    assert events[-1][0] is Kind.FAILED
    assert caller.closed
    await asyncio.wait_for(jobs[-1].cancelled.wait(), 2)
    with pytest.raises(ConnectionLost):
        await caller.ask(ask_payload("echo"))


async def test_nobody_there(tmp_path):
    with pytest.raises(ConnectionLost):
        await Caller().connect(f"unix:{tmp_path}/none.sock")
    for address in ("unix:", "tcp:nohost", "http://x", "tcp:a:b"):
        with pytest.raises(WireError):
            await Caller().connect(address)


async def test_a_slow_reader_pauses_the_sender_and_lets_it_go_on(served):
    service, caller, jobs, _ = served
    queue = EventQueue(caller)
    queue.call = caller.open(Kind.JOB, b"wait", queue.put)
    await caller.ask(ask_payload("echo"))
    job = jobs[-1]
    for _ in range(40):
        job.port.send(Kind.CHUNKS, b"x" * 65536)
    async with asyncio.timeout(5):
        while not job.paused:
            await asyncio.sleep(0.01)
        for _ in range(40):
            await queue.get()
        while job.paused:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_frames_of_many_threads_arrive_whole_and_each_threads_in_order(tmp_path, loop_factory):
    """Large frames fill the socket, so that some of all threads' frames wait for the loop."""
    address, each = f"unix:{tmp_path}/socket", 60
    sizes = (5, 70_000, 0, 400_000, 31)

    async def run():
        accepted = asyncio.get_running_loop().create_future()

        def make():
            return Connection(lambda c, _kind, _call, _payload: accepted.set_result(c), accepting=True)

        server = await wire.serve(address, make)
        seen = []
        done = asyncio.Event()

        def frame(_connection, _kind, call, payload):
            seen.append((call, int.from_bytes(payload[:4]), len(payload)))
            if len(seen) == 4 * each:
                done.set()

        connection = await wire.connect(address, frame)
        connection.send(Kind.NOTE, 0, b"begin")
        other = await accepted

        def send(name):
            for number in range(each):
                other.send(Kind.CHUNKS, name, number.to_bytes(4) + bytes(sizes[(number + name) % len(sizes)]))

        threads = [threading.Thread(target=send, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        for number in range(each):
            other.send(Kind.CHUNKS, 3, number.to_bytes(4) + bytes(sizes[number % len(sizes)]))
            await asyncio.sleep(0)
        await asyncio.wait_for(done.wait(), 60)
        for thread in threads:
            thread.join()
        for name in range(4):
            assert [number for call, number, _ in seen if call == name] == list(range(each))
            expected = [4 + sizes[(number + name % 3) % len(sizes)] for number in range(each)]
            assert [size for call, _, size in seen if call == name] == expected
        connection.close()
        await connection.closed
        await other.closed
        other.send(Kind.CHUNKS, 1, b"lost")
        late = threading.Thread(target=other.send, args=(Kind.CHUNKS, 1, b"lost too"))
        late.start()
        late.join()
        server.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


async def test_sockets_are_for_their_owner_alone_and_replace_what_was_left(tmp_path):
    path = tmp_path / "run" / "s.sock"
    for _ in range(2):
        server = await wire.serve(f"unix:{path}", lambda: Connection(lambda *_: None, accepting=True))
        assert path.stat().st_mode & 0o777 == 0o600
        server.close()


async def test_loopback_tcp(tmp_path):
    async def echo(args):
        return args

    service = Service(lambda port, payload: OpenJob(port), {"echo": echo})
    await service.listen("tcp:127.0.0.1:0")
    port = service._server.sockets[0].getsockname()[1]
    caller = Caller()
    await caller.connect(f"tcp:127.0.0.1:{port}")
    assert await caller.ask(ask_payload("echo", 3)) == wire.encode(3)
    await caller.close()
    await service.close()


@settings(max_examples=300)
@given(
    st.sampled_from([Job, EnclaveJob, Binding, Result, Answer, Begin, Chunks, Head, Signed, NodeDescription, Consent]),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=70) | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=16),
        max_leaves=20,
    ).map(wire.encode),
)
def test_payloads_are_what_they_should_be_or_refused(kind, payload):
    try:
        value = wire.decode(payload, kind)
    except WireError:
        return
    assert wire.decode(wire.encode(value), kind) == value


@given(st.binary(max_size=100))
def test_failures_from_a_peer_are_errors_whatever_they_hold(payload):
    error = wire.decode_failure(payload)
    assert 400 <= error.http_status <= 599
