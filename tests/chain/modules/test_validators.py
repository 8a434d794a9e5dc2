"""The validator set: governance alone changes it, and the engine is told of a block's net change."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.chain import abci
from avow.chain.errors import Code
from avow.chain.modules import validators
from avow.receipt.headers import validator_address
from tests.chain.harness import Chain, refused

KEYS = [bytes([number]) * 32 for number in range(1, 6)]


def chain(count: int = 3) -> Chain:
    return Chain(settings={"validators": tuple((key, 10) for key in KEYS[:count])})


def told(found: Chain) -> dict[bytes, int]:
    updates = found.responses[-1].validator_updates
    assert list(updates) == sorted(updates, key=lambda item: item.public_key)
    return {item.public_key: item.power for item in updates}


def test_join_change_and_leave():
    found = chain()
    assert told(found) == {}
    found.do("governance", validators.ADDRESS, "setPower", KEYS[3], 7)
    assert told(found) == {KEYS[3]: 7}
    assert found.view(validators.ADDRESS, "power", KEYS[3]) == [7]
    found.do("governance", validators.ADDRESS, "setPower", KEYS[0], 0)
    assert told(found) == {KEYS[0]: 0}
    found.do("governance", validators.ADDRESS, "setPower", KEYS[1], 11)
    assert told(found) == {KEYS[1]: 11}
    assert found.view(validators.ADDRESS, "validators") == [KEYS[1:4], [11, 10, 7]]
    found.block()
    assert told(found) == {}


def test_what_is_refused():
    found = chain(1)
    for who, key, power, code in (
        ("stranger", KEYS[1], 5, Code.NOT_AUTHORISED),
        ("governance", KEYS[1], 0, Code.VALIDATOR_UNKNOWN),
        ("governance", KEYS[1], validators.MAX_POWER + 1, Code.OUT_OF_RANGE),
        ("governance", KEYS[0], 0, Code.LAST_VALIDATOR),
    ):
        result = found.send(who, validators.ADDRESS, "setPower", key, power)
        assert refused(result) == (code, None)
        assert told(found) == {}


@pytest.mark.parametrize("settings", [{}, {"validators": ((KEYS[0], 10),), "validators_fixed": True}])
def test_a_chain_whose_validators_are_fixed(settings):
    """As with the embedded engine, which has one for ever: nothing that anybody sends stops it."""
    found = Chain(settings=settings)
    for power in (0, 5):
        result = found.send("governance", validators.ADDRESS, "setPower", KEYS[1], power)
        assert refused(result) == (Code.VALIDATORS_FIXED, None)
        assert told(found) == {}
    assert refused(found.send("stranger", validators.ADDRESS, "setPower", KEYS[1], 5)) == (Code.NOT_AUTHORISED, None)


def evidence(found: Chain, *faults: abci.Misbehavior) -> abci.FinalizeBlockResponse:
    """A block with evidence and nothing else."""
    found.height, found.now_ms = found.height + 1, found.now_ms + 1_000
    request = abci.FinalizeBlockRequest(
        (), bytes(32), found.height, found.now_ms * 10**6, bytes(20), misbehavior=tuple(faults)
    )
    found.responses.append(found.application.finalize_block(request))
    found.application.commit()
    return found.responses[-1]


def fault(key: bytes, height: int = 3, kind=abci.MisbehaviorType.DUPLICATE_VOTE) -> abci.Misbehavior:
    return abci.Misbehavior(kind, validator_address(key), height)


def test_who_signs_twice_validates_no_more():
    found = chain()
    before = found.responses[-1].app_hash
    answer = evidence(found, fault(KEYS[1]))
    assert told(found) == {KEYS[1]: 0}
    assert answer.app_hash != before
    assert [(event.type, event.attributes[-1].value) for event in answer.events] == [("misbehavior", "true")]
    assert found.view(validators.ADDRESS, "fault", KEYS[1]) == [3, 1]
    assert found.view(validators.ADDRESS, "fault", KEYS[0]) == [0, 0]
    assert found.view(validators.ADDRESS, "power", KEYS[1]) == [0]
    # the same again, and another fault of the same validator, change nothing
    settled = found.responses[-1].app_hash
    answer = evidence(found, fault(KEYS[1]), fault(KEYS[1], 4, abci.MisbehaviorType.LIGHT_CLIENT_ATTACK))
    assert (answer.app_hash, answer.events, told(found)) == (settled, (), {})
    # nor does governance bring it back, while a new key may come
    result = found.send("governance", validators.ADDRESS, "setPower", KEYS[1], 10)
    assert refused(result) == (Code.VALIDATOR_AT_FAULT, None)
    found.do("governance", validators.ADDRESS, "setPower", KEYS[3], 10)


def test_faults_of_all_leave_one():
    """No set is empty: the last one stays, its fault is recorded."""
    found = chain()
    answer = evidence(found, *[fault(key) for key in KEYS[:3]])
    assert told(found) == {KEYS[0]: 0, KEYS[1]: 0}
    assert [event.attributes[-1].value for event in answer.events] == ["true", "true", "false"]
    assert found.view(validators.ADDRESS, "fault", KEYS[2]) == [3, 1]


def test_evidence_of_nobody_and_of_no_known_kind():
    found = chain()
    assert evidence(found, fault(KEYS[4])).validator_updates == ()
    before = found.responses[-1].app_hash
    assert evidence(found, fault(KEYS[0], 3, abci.MisbehaviorType.UNKNOWN)).app_hash == before
    # a key that was at fault before it was a validator here does not become one
    result = found.send("governance", validators.ADDRESS, "setPower", KEYS[4], 10)
    assert refused(result) == (Code.VALIDATOR_AT_FAULT, None)


def test_evidence_beside_a_change_in_the_same_block():
    """Governance raises a power in the block whose evidence ends the same validator: it ends."""
    found = chain()
    raw = found.raw("governance", validators.ADDRESS, found.call_data(validators.ADDRESS, "setPower", KEYS[0], 99))
    found.height, found.now_ms = found.height + 1, found.now_ms + 1_000
    request = abci.FinalizeBlockRequest(
        (raw,), bytes(32), found.height, found.now_ms * 10**6, bytes(20), misbehavior=(fault(KEYS[0]),)
    )
    found.responses.append(found.application.finalize_block(request))
    found.application.commit()
    assert told(found) == {KEYS[0]: 0}


def test_there_is_a_greatest_set():
    found = Chain(settings={"validators": tuple((number.to_bytes(32), 1) for number in range(1, 257))})
    result = found.send("governance", validators.ADDRESS, "setPower", KEYS[0], 1)
    assert refused(result) == (Code.TOO_MANY_VALIDATORS, None)
    found.do("governance", validators.ADDRESS, "setPower", (5).to_bytes(32), 0)
    found.do("governance", validators.ADDRESS, "setPower", KEYS[0], 1)


def test_a_block_is_told_as_its_net_change():
    found = chain()
    changes = [(KEYS[3], 5), (KEYS[3], 0), (KEYS[0], 4), (KEYS[0], 6), (KEYS[1], 0), (KEYS[1], 10)]
    nonce = found.application.account(found.genesis.governance)[0]
    found.block(
        *[
            found.raw(
                "governance",
                validators.ADDRESS,
                found.call_data(validators.ADDRESS, "setPower", *change),
                nonce=nonce + at,
                gas=1_000_000,
            )
            for at, change in enumerate(changes)
        ]
    )
    assert told(found) == {KEYS[0]: 6}


@settings(max_examples=25)
@given(st.lists(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 3)), max_size=4), max_size=5))
def test_the_engine_can_always_follow(blocks):
    """What the engine is told never names an unknown validator for removal, and leads to the state's own set."""
    found = chain(2)
    engine = dict(found.genesis.validators)
    for changes in blocks:
        nonce = found.application.account(found.genesis.governance)[0]
        found.block(
            *[
                found.raw(
                    "governance",
                    validators.ADDRESS,
                    found.call_data(validators.ADDRESS, "setPower", *change),
                    nonce=nonce + at,
                    gas=1_000_000,
                )
                for at, change in enumerate(changes)
            ]
        )
        for key, power in told(found).items():
            assert power or key in engine
            assert engine.get(key, 0) != power
            engine[key] = power
        engine = {key: power for key, power in engine.items() if power}
        keys, powers = found.view(validators.ADDRESS, "validators")
        assert dict(zip(keys, powers, strict=True)) == engine
        assert engine
