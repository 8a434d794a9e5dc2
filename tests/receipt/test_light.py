"""The light client against CometBFT's published vectors, recorded blocks of real networks, and liars."""

import contextlib
import dataclasses
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from avow.errors import AvowError, EncodingError
from avow.receipt import light, merkle
from avow.receipt.cometbft_json import (
    RpcFormatError,
    commit_from_rpc,
    header_from_rpc,
    results_from_rpc,
    signed_header_from_rpc,
    validators_from_rpc,
)
from avow.receipt.encoding import decode, encode
from avow.receipt.headers import MAX_INT64
from avow.receipt.light import BlockID, BlockIDFlag, Commit, CommitSig, Header, SignedBlock, SignedHeader, Validator

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
SECOND = 1_000_000_000
DAY = 86_400 * SECOND
START = 1_700_000_000 * SECOND


# --- Published vectors (cometbft types/block_test.go, types/vote_test.go) ------------------------------------------


def tmhash(name: str) -> bytes:
    return sha256(name.encode()).digest()


def published_header() -> Header:
    return Header(
        block_version=1,
        app_version=2,
        chain_id="chainId",
        height=3,
        time_ns=1_570_983_284 * SECOND,  # 2019-10-13T16:14:44Z
        last_block_id=BlockID(bytes(32), 6, bytes(32)),
        last_commit_hash=tmhash("last_commit_hash"),
        data_hash=tmhash("data_hash"),
        validators_hash=tmhash("validators_hash"),
        next_validators_hash=tmhash("next_validators_hash"),
        consensus_hash=tmhash("consensus_hash"),
        app_hash=tmhash("app_hash"),
        last_results_hash=tmhash("last_results_hash"),
        evidence_hash=tmhash("evidence_hash"),
        proposer_address=tmhash("proposer_address")[:20],
    )


def test_header_hash_vector() -> None:
    assert published_header().hash.hex().upper() == "F740121F553B5418C3EFBD343C2DBFE9E007BB67B0D020A0741374BAB65242A4"


@pytest.mark.parametrize(
    ("chain_id", "height", "round_", "kind", "expected"),
    [
        ("", 0, 0, 0, "0d2a0b088092b8c398feffffff01"),
        ("", 1, 1, 2, "2108021101000000000000001901000000000000002a0b088092b8c398feffffff01"),
        ("", 1, 1, 1, "2108011101000000000000001901000000000000002a0b088092b8c398feffffff01"),
        ("", 1, 1, 0, "1f1101000000000000001901000000000000002a0b088092b8c398feffffff01"),
        (
            "test_chain_id",
            1,
            1,
            0,
            ("2e110100000000000000190100000000000000"
            "2a0b088092b8c398feffffff01320d746573745f636861696e5f6964"),
        ),
    ],
)  # fmt: skip
def test_vote_sign_bytes_vectors(chain_id: str, height: int, round_: int, kind: int, expected: str) -> None:
    assert light.vote_sign_bytes(chain_id, height, round_, None, None, kind=kind).hex() == expected


# --- Recorded blocks of real networks ------------------------------------------------------------------------------


def load(folder: Path, name: str) -> tuple[dict[str, Any], SignedHeader, tuple[Validator, ...]]:
    recorded = json.loads((folder / "cometbft" / f"{name}.json").read_bytes())
    signed = signed_header_from_rpc(recorded["commit"]["signed_header"])
    return recorded, signed, validators_from_rpc(recorded["validators"]["validators"])


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_blocks_verify(shared_fixtures: Path, name: str) -> None:
    recorded, signed, validators = load(shared_fixtures, name)
    header = signed.header
    light.verify_commit(header.chain_id, validators, signed)
    assert light.sorted_validators(validators) == validators
    assert light.validators_hash(validators_from_rpc(recorded["next_validators"]["validators"])) == (
        header.next_validators_hash
    )
    assert header.evidence_hash == sha256(b"").digest()
    block = recorded["block"]["block"]
    assert header_from_rpc(block["header"]) == header
    assert commit_from_rpc(block["last_commit"]).hash == header.last_commit_hash
    results = results_from_rpc(recorded["block_results_prev"]["txs_results"])
    assert light.last_results_hash(results) == header.last_results_hash
    leaves = [result.leaf() for result in results]
    for index, result in enumerate(results):
        light.verify_result(result, index, len(results), merkle.path(leaves, index), header)
        other = dataclasses.replace(result, gas_used=result.gas_used + 1)
        with pytest.raises(merkle.NotIncluded):
            light.verify_result(other, index, len(results), merkle.path(leaves, index), header)
    again = SignedBlock.from_value(decode(encode(SignedBlock(header, signed.commit, validators).to_value())))
    assert again == SignedBlock(header, signed.commit, validators)


@pytest.mark.parametrize("name", ["four_validators", "one_absent", "nil_vote"])
def test_every_changed_bit_of_a_recorded_signature_is_refused(shared_fixtures: Path, name: str) -> None:
    _, signed, validators = load(shared_fixtures, name)
    for place, vote in enumerate(signed.commit.signatures):
        if vote.flag is BlockIDFlag.ABSENT:
            continue
        for change in (
            {"signature": bytes([vote.signature[0] ^ 1]) + vote.signature[1:]},
            {"time_ns": (vote.time_ns or 0) + 1},
            {"flag": BlockIDFlag.NIL if vote.flag is BlockIDFlag.COMMIT else BlockIDFlag.COMMIT},
        ):
            votes = list(signed.commit.signatures)
            votes[place] = dataclasses.replace(vote, **change)
            commit = dataclasses.replace(signed.commit, signatures=tuple(votes))
            with pytest.raises(light.BadSignature):
                light.verify_commit(signed.header.chain_id, validators, SignedHeader(signed.header, commit))


def test_recorded_change_of_power_is_followed(shared_fixtures: Path) -> None:
    _, first, first_validators = load(shared_fixtures, "valset_change_H1")
    _, second, second_validators = load(shared_fixtures, "valset_change_H2")
    now = second.header.time_ns + SECOND
    assert second.header.height == first.header.height + 1
    light.verify_adjacent(first.header, second, second_validators, now_ns=now, trusting_period_ns=DAY)
    light.verify_skipping(first.header, first_validators, second, second_validators, now_ns=now, trusting_period_ns=DAY)
    with pytest.raises(light.WrongValidators):
        light.verify_commit(first.header.chain_id, first_validators, second)


# --- A network of our own, to lie with -----------------------------------------------------------------------------


class Network:
    """Validators with known keys who sign whatever they are told."""

    def __init__(self, *powers: int, seed: int = 0) -> None:
        keys = [Ed25519PrivateKey.from_private_bytes(sha256(bytes([seed, n])).digest()) for n in range(len(powers))]
        public = {key.public_key().public_bytes_raw(): key for key in keys}
        self.validators = light.sorted_validators(
            Validator(raw, power) for raw, power in zip(public, powers, strict=True)
        )
        self.keys = [public[item.public_key] for item in self.validators]

    def header(self, height: int = 5, time_ns: int = START, following: "Network | None" = None) -> Header:
        return dataclasses.replace(
            published_header(),
            block_version=11,
            height=height,
            time_ns=time_ns,
            validators_hash=light.validators_hash(self.validators),
            next_validators_hash=light.validators_hash((following or self).validators),
        )

    def sign(self, header: Header, flags: str = "", **changes: Any) -> SignedHeader:
        """A commit with one flag per validator: c(ommit), n(il), a(bsent)."""
        block_id = BlockID(header.hash, 1, tmhash("parts"))
        commit = Commit(header.height, 0, block_id, ())
        commit = dataclasses.replace(commit, **changes)
        votes = []
        for key, validator, flag in zip(self.keys, self.validators, flags or "c" * len(self.keys), strict=True):
            if flag == "a":
                votes.append(CommitSig(BlockIDFlag.ABSENT))
                continue
            kind = BlockIDFlag.COMMIT if flag == "c" else BlockIDFlag.NIL
            vote = CommitSig(kind, validator.address, header.time_ns + 1)
            signature = key.sign(commit.sign_bytes(header.chain_id, vote))
            votes.append(dataclasses.replace(vote, signature=signature))
        return SignedHeader(header, dataclasses.replace(commit, signatures=tuple(votes)))


def check(network: Network, signed: SignedHeader) -> None:
    light.verify_commit("chainId", network.validators, signed)


@pytest.mark.parametrize(
    ("powers", "flags", "enough"),
    [
        ((1,), "c", True),
        ((1,), "n", False),
        ((1,), "a", False),
        ((1, 1, 1), "ccc", True),
        ((1, 1, 1), "cca", False),  # exactly two thirds
        ((1, 1, 1), "ccn", False),  # a nil vote is not one for the block
        ((1, 1, 1, 1), "ccca", True),
        ((1, 1, 1, 1), "cccn", True),
        ((1, 1, 1, 1), "ccaa", False),
        ((200, 100), "ca", False),  # exactly two thirds
        ((201, 100), "ca", True),
        ((2, 1, 1), "nan", False),
    ],
)
def test_more_than_two_thirds(powers: tuple[int, ...], flags: str, enough: bool) -> None:
    network = Network(*powers)
    signed = network.sign(network.header(), flags)
    if enough:
        check(network, signed)
    else:
        with pytest.raises(light.NotSigned, match="two thirds"):
            check(network, signed)


def test_another_chain_header_or_height() -> None:
    network = Network(1, 1, 1, 1)
    header = network.header()
    signed = network.sign(header)
    with pytest.raises(light.WrongChain):
        light.verify_commit("avow-other", network.validators, signed)
    for name in ("app_hash", "last_results_hash", "data_hash", "next_validators_hash"):
        with pytest.raises(light.WrongHeader):
            check(network, SignedHeader(dataclasses.replace(header, **{name: bytes(32)}), signed.commit))
    with pytest.raises(light.WrongHeader, match="height"):
        check(network, SignedHeader(header, dataclasses.replace(signed.commit, height=6)))
    for change in ({"round": 1}, {"block_id": BlockID(header.hash, 2, tmhash("parts"))}):
        with pytest.raises(light.BadSignature):
            check(network, SignedHeader(header, dataclasses.replace(signed.commit, **change)))
    other_chain = dataclasses.replace(header, chain_id="chainIe")
    with pytest.raises(light.BadSignature):  # signed for another chain id, shown under this one
        stolen = network.sign(other_chain).commit
        check(network, SignedHeader(header, dataclasses.replace(stolen, block_id=signed.commit.block_id)))


def test_another_validator_set() -> None:
    network, stranger = Network(1, 1, 1, 1), Network(1, 1, 1, 1, seed=9)
    signed = network.sign(network.header())
    with pytest.raises(light.WrongValidators):
        light.verify_commit("chainId", stranger.validators, signed)
    with pytest.raises(light.WrongValidators):
        light.verify_commit("chainId", network.validators[::-1], signed)
    forged = stranger.sign(network.header())
    with pytest.raises(light.WrongValidators, match="place"):
        check(network, forged)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_commit_has_one_place_per_validator(count: int) -> None:
    network = Network(1, 1, 1, 1)
    signed = network.sign(network.header())
    votes = (signed.commit.signatures * 2)[:count]
    with pytest.raises(light.WrongValidators, match="place per validator"):
        check(network, SignedHeader(signed.header, dataclasses.replace(signed.commit, signatures=votes)))


def test_one_vote_cannot_stand_in_two_places() -> None:
    network = Network(1, 1, 1)
    signed = network.sign(network.header(), "cca")
    votes = (*signed.commit.signatures[:2], signed.commit.signatures[0])
    with pytest.raises(light.WrongValidators, match="another validator's place"):
        check(network, SignedHeader(signed.header, dataclasses.replace(signed.commit, signatures=votes)))


def refused_set(validators: tuple[Validator, ...], reason: str) -> None:
    network = Network(1)
    header = dataclasses.replace(network.header(), validators_hash=light.validators_hash(validators))
    with pytest.raises(light.WrongValidators, match=reason):
        light.verify_commit("chainId", validators, network.sign(header))


def test_sets_that_are_none() -> None:
    one = Network(1).validators[0]
    refused_set((one, one), "twice")
    refused_set((one, Validator(one.public_key, 7)), "twice")
    refused_set((), "empty")
    refused_set((Validator(one.public_key, 0),), "no power")
    refused_set((Validator(one.public_key, -5),), "no power")
    refused_set((Validator(one.public_key, MAX_INT64 // 8 + 1),), "out of range")
    half = MAX_INT64 // 16 + 1
    refused_set((Validator(bytes(32), half), Validator(one.public_key, half)), "out of range")


def test_a_set_is_refused_for_one_member_and_only_beyond_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Network(1).validators[0]
    refused_set((one, Validator(b"\x05" * 32, 0)), "no power")
    at_the_limit = Network(MAX_INT64 // 8)
    check(at_the_limit, at_the_limit.sign(at_the_limit.header()))
    monkeypatch.setattr(light, "MAX_VALIDATORS", 2)
    two, three = Network(1, 1), Network(1, 1, 1)
    check(two, two.sign(two.header()))
    with pytest.raises(light.WrongValidators, match="too large"):
        check(three, three.sign(three.header()))


def test_the_same_keys_with_other_powers_are_another_set() -> None:
    """Two of three equal validators sign; a liar shows the set with their powers raised."""
    network = Network(1, 1, 1)
    signed = network.sign(network.header(), "cca")
    raised = tuple(dataclasses.replace(item, power=9) for item in network.validators[:2])
    with pytest.raises(light.WrongValidators, match="another validator set"):
        light.verify_commit("chainId", (*raised, network.validators[2]), signed)


def test_a_public_key_that_is_no_point_is_a_bad_signature() -> None:
    bad = Validator(b"\x02" + bytes(31), 1)
    header = dataclasses.replace(Network(1).header(), validators_hash=light.validators_hash([bad]))
    vote = CommitSig(BlockIDFlag.COMMIT, bad.address, 1, bytes(64))
    commit = Commit(header.height, 0, BlockID(header.hash, 1, bytes(32)), (vote,))
    with pytest.raises(light.BadSignature):
        light.verify_commit("chainId", (bad,), SignedHeader(header, commit))


# --- From a trusted header on --------------------------------------------------------------------------------------


def test_the_next_block_has_the_announced_validators() -> None:
    old, new, stranger = Network(1, 2), Network(3, seed=1), Network(3, seed=2)
    trusted = old.header(following=new)
    following = new.sign(new.header(6, START + SECOND))
    now = {"now_ns": START + 2 * SECOND, "trusting_period_ns": DAY}
    light.verify_adjacent(trusted, following, new.validators, **now)
    light.verify_skipping(trusted, old.validators, following, new.validators, **now)
    taken_over = stranger.sign(stranger.header(6, START + SECOND))
    with pytest.raises(light.WrongValidators, match="announced"):
        light.verify_adjacent(trusted, taken_over, stranger.validators, **now)
    with pytest.raises(light.NotAdjacent) as caught:
        light.verify_adjacent(trusted, new.sign(new.header(7, START + SECOND)), new.validators, **now)
    assert caught.value.fields == {"expected": 6, "found": 7}


def test_skipping_needs_more_than_a_third_of_the_trusted_power() -> None:
    old = Network(1, 1, 1)
    trusted = old.header()
    now = {"now_ns": START + 2 * SECOND, "trusting_period_ns": DAY}

    def later(stayed: int) -> tuple[SignedHeader, tuple[Validator, ...]]:
        """A later block of two strangers of great power and `stayed` of the old validators, all of them signing."""
        new = Network(50, 50, seed=3)
        new.validators = (*new.validators, *old.validators[:stayed])
        new.keys = [*new.keys, *old.keys[:stayed]]
        return new.sign(new.header(9, START + SECOND)), new.validators

    signed, validators = later(2)
    light.verify_skipping(trusted, old.validators, signed, validators, **now)
    for stayed in (0, 1):  # one of three is exactly a third
        signed, validators = later(stayed)
        with pytest.raises(light.NotSigned, match="third of the trusted"):
            light.verify_skipping(trusted, old.validators, signed, validators, **now)


def test_a_trusted_validator_counts_once_and_only_for_the_block() -> None:
    old = Network(1, 1, 1)
    trusted = old.header()
    now = {"now_ns": START + 2 * SECOND, "trusting_period_ns": DAY}
    new = Network(50, seed=3)
    new.validators = (*new.validators, old.validators[0], old.validators[0])
    new.keys = [*new.keys, old.keys[0], old.keys[0]]
    with pytest.raises(light.NotSigned, match="third of the trusted"):
        light.verify_skipping(trusted, old.validators, new.sign(new.header(9, START + 1)), new.validators, **now)
    nil = Network(50, seed=3)
    nil.validators, nil.keys = (*nil.validators, *old.validators), [*nil.keys, *old.keys]
    with pytest.raises(light.NotSigned, match="third of the trusted"):
        light.verify_skipping(
            trusted, old.validators, nil.sign(nil.header(9, START + 1), "cnnn"), nil.validators, **now
        )


def test_skipping_refuses_other_trusted_sets_and_chains() -> None:
    network, stranger = Network(1, 1), Network(1, 1, seed=4)
    now = {"now_ns": START + 2 * SECOND, "trusting_period_ns": DAY}
    later = network.sign(network.header(9, START + 1))
    with pytest.raises(light.WrongValidators, match="trusted set"):
        light.verify_skipping(network.header(), stranger.validators, later, network.validators, **now)
    elsewhere = dataclasses.replace(network.header(9, START + 1), chain_id="other")
    with pytest.raises(light.WrongChain):
        light.verify_skipping(network.header(), network.validators, network.sign(elsewhere), network.validators, **now)
    with pytest.raises(light.NotAdjacent):
        light.verify_skipping(network.header(9), network.validators, later, network.validators, **now)


@pytest.mark.parametrize(
    ("offset_ns", "now_ns", "error"),
    [
        (1, START + DAY, light.TrustExpired),
        (1, START + DAY - 1, None),
        (0, START + 1, light.WrongTime),
        (-1, START + 1, light.WrongTime),
        (10 * SECOND + 1, START + 1, light.WrongTime),
        (10 * SECOND, START + 1, None),
    ],
)
@pytest.mark.parametrize("height", [6, 9])
def test_times(offset_ns: int, now_ns: int, error: type[Exception] | None, height: int) -> None:
    network = Network(1, 1)
    signed = network.sign(network.header(height, START + offset_ns))

    def verify() -> None:
        light.verify_skipping(
            network.header(), network.validators, signed, network.validators, now_ns=now_ns, trusting_period_ns=DAY
        )

    if error is None:
        verify()
    else:
        with pytest.raises(error):
            verify()


# --- Parsers -------------------------------------------------------------------------------------------------------


def block_value() -> dict[str, Any]:
    network = Network(1, 2, 3)
    signed = network.sign(network.header(), "cna")
    value = SignedBlock(signed.header, signed.commit, network.validators).to_value()
    assert isinstance(value, dict)
    return value


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [prefix] if prefix else []
    if isinstance(value, dict):
        for key in value:
            found += paths(value[key], (*prefix, key))
    if isinstance(value, list):
        for index in range(len(value)):
            found += paths(value[index], (*prefix, index))
    return found


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 1 << 64),
    st.binary(max_size=70),
    st.text(max_size=60),
    st.just([]),
    st.just({}),
)


@given(st.data())
def test_a_changed_block_is_refused_by_the_parser_or_by_the_verifier(data: st.DataObject) -> None:
    value = block_value()
    where = data.draw(st.sampled_from(paths(value)))
    holder: Any = value
    for step in where[:-1]:
        holder = holder[step]
    before = holder[where[-1]]
    action = data.draw(st.sampled_from(["replace", "drop", "add"]))
    if action == "replace":
        holder[where[-1]] = data.draw(junk.filter(lambda new: new != before or type(new) is not type(before)))
    elif action == "drop":
        del holder[where[-1]]
    elif isinstance(holder, dict):
        holder["unknown"] = None
    else:
        holder.append(before)
    with pytest.raises(AvowError) as caught:
        block = SignedBlock.from_value(value)
        light.verify_commit("chainId", block.validators, block.signed_header)
    assert caught.value.code


def test_the_block_itself_parses_and_its_commit_is_under_two_thirds() -> None:
    block = SignedBlock.from_value(block_value())
    with pytest.raises(light.NotSigned):
        light.verify_commit("chainId", block.validators, block.signed_header)


def test_limits() -> None:
    value = block_value()
    value["validators"] = [value["validators"][0]] * 10_001
    with pytest.raises(EncodingError):
        SignedBlock.from_value(value)


RPC_HEADER: dict[str, Any] = {
    "version": {"block": "11"},
    "chain_id": "chainId",
    "height": "3",
    "time": "2019-10-13T16:14:44Z",
    "last_block_id": {"hash": "", "parts": {"total": 0, "hash": ""}},
    "last_commit_hash": "00" * 32,
    "data_hash": "00" * 32,
    "validators_hash": "00" * 32,
    "next_validators_hash": "00" * 32,
    "consensus_hash": "00" * 32,
    "app_hash": "00" * 32,
    "last_results_hash": "00" * 32,
    "evidence_hash": "00" * 32,
    "proposer_address": "00" * 20,
}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2019-10-13T16:14:44Z", 1_570_983_284 * SECOND),
        ("2026-11-21T04:36:42.76019713Z", 1_795_235_802_760_197_130),
        ("2000-02-29T23:59:59.9Z", 951_868_799_900_000_000),
        ("2024-12-31T00:00:00.000000001Z", 1_735_603_200_000_000_001),
    ],
)
def test_times_as_the_rpc_writes_them(written: str, expected: int) -> None:
    assert header_from_rpc({**RPC_HEADER, "time": written}).time_ns == expected


@pytest.mark.parametrize(
    "change",
    [
        {"time": "0001-01-01T00:00:00Z"},
        {"time": "2023-02-29T00:00:00Z"},
        {"time": "2100-02-29T00:00:00Z"},
        {"time": "2023-04-31T00:00:00Z"},
        {"time": "2023-13-01T00:00:00Z"},
        {"time": "2023-01-01T24:00:00Z"},
        {"time": "2023-01-01T00:00:00+00:00"},
        {"time": "1969-12-31T23:59:59Z"},
        {"time": "2262-01-01T00:00:00Z"},
        {"time": "2023-01-01T00:00:00.1234567890Z"},
        {"time": "٢٠٢٣-01-01T00:00:00Z"},
        {"time": 5},
        {"height": 3},
        {"height": "03"},
        {"height": "-1"},
        {"height": "9223372036854775808"},
        {"height": "9" * 5000},
        {"chain_id": "x" * 51},
        {"chain_id": None},
        {"app_hash": "aa"},
        {"app_hash": "AA" * 65},
        {"data_hash": ""},
        {"proposer_address": "00"},
        {"last_block_id": None},
        {"last_block_id": {"hash": "", "parts": {"total": -1, "hash": ""}}},
        {"last_block_id": {"hash": "", "parts": {"total": True, "hash": ""}}},
        {"version": {}},
    ],
)
def test_other_forms_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RpcFormatError):
        header_from_rpc({**RPC_HEADER, **change})


VOTE = {"block_id_flag": 2, "validator_address": "00" * 20, "timestamp": "2023-01-01T00:00:00Z", "signature": "AA=="}


@pytest.mark.parametrize(
    "vote",
    [
        VOTE,
        {**VOTE, "block_id_flag": 0},
        {**VOTE, "block_id_flag": 4},
        {**VOTE, "block_id_flag": 1, "signature": None},
        {**VOTE, "signature": "A" * 86 + "=="[:1]},
        {**VOTE, "signature": "A" * 85 + "B=="},
        {**VOTE, "signature": "!" * 88},
        {**VOTE, "signature": 7},
    ],
)
def test_votes_that_are_none(vote: dict[str, Any]) -> None:
    commit = {"height": "1", "round": 0, "block_id": RPC_HEADER["last_block_id"], "signatures": [vote]}
    with pytest.raises(RpcFormatError):
        commit_from_rpc(commit)


@pytest.mark.parametrize(
    "key", [{"type": "tendermint/PubKeySecp256k1", "value": ""}, {"type": "tendermint/PubKeyEd25519", "value": "AA=="}]
)
def test_keys_that_are_none(key: dict[str, str]) -> None:
    with pytest.raises(RpcFormatError):
        validators_from_rpc([{"pub_key": key, "voting_power": "1"}])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.text(max_size=5) | st.sampled_from(["1", "00", "AA=="]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*RPC_HEADER, *VOTE, "round", "block_id", "signatures", "pub_key"]), inner)
    ),
    max_leaves=12,
)


@given(json_values)
def test_rpc_parsers_never_fail_in_another_way(value: object) -> None:
    for parser in (signed_header_from_rpc, header_from_rpc, commit_from_rpc, validators_from_rpc, results_from_rpc):
        with contextlib.suppress(RpcFormatError):
            parser(value)


def test_a_result_with_negative_gas_still_encodes() -> None:
    """int64 in two's complement, ten bytes: protobuf's rule, which CometBFT hashes."""
    assert light.TransactionResult(0, b"", -1, 0).leaf().hex() == "28" + "ff" * 9 + "01"
