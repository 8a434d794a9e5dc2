"""The follower of headers against nodes that lie: whoever shows blocks, and however they fit together."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.errors import VerificationError
from avow.nodes.headers import TRUSTING_PERIOD_NS, HeaderTrust
from avow.receipt import light
from avow.receipt.headers import SignedBlock, Validator, sorted_validators, validators_hash
from avow.receipt.trust import TrustPolicy
from tests.nodes.test_headers import CHAIN, NOW, START, Chain, keys, policy, sign

DAY_NS = 24 * 3600 * 10**9
FORGED = b"\xee" * 32


def signed(header, powers: dict[int, int], signers) -> SignedBlock:
    """A block whose own set is `powers` (seed → power), signed by `signers`."""
    made = keys(*powers)
    validators = sorted_validators([Validator(key, power) for key, power in zip(made, powers.values(), strict=True)])
    header = replace(header, validators_hash=validators_hash(validators))
    return sign(header, validators, keys(*signers))


POWERS = st.lists(st.integers(1, 1_000), min_size=1, max_size=7)


@given(powers=POWERS, liars=st.sets(st.integers(0, 6)))
@settings(max_examples=60)
def test_liars_with_a_third_of_the_trusted_power_forge_nothing(powers, liars):
    """They bring a set of their own that is all theirs, and sign a header that never was."""
    held = dict(enumerate(powers, 1))
    honest = Chain([(1,)]).blocks[1].header
    trusted = signed(replace(honest, height=5), held, held)
    lying = {seed: power for seed, power in held.items() if seed - 1 in liars}
    strangers = {100: 10**6}
    forged = signed(
        replace(honest, height=9, time_ns=START + 5 * 10**9, app_hash=FORGED), lying | strangers, lying | strangers
    )
    times = {"now_ns": NOW, "trusting_period_ns": DAY_NS}
    given_blocks = (trusted.header, trusted.validators, forged.signed_header, forged.validators)
    if 3 * sum(lying.values()) > sum(held.values()):
        light.verify_skipping(*given_blocks, **times)  # beyond what a light client can promise
    else:
        with pytest.raises(light.NotSigned):
            light.verify_skipping(*given_blocks, **times)


@given(powers=POWERS, liars=st.sets(st.integers(0, 6)))
@settings(max_examples=60)
def test_liars_with_two_thirds_or_less_decide_no_block_of_the_set(powers, liars):
    held = dict(enumerate(powers, 1))
    lying = {seed: power for seed, power in held.items() if seed - 1 in liars}
    header = replace(Chain([(1,)]).blocks[1].header, height=6, app_hash=FORGED)
    block = signed(header, held, lying)
    if 3 * sum(lying.values()) > 2 * sum(held.values()):
        light.verify_commit(CHAIN, block.validators, block.signed_header)
    else:
        with pytest.raises(light.NotSigned):
            light.verify_commit(CHAIN, block.validators, block.signed_header)


async def test_a_node_that_lies_about_what_lies_between_is_refused_and_leaves_no_trace():
    """Two of six lie (a third). Their blocks between are refused; honest ones are followed after."""
    chain = Chain([(1, 2, 3, 4, 5, 6)] * 4 + [(7, 8, 9, 10)] * 8)
    trust = HeaderTrust(CHAIN, policy(chain.blocks[1]))
    await trust.follow(chain.blocks[1], chain.fetch, now_ns=NOW)

    async def lie(height: int) -> SignedBlock:
        honest = chain.blocks[height].header
        return signed(replace(honest, app_hash=FORGED), {1: 1, 2: 1, 50: 9}, (1, 2, 50))

    async def another_height(height: int) -> SignedBlock:
        return chain.blocks[max(1, height - 1)]

    async def backwards(height: int) -> SignedBlock:
        return sign(
            replace(chain.blocks[height].header, time_ns=START), chain.blocks[height].validators, keys(*range(1, 11))
        )

    async def nobody(height: int) -> SignedBlock:
        return replace(chain.blocks[height], commit=replace(chain.blocks[height].commit, signatures=()))

    for fetch in (lie, another_height, backwards, nobody):
        with pytest.raises(VerificationError):
            await trust.follow(chain.blocks[12], fetch, now_ns=NOW)
        assert trust.height <= 4
    await trust.follow(chain.blocks[12], chain.fetch, now_ns=NOW)
    assert trust.height == 12


@pytest.mark.parametrize("between", [1, 2, 7])
async def test_all_validators_replaced_again_and_again_within_the_period(between):
    """Each set shares nobody with the one before: every change is followed where it happens, block by block."""
    sets = [tuple(range(4 * at + 1, 4 * at + 5)) for at in range(6) for _ in range(between)]
    chain = Chain(sets)
    trust = HeaderTrust(CHAIN, policy(chain.blocks[1]))
    await trust.follow(chain.blocks[1], chain.fetch, now_ns=NOW)
    last = chain.blocks[len(sets)]
    with pytest.raises(light.NotSigned):
        light.verify_skipping(
            chain.blocks[1].header,
            chain.blocks[1].validators,
            last.signed_header,
            last.validators,
            now_ns=NOW,
            trusting_period_ns=TRUSTING_PERIOD_NS,
        )
    await trust.follow(last, chain.fetch, now_ns=NOW)
    assert trust.height == len(sets)
    assert len(set(chain.fetched)) < len(sets)


async def test_a_taken_over_set_is_not_followed_though_every_block_of_it_is_signed():
    """Strangers sign a chain of their own from the trusted block on; its first set was never announced."""
    chain = Chain([(1, 2, 3)] * 6)
    taken = Chain([(1, 2, 3)] + [(7, 8, 9)] * 5)
    first = chain.blocks[1]
    trust = HeaderTrust(CHAIN, policy(first))
    await trust.follow(first, chain.fetch, now_ns=NOW)
    with pytest.raises(VerificationError):
        await trust.follow(taken.blocks[6], taken.fetch, now_ns=NOW)
    assert trust.height == 1


def test_a_pinned_policy_after_all_its_validators_left():
    """Who reads receipts follows nothing between: beyond a third in common the block counts, else it is refused until pinned anew."""
    first = Chain([(1, 2, 3, 4)]).blocks[1]
    policy = TrustPolicy(CHAIN, 1, first.header.time_ns // 10**6, first.validators)
    now_ms = NOW // 10**6
    for stayed, accepted in (((1, 2, 3, 4), True), ((1, 2), True), ((1,), False), ((), False)):
        block = Chain([(*stayed, *range(11, 15 - len(stayed)))] * 3).blocks[3]
        if accepted:
            policy.check_anchor(block, now_ms)
        else:
            with pytest.raises(light.NotSigned):
                policy.check_anchor(block, now_ms)
    with pytest.raises(VerificationError):  # and the period ends all of it
        policy.check_anchor(first, now_ms + policy.trusting_period_ms + 1)
