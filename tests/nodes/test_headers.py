"""Headers are followed by the light client, whoever shows them."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.consensus.block import EMPTY_COMMIT, Parameters, block_id, next_header
from avow.errors import VerificationError
from avow.nodes.headers import TRUSTING_PERIOD_NS, HeaderTrust
from avow.receipt import light
from avow.receipt.headers import (
    BlockIDFlag,
    Commit,
    CommitSig,
    SignedBlock,
    Validator,
    sorted_validators,
    validators_hash,
)
from avow.receipt.trust import TrustPolicy

CHAIN = "avow-0123456789abcdef"
START = 1_800_000_000 * 10**9
PARAMETERS = Parameters(CHAIN, 1, 1 << 20, 1 << 20)


def keys(*seeds: int) -> dict[bytes, Ed25519PrivateKey]:
    made = [Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in seeds]
    return {key.public_key().public_bytes_raw(): key for key in made}


class Chain:
    """Blocks signed by sets that change as told: `sets[height]` decides `height`."""

    def __init__(self, sets: list[tuple[int, ...]], chain_id: str = CHAIN) -> None:
        self.blocks: dict[int, SignedBlock] = {}
        self.fetched: list[int] = []
        last = None
        for height, seeds in enumerate(sets, 1):
            signers = keys(*seeds)
            validators = sorted_validators([Validator(key, 1) for key in signers])
            following = sets[height] if height < len(sets) else seeds
            header = replace(
                next_header(
                    replace(PARAMETERS, chain_id=chain_id),
                    None,
                    genesis_app_hash=bytes(32),
                    validators=validators,
                    txs=(),
                    time_ns=START + height * 10**9,
                ),
                height=height,
                next_validators_hash=validators_hash(
                    sorted_validators([Validator(key, 1) for key in keys(*following)])
                ),
                last_block_id=EMPTY_COMMIT.block_id if last is None else last.commit.block_id,
            )
            last = self.blocks[height] = sign(header, validators, signers)

    async def fetch(self, height: int) -> SignedBlock:
        self.fetched.append(height)
        return self.blocks[height]


def sign(header, validators, signers) -> SignedBlock:
    identity = block_id(header, (), EMPTY_COMMIT)
    commit = Commit(header.height, 0, identity, ())
    votes = []
    for validator in validators:
        vote = CommitSig(BlockIDFlag.COMMIT, validator.address, header.time_ns + 1)
        key = signers.get(validator.public_key)
        if key is None:
            votes.append(CommitSig(BlockIDFlag.ABSENT))
        else:
            votes.append(replace(vote, signature=key.sign(commit.sign_bytes(header.chain_id, vote))))
    return SignedBlock(header, replace(commit, signatures=tuple(votes)), tuple(validators))


NOW = START + 100 * 10**9


def policy(block: SignedBlock, **changes) -> TrustPolicy:
    """What pins a block's validators."""
    made = TrustPolicy(CHAIN, block.header.height, block.header.time_ns // 10**6, tuple(block.validators))
    return replace(made, **changes)


async def test_blocks_of_one_set_follow_in_any_order():
    chain = Chain([(1, 2, 3, 4)] * 10)
    trust = HeaderTrust(CHAIN)
    for height in (5, 9, 2, 10):
        await trust.follow(chain.blocks[height], chain.fetch, now_ns=NOW)
    assert trust.height == 10
    assert chain.fetched == []


async def test_a_set_that_is_replaced_is_followed_through_what_lies_between():
    sets = [(1, 2, 3, 4)] * 3 + [(2, 3, 4, 5)] * 3 + [(3, 4, 5, 6)] * 3 + [(5, 6, 7, 8)] * 3 + [(9, 10, 11, 12)] * 3
    chain = Chain(sets)
    trust = HeaderTrust(CHAIN, policy(chain.blocks[1]))
    await trust.follow(chain.blocks[1], chain.fetch, now_ns=NOW)
    await trust.follow(chain.blocks[15], chain.fetch, now_ns=NOW)
    assert trust.height == 15
    assert chain.fetched
    assert len(chain.fetched) < 15


async def test_what_does_not_follow_is_refused():
    chain = Chain([(1, 2, 3, 4)] * 6)
    liar = Chain([(5, 6, 7, 8)] * 6)
    trust = HeaderTrust(CHAIN)
    await trust.follow(chain.blocks[3], chain.fetch, now_ns=NOW)
    for block in (liar.blocks[6], liar.blocks[2], Chain([(1, 2, 3, 4)] * 6, "avow-other").blocks[6]):
        with pytest.raises(VerificationError):
            await trust.follow(block, liar.fetch, now_ns=NOW)
    header = chain.blocks[6].header
    with pytest.raises(light.NotSigned):  # two of four
        await trust.follow(sign(header, chain.blocks[6].validators, keys(1, 2)), chain.fetch, now_ns=NOW)
    with pytest.raises(light.WrongTime):
        await trust.follow(
            sign(replace(header, time_ns=NOW + 3600 * 10**9), chain.blocks[6].validators, keys(1, 2, 3, 4)),
            chain.fetch,
            now_ns=NOW,
        )
    assert trust.height < 6
    with pytest.raises(VerificationError):
        await HeaderTrust(CHAIN, policy(liar.blocks[1])).follow(chain.blocks[3], chain.fetch, now_ns=NOW)


async def test_trust_expires_and_begins_anew(caplog):
    chain = Chain([(1, 2, 3, 4)] * 2 + [(5, 6, 7, 8)] * 2)
    trust = HeaderTrust(CHAIN)
    await trust.follow(chain.blocks[1], chain.fetch, now_ns=NOW)
    await trust.follow(chain.blocks[4], chain.fetch, now_ns=NOW + TRUSTING_PERIOD_NS)
    assert trust.height == 4
    assert "trusting period" in caplog.text
