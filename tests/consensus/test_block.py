"""Blocks against recorded ones of real CometBFT networks: the same ids from the same contents."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avow.chain.abci import ExecTxResult
from avow.consensus.block import EMPTY_COMMIT, Decided, Parameters, block_id, next_header, sign_commit
from avow.receipt import light
from avow.receipt.cometbft_json import commit_from_rpc, header_from_rpc, signed_header_from_rpc
from avow.receipt.headers import BlockID, Validator

RECORDED = [
    "one_validator",
    "height_2",
    "four_validators",
    "one_absent",
    "nil_vote",
    "round_gt_0",
    "valset_change_H1",
    "valset_change_H2",
]
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
VALIDATORS = (Validator(KEY.public_key().public_bytes_raw(), 5),)
PARAMETERS = Parameters("avow-test", 3, 4 << 20, -1)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_block_ids_are_rebuilt(shared_fixtures: Path, name: str) -> None:
    recorded = json.loads((shared_fixtures / "cometbft" / f"{name}.json").read_bytes())
    block = recorded["block"]["block"]
    header = header_from_rpc(block["header"])
    txs = [base64.b64decode(tx) for tx in block["data"]["txs"] or []]
    assert light.data_hash(txs) == header.data_hash
    signed = signed_header_from_rpc(recorded["commit"]["signed_header"])
    assert block_id(header, txs, commit_from_rpc(block["last_commit"])) == signed.commit.block_id
    limits = recorded["params"]["consensus_params"]["block"]
    assert Parameters("", 0, int(limits["max_bytes"]), int(limits["max_gas"])).consensus_hash == header.consensus_hash


def decide(last: Decided | None, txs: tuple[bytes, ...], time_ns: int, app_hash: bytes) -> Decided:
    header = next_header(
        PARAMETERS, last, genesis_app_hash=b"\x01" * 32, validators=VALIDATORS, txs=txs, time_ns=time_ns
    )
    identity = block_id(header, txs, EMPTY_COMMIT if last is None else last.commit)
    results = tuple(ExecTxResult(data=tx) for tx in txs)
    return Decided(header, sign_commit(header, identity, KEY, time_ns + 1), txs, results, app_hash, VALIDATORS)


def test_a_chain_of_our_blocks_satisfies_the_light_client() -> None:
    first = decide(None, (b"a", b"b" * 200_000), 1_000, b"\x02" * 32)
    second = decide(first, (), 2_000, b"\x02" * 32)
    third = decide(second, (), 3_000, b"\x02" * 32)
    assert first.commit.block_id.parts_total == 4
    assert (first.header.last_block_id, first.header.app_hash) == (BlockID(), b"\x01" * 32)
    for block in (first, second, third):
        light.verify_commit("avow-test", VALIDATORS, block.signed_block.signed_header)
    for before, after in ((first, second), (second, third)):
        light.verify_adjacent(
            before.header, after.signed_block.signed_header, VALIDATORS, now_ns=4_000, trusting_period_ns=10_000
        )
        assert after.header.last_block_id.hash == before.header.hash
        assert after.header.last_commit_hash == before.commit.hash
    assert second.header.last_results_hash == light.last_results_hash([r.deterministic() for r in first.results])
    assert [block.needs_proof for block in (first, second, third)] == [True, False, False]
    assert decide(None, (), 1_000, b"\x02" * 32).needs_proof
