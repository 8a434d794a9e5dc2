"""The interfaces as solc understands them (its method identifiers, version 0.8.37) and as we do."""

import pytest

from avow.chain.abi import encode
from avow.chain.errors import Code, Refused
from avow.chain.execution import MODULES
from avow.chain.host import bind, refusal, revert_data
from avow.chain.solidity import parse_interface
from avow.errors import EncodingError

SELECTORS = {
    "disputes": {
        "answer(bytes32,bytes)": "47b0045b",
        "appoint(address)": "37f1a470",
        "batchOf(bytes32,uint64)": "6f74911f",
        "bondOf(address)": "72d2b6c0",
        "challengeOf(address,bytes32)": "be400df3",
        "clock()": "91ddadf4",
        "commit(bytes32,uint64,bytes32)": "d49f43e7",
        "demand(bytes)": "cde75790",
        "demandOf(bytes32)": "e1265409",
        "deposit()": "d0e30db0",
        "dismiss(address)": "e7bdd0bf",
        "expire(bytes32)": "c6441798",
        "finalise(bytes32,uint64)": "11e86a9a",
        "isWatcher(address)": "84785ecd",
        "lapse(address,bytes32)": "4ce12dca",
        "parameters()": "89035730",
        "prove(bytes,bytes32)": "886d36ff",
        "requiredBond(uint128,uint8)": "361f7ddd",
        "reward(bytes32)": "8d6f4b97",
        "statementOf(bytes32)": "0aff3762",
        "withdraw(uint256)": "2e1a7d4d",
    },
    "bank": {
        "allow(address,uint256,uint64)": "674cbf30",
        "allowance(address,address)": "dd62ed3e",
        "authorisationUsed(address,uint64)": "fceaf908",
        "balanceOf(address)": "70a08231",
        "cancelAuthorisation(uint64)": "b6bb21bc",
    },
    "nodes": {
        "activate(bytes32)": "59db6e85",
        "allowMeasurement(bytes32,bytes32,uint64,uint64)": "070eb6f0",
        "allowedMeasurement(bytes32,bytes32)": "22a4dc4c",
        "beacon()": "59659e90",
        "compromised(bytes32,uint64)": "7c48d8cd",
        "drain(bytes32)": "0360278c",
        "keyRecord(bytes32)": "c714436f",
        "keyState(bytes32)": "9e751c87",
        "price(address,bytes32,uint8)": "52f4eb48",
        "reattest(bytes32,bytes32,bytes)": "4e92dd9d",
        "register(uint8,bytes,bytes,bytes32,bytes)": "58cb8297",
        "reportEquivocation(bytes32,bytes,bytes)": "55029511",
        "reportSubstitution(bytes32,bytes,bytes)": "f5dbb675",
        "retire(bytes32)": "1f2b6f23",
        "revocation(bytes32)": "b35d6315",
        "revoke(bytes32)": "b75c7dc6",
        "rotate(bytes32,uint8,bytes,bytes,bytes32,bytes)": "f5916d19",
        "setPrice(bytes32,uint8,uint256)": "cf6f221f",
        "withdrawMeasurement(bytes32,bytes32)": "845ff274",
    },
    "registry": {
        "declare(bytes,bytes)": "989cda35",
        "declared(bytes32)": "5a2a7204",
        "program(bytes32)": "4b11fe54",
        "publish(string,bytes32)": "bfaec04e",
        "resolve(string)": "461a4478",
        "transferName(string,address)": "37194d1e",
        "versionOf(string,uint32)": "9ee09293",
        "withdraw(string,uint32)": "93465105",
    },
    "settlement": {
        "next(bytes32)": "02d3af5b",
        "reportFalseVoid(bytes32,bytes)": "11cc8071",
        "settle(bytes)": "d0322fbf",
        "void(bytes)": "25ef3aa4",
    },
    "validators": {
        "fault(bytes32)": "7cb1b73a",
        "power(bytes32)": "71572da0",
        "setPower(bytes32,uint64)": "5521920b",
        "validators()": "ca1e7819",
    },
}

HEAD = "pragma solidity ^0.8.0; interface X { %s }"


def test_selectors_are_those_of_the_compiler():
    for module in MODULES.values():
        ours = {
            f"{function.name}({','.join(parameter.kind for parameter in function.inputs)})": function.selector.hex()
            for function in module.interface.functions.values()
        }
        assert ours == SELECTORS[module.interface.name.lower()]


def test_every_function_has_code_and_every_module_its_errors():
    for module in MODULES.values():
        assert len(module.functions) == len(module.interface.functions)
        assert "Refused" in module.interface.errors
    with pytest.raises(EncodingError):
        bind(bytes(20), parse_interface(HEAD % "function f() external;"), {})


def test_an_interface_as_json():
    interface = parse_interface(
        HEAD % "event E(bytes32 indexed a, uint256 b); error No(uint32 c); "
        "function f(bytes calldata data, address[] memory to) external view returns (uint256 x, bool);"
    )
    event, error, function = interface.events["E"], interface.errors["No"], interface.functions["f"]
    assert [entry["type"] for entry in interface.to_json()] == ["function", "event", "error"]
    assert [parameter.kind for parameter in function.inputs] == ["bytes", "address[]"]
    assert function.to_json()["stateMutability"] == "view"
    assert event.to_json()["inputs"][0]["indexed"] is True
    topics, data = event.encode(b"\x01" * 32, 7)
    assert topics == (event.topic, b"\x01" * 32)
    assert data == (7).to_bytes(32)
    assert event.decode_data(data) == [7]
    assert error.encode(9) == error.selector + (9).to_bytes(32)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "interface X {}",
        "pragma solidity ^0.8.0; contract X { }",
        HEAD % "uint256 x;",
        HEAD % "function f() public;",
        HEAD % "function f() external pure;",
        HEAD % "function f(uint x) external;",
        HEAD % "function f(mapping x) external;",
        HEAD % "function f(uint256 x y) external;",
        HEAD % "function f() external; function f(uint8 a) external;",
        HEAD % "event E(string indexed s);",
        HEAD % "event E() anonymous;",
    ],
)
def test_what_is_not_understood_is_refused(text):
    with pytest.raises(EncodingError):
        parse_interface(text)


@pytest.mark.parametrize("index", [None, 0, 7, 0xFFFFFFFF])
def test_refusals_travel_in_revert_data(index):
    data = revert_data(Refused(Code.PRICE_UNKNOWN, index))
    found = refusal(data)
    assert (found.reason, found.index) == (Code.PRICE_UNKNOWN, index)
    for other in (b"", data[:-1], data + b"\x00", bytes(4) + data[4:], data[:4] + encode(["uint32"], [99_999])):
        assert refusal(other) is None


def test_codes_are_stable():
    """These numbers are in blocks: a change is a change of consensus."""
    assert {code.label: int(code) for code in Code if code < 100} == {
        "ok": 0,
        "reverted": 1,
        "out_of_gas": 2,
        "malformed": 3,
        "wrong_chain": 4,
        "bad_signature": 5,
        "nonce_too_low": 6,
        "nonce_too_high": 7,
        "insufficient_funds": 8,
        "intrinsic_gas": 9,
        "fee_too_low": 10,
        "gas_limit": 11,
        "no_creation": 12,
        "too_large": 13,
    }
    assert (Code.BATCH_MALFORMED, Code.BATCH_NUMBER, Code.PAYER_UNCOVERED, Code.VOID_CAUSE_UNKNOWN) == (
        400,
        401,
        427,
        433,
    )
