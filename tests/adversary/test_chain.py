"""Those who would cheat on chain: strangers with public data, operators that void or take back what they delivered, thieves of consent."""

import random
import time

import pytest

from avow.chain import gas
from avow.chain.errors import WHOLE_BATCH, Code
from avow.chain.genesis import AllowedMeasurement
from avow.chain.modules import bank, nodes, registry, settlement
from avow.chain.modules.batch import Batch, SignedAuthorisation
from avow.errors import TooLarge
from avow.methods.tee.attesters import DevelopmentAttester
from avow.receipt.authorisation import Authorisation
from avow.receipt.encoding import decode, encode
from avow.receipt.standing import KeyRecord, KeyState
from avow.receipt.statement import Method, first_head
from tests.chain.harness import (
    ETHER,
    FAR_MS,
    FUNDS,
    PROGRAM,
    START_MS,
    Chain,
    NodeKey,
    Statement,
    account,
    refused,
    secret,
)

REQUEST = b"\x77" * 32
DAY_MS = 24 * 3_600_000


@pytest.fixture
def chain():
    return Chain()


@pytest.fixture
def node(chain):
    return chain.node(Method.VANILLA)


def report(chain: Chain, key: NodeKey, evidence: bytes) -> tuple[Code, int | None] | None:
    return refused(chain.send("stranger", settlement.ADDRESS, "reportFalseVoid", key.id, evidence))


def state_of(chain: Chain, key: NodeKey) -> KeyState:
    return KeyRecord.from_bytes(chain.view(nodes.ADDRESS, "keyRecord", key.id)[0]).state


def voided(chain: Chain, key: NodeKey, statement: Statement, cause: int, *shown: SignedAuthorisation) -> None:
    """Make one statement void, which the chain accepts."""
    chain.do(
        key.operator,
        settlement.ADDRESS,
        "void",
        chain.batch(key, [statement], void=bytes((cause,)), authorisations=shown),
    )


REFUSED = (Code.EVIDENCE_REFUSED, None)
FAULT = None
"""What a report of fault gives: no refusal."""


# --- The stranger who reads the chain -------------------------------------------------------------------------------


@pytest.mark.parametrize("void", [b"\x00\x05", b"\x05\x00", b"\x05\x05"])
def test_public_data_is_no_proof_of_delivery(chain, node, void):
    """A batch shows columns, hashes and a signature, under a void statement too. The stranger tries whatever it can make of them."""
    data = chain.batch(node, [node.sign(), node.sign()], void=void)
    assert chain.settle_batch("operator", data).code == Code.OK
    batch = Batch.from_bytes(data)
    hashes, head = batch.hash(int(Method.VANILLA), first_head(chain.genesis.chain_id, node.id))
    columns = {
        "number": 1,
        "program": PROGRAM,
        "payer": account("payer"),
        "method": "vanilla",
        "units": 10,
        "amount": (1_000).to_bytes(16),
        "price_version": 1,
        "ended_ms": batch.ended_ms[1],
    }
    for evidence in (
        [1, hashes[1], head, batch.signature],
        [hashes[1], head, batch.signature],
        [{"columns": columns, "private": batch.private[1]}, head, batch.signature],
        [
            {"columns": columns, "private": decode(chain.new_key(generation=3).sign().private)},
            head,
            batch.signature,
        ],
    ):
        assert report(chain, node, encode(evidence)) == REFUSED
    assert state_of(chain, node) is KeyState.ACTIVE


def test_another_delivered_statement_under_a_void_number_is_fault(chain, node):
    """The node delivers one statement and voids another under its number: the void one's signature never shows."""
    twin = chain.new_key()
    delivered = twin.sign(amount=999)
    other, last = node.sign(), node.sign()
    assert chain.settle(node, [other, last], void=b"\x05\x00").code == Code.OK
    assert report(chain, node, delivered.delivered()) is FAULT
    assert state_of(chain, node) is KeyState.REVOKED


# --- The operator that delivers and will not stand by it ---------------------------------------------------------------


def test_an_operator_that_revokes_its_key_stays_at_fault(chain, node):
    statement = node.sign()
    chain.do("operator", nodes.ADDRESS, "revoke", node.id)
    voided(chain, node, statement, 1)
    assert report(chain, node, statement.delivered()) is FAULT
    assert report(chain, node, statement.delivered()) == REFUSED


def test_an_operator_that_calls_its_key_compromised_stays_at_fault(chain, node):
    statement = node.sign()
    chain.do("operator", nodes.ADDRESS, "compromised", node.id, chain.height + 1)
    voided(chain, node, statement, 1)
    assert report(chain, node, statement.delivered()) is FAULT


def test_an_operator_that_proves_its_own_equivocation_stays_at_fault(chain, node):
    twin = chain.new_key()
    statement, other = node.sign(), twin.sign(amount=1)
    chain.do("operator", nodes.ADDRESS, "reportEquivocation", node.id, statement.evidence(), other.evidence())
    voided(chain, node, statement, 1)
    assert report(chain, node, statement.delivered()) is FAULT


def test_an_operator_that_is_governance_too_is_the_operator(chain):
    key = chain.register(chain.new_key(Method.VANILLA, "governance"))
    chain.do("governance", registry.ADDRESS, "publish", "theirs", PROGRAM)
    statement = key.sign()
    chain.do("governance", nodes.ADDRESS, "revoke", key.id)
    voided(chain, key, statement, 1)
    assert report(chain, key, statement.delivered()) is FAULT


@pytest.mark.parametrize("function", ["revoke", "compromised"])
def test_a_key_that_governance_took_is_no_fault(chain, node, function):
    statement = node.sign()
    chain.do("governance", nodes.ADDRESS, function, node.id, *([1] if function == "compromised" else []))
    voided(chain, node, statement, 1)
    assert report(chain, node, statement.delivered()) == REFUSED


@pytest.mark.parametrize("first", ["governance", "operator"])
def test_who_revoked_first_decides(chain, node, first):
    statement = node.sign()
    chain.do(first, nodes.ADDRESS, "revoke", node.id)
    chain.do("governance", nodes.ADDRESS, "compromised", node.id, 1)
    voided(chain, node, statement, 1)
    assert report(chain, node, statement.delivered()) == (REFUSED if first == "governance" else FAULT)


def test_an_operator_that_withdraws_its_program_is_at_fault(chain, node):
    statement = node.sign()
    chain.do("operator", registry.ADDRESS, "withdraw", "harness", 1)
    voided(chain, node, statement, 3)
    assert report(chain, node, statement.delivered()) is FAULT
    assert state_of(chain, node) is KeyState.REVOKED


def test_a_program_that_another_withdrew_is_no_fault(chain, node):
    """The operator withdrew its own offer before; another's was the last."""
    statement = node.sign()
    chain.do("stranger", registry.ADDRESS, "publish", "theirs", PROGRAM)
    chain.do("operator", registry.ADDRESS, "withdraw", "harness", 1)
    chain.do("stranger", registry.ADDRESS, "withdraw", "theirs", 1)
    voided(chain, node, statement, 3)
    assert report(chain, node, statement.delivered()) == REFUSED


def test_a_program_that_is_offered_again_and_withdrawn_has_its_last_withdrawer(chain, node):
    statement = node.sign()
    chain.do("operator", registry.ADDRESS, "transferName", "harness", account("stranger"))
    chain.do("stranger", registry.ADDRESS, "withdraw", "harness", 1)
    chain.do("operator", registry.ADDRESS, "publish", "again", PROGRAM)
    assert chain.view(registry.ADDRESS, "program", PROGRAM)[0] == 1
    chain.do("operator", registry.ADDRESS, "withdraw", "again", 1)
    voided(chain, node, statement, 3)
    assert report(chain, node, statement.delivered()) is FAULT


def test_what_nobody_ever_offered_is_the_nodes_own_doing(chain, node):
    statement = node.sign(program=b"\x31" * 32)
    voided(chain, node, statement, 3)
    assert report(chain, node, statement.delivered()) is FAULT


@pytest.fixture
def enclave(tmp_path):
    return DevelopmentAttester(tmp_path, programs=[PROGRAM], versions={}, clock_ms=lambda: START_MS)


@pytest.mark.parametrize("entry", ["withdrawn", "ended", "never", "lapsed", "not yet"])
def test_a_measurement_that_governance_ended_is_no_fault_and_one_that_the_node_let_lapse_is(enclave, entry):
    chain = Chain(roots=(enclave.root,), measurements=(AllowedMeasurement(enclave.measurement, PROGRAM, 0, None),))
    key = chain.node(Method.TEE, enclave)
    other = b"\x32" * 32
    chain.do("operator", registry.ADDRESS, "publish", "other", other)
    ends = chain.now_ms + 10_000
    if entry == "not yet":
        chain.do("governance", nodes.ADDRESS, "allowMeasurement", enclave.measurement, other, FAR_MS, FAR_MS + 1)
    if entry == "ended":
        chain.do("governance", nodes.ADDRESS, "allowMeasurement", enclave.measurement, PROGRAM, 0, ends)
    until_ms = chain.view(nodes.ADDRESS, "keyState", key.id)[3]
    ended_ms = until_ms if entry == "lapsed" else chain.now_ms
    statement = key.sign(program=other if entry in ("never", "not yet") else PROGRAM, ended_ms=ended_ms)
    if entry == "withdrawn":
        chain.do("governance", nodes.ADDRESS, "withdrawMeasurement", enclave.measurement, PROGRAM)
    chain.now_ms = {"ended": ends, "lapsed": until_ms}.get(entry, chain.now_ms)
    voided(chain, key, statement, 2)
    assert report(chain, key, statement.delivered()) == (REFUSED if entry in ("withdrawn", "ended") else FAULT)


def test_a_withdrawn_measurement_is_allowed_again(enclave):
    chain = Chain(roots=(enclave.root,), measurements=(AllowedMeasurement(enclave.measurement, None, 0, None),))
    key = chain.node(Method.TEE, enclave)
    arguments = (enclave.measurement, bytes(32))
    chain.do("governance", nodes.ADDRESS, "withdrawMeasurement", *arguments)
    twice = chain.send("governance", nodes.ADDRESS, "withdrawMeasurement", *arguments)
    assert refused(twice) == (Code.MEASUREMENT_UNKNOWN, None)
    waiting = chain.register(chain.new_key(Method.TEE, generation=1), enclave)
    assert state_of(chain, waiting) is KeyState.REGISTERED
    chain.do("governance", nodes.ADDRESS, "allowMeasurement", *arguments, 0, FAR_MS)
    chain.do("operator", nodes.ADDRESS, "activate", waiting.id)
    assert chain.settle(key, [key.sign()]).code == Code.OK
    chain.do("governance", nodes.ADDRESS, "withdrawMeasurement", *arguments)
    last = chain.register(chain.new_key(Method.TEE, generation=2), enclave)
    assert state_of(chain, last) is KeyState.REGISTERED


@pytest.mark.parametrize("amount", [1_001, 2**127])
def test_an_amount_beyond_the_price_is_not_the_payers_doing(chain, node, amount):
    statement = node.sign(amount=amount)
    assert refused(chain.settle(node, [statement], void=b"\x04")) == (Code.VOID_WITHOUT_CAUSE, 0)
    unpriced = chain.new_key().sign(payer="stranger", price_version=9)
    assert refused(chain.settle(node, [unpriced], void=b"\x04")) == (Code.VOID_WITHOUT_CAUSE, 0)
    voided(chain, node, statement, 5)
    assert report(chain, node, statement.delivered()) is FAULT


@pytest.mark.parametrize("cause", [1, 3, 4])
def test_an_overdue_statement_is_the_nodes_whatever_else_happened(chain, node, cause):
    statement = node.sign(payer="stranger")
    if cause == 1:
        chain.do("governance", nodes.ADDRESS, "revoke", node.id)
    if cause == 3:
        chain.do("operator", registry.ADDRESS, "transferName", "harness", account("stranger"))
        chain.do("stranger", registry.ADDRESS, "withdraw", "harness", 1)
    chain.now_ms = statement.columns.ended_ms + DAY_MS
    voided(chain, node, statement, cause)
    assert report(chain, node, statement.delivered()) is FAULT


@pytest.mark.parametrize("cause", [1, 3, 4])
def test_until_it_is_overdue_it_is_not(chain, node, cause):
    statement = node.sign(payer="stranger")
    if cause == 1:
        chain.do("governance", nodes.ADDRESS, "revoke", node.id)
    if cause == 3:
        chain.do("operator", registry.ADDRESS, "transferName", "harness", account("stranger"))
        chain.do("stranger", registry.ADDRESS, "withdraw", "harness", 1)
    chain.now_ms = statement.columns.ended_ms + DAY_MS - 1_000  # the block is a second later
    voided(chain, node, statement, cause)
    assert report(chain, node, statement.delivered()) == REFUSED


# --- Consent ---------------------------------------------------------------------------------------------------------


def signed_for(key: NodeKey, /, *, node: str = "", most: int = ETHER, expiry_ms: int = FAR_MS, **columns: object):
    """A statement that the second payer asked and signed for, and the entry that shows it. `node`: who the signature names."""
    who = account("second payer")
    statement = key.sign(payer="second payer", request=REQUEST, requester=who, authorised=True, **columns)
    message = Authorisation(account(node or key.operator), REQUEST, most, expiry_ms, 7)
    signature = message.sign(secret("second payer"), key.chain_id)
    return statement, SignedAuthorisation(0, statement.private, most, expiry_ms, 7, signature)


def test_consent_is_for_one_node(chain, node):
    """A thief copies an authorisation from an honest node's batch and charges all of it for a statement of its own."""
    thief = chain.register(chain.new_key(Method.VANILLA, "other operator"))
    chain.do("other operator", nodes.ADDRESS, "setPrice", PROGRAM, 0, 10**15)
    thief.now_ms = chain.now_ms
    stolen, entry = signed_for(thief, node="operator", units=1_000, amount=ETHER)
    assert refused(chain.settle(thief, [stolen], authorisations=[entry])) == (Code.AUTHORISATION_REFUSED, 0)
    assert chain.balance("second payer") == FUNDS
    honest, entry = signed_for(node)
    assert chain.settle(node, [honest], authorisations=[entry]).code == Code.OK
    assert chain.balance("second payer") == FUNDS - 1_000


def test_an_authorised_statement_is_not_void_as_uncovered(chain, node):
    """Neither with the authorisation shown nor, without proof of fault, with it held back."""
    statement, entry = signed_for(node)
    result = chain.settle(node, [statement], void=b"\x04", authorisations=[entry])
    assert refused(result) == (Code.VOID_WITHOUT_CAUSE, 0)
    voided(chain, node, statement, 4)
    assert report(chain, node, statement.delivered()) is FAULT


def test_a_payer_cannot_sign_afterwards_what_makes_a_node_guilty(chain, node):
    """The node was never given an authorisation, and its statement says so; the payer makes one later."""
    who = account("second payer")
    statement = node.sign(payer="second payer", request=REQUEST, requester=who)
    voided(chain, node, statement, 4)
    assert report(chain, node, statement.delivered()) == REFUSED


def test_an_uncovered_statement_that_stands_for_another_is_fault(chain, node):
    """The payer of the void one did not cover; delivered was another under its number."""
    delivered = chain.new_key().sign()
    voided(chain, node, node.sign(payer="stranger"), 4)
    assert report(chain, node, delivered.delivered()) is FAULT


@pytest.mark.parametrize("way", ["cancelled", "expired", "spent"])
def test_a_payer_that_takes_its_consent_back_makes_no_node_guilty(chain, node, way):
    expiry_ms = chain.now_ms + 60_000
    statement, entry = signed_for(node, expiry_ms=expiry_ms)
    if way == "cancelled":
        chain.do("second payer", bank.ADDRESS, "cancelAuthorisation", 7)
    elif way == "expired":
        chain.now_ms = expiry_ms
    else:
        rest = chain.balance("second payer") - 21_000 * chain.genesis.base_fee - 999
        chain.block(chain.raw("second payer", account("stranger"), value=rest, gas=21_000))
    assert chain.settle(node, [statement], authorisations=[entry]).code != Code.OK
    voided(chain, node, statement, 4, entry)
    assert report(chain, node, statement.delivered()) == REFUSED


def test_an_amount_beyond_the_authorisation_is_the_nodes_doing(chain, node):
    statement, entry = signed_for(node, most=999)
    voided(chain, node, statement, 4, entry)
    assert report(chain, node, statement.delivered()) is FAULT


def test_waiting_until_the_authorisation_expires_does_not_help(chain, node):
    statement, entry = signed_for(node, expiry_ms=START_MS + DAY_MS // 2)
    chain.now_ms += DAY_MS
    voided(chain, node, statement, 4, entry)
    assert report(chain, node, statement.delivered()) is FAULT


@pytest.mark.parametrize("wrong", [{"chain_id": "avow-0000000000000000"}, {"key": bytes(32)}, {"operator": "stranger"}])
def test_a_private_part_of_elsewhere_shows_no_consent(chain, node, wrong):
    twin = chain.new_key()
    twin.operator = wrong.get("operator", "operator")
    wrong = {name: value for name, value in wrong.items() if name != "operator"}
    statement, entry = signed_for(twin, node="operator", **wrong)
    result = chain.send(
        "operator", settlement.ADDRESS, "settle", chain.batch(twin, [statement], authorisations=[entry])
    )
    assert refused(result) == (Code.AUTHORISATION_REFUSED, 0)


def test_the_private_part_shown_is_the_statements_own(chain, node):
    first, entry = signed_for(node)
    second, _ = signed_for(node)
    shown = SignedAuthorisation(0, second.private, entry.max_amount, entry.expiry_ms, entry.nonce, entry.signature)
    assert refused(chain.settle(node, [first], authorisations=[shown])) == (Code.AUTHORISATION_REFUSED, 0)


def test_an_authorisation_of_somebody_else_excuses_nothing(chain, node):
    statement, entry = signed_for(node)
    for forged in (
        SignedAuthorisation(0, statement.private, 1, START_MS, 7, entry.signature),
        SignedAuthorisation(0, node.sign().private, entry.max_amount, entry.expiry_ms, 7, entry.signature),
    ):
        result = chain.settle(node, [statement], void=b"\x04", authorisations=[forged])
        assert refused(result) == (Code.AUTHORISATION_REFUSED, 0)


def test_a_statement_that_hides_its_authorisation_does_not_settle_by_it(chain, node):
    """What a void would be judged by is in the receipt that the caller holds."""
    statement, entry = signed_for(node)
    twin = chain.new_key()
    hidden = twin.sign(payer="second payer", request=REQUEST, requester=account("second payer"))
    shown = SignedAuthorisation(0, hidden.private, ETHER, FAR_MS, 7, entry.signature)
    assert refused(chain.settle(twin, [hidden], authorisations=[shown])) == (Code.AUTHORISATION_REFUSED, 0)
    assert chain.settle(node, [statement], authorisations=[entry]).code == Code.OK


# --- Time ------------------------------------------------------------------------------------------------------------


def test_an_operator_takes_nothing_back_that_it_settled(chain, node):
    assert chain.settle(node, [node.sign()]).code == Code.OK
    settled_at = chain.height
    for height in (0, 1, settled_at):
        result = chain.send("operator", nodes.ADDRESS, "compromised", node.id, height)
        assert refused(result) == (Code.OUT_OF_RANGE, None)
    chain.do("operator", nodes.ADDRESS, "compromised", node.id, chain.height + 1)
    assert chain.view(nodes.ADDRESS, "keyState", node.id)[4] > settled_at
    chain.do("governance", nodes.ADDRESS, "compromised", node.id, settled_at)


@pytest.mark.parametrize("seed", range(5))
def test_no_statement_of_a_batch_escapes_the_window(chain, node, seed):
    draw = random.Random(seed)
    place = draw.randrange(1, 19)
    now_ms = chain.now_ms + 1_000
    for ended_ms in (1_000, now_ms - DAY_MS - 1, now_ms + chain.genesis.heartbeat_ms + 5_001, now_ms + 10**11):
        key = chain.new_key()
        statements = [key.sign(ended_ms=ended_ms if index == place else now_ms) for index in range(20)]
        result = chain.simulate("operator", settlement.ADDRESS, "settle", chain.batch(key, statements))
        assert refused(result) == (Code.BATCH_EARLY if ended_ms > now_ms else Code.BATCH_TIME, WHOLE_BATCH)


# --- Work for nothing ------------------------------------------------------------------------------------------------


def test_bytes_are_paid_before_they_are_parsed(chain, node):
    """262 KB of small items: refused by their number after few of them, and paid by the byte."""
    bomb = b"\x9a\x00\x03\xff\xf0" + bytes((1 << 18) - 16)
    begin = time.process_time()
    with pytest.raises(TooLarge):
        Batch.from_bytes(bomb)
    assert time.process_time() - begin < 0.2
    outcome = chain.simulate("operator", settlement.ADDRESS, "settle", bomb)
    assert refused(outcome) == (Code.BATCH_MALFORMED, WHOLE_BATCH)
    assert outcome.gas_used >= gas.BATCH_BYTE * len(bomb)


def test_the_largest_batches_have_items_to_spare(chain, node):
    """Distinct programs and payers for every statement, and an authorisation for each: as many items as bytes can honestly hold."""
    statements = [node.sign(program=index.to_bytes(32), payer=f"payer {index}") for index in range(300)]
    entries = [SignedAuthorisation(index, item.private, 1, 1, 1, bytes(65)) for index, item in enumerate(statements)]
    data = chain.batch(node, statements, authorisations=entries)
    assert len(Batch.from_bytes(data)) == 300
    assert len(Batch.from_bytes(chain.batch(node, statements))) == 300
