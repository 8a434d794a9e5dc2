"""Every rule of settlement, each with the batch that breaks it alone."""

import pytest

from avow.chain import gas
from avow.chain.errors import WHOLE_BATCH, Code
from avow.chain.genesis import AllowedMeasurement
from avow.chain.modules import bank, nodes, registry, settlement
from avow.chain.modules.batch import SignedAuthorisation, leaves
from avow.chain.modules.settlement import STATEMENT_LIFE, StatementEvent, StatementState
from avow.chain.modules.voids import FAULTS, Fault, Maker, VoidCause
from avow.methods.tee.attesters import DevelopmentAttester
from avow.receipt import merkle
from avow.receipt.authorisation import Authorisation
from avow.receipt.encoding import decode, encode
from avow.receipt.evidence import VOID_CAUSES as CAUSE_TEXTS
from avow.receipt.evidence import history_leaf
from avow.receipt.standing import KeyRecord, KeyState
from avow.receipt.statement import Method
from tests.chain.harness import (
    ETHER,
    FAR_MS,
    PROGRAM,
    START_MS,
    Chain,
    account,
    refused,
    replace,
    secret,
)

OPERATOR = account("operator")
OTHER_PROGRAM = b"\x33" * 32


def whole(code: Code) -> tuple[Code, int]:
    return code, WHOLE_BATCH


def changed(chain, data: bytes, **changes) -> bytes:
    """A batch with members replaced (None leaves one out)."""
    item = decode(data) | changes
    return encode({name: value for name, value in item.items() if value is not None})


def settle(chain, data: bytes, who: str = "operator"):
    return chain.send(who, settlement.ADDRESS, "settle", data)


# --- What settles ----------------------------------------------------------------------------------------------------


def test_a_batch_charges_its_payers_and_hands_back_its_root(chain, node):
    chain.do("second payer", bank.ADDRESS, "allow", OPERATOR, ETHER, FAR_MS)
    statements = [node.sign(payer=payer, amount=500) for payer in ("payer", "second payer", "payer")]
    before = {who: chain.balance(who) for who in ("payer", "second payer", "operator")}
    result = chain.settle(node, statements)
    root = merkle.root(leaves([statement.hash for statement in statements], bytes(3)))
    item = decode(result.data)
    assert item["to"] == settlement.ADDRESS
    assert item["output"] == root + node.id + (0).to_bytes(32) + (3).to_bytes(32)
    assert before["payer"] - chain.balance("payer") == 1_000
    assert before["second payer"] - chain.balance("second payer") == 500
    fee = result.gas_used * chain.genesis.base_fee
    assert chain.balance("operator") - before["operator"] == 1_500 - fee
    assert chain.view(settlement.ADDRESS, "next", node.id) == [3, statements[-1].head]
    assert chain.store.committed.history.root() == (
        merkle.MountainRange().append(history_leaf(chain.height, node.id, 0, 3, root)).root()
    )


def test_numbers_go_on_from_batch_to_batch(chain, node):
    for count in (1, 2, 5):
        assert chain.settle(node, [node.sign() for _ in range(count)]).code == Code.OK
    assert chain.view(settlement.ADDRESS, "next", node.id)[0] == 8
    assert chain.store.committed.history.size == 3


def test_several_batches_in_one_block(chain, node):
    nonce, _ = chain.application.account(OPERATOR)
    txs = []
    for _ in range(3):
        data = chain.call_data(settlement.ADDRESS, "settle", chain.batch(node, [node.sign(), node.sign()]))
        txs.append(chain.raw("operator", settlement.ADDRESS, data, nonce=nonce))
        nonce += 1
    assert [result.code for result in chain.block(*txs, proposed=True)] == [0, 0, 0]
    assert chain.store.committed.history.size == 3


def test_a_refused_batch_leaves_nothing_in_the_history(chain, node):
    before = chain.store.committed.history
    assert refused(chain.settle(node, [node.sign(amount=10_000)])) == (Code.AMOUNT_EXCEEDS_PRICE, 0)
    assert chain.store.committed.history == before


def test_the_operator_pays_itself_without_consent(chain, node):
    before = chain.balance("operator")
    result = chain.settle(node, [node.sign(payer="operator")])
    assert result.code == Code.OK
    assert chain.balance("operator") == before - result.gas_used * chain.genesis.base_fee


def test_the_operator_pays_itself_beside_void_statements(chain, node):
    statements = [node.sign(payer="operator"), node.sign(payer="stranger"), node.sign(payer="operator", amount=0)]
    before = chain.balance("operator")
    result = chain.settle(node, statements, void=b"\x00\x04\x00")
    assert result.code == Code.OK
    assert chain.balance("operator") == before - result.gas_used * chain.genesis.base_fee


def test_what_is_free_needs_no_consent(chain, node):
    assert chain.settle(node, [node.sign(payer="stranger", amount=0)]).code == Code.OK


def test_nothing_per_statement_is_written(chain, node):
    before = dict(chain.store.iterate(b""))
    assert chain.settle(node, [node.sign() for _ in range(200)]).code == Code.OK
    after = dict(chain.store.iterate(b""))
    assert set(after) - set(before) == {b"nodes/head/" + node.id}


# --- The batch -------------------------------------------------------------------------------------------------------


def test_who_may_settle(chain, node):
    data = chain.batch(node, [node.sign()])
    assert refused(settle(chain, data, "stranger")) == (Code.NOT_AUTHORISED, None)
    assert refused(settle(chain, changed(chain, data, key=bytes(32)))) == (Code.KEY_UNKNOWN, None)


def test_numbers_have_no_gaps_and_no_repetitions(chain, node):
    statements = [node.sign() for _ in range(4)]
    first = chain.batch(node, statements[:2])
    assert refused(chain.settle(node, statements[1:3])) == whole(Code.BATCH_NUMBER)
    assert settle(chain, first).code == Code.OK
    assert refused(settle(chain, first)) == whole(Code.BATCH_NUMBER)
    assert refused(chain.settle(node, statements[3:])) == whole(Code.BATCH_NUMBER)
    assert chain.settle(node, statements[2:]).code == Code.OK


@pytest.mark.parametrize(
    "column",
    ["program", "payer", "units", "amount", "price", "ended", "private", "first", "programs", "payers", "signature"],
)
def test_the_signature_covers_every_column(chain, node, column):
    chain.do("operator", registry.ADDRESS, "publish", "other", OTHER_PROGRAM)
    chain.do("operator", nodes.ADDRESS, "setPrice", OTHER_PROGRAM, 0, 100)
    chain.do("second payer", bank.ADDRESS, "allow", OPERATOR, ETHER, FAR_MS)
    statements = [
        node.sign(payer=payer, program=program)
        for payer, program in [("payer", PROGRAM), ("second payer", OTHER_PROGRAM), ("payer", PROGRAM)]
    ]
    data = chain.batch(node, statements)
    value = decode(data)[column]
    if isinstance(value, int):
        other = value + 1
    elif isinstance(value, list):
        other = value[::-1]
    elif column in ("program", "payer"):
        other = bytes.fromhex("000000010001")
    else:
        other = value[:20] + bytes((value[20] ^ 1,)) + value[21:] if len(value) > 20 else bytes(len(value))
    expected = Code.BATCH_NUMBER if column == "first" else Code.BATCH_SIGNATURE
    assert refused(settle(chain, changed(chain, data, **{column: other}))) == whole(expected)
    assert settle(chain, data).code == Code.OK


def test_a_signature_of_another_statement_or_key_is_refused(chain, node):
    statements = [node.sign() for _ in range(3)]
    data = chain.batch(node, statements[:2])
    for signature in (statements[0].signature, statements[2].signature, chain.new_key(generation=4).sign().signature):
        assert refused(settle(chain, changed(chain, data, signature=signature))) == whole(Code.BATCH_SIGNATURE)


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"void": None},
        {"void": b""},
        {"void": bytes(3)},
        {"program": bytes(2)},
        {"program": bytes.fromhex("00010000")},
        {"program": bytes.fromhex("00000002")},
        {"programs": [PROGRAM, PROGRAM]},
        {"programs": [PROGRAM, OTHER_PROGRAM]},
        {"programs": []},
        {"payers": [bytes(19)]},
        {"units": bytes(15)},
        {"amount": bytes(16)},
        {"price": bytes(9)},
        {"private": bytes(63)},
        {"first": -1},
        {"first": (1 << 64) - 1},
        {"first": b""},
        {"key": bytes(31)},
        {"bounds": []},
        {"ended": bytes(15)},
        {"signature": b""},
        {"authorisations": [[0]]},
        {"authorisations": [[2, b"x", bytes(16), 0, 0, bytes(65)]]},
        {"authorisations": [[0, b"x", bytes(15), 0, 0, bytes(65)]]},
        {"authorisations": [[1, b"x", bytes(16), 0, 0, bytes(65)], [0, b"x", bytes(16), 0, 0, bytes(65)]]},
        {"authorisations": [[0, b"x", bytes(16), 0, 0, bytes(65)]] * 2},
    ],
)
def test_a_batch_has_one_form(chain, node, changes):
    data = chain.batch(node, [node.sign(), node.sign()])
    assert refused(settle(chain, changed(chain, data, **changes))) == whole(Code.BATCH_MALFORMED)


def test_bytes_that_are_no_batch(chain, node):
    data = chain.batch(node, [node.sign()])
    many = b"\x9a\x00\x04\x93\xe0" + bytes(300_000)  # more items than a decoder may make
    for other in (b"", b"\xa0", data[:-1], data + b"\x00", b"\xff" * 50, many):
        assert refused(settle(chain, other)) == whole(Code.BATCH_MALFORMED)


# --- Time ------------------------------------------------------------------------------------------------------------


def block_ms(chain) -> int:
    return chain.now_ms + 1_000


@pytest.mark.parametrize(("offset", "settles"), [(0, True), (1, False)])
def test_a_statement_may_end_a_little_after_block_time(chain, node, offset, settles):
    latest = block_ms(chain) + chain.genesis.heartbeat_ms + 5_000
    result = chain.settle(node, [node.sign(ended_ms=latest + offset)])
    assert refused(result) == (None if settles else whole(Code.BATCH_EARLY))


@pytest.mark.parametrize(("offset", "settles"), [(0, True), (-1, False)])
def test_a_statement_settles_within_a_day(chain, node, offset, settles):
    earliest = block_ms(chain) - 24 * 3_600_000
    result = chain.settle(node, [node.sign(ended_ms=earliest + offset), node.sign()])
    assert refused(result) == (None if settles else whole(Code.BATCH_TIME))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("way", [-1, 1])
def test_every_statement_that_settles_ends_in_the_window(chain, node, place, way):
    """The one in the middle too; void ones do not count."""
    times = [chain.now_ms] * 3
    times[place] += way * 25 * 3_600_000
    statements = [node.sign(ended_ms=time) for time in times]
    assert refused(chain.settle(node, statements)) == whole(Code.BATCH_EARLY if way > 0 else Code.BATCH_TIME)
    causes = bytes([5 if index == place else 0 for index in range(3)])
    assert chain.settle(node, statements, void=causes).code == Code.OK


# --- Each statement --------------------------------------------------------------------------------------------------


def test_programs_must_be_offered(chain, node):
    unknown = chain.settle(node, [node.sign(), node.sign(program=OTHER_PROGRAM)])
    assert refused(unknown) == (Code.PROGRAM_WITHDRAWN, 1)
    chain.do("operator", registry.ADDRESS, "withdraw", "harness", 1)
    twin = chain.new_key()
    assert refused(chain.settle(twin, [twin.sign()])) == (Code.PROGRAM_WITHDRAWN, 0)


def test_amounts_stay_within_the_price(chain, node):
    assert chain.settle(node, [node.sign(units=10, amount=1_000)]).code == Code.OK
    over = [node.sign(units=10, amount=1_000), node.sign(units=10, amount=1_001)]
    assert refused(chain.settle(node, over)) == (Code.AMOUNT_EXCEEDS_PRICE, 1)


def test_amounts_beyond_64_bits(chain, node):
    chain.do("operator", nodes.ADDRESS, "setPrice", PROGRAM, 0, (1 << 64) - 1)
    huge = ((1 << 64) - 1) ** 2
    chain.do("payer", bank.ADDRESS, "allow", OPERATOR, 1 << 200, FAR_MS)
    rich = node.sign(units=(1 << 64) - 1, amount=huge, price_version=2)
    assert refused(chain.settle(node, [rich])) == (Code.PAYER_UNCOVERED, 0)
    twin = chain.new_key()
    over = twin.sign(units=(1 << 64) - 1, amount=huge + 1, price_version=2)
    assert refused(chain.settle(twin, [over])) == (Code.AMOUNT_EXCEEDS_PRICE, 0)
    other = chain.new_key()
    fits = other.sign(units=1 << 63, amount=1 << 65, price_version=2)
    assert chain.settle(other, [fits]).code == Code.OK


def test_a_stranger_is_not_billed(chain, node):
    statements = [node.sign(), node.sign(payer="stranger", amount=1)]
    before = chain.balance("stranger")
    assert refused(chain.settle(node, statements)) == (Code.PAYER_NOT_CONSENTING, 1)
    assert chain.balance("stranger") == before


def test_an_allowance_is_for_one_node(chain, node):
    chain.do("stranger", bank.ADDRESS, "allow", account("other operator"), ETHER, FAR_MS)
    assert refused(chain.settle(node, [node.sign(payer="stranger")])) == (Code.PAYER_NOT_CONSENTING, 0)


def test_the_first_uncovered_statement_is_named(chain, node):
    chain.do("payer", bank.ADDRESS, "allow", OPERATOR, 2_500, FAR_MS)
    assert refused(chain.settle(node, [node.sign() for _ in range(4)])) == (Code.PAYER_NOT_CONSENTING, 2)


def test_a_payer_must_have_the_money(chain, node):
    chain.do("payer", bank.ADDRESS, "allow", OPERATOR, ETHER, FAR_MS)
    rest = chain.balance("payer")
    spend = rest - 21_000 * chain.genesis.base_fee - 1_500
    chain.block(chain.raw("payer", account("stranger"), value=spend, gas=21_000))
    assert chain.balance("payer") == 1_500
    assert refused(chain.settle(node, [node.sign(), node.sign()])) == (Code.PAYER_UNCOVERED, 1)


@pytest.mark.parametrize("void", [b"", b"\x00\x00\x05"])
def test_limits_are_inclusive(chain, node, void):
    """To the last wei of allowance and balance, in a plain batch and beside a void statement."""
    chain.do("payer", bank.ADDRESS, "allow", OPERATOR, 2_000, FAR_MS)
    chain.do("second payer", bank.ADDRESS, "allow", OPERATOR, ETHER, FAR_MS)
    spend = chain.balance("second payer") - 21_000 * chain.genesis.base_fee - 1_000
    chain.block(chain.raw("second payer", account("stranger"), value=spend, gas=21_000))
    statements = [node.sign(amount=1_000), node.sign(amount=1_000)] if void else [node.sign(amount=2_000, units=20)]
    statements.append(node.sign(payer="second payer", amount=1_000))
    if void:
        result = chain.settle(node, [*statements[:2], statements[2]], void=void)
        assert result.code == Code.OK
        last = node.sign(payer="second payer", amount=1_000)
        assert refused(chain.settle(node, [last], void=b"\x04")) == (Code.VOID_WITHOUT_CAUSE, 0)
        filler = node.sign(payer="operator", amount=0)
        assert chain.settle(node, [last, filler], void=b"\x00\x05").code == Code.OK
    else:
        assert chain.settle(node, statements).code == Code.OK
    assert chain.balance("second payer") == 0
    assert chain.view(bank.ADDRESS, "allowance", account("payer"), OPERATOR)[0] == 0


def test_gas_grows_with_the_statements(chain, node):
    used, sizes = [], []
    for count in (1, 11):
        twin = chain.new_key()
        data = chain.batch(twin, [twin.sign() for _ in range(count)])
        sizes.append(len(data))
        used.append(chain.simulate("operator", settlement.ADDRESS, "settle", data).gas_used)
    assert used[1] - used[0] == 10 * gas.STATEMENT + (sizes[1] - sizes[0]) * gas.BATCH_BYTE
    assert used[0] > gas.STATEMENT + gas.P256_VERIFY + gas.HISTORY + sizes[0] * gas.BATCH_BYTE


def test_a_key_settles_until_its_very_end(chain, node):
    chain.do("operator", nodes.ADDRESS, "drain", node.id)
    until_ms = chain.view(nodes.ADDRESS, "keyState", node.id)[3]
    node.now_ms = until_ms
    chain.now_ms = until_ms - 1_000
    assert chain.settle(node, [node.sign()]).code == Code.OK
    late = node.sign()
    assert refused(chain.settle(node, [late])) == whole(Code.KEY_NOT_SETTLING)
    assert refused(chain.settle(node, [late], void=b"\x02")) == (
        Code.VOID_WITHOUT_CAUSE,
        0,
    )  # vanilla has no measurement
    assert chain.settle(node, [late], void=b"\x05").code == Code.OK


# --- tee -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def enclave(tmp_path):
    return DevelopmentAttester(tmp_path, programs=[PROGRAM], versions={}, clock_ms=lambda: START_MS)


def test_a_measurement_is_allowed_per_program_and_time(enclave):
    until_ms = START_MS + 60_000
    allowed = AllowedMeasurement(enclave.measurement, PROGRAM, 0, until_ms)
    chain = Chain(roots=(enclave.root,), measurements=(allowed,))
    key = chain.node(Method.TEE, enclave)
    chain.do("operator", registry.ADDRESS, "publish", "other", OTHER_PROGRAM)
    chain.do("operator", nodes.ADDRESS, "setPrice", OTHER_PROGRAM, 2, 100)
    assert chain.settle(key, [key.sign()]).code == Code.OK
    other = key.sign(program=OTHER_PROGRAM)
    assert refused(chain.settle(key, [other])) == (Code.MEASUREMENT_EXPIRED, 0)
    assert chain.settle(key, [other], void=b"\x02").code == Code.OK
    early = key.sign()
    assert refused(chain.settle(key, [early], void=b"\x02")) == (Code.VOID_WITHOUT_CAUSE, 0)
    chain.now_ms = until_ms
    assert refused(chain.settle(key, [early])) == (Code.MEASUREMENT_EXPIRED, 0)
    assert chain.settle(key, [early], void=b"\x02").code == Code.OK


def test_a_lapsed_attestation_stops_new_statements(enclave):
    chain = Chain(roots=(enclave.root,), measurements=(AllowedMeasurement(enclave.measurement, None, 0, None),))
    key = chain.node(Method.TEE, enclave)
    until_ms = chain.view(nodes.ADDRESS, "keyState", key.id)[3]
    statement = key.sign()
    chain.now_ms = until_ms
    assert refused(chain.settle(key, [statement])) == whole(Code.KEY_NOT_SETTLING)
    assert chain.settle(key, [statement], void=b"\x02").code == Code.OK


def test_withdrawing_a_measurement_stops_new_statements(enclave):
    chain = Chain(roots=(enclave.root,), measurements=(AllowedMeasurement(enclave.measurement, None, 0, None),))
    key = chain.node(Method.TEE, enclave)
    assert chain.settle(key, [key.sign()]).code == Code.OK
    chain.do("governance", nodes.ADDRESS, "withdrawMeasurement", enclave.measurement, bytes(32))
    assert refused(chain.settle(key, [key.sign()])) == (Code.MEASUREMENT_EXPIRED, 0)


# --- Void ------------------------------------------------------------------------------------------------------------


def test_causes_are_those_that_receipts_know():
    assert {int(cause) for cause in VoidCause} | {0} == set(CAUSE_TEXTS)
    assert {cause for cause, _ in FAULTS} == {cause for cause, maker in FAULTS if maker is Maker.NODE} == set(VoidCause)
    assert all(FAULTS[cause, Maker.NODE] is Fault.DELIVERED for cause in VoidCause)


@pytest.mark.parametrize("cause", [1, 2, 3, 4])
def test_no_cause_holds_for_a_statement_that_settles(chain, node, cause):
    statements = [node.sign(), node.sign(), node.sign()]
    result = chain.settle(node, statements, void=bytes((0, cause, 0)))
    assert refused(result) == (Code.VOID_WITHOUT_CAUSE, 1)
    assert chain.settle(node, statements).code == Code.OK


def test_unknown_causes(chain, node):
    assert refused(chain.settle(node, [node.sign()], void=b"\x06")) == (Code.VOID_CAUSE_UNKNOWN, 0)


def test_an_uncovered_payer_is_a_cause_in_order(chain, node):
    """The third statement is uncovered because of the first two, and the chain sees that."""
    chain.do("payer", bank.ADDRESS, "allow", OPERATOR, 2_500, FAR_MS)
    before = chain.balance("payer")
    statements = [node.sign() for _ in range(4)]
    too_early = chain.settle(node, statements, void=bytes((0, 4, 0, 0)))
    assert refused(too_early) == (Code.VOID_WITHOUT_CAUSE, 1)
    result = chain.settle(node, statements, void=bytes((0, 0, 4, 4)))
    assert result.code == Code.OK
    assert before - chain.balance("payer") == 2_000
    assert chain.view(settlement.ADDRESS, "next", node.id)[0] == 4


def test_a_withdrawn_program_is_a_cause(chain, node):
    statement = node.sign()
    chain.do("operator", registry.ADDRESS, "withdraw", "harness", 1)
    assert chain.settle(node, [statement], void=b"\x03").code == Code.OK


def test_a_revoked_key_can_only_be_voided(chain, node):
    statements = [node.sign() for _ in range(3)]
    chain.do("operator", nodes.ADDRESS, "revoke", node.id)
    assert refused(chain.settle(node, statements)) == whole(Code.KEY_NOT_SETTLING)
    assert refused(chain.settle(node, statements, void=bytes((1, 0, 1)))) == whole(Code.KEY_NOT_SETTLING)
    data = chain.batch(node, statements, void=b"\x01\x01\x01")
    chain.do("operator", settlement.ADDRESS, "void", data)
    assert chain.view(settlement.ADDRESS, "next", node.id)[0] == 3


def test_void_takes_only_void_statements(chain, node):
    data = chain.batch(node, [node.sign(), node.sign()], void=b"\x05\x00")
    result = chain.send("operator", settlement.ADDRESS, "void", data)
    assert refused(result) == whole(Code.VOID_CAUSE_UNKNOWN)


def test_overdue_statements_can_still_be_void(chain, node):
    assert STATEMENT_LIFE[StatementState.OVERDUE, StatementEvent.VOID] is StatementState.VOID
    assert (StatementState.OVERDUE, StatementEvent.SETTLE) not in STATEMENT_LIFE
    old = node.sign()
    chain.now_ms += 25 * 3_600_000
    node.now_ms = chain.now_ms
    assert refused(chain.settle(node, [old])) == whole(Code.BATCH_TIME)
    assert chain.settle(node, [old], void=b"\x05").code == Code.OK
    assert chain.settle(node, [node.sign()]).code == Code.OK


def report(chain, key, evidence: bytes, who: str = "stranger"):
    return chain.send(who, settlement.ADDRESS, "reportFalseVoid", key.id, evidence)


def state_of(chain, key) -> KeyState:
    return KeyRecord.from_bytes(chain.view(nodes.ADDRESS, "keyRecord", key.id)[0]).state


def test_a_false_void_is_proven_by_what_was_delivered(chain, node):
    delivered, other = node.sign(), node.sign()
    assert refused(report(chain, node, delivered.delivered())) == (Code.EVIDENCE_REFUSED, None)
    assert chain.settle(node, [delivered, other], void=b"\x05\x00").code == Code.OK
    assert refused(report(chain, node, other.delivered())) == (Code.EVIDENCE_REFUSED, None)
    assert report(chain, node, delivered.delivered()).code == Code.OK
    assert state_of(chain, node) is KeyState.REVOKED
    assert refused(report(chain, node, delivered.delivered())) == (Code.EVIDENCE_REFUSED, None)


def test_a_void_that_the_payer_made_is_no_fault(chain, node):
    statement = node.sign(payer="stranger")
    assert chain.settle(node, [statement], void=b"\x04").code == Code.OK
    assert refused(report(chain, node, statement.delivered())) == (Code.EVIDENCE_REFUSED, None)


@pytest.mark.parametrize("change", ["statement", "private", "columns", "head", "signature", "shape", "bytes"])
def test_proofs_of_delivery_are_whole(chain, node, change):
    statement, settled = node.sign(), node.sign()
    assert chain.settle(node, [statement, settled], void=b"\x05\x00").code == Code.OK
    shown, head, signature = decode(statement.delivered())
    other, other_head, other_signature = decode(settled.delivered())
    bad = {
        "statement": [statement.hash, head, signature],
        "private": [shown | {"private": shown["private"] | {"nonce": b"other nonce"}}, head, signature],
        "columns": [shown | {"columns": other["columns"]}, head, signature],
        "head": [shown, other_head, signature],
        "signature": [shown, head, other_signature],
        "shape": [shown, head, signature, 0],
        "bytes": b"x" * 9_000,
    }[change]
    assert refused(report(chain, node, encode(bad))) == (Code.EVIDENCE_REFUSED, None)
    assert state_of(chain, node) is KeyState.ACTIVE
    assert report(chain, node, statement.delivered()).code == Code.OK


# --- Authorisations --------------------------------------------------------------------------------------------------

REQUEST = b"\x77" * 32


def authorised(chain, node, index=0, *, signer="stranger", amount=900, statement=None, **changes):
    """A statement that a stranger to the bank pays, and the stranger's signature for it."""
    fields = {"max_amount": 1_000, "expiry_ms": FAR_MS, "nonce": 7, "request": REQUEST} | changes
    made = statement or node.sign(
        payer="stranger", amount=amount, request=REQUEST, requester=account("stranger"), authorised=True
    )
    message = Authorisation(OPERATOR, fields["request"], fields["max_amount"], fields["expiry_ms"], fields["nonce"])
    signature = message.sign(secret(signer), chain.genesis.chain_id)
    entry = SignedAuthorisation(index, made.private, message.max_amount, message.expiry_ms, message.nonce, signature)
    return made, entry


def test_an_authorisation_pays_for_its_request_once(chain, node):
    before = chain.balance("stranger")
    first, (statement, entry) = node.sign(), authorised(chain, node, index=1)
    assert chain.settle(node, [first, statement], authorisations=[entry]).code == Code.OK
    assert before - chain.balance("stranger") == 900
    assert chain.view(bank.ADDRESS, "authorisationUsed", account("stranger"), 7) == [True]
    again, entry = authorised(chain, node)
    assert refused(chain.settle(node, [again], authorisations=[entry])) == (Code.AUTHORISATION_USED, 0)


def test_an_authorisation_twice_in_one_batch(chain, node):
    first, entry = authorised(chain, node)
    second, again = authorised(chain, node, index=1)
    result = chain.settle(node, [first, second], authorisations=[entry, again])
    assert refused(result) == (Code.AUTHORISATION_USED, 1)
    assert chain.view(bank.ADDRESS, "authorisationUsed", account("stranger"), 7) == [False]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"signer": "payer"}, Code.AUTHORISATION_REFUSED),
        ({"request": bytes(32)}, Code.AUTHORISATION_REFUSED),
        ({"max_amount": 899}, Code.AUTHORISATION_EXCEEDED),
        ({"expiry_ms": START_MS}, Code.AUTHORISATION_EXPIRED),
    ],
)
def test_authorisations_that_do_not_hold(chain, node, changes, code):
    statement, entry = authorised(chain, node, **changes)
    assert refused(chain.settle(node, [statement], authorisations=[entry])) == (code, 0)


def test_what_was_signed_is_what_counts(chain, node):
    statement, entry = authorised(chain, node)
    for other in (
        replace(entry, max_amount=entry.max_amount + 1),
        replace(entry, nonce=8),
        replace(entry, expiry_ms=FAR_MS - 1),
        replace(entry, signature=bytes(65)),
        replace(entry, signature=entry.signature[:64] + b"\x00"),
        replace(entry, private=node.sign().private),
        replace(entry, private=b"x"),
    ):
        result = chain.settle(node, [statement], authorisations=[other])
        assert refused(result) == (Code.AUTHORISATION_REFUSED, 0)
    assert chain.settle(node, [statement], authorisations=[entry]).code == Code.OK


def test_the_authoriser_is_payer_and_requester(chain, node):
    for payer, requester in (("payer", "stranger"), ("stranger", "payer")):
        twin = chain.new_key()
        statement = twin.sign(payer=payer, amount=900, request=REQUEST, requester=account(requester), authorised=True)
        statement, entry = authorised(chain, twin, statement=statement)
        assert refused(chain.settle(twin, [statement], authorisations=[entry])) == (Code.AUTHORISATION_REFUSED, 0)
    nobody = chain.new_key()
    statement = nobody.sign(payer="stranger", amount=900, request=REQUEST, authorised=True)
    statement, entry = authorised(chain, nobody, statement=statement)
    assert refused(chain.settle(nobody, [statement], authorisations=[entry])) == (Code.AUTHORISATION_REFUSED, 0)


def test_price_and_money_hold_for_authorised_statements_too(chain, node):
    statement, entry = authorised(chain, node, amount=1_001, max_amount=5_000)
    assert refused(chain.settle(node, [statement], authorisations=[entry])) == (Code.AMOUNT_EXCEEDS_PRICE, 0)
    rest = chain.balance("stranger") - 21_000 * chain.genesis.base_fee - 899
    chain.block(chain.raw("stranger", account("payer"), value=rest, gas=21_000))
    twin = chain.new_key()
    statement, entry = authorised(chain, twin)
    assert refused(chain.settle(twin, [statement], authorisations=[entry])) == (Code.PAYER_UNCOVERED, 0)


def test_an_authorisation_holds_to_its_last_wei_and_millisecond(chain, node):
    rest = chain.balance("stranger") - 21_000 * chain.genesis.base_fee - 900
    chain.block(chain.raw("stranger", account("payer"), value=rest, gas=21_000))
    statement, entry = authorised(chain, node, max_amount=900, expiry_ms=chain.now_ms + 1_000)
    assert chain.settle(node, [statement], authorisations=[entry]).code == Code.OK
    assert chain.balance("stranger") == 0


def test_void_statements_carry_no_authorisation(chain, node):
    statement, entry = authorised(chain, node)
    data = chain.batch(node, [statement], void=b"\x05", authorisations=[entry])
    assert refused(settle(chain, data)) == (Code.AUTHORISATION_REFUSED, 0)
