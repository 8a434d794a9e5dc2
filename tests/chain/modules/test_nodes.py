"""Keys, measurements, prices and the beacon. The attester is the development enclave's: documents of the Nitro format."""

from dataclasses import replace

import pytest

from avow.chain.errors import Code
from avow.chain.genesis import AllowedMeasurement
from avow.chain.modules import beacon, measurements, nodes, registry
from avow.chain.modules.batch import MAX_STATEMENTS
from avow.methods.registration import registration_digest
from avow.methods.tee.attesters import DevelopmentAttester
from avow.receipt.encoding import decode, encode
from avow.receipt.standing import KeyRecord, KeyState
from avow.receipt.statement import Method, next_head
from tests.chain.harness import (
    FAR_MS,
    PROGRAM,
    START_MS,
    Chain,
    NodeKey,
    account,
    cose,
    point,
    refused,
)

MEASUREMENT = b"\x22" * 32


def attester(home, now=lambda: START_MS, **more) -> DevelopmentAttester:
    return DevelopmentAttester(home, programs=[PROGRAM], versions={}, clock_ms=now, **more)


@pytest.fixture
def enclave(tmp_path):
    return attester(tmp_path)


@pytest.fixture
def tee(enclave):
    """A chain that allows the enclave's measurement."""
    allowed = AllowedMeasurement(enclave.measurement, None, 0, None)
    return Chain(roots=(enclave.root,), measurements=(allowed,))


def record(chain, key: NodeKey) -> KeyRecord:
    return KeyRecord.from_bytes(chain.view(nodes.ADDRESS, "keyRecord", key.id)[0])


# --- Registration ----------------------------------------------------------------------------------------------------


def test_a_vanilla_key_is_active_at_once(chain):
    key = chain.register(chain.new_key())
    found = record(chain, key)
    assert found.state is KeyState.ACTIVE
    assert (found.operator, found.method) == (account("operator"), Method.VANILLA)
    assert (found.signing_key, found.transport_key) == (point(key.signing), point(key.transport))
    assert (found.until_ms, found.measurement, found.attestation, found.root) == (None, None, None, None)
    assert found.from_height == chain.height


def test_a_tee_key_carries_what_was_attested(tee, enclave):
    key = tee.register(tee.new_key(Method.TEE), enclave)
    found = record(tee, key)
    assert found.state is KeyState.ACTIVE
    assert found.measurement == enclave.measurement
    assert found.until_ms > tee.now_ms
    assert found.attestation is not None
    assert found.root is not None


def test_a_tee_key_waits_for_its_measurement(enclave):
    chain = Chain(roots=(enclave.root,))
    key = chain.register(chain.new_key(Method.TEE), enclave)
    assert record(chain, key).state is KeyState.REGISTERED
    early = chain.send("operator", nodes.ADDRESS, "activate", key.id)
    assert refused(early) == (Code.MEASUREMENT_NOT_ALLOWED, None)
    chain.do("governance", nodes.ADDRESS, "allowMeasurement", enclave.measurement, PROGRAM, 0, FAR_MS)
    chain.do("operator", nodes.ADDRESS, "activate", key.id)
    assert record(chain, key).state is KeyState.ACTIVE


def arguments(chain, key, enclave=None, **changes):
    names = ("method", "signing", "transport", "block", "evidence")
    fields = dict(zip(names, chain.register_arguments(key, enclave), strict=True))
    return tuple((fields | changes).values())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"method": 3}, Code.METHOD_UNSUPPORTED),
        ({"method": 200}, Code.METHOD_UNSUPPORTED),
        ({"signing": bytes(65)}, Code.KEY_INVALID),
        ({"signing": b"\x04" + bytes(64)}, Code.KEY_INVALID),
        ({"signing": b""}, Code.KEY_INVALID),
        ({"transport": b"\x04" + b"\xff" * 64}, Code.KEY_INVALID),
        ({"block": bytes(32)}, Code.BLOCK_NOT_RECENT),
        ({"evidence": b""}, Code.POSSESSION_UNPROVEN),
        ({"evidence": bytes(40_000)}, Code.OUT_OF_RANGE),
    ],
)
def test_registration_refuses(chain, changes, code):
    key = chain.new_key()
    result = chain.send("operator", nodes.ADDRESS, "register", *arguments(chain, key, **changes))
    assert refused(result) == (code, None)
    assert chain.view(nodes.ADDRESS, "keyRecord", key.id) == [b""]


def test_possession_is_for_this_operator_chain_and_transport_key(chain):
    key = chain.new_key()
    proof = arguments(chain, key)
    other_operator = chain.send("other operator", nodes.ADDRESS, "register", *proof)
    assert refused(other_operator) == (Code.POSSESSION_UNPROVEN, None)
    swapped = arguments(chain, key, transport=point(chain.new_key(generation=1).transport))
    assert refused(chain.send("operator", nodes.ADDRESS, "register", *swapped)) == (Code.POSSESSION_UNPROVEN, None)
    digest = registration_digest("avow-0000000000000000", account("operator"), *proof[1:3], proof[3])
    elsewhere = arguments(chain, key, evidence=cose(key.signing, digest))
    assert refused(chain.send("operator", nodes.ADDRESS, "register", *elsewhere)) == (Code.POSSESSION_UNPROVEN, None)


def test_a_key_is_registered_once(chain):
    key = chain.register(chain.new_key())
    again = chain.send("operator", nodes.ADDRESS, "register", *arguments(chain, key))
    assert refused(again) == (Code.KEY_EXISTS, None)
    chain.do("operator", nodes.ADDRESS, "retire", key.id)
    assert refused(chain.send("operator", nodes.ADDRESS, "register", *arguments(chain, key))) == (Code.KEY_EXISTS, None)


def test_the_bound_block_is_recent(chain):
    key = chain.new_key()
    proof = arguments(chain, key)
    chain.now_ms += chain.genesis.registration_window_ms
    assert refused(chain.send("operator", nodes.ADDRESS, "register", *proof)) == (Code.BLOCK_NOT_RECENT, None)


def test_an_attestation_is_bound_to_key_and_registration(tee, enclave):
    key, thief = tee.new_key(Method.TEE), tee.new_key(Method.TEE, generation=1)
    proof = arguments(tee, key, enclave)
    stolen = (proof[0], point(thief.signing), point(thief.transport), proof[3], proof[4])
    assert refused(tee.send("operator", nodes.ADDRESS, "register", *stolen)) == (Code.ATTESTATION_UNBOUND, None)
    assert refused(tee.send("stranger", nodes.ADDRESS, "register", *proof)) == (Code.ATTESTATION_UNBOUND, None)
    no_key = enclave.attest(None, b"x")
    assert refused(tee.send("operator", nodes.ADDRESS, "register", *proof[:4], no_key)) == (
        Code.ATTESTATION_UNBOUND,
        None,
    )


def test_an_attestation_under_another_root_is_refused(tee, tmp_path):
    stranger = attester(tmp_path / "stranger")
    key = tee.new_key(Method.TEE)
    result = tee.send("operator", nodes.ADDRESS, "register", *arguments(tee, key, stranger))
    assert refused(result) == (Code.ATTESTATION_REFUSED, None)


def test_a_broken_attestation_is_refused(tee, enclave):
    key = tee.new_key(Method.TEE)
    proof = arguments(tee, key, enclave)
    for document in (b"", proof[4][:-1], proof[4] + b"\x00", bytes(len(proof[4]))):
        result = tee.send("operator", nodes.ADDRESS, "register", *proof[:4], document)
        assert refused(result) == (Code.ATTESTATION_REFUSED, None)


def test_an_attestation_is_young(tmp_path):
    clock = {"ms": START_MS}
    enclave = attester(tmp_path, lambda: clock["ms"])
    chain = Chain(roots=(enclave.root,))
    for offset in (-chain.genesis.registration_window_ms - 60_000, 120_000):
        clock["ms"] = chain.now_ms + offset
        key = chain.new_key(Method.TEE, generation=offset)
        result = chain.send("operator", nodes.ADDRESS, "register", *arguments(chain, key, enclave))
        assert refused(result) == (Code.ATTESTATION_STALE, None)


def test_an_attestation_serves_once(tee, enclave):
    key = tee.new_key(Method.TEE)
    proof = arguments(tee, key, enclave)
    tee.do("operator", nodes.ADDRESS, "register", *proof)
    again = tee.send("operator", nodes.ADDRESS, "reattest", key.id, proof[3], proof[4])
    assert refused(again) == (Code.ATTESTATION_REPLAYED, None)


def test_a_tee_key_is_attested_again(tmp_path):
    clock = {"ms": START_MS}
    enclave = attester(tmp_path, lambda: clock["ms"])
    chain = Chain(roots=(enclave.root,), measurements=(AllowedMeasurement(enclave.measurement, None, 0, None),))
    key = chain.register(chain.new_key(Method.TEE), enclave)
    before = record(chain, key)
    clock["ms"] = chain.now_ms = START_MS + 2 * 3_600_000
    chain.block()
    block_hash, document = chain.attestation(key, attester=enclave)
    chain.do("operator", nodes.ADDRESS, "reattest", key.id, block_hash, document)
    after = record(chain, key)
    assert after.until_ms > before.until_ms
    assert after.attestation != before.attestation
    same = replace(after, until_ms=before.until_ms, attestation=before.attestation)
    assert same == before
    other = chain.send("stranger", nodes.ADDRESS, "reattest", key.id, block_hash, document)
    assert refused(other) == (Code.NOT_AUTHORISED, None)


def test_another_measurement_is_another_key(tee, enclave, tmp_path):
    key = tee.register(tee.new_key(Method.TEE), enclave)
    changed = DevelopmentAttester(tmp_path, programs=[b"\x01" * 32], versions={}, clock_ms=lambda: START_MS)
    block_hash, document = tee.attestation(key, attester=changed)
    result = tee.send("operator", nodes.ADDRESS, "reattest", key.id, block_hash, document)
    assert refused(result) == (Code.MEASUREMENT_CHANGED, None)


def test_vanilla_has_nothing_to_attest(chain, node):
    result = chain.send("operator", nodes.ADDRESS, "reattest", node.id, bytes(32), b"")
    assert refused(result) == (Code.METHOD_UNSUPPORTED, None)


# --- The end of a key ------------------------------------------------------------------------------------------------


def test_rotation_drains_the_old_key(chain, node):
    fresh = chain.new_key(generation=1)
    chain.do("operator", nodes.ADDRESS, "rotate", node.id, *chain.register_arguments(fresh))
    assert record(chain, node).state is KeyState.DRAINING
    assert record(chain, fresh).state is KeyState.ACTIVE
    assert record(chain, node).until_ms == chain.now_ms + chain.genesis.settlement_window_ms


def test_rotation_is_whole_or_not_at_all(chain, node):
    chain.do("operator", nodes.ADDRESS, "retire", node.id)
    fresh = chain.new_key(generation=1)
    result = chain.send("operator", nodes.ADDRESS, "rotate", node.id, *chain.register_arguments(fresh))
    assert refused(result) == (Code.KEY_LIFE, None)
    assert chain.view(nodes.ADDRESS, "keyRecord", fresh.id) == [b""]


def test_draining_and_retired_keys_settle_what_they_signed_in_time(chain, node):
    statements = [node.sign() for _ in range(3)]
    chain.do("operator", nodes.ADDRESS, "drain", node.id)
    assert chain.settle(node, statements[:1]).code == Code.OK
    chain.do("operator", nodes.ADDRESS, "retire", node.id)
    assert chain.settle(node, statements[1:2]).code == Code.OK
    chain.now_ms += chain.genesis.settlement_window_ms
    assert refused(chain.settle(node, statements[2:])) == (Code.KEY_NOT_SETTLING, 0xFFFFFFFF)


@pytest.mark.parametrize("who", ["operator", "governance"])
def test_operator_and_governance_revoke(chain, node, who):
    chain.do(who, nodes.ADDRESS, "revoke", node.id)
    assert record(chain, node).state is KeyState.REVOKED
    assert refused(chain.settle(node, [node.sign()])) == (Code.KEY_NOT_SETTLING, 0xFFFFFFFF)
    assert refused(chain.send(who, nodes.ADDRESS, "revoke", node.id)) == (Code.KEY_LIFE, None)


@pytest.mark.parametrize("function", ["drain", "retire", "activate"])
@pytest.mark.parametrize("who", ["stranger", "governance"])
def test_only_the_operator_ends_a_key(chain, node, function, who):
    assert refused(chain.send(who, nodes.ADDRESS, function, node.id)) == (Code.NOT_AUTHORISED, None)
    assert refused(chain.send(who, nodes.ADDRESS, function, bytes(32))) == (Code.KEY_UNKNOWN, None)


def test_strangers_revoke_nothing(chain, node):
    for function, extra in (("revoke", ()), ("compromised", (1,))):
        result = chain.send("stranger", nodes.ADDRESS, function, node.id, *extra)
        assert refused(result) == (Code.NOT_AUTHORISED, None)


def test_a_compromise_names_a_height_that_only_moves_back(chain, node):
    now = chain.height + 1
    for who, height in (
        ("operator", now - 1),
        ("operator", 0),
        ("operator", (1 << 64) - 1),
        ("governance", (1 << 64) - 1),
    ):
        assert refused(chain.send(who, nodes.ADDRESS, "compromised", node.id, height)) == (Code.OUT_OF_RANGE, None)
        now += 1
    chain.do("operator", nodes.ADDRESS, "compromised", node.id, now)
    assert (record(chain, node).state, record(chain, node).compromised_from) == (KeyState.REVOKED, now)
    for who, height in (("governance", now), ("governance", now + 1), ("operator", now - 1)):
        later = chain.send(who, nodes.ADDRESS, "compromised", node.id, height)
        assert refused(later) == (Code.OUT_OF_RANGE, None)
    chain.do("governance", nodes.ADDRESS, "compromised", node.id, 2)
    assert record(chain, node).compromised_from == 2
    state = chain.view(nodes.ADDRESS, "keyState", node.id)
    assert state == [4, account("operator"), 0, (1 << 64) - 1, 2]


# --- Equivocation ----------------------------------------------------------------------------------------------------


def test_two_statements_under_one_number_revoke_the_key(chain, node):
    twin = chain.new_key()
    one, other = node.sign(), twin.sign(amount=999)
    chain.do("stranger", nodes.ADDRESS, "reportEquivocation", node.id, one.evidence(), other.evidence())
    assert record(chain, node).state is KeyState.REVOKED
    assert refused(chain.settle(node, [one])) == (Code.KEY_NOT_SETTLING, 0xFFFFFFFF)


def test_two_histories_under_one_number_revoke_the_key(chain, node):
    twin = chain.new_key()
    node.sign(), twin.sign(amount=1)
    one, other = node.sign(ended_ms=START_MS), twin.sign(ended_ms=START_MS)
    assert one.hash == other.hash
    assert one.head != other.head
    chain.do("stranger", nodes.ADDRESS, "reportEquivocation", node.id, one.evidence(), other.evidence())
    assert record(chain, node).state is KeyState.REVOKED


def test_what_proves_no_equivocation(chain, node):
    one, two = node.sign(), node.sign()
    stranger = chain.new_key(generation=5).sign(amount=3)
    elsewhere = NodeKey("avow-0000000000000000", node.method, "operator", node.signing, node.transport, START_MS).sign()
    number, digest, head, signature = decode(one.evidence())
    cases = [
        (one.evidence(), one.evidence()),
        (one.evidence(), two.evidence()),
        (one.evidence(), stranger.evidence()),
        (one.evidence(), elsewhere.evidence()),
        (one.evidence(), b""),
        (one.evidence(), encode([number, bytes(32), head, signature])),
        (one.evidence(), encode([number, digest, head, signature, 0])),
        (one.evidence(), encode([number, digest, head])),
        (one.evidence(), one.evidence() + bytes(600)),
    ]
    for first, second in cases:
        result = chain.send("stranger", nodes.ADDRESS, "reportEquivocation", node.id, first, second)
        assert refused(result) == (Code.EVIDENCE_REFUSED, None)
    assert record(chain, node).state is KeyState.ACTIVE


# --- Substitution ----------------------------------------------------------------------------------------------------


def later(previous: bytes, statements) -> bytes:
    """What the last of `statements` proves of all of them."""
    last = statements[-1]
    return encode([last.columns.number, previous, b"".join([item.hash for item in statements]), last.signature])


def reported(chain, key, delivered, shown) -> Code:
    result = chain.send("stranger", nodes.ADDRESS, "reportSubstitution", key.id, delivered, shown)
    found = refused(result)
    return Code.OK if found is None else found[0]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_other_words_inside_a_settled_batch_revoke_the_key(chain, node, place):
    """The batch has one signature, over its last statement: it is enough, wherever the other words stand."""
    twin, previous = chain.new_key(), []
    settled = []
    for _ in range(4):
        previous.append(node.head)
        settled.append(node.sign())
    for _ in range(place):
        twin.sign()
    delivered = twin.sign(amount=999)
    assert chain.settle(node, settled).code == Code.OK
    assert reported(chain, node, delivered.evidence(), later(previous[place], settled[place:])) is Code.OK
    assert record(chain, node).state is KeyState.REVOKED
    assert chain.view(nodes.ADDRESS, "revocation", node.id)[0] == 1
    assert reported(chain, node, delivered.evidence(), later(previous[place], settled[place:])) is Code.KEY_LIFE


def test_another_history_before_the_same_words_is_a_substitution(chain, node):
    twin = chain.new_key()
    node.sign(), twin.sign(amount=1)
    previous = node.head
    settled, delivered = [node.sign(), node.sign()], twin.sign()
    assert settled[0].hash == delivered.hash
    assert reported(chain, node, delivered.evidence(), later(previous, settled)) is Code.OK


def test_what_proves_no_substitution(chain, node):
    """An honest key's statements, shown in every way that does not fit."""
    previous, statements = [], []
    for _ in range(5):
        previous.append(node.head)
        statements.append(node.sign())
    delivered = statements[1].evidence()
    number, _, joined, signature = decode(later(previous[1], statements[1:]))
    foreign = chain.new_key(generation=5)
    foreign_statements = [foreign.sign(), foreign.sign(amount=3), foreign.sign()]
    elsewhere = NodeKey("avow-0000000000000000", node.method, "operator", node.signing, node.transport, START_MS)
    elsewhere_statements = [elsewhere.sign(), elsewhere.sign(amount=5), elsewhere.sign()]
    swapped = joined[32:64] + joined[:32] + joined[64:]
    cases = [
        later(previous[1], statements[1:]),  # the truth
        later(previous[1], statements[1:2]),
        later(previous[0], statements),  # another number than the delivered one
        later(previous[2], statements[2:]),
        encode([number, previous[2], joined, signature]),
        encode([number, previous[1], swapped, signature]),
        encode([number, previous[1], bytes(32) + joined[32:], signature]),
        encode([number, previous[1], joined[:-32] + bytes(32), signature]),
        encode([number, previous[1], joined[:-1], signature]),
        encode([number - 1, previous[1], joined[:-32], signature]),
        encode([number + 1, previous[1], joined + bytes(32), signature]),
        encode([number, previous[1], b"", signature]),
        encode([number, previous[1], joined, statements[2].signature]),
        encode([number, previous[1], joined, b""]),
        encode([number, previous[1][:31], joined, signature]),
        encode([number, previous[1], joined, signature, 0]),
        encode([number, previous[1], joined]),
        encode({"number": number}),
        later(previous[1], foreign_statements[1:]),
        later(foreign_statements[0].head, foreign_statements[1:]),
        later(elsewhere_statements[0].head, elsewhere_statements[1:]),
        later(previous[1], statements[1:]) + b"\0",
        b"",
    ]
    for shown in cases:
        assert reported(chain, node, delivered, shown) is Code.EVIDENCE_REFUSED, shown
    for bad in (foreign_statements[1].evidence(), elsewhere_statements[1].evidence(), b"", b"\x84"):
        assert reported(chain, node, bad, later(previous[1], statements[1:])) is Code.EVIDENCE_REFUSED
    assert record(chain, node).state is KeyState.ACTIVE


def test_the_longest_history_fits_into_one_report(chain, node):
    twin, previous = chain.new_key(), node.head
    delivered = twin.sign(amount=999)
    statements = [node.sign()]
    hashes = [statements[0].hash]
    while len(hashes) < MAX_STATEMENTS - 1:  # statements that nobody signed one by one
        digest = len(hashes).to_bytes(32)
        node.head, node.next = next_head(node.head, digest), node.next + 1
        hashes.append(digest)
    last = node.sign()
    shown = encode([last.columns.number, previous, b"".join([*hashes, last.hash]), last.signature])
    assert reported(chain, node, delivered.evidence(), shown) is Code.OK


# --- Measurements ----------------------------------------------------------------------------------------------------


def test_governance_alone_keeps_the_list(chain):
    for function, extra in (("allowMeasurement", (0, FAR_MS)), ("withdrawMeasurement", ())):
        result = chain.send("operator", nodes.ADDRESS, function, MEASUREMENT, bytes(32), *extra)
        assert refused(result) == (Code.NOT_AUTHORISED, None)


def test_entries_have_an_interval(chain):
    from_ms, until_ms = chain.now_ms + 10_000, chain.now_ms + 20_000
    chain.do("governance", nodes.ADDRESS, "allowMeasurement", MEASUREMENT, PROGRAM, from_ms, until_ms)
    view = lambda: chain.view(nodes.ADDRESS, "allowedMeasurement", MEASUREMENT, PROGRAM)  # noqa: E731
    assert view() == [False, from_ms, until_ms]
    chain.now_ms = from_ms - 1_000  # views look at the next block
    assert view()[0]
    chain.now_ms = until_ms - 1_001
    assert view()[0]
    chain.now_ms = until_ms - 1_000
    assert not view()[0]
    empty = chain.send("governance", nodes.ADDRESS, "allowMeasurement", MEASUREMENT, PROGRAM, 5, 5)
    assert refused(empty) == (Code.OUT_OF_RANGE, None)


def test_entries_are_counted(chain):
    for program in (PROGRAM, bytes(32), PROGRAM):
        chain.do("governance", nodes.ADDRESS, "allowMeasurement", MEASUREMENT, program, 0, FAR_MS)
    assert chain.store.get(b"nodes/measurement-entries/" + MEASUREMENT) == (2).to_bytes(8)
    for program in (PROGRAM, bytes(32)):
        chain.do("governance", nodes.ADDRESS, "withdrawMeasurement", MEASUREMENT, program)
    assert chain.store.get(b"nodes/measurement-entries/" + MEASUREMENT) is None
    again = chain.send("governance", nodes.ADDRESS, "withdrawMeasurement", MEASUREMENT, PROGRAM)
    assert refused(again) == (Code.MEASUREMENT_UNKNOWN, None)


def test_genesis_entries_are_the_same_as_allowed_ones(enclave):
    entry = AllowedMeasurement(MEASUREMENT, PROGRAM, 5, None)
    chain = Chain(measurements=(entry, replace(entry, program=None, until_ms=9)))
    assert chain.view(nodes.ADDRESS, "allowedMeasurement", MEASUREMENT, PROGRAM)[1:] == [5, measurements.NO_END_MS]
    assert chain.view(nodes.ADDRESS, "allowedMeasurement", MEASUREMENT, bytes(32))[1:] == [5, 9]
    assert chain.store.get(b"nodes/measurement-entries/" + MEASUREMENT) == (2).to_bytes(8)


# --- Prices ----------------------------------------------------------------------------------------------------------


def set_price(chain, per_unit, method=0):
    return chain.do("operator", nodes.ADDRESS, "setPrice", PROGRAM, method, per_unit)[0]


def test_prices_are_versioned_by_operator_program_and_method(chain):
    assert [set_price(chain, 5), set_price(chain, 7), set_price(chain, 3, method=2)] == [1, 2, 1]
    price = lambda *which: chain.view(nodes.ADDRESS, "price", *which)  # noqa: E731
    assert price(account("operator"), PROGRAM, 0) == [2, 7]
    assert price(account("operator"), PROGRAM, 2) == [1, 3]
    assert price(account("stranger"), PROGRAM, 0) == [0, 0]


def test_a_replaced_price_stays_chargeable_for_its_grace(chain, node):
    set_price(chain, 1)
    replaced_at = chain.now_ms
    assert chain.settle(node, [node.sign(price_version=1)]).code == Code.OK
    chain.now_ms = replaced_at + chain.genesis.price_grace_ms - 1_000
    assert chain.settle(node, [node.sign(price_version=1)]).code == Code.OK
    late = node.sign(price_version=1)
    assert refused(chain.settle(node, [late])) == (Code.PRICE_REPLACED, 0)


def test_prices_that_are_not_there(chain, node):
    for version in (0, 2, 0xFFFFFFFF):
        twin = chain.new_key()
        assert refused(chain.settle(twin, [twin.sign(price_version=version)])) == (Code.PRICE_UNKNOWN, 0)


def test_price_limits(chain):
    assert refused(chain.send("operator", nodes.ADDRESS, "setPrice", PROGRAM, 0, 1 << 64)) == (
        Code.PRICE_TOO_HIGH,
        None,
    )
    assert refused(chain.send("operator", nodes.ADDRESS, "setPrice", PROGRAM, 3, 1)) == (Code.METHOD_UNSUPPORTED, None)
    for per_unit in range(33):
        set_price(chain, per_unit)
    assert refused(chain.send("operator", nodes.ADDRESS, "setPrice", PROGRAM, 0, 1)) == (Code.TOO_MANY_PRICES, None)
    chain.now_ms += chain.genesis.price_grace_ms
    assert set_price(chain, 1) == 34


# --- The beacon ------------------------------------------------------------------------------------------------------


def test_the_beacon_names_recent_blocks_and_rests_with_the_chain(chain):
    assert chain.view(nodes.ADDRESS, "beacon") == [chain.hashes[0], 1, chain.now_ms]
    hashes = {response.app_hash for response in chain.responses}
    for _ in range(5):
        chain.block(advance_ms=10_000)
        hashes.add(chain.responses[-1].app_hash)
    assert len(hashes) == 1  # nothing happened: the application's hash rests
    chain.block(advance_ms=chain.genesis.registration_window_ms // 2)
    assert chain.view(nodes.ADDRESS, "beacon") == [chain.hashes[-1], chain.height, chain.now_ms]


def test_busy_blocks_record_themselves_sparingly(chain):
    for _ in range(5):
        chain.do("operator", registry.ADDRESS, "publish", "x", PROGRAM)
    assert chain.view(nodes.ADDRESS, "beacon")[1] == 1
    chain.now_ms += beacon.BEACON_SPACING_MS
    chain.do("operator", registry.ADDRESS, "publish", "x", PROGRAM)
    assert chain.view(nodes.ADDRESS, "beacon")[1] == chain.height
    for _ in range(60):
        chain.now_ms += beacon.BEACON_SPACING_MS
        chain.do("operator", registry.ADDRESS, "publish", "x", PROGRAM)
    assert len(chain.store.get(b"chain/beacons")) <= 48 * 22
