"""The unmodified web3 package against the chain process: what wallets and scripts do."""

import subprocess
import sys
import time

import pytest
import requests

from avow.chain.errors import Code
from avow.chain.execution import MODULES
from avow.chain.host import refusal
from avow.chain.modules import bank, nodes, registry, settlement
from avow.chain.modules.batch import build_batch
from avow.methods.registration import registration_digest
from avow.nodes.full import create_network
from avow.receipt.statement import Method
from tests.chain.harness import ETHER, FAR_MS, PROGRAM, NodeKey, account, cose, point, secret
from tests.recursion import kept

with kept():
    from web3 import Web3
    from web3.exceptions import (
        BlockNotFound,
        ContractCustomError,
        MethodUnavailable,
        TransactionNotFound,
        Web3RPCError,
    )
    from web3.middleware import SignAndSendRawMiddlewareBuilder

pytestmark = pytest.mark.xdist_group("web3")
NAMES = ("operator", "payer", "governance", "stranger")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A chain process on loopback; (its URL, its genesis)."""
    home = tmp_path_factory.mktemp("chain")
    genesis = create_network(
        home, governance=account("governance"), accounts=[(account(name), 1_000 * ETHER) for name in NAMES]
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "avow.nodes.full", "--home", str(home)], stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("ready "), line
        yield line.split()[1], genesis
    finally:
        process.terminate()
        assert process.wait(timeout=10) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def url(network):
    return network[0]


@pytest.fixture(scope="module")
def w3(url):
    with requests.Session() as session:
        yield Web3(Web3.HTTPProvider(url, session=session))


def contract(w3, address: bytes):
    return w3.eth.contract(address=Web3.to_checksum_address(address), abi=MODULES[address].interface.to_json())


def hexed(name: str) -> str:
    return Web3.to_checksum_address(account(name))


def transact(w3, who: str, call, **fields):
    """Build with web3's own defaults (gas, fees, chain id), sign, send, wait."""
    transaction = call.build_transaction(
        {"from": hexed(who), "nonce": w3.eth.get_transaction_count(hexed(who))} | fields
    )
    signed = w3.eth.account.sign_transaction(transaction, secret(who))
    digest = w3.eth.send_raw_transaction(signed.raw_transaction)
    return w3.eth.wait_for_transaction_receipt(digest, timeout=10, poll_latency=0.02)


def send(w3, who: str, **fields):
    body = {
        "from": hexed(who),
        "nonce": w3.eth.get_transaction_count(hexed(who)),
        "chainId": w3.eth.chain_id,
        "gas": 21_000,
        "maxFeePerGas": w3.eth.gas_price,
        "maxPriorityFeePerGas": 0,
    }
    signed = w3.eth.account.sign_transaction(body | fields, secret(who))
    return w3.eth.send_raw_transaction(signed.raw_transaction)


# --- The chain -------------------------------------------------------------------------------------------------------


def test_what_the_node_says_of_itself(w3, network):
    genesis = network[1]
    assert w3.is_connected()
    assert w3.eth.chain_id == genesis.eip155
    assert w3.net.version == str(genesis.eip155)
    assert w3.client_version.startswith("avow/")
    assert w3.eth.syncing is False
    assert list(w3.eth.accounts) == []
    assert w3.eth.gas_price == genesis.base_fee
    assert w3.eth.max_priority_fee == 0
    assert w3.provider.make_request("web3_sha3", ["0x"])["result"].startswith("0xc5d24601")


def test_balances_nonces_and_code(w3):
    assert w3.eth.get_balance(hexed("governance")) == 1_000 * ETHER
    assert w3.eth.get_balance("0x" + "00" * 20) == 0
    assert w3.eth.get_transaction_count(hexed("governance")) == 0
    assert w3.eth.get_code(Web3.to_checksum_address(bank.ADDRESS)) == b"\xfe"
    assert w3.eth.get_code(hexed("payer")) == b""
    assert w3.eth.get_storage_at(hexed("payer"), 0) == bytes(32)


def test_sending_money(w3, network):
    receiver = Web3.to_checksum_address(b"\x42" * 20)
    before, payer = w3.eth.get_balance(receiver), w3.eth.get_balance(hexed("payer"))
    digest = send(w3, "payer", to=receiver, value=5)
    receipt = w3.eth.wait_for_transaction_receipt(digest, timeout=10, poll_latency=0.02)
    assert receipt["status"] == 1
    assert receipt["gasUsed"] == receipt["cumulativeGasUsed"] == 21_000
    assert (receipt["from"], receipt["to"], receipt["contractAddress"]) == (hexed("payer"), receiver, None)
    assert receipt["effectiveGasPrice"] == network[1].base_fee
    assert w3.eth.get_balance(receiver) == before + 5
    assert w3.eth.get_balance(hexed("payer")) == payer - 5 - 21_000 * network[1].base_fee
    shown = w3.eth.get_transaction(digest)
    assert (shown["value"], shown["type"], shown["blockNumber"]) == (5, 2, receipt["blockNumber"])
    assert shown["hash"] == digest
    block = w3.eth.get_block(receipt["blockNumber"])
    assert block["transactions"] == [digest]
    assert block["hash"] == receipt["blockHash"]
    assert w3.eth.get_transaction_by_block(block["hash"], 0)["hash"] == digest
    assert w3.eth.get_transaction_by_block(block["number"], 0)["hash"] == digest
    assert w3.eth.get_block_transaction_count(block["hash"]) == 1
    assert w3.eth.get_block_receipts(block["number"])[0]["transactionHash"] == digest


def test_a_legacy_transaction(w3):
    body = {
        "nonce": w3.eth.get_transaction_count(hexed("stranger")),
        "gas": 21_000,
        "gasPrice": w3.eth.gas_price,
        "to": hexed("payer"),
        "value": 1,
        "chainId": w3.eth.chain_id,
    }
    signed = w3.eth.account.sign_transaction(body, secret("stranger"))
    digest = w3.eth.send_raw_transaction(signed.raw_transaction)
    receipt = w3.eth.wait_for_transaction_receipt(digest, timeout=10, poll_latency=0.02)
    assert (receipt["status"], receipt["type"]) == (1, 0)
    assert w3.eth.get_transaction(digest)["v"] == signed.v


def test_an_account_of_web3_sends_by_itself(w3):
    """The middleware that most scripts use: gas, fees and nonce are filled in by web3."""
    own = Web3(w3.provider)
    sender = own.eth.account.from_key(secret("governance"))
    own.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(sender), layer=0)
    digest = own.eth.send_transaction({"from": sender.address, "to": hexed("payer"), "value": 3})
    assert own.eth.wait_for_transaction_receipt(digest, timeout=10, poll_latency=0.02)["status"] == 1


# --- Blocks and fees -------------------------------------------------------------------------------------------------


def test_blocks_are_chained_and_final(w3):
    latest = w3.eth.get_block("latest")
    parent = w3.eth.get_block(latest["number"] - 1)
    assert latest["parentHash"] == parent["hash"]
    assert latest["timestamp"] >= parent["timestamp"]
    assert abs(latest["timestamp"] - time.time()) < 60
    for tag in ("safe", "finalized", "pending"):
        assert w3.eth.get_block(tag)["number"] >= latest["number"]
    assert w3.eth.get_block("earliest")["number"] == 1
    assert w3.eth.get_block(latest["hash"])["number"] == latest["number"]
    full = w3.eth.get_block(latest["number"], full_transactions=True)
    assert full["baseFeePerGas"] == w3.eth.gas_price
    assert len(full["logsBloom"]) == 256
    with pytest.raises(BlockNotFound):
        w3.eth.get_block(latest["number"] + 1_000)
    with pytest.raises(BlockNotFound):
        w3.eth.get_block("0x" + "ab" * 32)


def test_fee_history(w3):
    history = w3.eth.fee_history(3, "latest", [10, 50])
    assert history["baseFeePerGas"] == [w3.eth.gas_price] * (len(history["gasUsedRatio"]) + 1)
    assert all(0 <= ratio < 1 for ratio in history["gasUsedRatio"])
    assert history["reward"] == [[0, 0]] * len(history["gasUsedRatio"])
    assert w3.eth.fee_history(1, "latest")["oldestBlock"] <= w3.eth.block_number


def test_state_of_older_blocks_is_refused(w3):
    send(w3, "payer", to=hexed("payer"))
    time.sleep(0.2)
    with pytest.raises(Web3RPCError, match="keeps the newest state only"):
        w3.eth.get_balance(hexed("payer"), 1)
    with pytest.raises(Web3RPCError, match="header not found"):
        w3.eth.get_balance(hexed("payer"), 10**6)


# --- Modules ---------------------------------------------------------------------------------------------------------


def test_calling_a_module(w3):
    assert contract(w3, bank.ADDRESS).functions.allowance(hexed("payer"), hexed("stranger")).call() == [0, 0]
    assert contract(w3, registry.ADDRESS).functions.resolve("nothing").call()[1] == 0
    beacon, height, _ = contract(w3, nodes.ADDRESS).functions.beacon().call()
    assert w3.eth.get_block(height)["hash"] == beacon


def test_estimates_are_enough_and_exact(w3):
    call = contract(w3, bank.ADDRESS).functions.allow(hexed("stranger"), 10, FAR_MS)
    estimate = call.estimate_gas({"from": hexed("payer")})
    receipt = transact(w3, "payer", call, gas=estimate)
    assert (receipt["status"], receipt["gasUsed"]) == (1, estimate)
    assert w3.eth.estimate_gas({"from": hexed("payer"), "to": hexed("stranger"), "value": 1}) == 21_000
    with pytest.raises(Web3RPCError, match="insufficient funds for transfer"):
        w3.eth.estimate_gas({"from": hexed("payer"), "to": hexed("stranger"), "value": 10**30})
    with pytest.raises(Web3RPCError, match="gas required exceeds allowance"):
        w3.eth.estimate_gas({"from": hexed("payer"), "to": hexed("stranger"), "gas": 20_000})


def test_events_and_logs(w3):
    module = contract(w3, bank.ADDRESS)
    receipt = transact(w3, "payer", module.functions.allow(hexed("operator"), ETHER, FAR_MS))
    [event] = module.events.Allowed().process_receipt(receipt)
    assert event["args"] == {
        "payer": hexed("payer"),
        "node": hexed("operator"),
        "cap": ETHER,
        "expiryMs": FAR_MS,
    }
    height = receipt["blockNumber"]
    found = module.events.Allowed().get_logs(from_block=height, argument_filters={"node": hexed("operator")})
    assert [log["transactionHash"] for log in found] == [receipt["transactionHash"]]
    assert found[0]["logIndex"] == 0
    assert w3.eth.get_logs({"blockHash": receipt["blockHash"]})[0]["topics"] == receipt["logs"][0]["topics"]
    assert w3.eth.get_logs({"fromBlock": height, "toBlock": height, "address": hexed("payer")}) == []
    topic = receipt["logs"][0]["topics"][0]
    query = {"fromBlock": "earliest", "toBlock": "latest"}
    assert len(w3.eth.get_logs(query | {"topics": [topic]})) >= 1
    assert len(w3.eth.get_logs(query | {"topics": [[topic, "0x" + "00" * 32], None]})) >= 1
    assert w3.eth.get_logs(query | {"topics": [None, topic]}) == []
    assert receipt["logsBloom"] == w3.eth.get_block(height)["logsBloom"]


def test_a_refusal_carries_its_code(w3):
    call = contract(w3, nodes.ADDRESS).functions.retire(b"\x01" * 32)
    with pytest.raises(ContractCustomError) as caught:
        call.call({"from": hexed("payer")})
    assert refusal(bytes.fromhex(caught.value.data[2:])).reason is Code.KEY_UNKNOWN
    with pytest.raises(ContractCustomError):
        call.estimate_gas({"from": hexed("payer")})
    receipt = transact(w3, "payer", call, gas=100_000)
    assert receipt["status"] == 0
    assert receipt["logs"] == []
    assert 21_000 < receipt["gasUsed"] < 100_000
    answer = w3.provider.make_request(
        "eth_call", [call.build_transaction({"from": hexed("payer"), "gas": 10**6}), "latest"]
    )
    assert answer["error"]["code"] == 3
    assert answer["error"]["message"] == "execution reverted: key unknown"


def test_settling_by_hand(w3, network):
    """The whole of a node's life on chain, by a script that knows Solidity interfaces alone."""
    genesis = network[1]
    from cryptography.hazmat.primitives.asymmetric import ec

    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    key = NodeKey(genesis.chain_id, Method.VANILLA, "operator", *keys, time.time_ns() // 1_000_000)
    module = contract(w3, nodes.ADDRESS).functions
    block_hash = module.beacon().call()[0]
    digest = registration_digest(
        genesis.chain_id, account("operator"), point(keys[0]), point(keys[1]), bytes(block_hash)
    )
    call = module.register(0, point(keys[0]), point(keys[1]), block_hash, cose(keys[0], digest))
    assert call.call({"from": hexed("operator")}) == key.id
    assert transact(w3, "operator", call)["status"] == 1
    transact(w3, "operator", contract(w3, registry.ADDRESS).functions.publish("by-hand", PROGRAM))
    transact(w3, "operator", module.setPrice(PROGRAM, 0, 100))
    transact(w3, "payer", contract(w3, bank.ADDRESS).functions.allow(hexed("operator"), ETHER, FAR_MS))
    made = [key.sign() for _ in range(3)]
    data = build_batch(key.id, [(item.columns, item.private) for item in made], made[-1].signature)
    settle = contract(w3, settlement.ADDRESS).functions.settle(data)
    before = w3.eth.get_balance(hexed("payer"))
    receipt = transact(w3, "operator", settle)
    assert receipt["status"] == 1
    assert before - w3.eth.get_balance(hexed("payer")) == 3_000
    [event] = contract(w3, settlement.ADDRESS).events.Settled().process_receipt(receipt)
    assert (event["args"]["first"], event["args"]["count"], event["args"]["charged"]) == (0, 3, 3_000)
    with pytest.raises(ContractCustomError) as caught:
        settle.call({"from": hexed("operator")})
    found = refusal(bytes.fromhex(caught.value.data[2:]))
    assert (found.reason, found.index) == (Code.BATCH_NUMBER, 0xFFFFFFFF)


# --- Errors as Ethereum's clients spell them -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nonce": 10_000}, "nonce too high"),
        ({"value": 10**30}, "insufficient funds for gas \\* price \\+ value"),
        ({"gas": 20_999}, "intrinsic gas too low"),
        ({"maxFeePerGas": 1}, "max fee per gas less than block base fee"),
        ({"maxFeePerGas": 1, "maxPriorityFeePerGas": 2}, "max priority fee per gas higher than max fee per gas"),
        ({"chainId": 1}, "invalid chain id for signer"),
        ({"gas": 10**12, "value": 0}, "exceeds block gas limit"),
    ],
)
def test_refused_transactions(w3, fields, message):
    with pytest.raises(Web3RPCError, match=message):
        send(w3, "stranger", to=hexed("payer"), **fields)


def test_nonces(w3):
    nonce = w3.eth.get_transaction_count(hexed("stranger"))
    digest = send(w3, "stranger", to=hexed("payer"), value=1)
    assert w3.eth.get_transaction_count(hexed("stranger"), "pending") == nonce + 1
    w3.eth.wait_for_transaction_receipt(digest, timeout=10, poll_latency=0.02)
    with pytest.raises(Web3RPCError, match=r"already known|nonce too low"):
        send(w3, "stranger", to=hexed("payer"), value=1, nonce=nonce)
    with pytest.raises(Web3RPCError, match="nonce too low"):
        send(w3, "stranger", to=hexed("payer"), value=2, nonce=nonce)


def test_many_transactions_of_one_account(w3):
    nonce = w3.eth.get_transaction_count(hexed("payer"))
    digests = [send(w3, "payer", to=hexed("stranger"), value=index, nonce=nonce + index) for index in range(20)]
    receipts = [w3.eth.wait_for_transaction_receipt(digest, timeout=10, poll_latency=0.02) for digest in digests]
    assert [receipt["status"] for receipt in receipts] == [1] * 20
    places = [(receipt["blockNumber"], receipt["transactionIndex"]) for receipt in receipts]
    assert places == sorted(places)


def test_contracts_cannot_be_created(w3):
    with pytest.raises(Web3RPCError, match="contract creation is not supported"):
        send(w3, "payer", data=b"\x60", gas=100_000)


def test_what_is_not_there(w3):
    with pytest.raises(TransactionNotFound):
        w3.eth.get_transaction("0x" + "11" * 32)
    with pytest.raises(TransactionNotFound):
        w3.eth.get_transaction_receipt("0x" + "11" * 32)
    answer = w3.provider.make_request("eth_getAccountInfo", [])
    assert answer["error"]["code"] == -32601
    with pytest.raises(MethodUnavailable):
        w3.eth.get_proof(hexed("payer"), [0])


def test_batches(w3):
    with w3.batch_requests() as batch:
        batch.add(w3.eth.get_block("latest"))
        batch.add(w3.eth.get_balance(hexed("governance")))
        batch.add(contract(w3, bank.ADDRESS).functions.balanceOf(hexed("governance")))
        block, balance, same = batch.execute()
    assert block["number"] >= 1
    assert balance == same
