"""The codec against protobuf's own runtime, and against bytes that nobody should send."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.chain import abci
from avow.consensus.cometbft import messages
from avow.consensus.cometbft.bundle import decode_bundle, encode_bundles, is_bundle
from avow.consensus.cometbft.errors import ProtocolFault
from avow.consensus.cometbft.requests import decode_request
from avow.consensus.cometbft.responses import encode_response
from avow.consensus.cometbft.wire import MAX_MESSAGE, Frames, frame, read_varint
from avow.receipt.protobuf import varint
from tests.consensus.cometbft.oracle import Request, Response

blobs = st.binary(max_size=200)
txs = st.lists(st.binary(min_size=1, max_size=80), max_size=8)
heights = st.integers(0, (1 << 63) - 1)
times = st.integers(0, (1 << 62))


def stamp(found, time_ns: int) -> None:
    found.time.seconds, found.time.nanos = divmod(time_ns, 10**9)


@settings(max_examples=100)
@given(txs, blobs, heights, times, blobs, blobs)
def test_blocks_read_as_they_were_written(items, block_hash, height, time_ns, proposer, next_hash):
    for name, kind in (
        ("finalize_block", abci.FinalizeBlockRequest),
        ("process_proposal", abci.ProcessProposalRequest),
    ):
        request = Request()
        found = getattr(request, name)
        found.SetInParent()
        found.txs.extend(items)
        found.hash, found.height, found.proposer_address = block_hash, height, proposer
        found.next_validators_hash = next_hash
        stamp(found, time_ns)
        commit = found.decided_last_commit if name == "finalize_block" else found.proposed_last_commit
        commit.round = 3
        vote = commit.votes.add(block_id_flag=2)
        vote.validator.address, vote.validator.power = bytes(20), 7
        evidence = found.misbehavior.add(type=1, height=5, total_voting_power=9)
        evidence.time.seconds = 1
        evidence.validator.address, evidence.validator.power = bytes(19) + b"\x01", 7
        proven = abci.Misbehavior(abci.MisbehaviorType.DUPLICATE_VOTE, bytes(19) + b"\x01", 5)
        expected = kind(tuple(items), block_hash, height, time_ns, proposer, next_hash)
        if isinstance(expected, abci.FinalizeBlockRequest):
            expected = replace(expected, misbehavior=(proven,))
        assert decode_request(request.SerializeToString()) == expected


def test_evidence_is_read_strictly():
    def finalize(kind, address):
        request = Request()
        request.finalize_block.misbehavior.add(type=kind, height=5).validator.address = address
        return decode_request(request.SerializeToString()).misbehavior

    address = b"\x07" * 20
    kinds = [finalize(kind, address)[0].kind for kind in range(4)]
    assert kinds == [0, 1, 2, 0], "what is not known proves nothing"
    for wrong in (b"", bytes(19), bytes(21)):
        with pytest.raises(ProtocolFault):
            finalize(1, wrong)


@settings(max_examples=50)
@given(txs, heights, times, blobs)
def test_proposals_and_the_rest_read_as_they_were_written(items, height, time_ns, data):
    request = Request()
    request.prepare_proposal.txs.extend(items)
    request.prepare_proposal.max_tx_bytes, request.prepare_proposal.height = 77, height
    request.prepare_proposal.proposer_address = data
    stamp(request.prepare_proposal, time_ns)
    assert decode_request(request.SerializeToString()) == abci.PrepareProposalRequest(
        77, tuple(items), height, time_ns, data
    )
    request = Request()
    request.check_tx.tx, request.check_tx.type = data, 1
    assert decode_request(request.SerializeToString()) == abci.CheckTxRequest(data, abci.CheckTxType.RECHECK)
    request = Request()
    request.apply_snapshot_chunk.index, request.apply_snapshot_chunk.chunk = 3, data
    request.apply_snapshot_chunk.sender = "peer"
    assert decode_request(request.SerializeToString()) == messages.ApplySnapshotChunkRequest(3, data, "peer")
    request = Request()
    snapshot = request.offer_snapshot.snapshot
    snapshot.height, snapshot.format, snapshot.chunks, snapshot.hash, snapshot.metadata = height, 1, 2, data, data
    request.offer_snapshot.app_hash = b"\x01" * 32
    assert decode_request(request.SerializeToString()) == messages.OfferSnapshotRequest(
        messages.Snapshot(height, 1, 2, data, data), b"\x01" * 32
    )
    request = Request()
    request.query.data, request.query.path, request.query.prove = data, "/state", True
    assert decode_request(request.SerializeToString()) == abci.QueryRequest(data, "/state", 0, prove=True)


def test_init_chain_takes_ed25519_alone():
    request = Request()
    update = request.init_chain.validators.add(power=10)
    update.pub_key.ed25519 = b"\x02" * 32
    request.init_chain.chain_id, request.init_chain.app_state_bytes = "avow-1", b'"x"'
    request.init_chain.initial_height = 1
    request.init_chain.consensus_params.block.max_bytes = 9
    stamp(request.init_chain, 5_000_000_001)
    assert decode_request(request.SerializeToString()) == abci.InitChainRequest(
        5_000_000_001, "avow-1", (abci.ValidatorUpdate(b"\x02" * 32, 10),), b'"x"', 1
    )
    update.pub_key.secp256k1 = b"\x02" * 33
    with pytest.raises(ProtocolFault):
        decode_request(request.SerializeToString())


def test_a_flush_is_three_bytes():
    assert frame(encode_response(messages.Flush())) == b"\x02\x1a\x00"
    assert decode_request(b"\x12\x00") == messages.Flush()


results = st.builds(
    abci.ExecTxResult,
    code=st.integers(0, 2**32 - 1),
    data=blobs,
    gas_wanted=heights,
    gas_used=heights,
    log=st.text(max_size=20),
    events=st.lists(
        st.builds(
            abci.Event,
            st.text(max_size=8),
            st.lists(
                st.builds(abci.EventAttribute, st.text(max_size=5), st.text(max_size=5), st.booleans()), max_size=3
            ).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
)


@settings(max_examples=100)
@given(st.lists(results, max_size=4), st.binary(min_size=1, max_size=32), st.integers(0, 1 << 50))
def test_protobuf_reads_our_blocks_results(items, app_hash, power):
    update = abci.ValidatorUpdate(b"\x03" * 32, power)
    encoded = encode_response(abci.FinalizeBlockResponse(tuple(items), app_hash, (), (update,)))
    found = Response.FromString(encoded).finalize_block
    assert found.app_hash == app_hash
    assert [(item.pub_key.ed25519, item.power) for item in found.validator_updates] == [(b"\x03" * 32, power)]
    assert len(found.tx_results) == len(items)
    for mine, theirs in zip(items, found.tx_results, strict=True):
        assert (theirs.code, theirs.data, theirs.log) == (mine.code, mine.data, mine.log)
        assert (theirs.gas_wanted, theirs.gas_used) == (mine.gas_wanted, mine.gas_used)
        assert [
            (event.type, [(item.key, item.value, item.index) for item in event.attributes]) for event in theirs.events
        ] == [(event.type, [(item.key, item.value, item.index) for item in event.attributes]) for event in mine.events]
    hashed = [item.deterministic().leaf() for item in items]
    for leaf, theirs in zip(hashed, found.tx_results, strict=True):
        theirs.ClearField("log")
        theirs.ClearField("events")
        assert theirs.SerializeToString(deterministic=True) == leaf


RESPONSES = [
    (messages.Echo("x"), "echo", {"message": "x"}),
    (abci.InfoResponse("avow", "1", 2, 3, b"h"), "info", {"data": "avow", "app_version": 2, "last_block_height": 3}),
    (abci.InitChainResponse(b"hash"), "init_chain", {"app_hash": b"hash"}),
    (abci.CheckTxResponse(5, b"d", "log", 6, 7), "check_tx", {"code": 5, "data": b"d", "log": "log", "gas_wanted": 6}),
    (abci.CommitResponse(9), "commit", {"retain_height": 9}),
    (abci.QueryResponse(1, b"k", b"v", 4, b"", "no"), "query", {"code": 1, "key": b"k", "value": b"v", "height": 4}),
    (messages.OfferSnapshotResponse(messages.Offered.REJECT), "offer_snapshot", {"result": 3}),
    (messages.LoadSnapshotChunkResponse(b"c"), "load_snapshot_chunk", {"chunk": b"c"}),
    (abci.PrepareProposalResponse((b"a", b"b")), "prepare_proposal", {"txs": [b"a", b"b"]}),
    (abci.ProcessProposalResponse(accept=True), "process_proposal", {"status": 1}),
    (abci.ProcessProposalResponse(accept=False), "process_proposal", {"status": 2}),
    (messages.ExtendVoteResponse(), "extend_vote", {"vote_extension": b""}),
    (messages.VerifyVoteExtensionResponse(accept=True), "verify_vote_extension", {"status": 1}),
    (messages.InsertTxResponse(32_000), "insert_tx", {"code": 32_000}),
    (messages.ReapTxsResponse((b"z",)), "reap_txs", {"txs": [b"z"]}),
    (
        messages.ApplySnapshotChunkResponse(messages.Applied.RETRY, (0, 300), ("bad",)),
        "apply_snapshot_chunk",
        {"result": 3, "refetch_chunks": [0, 300], "reject_senders": ["bad"]},
    ),
]


@pytest.mark.parametrize(("response", "name", "values"), RESPONSES)
def test_protobuf_reads_every_response(response, name, values):
    found = Response.FromString(encode_response(response))
    assert found.WhichOneof("value") == name
    for key, value in values.items():
        theirs = getattr(getattr(found, name), key)
        assert (list(theirs) if isinstance(value, list) else theirs) == value


def test_a_snapshot_list_and_a_proof_are_read():
    snapshot = messages.Snapshot(5, 1, 2, b"h", b"m")
    found = Response.FromString(encode_response(messages.ListSnapshotsResponse((snapshot,)))).list_snapshots.snapshots[
        0
    ]
    assert (found.height, found.format, found.chunks, found.hash, found.metadata) == (5, 1, 2, b"h", b"m")
    found = Response.FromString(encode_response(abci.QueryResponse(0, b"k", b"v", 1, b"proof"))).query.proof_ops.ops[0]
    assert (found.type, found.key, found.data) == ("avow/sparse/1", b"k", b"proof")


# --- What is refused ---------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_a_fault(data):
    try:
        decode_request(data)
    except ProtocolFault:
        pass


@settings(max_examples=200)
@given(st.integers(0, 200), st.integers(0, 255), st.data())
def test_a_damaged_request_is_another_or_a_fault(at, byte, data):
    request = Request()
    request.finalize_block.txs.extend([b"one", b"two"])
    request.finalize_block.hash, request.finalize_block.height = b"\x01" * 32, 9
    encoded = bytearray(request.SerializeToString())
    encoded[at % len(encoded)] = byte
    cut = data.draw(st.integers(0, len(encoded)))
    try:
        decode_request(bytes(encoded[:cut]))
    except ProtocolFault:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"",  # nothing
        b"\x12\x00\x12\x00",  # two flushes
        b"\x12\x00\x0a\x00",  # a flush and an echo
        b"\x12\x02\x08\x01",  # a flush with a field
        b"\x22\x00",  # set_option, reserved
        b"\x10\x01",  # flush as a number
        b"\x12\x05\x00",  # longer than there is
        b"\x42\x02\x10\x02",  # an unknown reason to check
        b"\x42\x03\x10\x80",  # cut off
        b"\x42\x0b\x10" + b"\xff" * 10,  # a number of more than 64 bits
        b"\x0a\x03\x0a\x01\xff",  # a text that is none
        b"\xa2\x01\x0b\x28" + b"\xff" * 9 + b"\x01",  # a negative height
        b"\xa2\x01\x06\x32\x04\x10\x80\x94\xeb\xdc\x03",  # a second of nanoseconds
    ],
)
def test_what_is_no_request_is_refused(data):
    with pytest.raises(ProtocolFault):
        decode_request(data)


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=400), max_size=5), st.lists(st.integers(1, 50), max_size=40))
def test_frames_come_out_as_they_went_in(items, cuts):
    stream = b"".join(frame(item) for item in items)
    frames, out = Frames(), []
    while stream:
        size = cuts.pop() if cuts else len(stream)
        frames.feed(stream[:size])
        stream = stream[size:]
        while (found := frames.next()) is not None:
            out.append(found)
    assert out == items


def test_a_frame_that_is_too_large_is_refused_before_it_is_there():
    frames = Frames()
    frames.feed(varint(MAX_MESSAGE + 1))
    with pytest.raises(ProtocolFault):
        frames.next()
    frames = Frames()
    frames.feed(b"\xff" * 10)
    with pytest.raises(ProtocolFault):
        frames.next()


@given(st.integers(0, (1 << 64) - 1))
def test_numbers_are_read_back(number):
    assert read_varint(varint(number), 0) == (number, len(varint(number)))


# --- Bundles -----------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.lists(st.binary(min_size=1, max_size=2_000).filter(lambda tx: tx[0] != 0xA0), max_size=400))
def test_bundles_hold_what_went_in(items):
    out = []
    for item in encode_bundles(items):
        out += decode_bundle(item) if is_bundle(item) else [item]
        assert not is_bundle(item) or len(item) < 300_000
    assert out == items


@settings(max_examples=200)
@given(st.binary(max_size=100))
def test_any_bytes_are_a_bundle_or_a_fault(data):
    for attempt in (data, b"\xa0" + data):
        try:
            assert len(decode_bundle(attempt)) >= 2
        except ProtocolFault:
            pass
