"""Blocks and receipts as Ethereum shows them. Bloom and checksum against published examples."""

import pytest

from avow.chain import views
from avow.chain.host import Log
from avow.chain.modules import bank
from avow.chain.transaction import decode_transaction, transaction_hash
from avow.receipt.headers import BlockID, Header
from avow.receipt.requester import keccak256
from tests.chain.harness import FAR_MS, account


@pytest.mark.parametrize(
    "text",  # EIP-55's test cases
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_checksums(text):
    assert views.address(bytes.fromhex(text[2:])) == text


def test_a_published_bloom():
    """go-ethereum, core/types/bloom9_test.go: the items testtest, test, hallo, other are in, tes, lo are not."""
    bloom = int.from_bytes(views.bloom([Log(b"testtest", (b"test", b"hallo", b"other"), b"")]))

    def inside(item):
        digest = keccak256(item)
        return all(bloom >> (int.from_bytes(digest[at : at + 2]) & 0x7FF) & 1 for at in (0, 2, 4))

    assert all(inside(item) for item in (b"testtest", b"test", b"hallo", b"other"))
    assert not any(inside(item) for item in (b"tes", b"lo"))
    assert views.bloom([]) == bytes(256)
    once = Log(bytes.fromhex("095e7baea6a6c7c4c2dfeb977efac326af552d87"), (), b"")
    assert int.from_bytes(views.bloom([once])).bit_count() <= 3


@pytest.fixture
def view(chain):
    data = chain.call_data(bank.ADDRESS, "allow", account("operator"), 5, FAR_MS)
    raws = (
        chain.raw("payer", bank.ADDRESS, data),
        chain.raw("stranger", account("payer"), value=3, gas=21_000),
        chain.raw("governance", bank.ADDRESS, data),
        b"\x02\xc0",
    )
    results = chain.block(*raws)
    header = Header(
        block_version=11,
        app_version=1,
        chain_id=chain.genesis.chain_id,
        height=chain.height,
        time_ns=chain.now_ms * 10**6,
        last_block_id=BlockID(),
        last_commit_hash=bytes(32),
        data_hash=bytes(32),
        validators_hash=bytes(32),
        next_validators_hash=bytes(32),
        consensus_hash=bytes(32),
        app_hash=bytes(32),
        last_results_hash=bytes(32),
        evidence_hash=bytes(32),
        proposer_address=bytes(20),
    )
    executed = tuple(
        views.Executed(transaction_hash(raw), raw, decoded(raw, chain), result)
        for raw, result in zip(raws, results, strict=True)
    )
    return views.BlockView(chain.genesis, header, chain.responses[-1].app_hash, executed)


def decoded(raw, chain):
    return None if raw == b"\x02\xc0" else decode_transaction(raw, chain.genesis.eip155)


def test_logs_are_counted_over_the_block(view):
    assert [log["logIndex"] for log in view.logs()] == ["0x0", "0x1"]
    assert [log["transactionIndex"] for log in view.logs()] == ["0x0", "0x2"]
    receipts = [view.receipt(index) for index in range(4)]
    assert [len(receipt["logs"]) for receipt in receipts] == [1, 0, 1, 0]
    assert receipts[2]["logs"] == view.logs()[1:]
    gas = [int(receipt["gasUsed"], 16) for receipt in receipts]
    assert [int(receipt["cumulativeGasUsed"], 16) for receipt in receipts] == [sum(gas[: n + 1]) for n in range(4)]
    assert [receipt["status"] for receipt in receipts] == ["0x1", "0x1", "0x1", "0x0"]


def test_a_block_shows_hashes_or_transactions(view):
    short, full = view.block(full=False), view.block(full=True)
    assert short["transactions"] == [transaction["hash"] for transaction in full["transactions"]]
    assert short["number"] == full["transactions"][0]["blockNumber"]
    assert short["parentHash"] == "0x" + "00" * 32
    assert int(short["gasUsed"], 16) == sum(int(view.receipt(n)["gasUsed"], 16) for n in range(4))


def test_filters(view):
    log = view.transactions[0].logs[0]
    first, second = log.topics[0], log.topics[1]
    other = bytes(32)
    assert views.matches(log, None, ())
    assert views.matches(log, frozenset([log.address, bytes(20)]), (None, frozenset([second])))
    assert views.matches(log, None, (frozenset([other, first]),))
    assert not views.matches(log, frozenset([bytes(20)]), ())
    assert not views.matches(log, None, (None, frozenset([first])))
    assert not views.matches(log, None, (None, None, None, None))
