"""The runner: statements that verify, streams whose chain verifies, and every way a job can end early."""

import asyncio
import os
import threading

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from avow.errors import InputError
from avow.nodes.batches import charge_of
from avow.nodes.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    EndpointMismatch,
    EngineFailure,
    MethodNotServed,
    OpeningGone,
    UnknownProgram,
)
from avow.nodes.jobs import Begin, Chunks, Consent, Head
from avow.nodes.opening import unseal
from avow.nodes.runner import Runner
from avow.nodes.signer import Signer
from avow.receipt.commitment import MalformedBody, commit, effective_parts, request_parts, response_parts
from avow.receipt.encoding import decode
from avow.receipt.requester import BadRequester, sign_request
from avow.receipt.statement import (
    Method,
    Private,
    first_head,
    next_head,
    private_hash,
    statement_hash,
    statement_payload,
    stream_payload,
    verify_signature,
)
from avow.receipt.stream import (
    chunk_mac,
    mac_key,
    shared_secret,
    stream_next,
    stream_parts,
    stream_start,
)
from tests.nodes.conftest import (
    BODY,
    CHAIN,
    OPERATOR,
    PAYER,
    PROGRAM,
    STREAM_BODY,
    TERMS,
    RecordingSink,
    StubEngine,
    job,
    loaded,
)


@pytest.fixture
async def make():
    runners = []

    def build(engine=None, slots=2):
        signer = Signer(CHAIN, OPERATOR, Method.VANILLA)
        runner = Runner({PROGRAM: loaded(engine, slots)}, signer)
        runners.append(runner)
        return runner

    yield build
    for runner in runners:
        runner.close()


async def run(runner, a_job):
    sink = RecordingSink()
    runner.start(a_job, TERMS, sink)
    return sink, await asyncio.wait_for(sink.over, 10)


def check_signed(signer, signed, previous):
    assert signed.previous_head == previous
    assert statement_hash(signed.columns, private_hash(signed.private)) == signed.id
    assert next_head(previous, signed.id) == signed.head
    payload = statement_payload(CHAIN, signer.key, signed.number, signed.id, signed.head)
    verify_signature(signer.signing_key, payload, signed.signature)
    return Private.from_value(decode(signed.private))


async def test_an_answer_is_committed_numbered_and_signed(make):
    runner = make()
    head = first_head(CHAIN, runner.signer.key)
    for number in range(3):
        _, result = await run(runner, job())
        private = check_signed(runner.signer, result.signed, head)
        head = result.signed.head
        assert result.signed.number == number
        assert private.request == commit("request", result.seed, request_parts(job().endpoint, BODY))
        assert private.effective == commit("effective", result.seed, effective_parts(result.effective))
        assert private.response == commit("response", result.seed, response_parts(result.body))
        assert private.complete and private.stream is None
        assert dict(private.usage)["total_tokens"] == 14
    assert result.signed.columns[40:60] == PAYER
    assert int.from_bytes(result.signed.columns[69:85]) == 14 * 1000


async def test_a_stream_chains_from_first_to_last_chunk(make):
    runner = make(StubEngine(chunks=50))
    sink, result = await run(runner, job(STREAM_BODY))
    private = check_signed(runner.signer, result.signed, first_head(CHAIN, runner.signer.key))
    (begin,) = sink.of(Begin)
    assert sink.events[0] is begin
    head = stream_start(private.request, private.effective)
    for data in sink.data():
        head = stream_next(head, data)
    assert private.stream.head == head and private.stream.chunks == 50
    assert private.response == commit("response", result.seed, stream_parts(sink.data(), head))
    assert not any(chunks.macs for chunks in sink.of(Chunks))


async def test_signed_heads_prove_what_was_delivered(make):
    runner = make(StubEngine(chunks=30, delay_s=0.02))
    sink, result = await run(runner, job(STREAM_BODY))
    private = check_signed(runner.signer, result.signed, first_head(CHAIN, runner.signer.key))
    heads = sink.of(Head)
    assert len(heads) >= 4, "one with the first chunk and one every 100 ms"
    assert heads[0].count <= 2
    chain = [stream_start(private.request, private.effective)]
    for data in sink.data():
        chain.append(stream_next(chain[-1], data))
    for head in heads:
        payload = stream_payload(
            CHAIN, runner.signer.key, private.request, private.effective, head.count, chain[head.count]
        )
        verify_signature(runner.signer.signing_key, payload, head.signature)


async def test_a_caller_with_a_key_gets_a_tag_for_each_chunk(make):
    runner = make(StubEngine(chunks=20))
    ours = ec.generate_private_key(ec.SECP256R1())
    numbers = ours.public_key().public_numbers()
    point = b"\x04" + numbers.x.to_bytes(32) + numbers.y.to_bytes(32)
    sink, result = await run(runner, job(STREAM_BODY, client_key=point))
    private = Private.from_value(decode(result.signed.private))
    (begin,) = sink.of(Begin)
    key = mac_key(shared_secret(ours, begin.transport_key), private.request, private.effective)
    head = stream_start(private.request, private.effective)
    macs = [mac for chunks in sink.of(Chunks) for mac in chunks.macs]
    assert len(macs) == 20
    for data, mac in zip(sink.data(), macs, strict=True):
        head = stream_next(head, data)
        assert chunk_mac(key, head) == mac


async def test_the_opening_unseals_for_the_secret_alone(make):
    runner = make()
    seed = os.urandom(32)
    _, result = await run(runner, job(seed=seed))
    private = Private.from_value(decode(result.signed.private))
    opening = unseal(result.sealed, seed, private.request)
    assert opening.request == BODY and opening.response == result.body
    assert commit("response", seed, opening.response_parts()) == private.response
    assert commit("request", seed, opening.request_parts()) == private.request
    for secret, request in ((os.urandom(32), private.request), (seed, bytes(32))):
        with pytest.raises(OpeningGone):
            unseal(result.sealed, secret, request)


async def test_a_requester_is_named_only_with_its_signature(make):
    runner = make()
    seed = os.urandom(32)
    request = commit("request", seed, request_parts(job().endpoint, BODY))
    signed = sign_request(b"\x05" * 32, CHAIN, request, "vanilla", b"n" * 16)
    asked = job(seed=seed, requester=signed.address, requester_signature=signed.signature)
    _, result = await run(runner, asked)
    assert Private.from_value(decode(result.signed.private)).requester == signed.address
    other = sign_request(b"\x05" * 32, CHAIN, request, "tee", b"n" * 16)
    with pytest.raises(BadRequester):
        await run(runner, job(seed=seed, requester=signed.address, requester_signature=other.signature))
    with pytest.raises(InputError):
        await run(runner, job(seed=seed, requester=signed.address))
    assert runner.signer.next_number == 1, "a refused job takes no number"


async def test_an_authorisation_is_named_and_bounds_the_charge(make):
    """A node that charges more than it was allowed has made a statement that never settles."""
    runner = make()
    consent = Consent((7).to_bytes(16), 1, 2, bytes(65))
    _, plain = await run(runner, job())
    _, result = await run(runner, job(authorisation=msgspec.msgpack.encode(consent)))
    assert Private.from_value(decode(plain.signed.private)).authorised is False
    assert Private.from_value(decode(result.signed.private)).authorised is True
    assert charge_of(plain.signed.columns)[1] > 7
    assert charge_of(result.signed.columns)[1] == 7
    with pytest.raises(InputError):
        await run(runner, job(authorisation=b"x"))
    assert runner.signer.next_number == 2


class HeldEngine(StubEngine):
    """Waits before each chunk until it is told to go on."""

    def __init__(self, chunks):
        super().__init__(chunks)
        self.go = threading.Semaphore(0)
        self.started = threading.Event()

    def chat(self, request, effective, emit):
        self.started.set()

        def held(chunk):
            assert self.go.acquire(timeout=10)
            return emit(chunk)

        return super().chat(request, effective, held)


async def test_a_cancelled_stream_ends_in_an_incomplete_statement_of_what_was_delivered(make):
    engine = HeldEngine(10)
    runner = make(engine)
    sink = RecordingSink()
    started = runner.start(job(STREAM_BODY), TERMS, sink)
    engine.go.release(3)
    while len(sink.data()) < 3:
        await asyncio.sleep(0.005)
    started.cancel()
    started.cancel()
    engine.go.release(10)
    result = await asyncio.wait_for(sink.over, 5)
    private = check_signed(runner.signer, result.signed, first_head(CHAIN, runner.signer.key))
    assert not private.complete and not result.complete
    assert private.stream.chunks == len(sink.data()) == 3


async def test_cancelled_before_the_first_chunk_leaves_no_statement(make):
    engine = HeldEngine(10)
    runner = make(engine)
    sink = RecordingSink()
    started = runner.start(job(STREAM_BODY), TERMS, sink)
    await asyncio.to_thread(engine.started.wait, 5)
    started.cancel()
    engine.go.release(10)
    with pytest.raises(Cancelled):
        await asyncio.wait_for(sink.over, 5)
    assert runner.signer.next_number == 0


async def test_a_paused_stream_holds_its_engine(make):
    engine = StubEngine(chunks=200)
    runner = make(engine)
    sink = RecordingSink()
    started = runner.start(job(STREAM_BODY), TERMS, sink)
    started.pause()
    await asyncio.sleep(0.1)
    held = len(sink.data())
    assert held <= 200
    await asyncio.sleep(0.1)
    assert len(sink.data()) == held
    started.resume()
    await asyncio.wait_for(sink.over, 5)
    assert len(sink.data()) == 200


async def test_the_deadline_ends_an_answer_in_one_piece_at_once(make):
    runner = make(StubEngine(delay_s=0.5), slots=1)
    with pytest.raises(DeadlineExceeded):
        await run(runner, job(deadline_ms=50))
    _, result = await run(runner, job())
    assert result.signed.number == 0


async def test_a_full_queue_refuses_and_closing_fails_the_queued(make):
    runner = make(StubEngine(delay_s=0.2), slots=1)
    sinks = []
    with pytest.raises(Busy):
        for _ in range(40):
            sink = RecordingSink()
            runner.start(job(), TERMS, sink)
            sinks.append(sink)
    assert len(sinks) == 17
    runner.close()
    outcomes = await asyncio.gather(*(sink.over for sink in sinks), return_exceptions=True)
    assert sum(isinstance(outcome, Cancelled) for outcome in outcomes) >= 15


async def test_jobs_that_do_not_fit_are_refused_at_once(make):
    runner = make()
    sink = RecordingSink()
    for changes, error in (
        ({"program": bytes(32)}, UnknownProgram),
        ({"method": 2}, MethodNotServed),
        ({"endpoint": "POST /v2/models/stub/infer"}, EndpointMismatch),
    ):
        with pytest.raises(error):
            runner.start(job(**changes), TERMS, sink)
    with pytest.raises(MalformedBody):
        await run(runner, job(b'{"messages":[1],"messages":[2]}'))


class BrokenEngine(StubEngine):
    def __init__(self, after):
        super().__init__(chunks=10)
        self.after = after

    def chat(self, request, effective, emit):
        seen = 0

        def counted(chunk):
            nonlocal seen
            if seen == self.after:
                raise RuntimeError("broken")
            seen += 1
            return emit(chunk)

        super().chat(request, effective, counted)
        raise RuntimeError("broken")


async def test_an_engine_that_breaks_is_reported_and_what_it_delivered_is_not_charged(make, caplog):
    with pytest.raises(EngineFailure):
        await run(make(BrokenEngine(0)), job(STREAM_BODY))
    with pytest.raises(EngineFailure):
        await run(make(BrokenEngine(0)), job())
    runner = make(BrokenEngine(4))
    sink, result = await run(runner, job(STREAM_BODY))
    assert len(sink.data()) == 4
    assert not result.complete
    assert int.from_bytes(result.signed.columns[69:85]) == 0
    assert "broke off" in caplog.text


async def test_many_jobs_at_once_are_numbered_without_gaps(make):
    runner = make(StubEngine(delay_s=0.001), slots=4)
    sinks = [RecordingSink() for _ in range(60)]
    for sink in sinks:
        runner.start(job(), TERMS, sink)
    results = await asyncio.gather(*(sink.over for sink in sinks))
    assert sorted(result.signed.number for result in results) == list(range(60))
    head = first_head(CHAIN, runner.signer.key)
    for result in sorted(results, key=lambda result: result.signed.number):
        check_signed(runner.signer, result.signed, head)
        head = result.signed.head
