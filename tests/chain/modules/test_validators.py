"""The validator set: governance alone changes it, and the engine is told of a block's net change."""

from hypothesis import given, settings
from hypothesis import strategies as st

from avow.chain.errors import Code
from avow.chain.modules import validators
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
