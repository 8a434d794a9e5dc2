import pytest

from avow.chain.errors import Code
from avow.chain.modules import bank, settlement
from tests.chain.harness import ETHER, FAR_MS, START_MS, account, refused

OPERATOR = account("operator")


def allowance(chain):
    return chain.view(bank.ADDRESS, "allowance", account("payer"), OPERATOR)


def test_an_allowance_is_replaced_and_ended(chain):
    assert allowance(chain) == [0, 0]
    chain.do("payer", bank.ADDRESS, "allow", OPERATOR, 5, FAR_MS)
    chain.do("payer", bank.ADDRESS, "allow", OPERATOR, 7, FAR_MS + 1)
    assert allowance(chain) == [7, FAR_MS + 1]
    chain.do("payer", bank.ADDRESS, "allow", OPERATOR, 0, FAR_MS)
    assert allowance(chain) == [0, 0]
    assert chain.store.get(b"bank/allowance/" + account("payer") + OPERATOR) is None


def test_settling_spends_an_allowance_to_the_last_wei(chain, node):
    chain.do("payer", bank.ADDRESS, "allow", OPERATOR, 3_000, FAR_MS)
    before = chain.balance("payer")
    assert chain.settle(node, [node.sign(), node.sign(), node.sign()]).code == Code.OK
    assert allowance(chain) == [0, 0]
    assert chain.balance("payer") == before - 3_000
    assert refused(chain.settle(node, [node.sign(amount=1)])) == (Code.PAYER_NOT_CONSENTING, 0)


def test_an_allowance_ends_with_its_time(chain, node):
    expiry_ms = chain.now_ms + 5_000
    chain.do("payer", bank.ADDRESS, "allow", OPERATOR, ETHER, expiry_ms)
    assert chain.settle(node, [node.sign()]).code == Code.OK
    chain.now_ms = expiry_ms - 1_000
    assert chain.settle(node, [node.sign()]).code == Code.OK  # at the very millisecond
    assert refused(chain.settle(node, [node.sign()])) == (Code.PAYER_NOT_CONSENTING, 0)


def test_an_authorisation_is_cancelled_once(chain):
    used = lambda nonce: chain.view(bank.ADDRESS, "authorisationUsed", account("payer"), nonce)  # noqa: E731
    chain.do("payer", bank.ADDRESS, "cancelAuthorisation", 300)
    assert [used(nonce) for nonce in (299, 300, 301, 44)] == [[False], [True], [False], [False]]
    assert refused(chain.send("payer", bank.ADDRESS, "cancelAuthorisation", 300)) == (Code.AUTHORISATION_USED, None)
    chain.do("payer", bank.ADDRESS, "cancelAuthorisation", 301)
    assert chain.view(bank.ADDRESS, "authorisationUsed", account("stranger"), 300) == [False]


def test_balances(chain):
    assert chain.view(bank.ADDRESS, "balanceOf", account("payer")) == [chain.balance("payer")]
    assert chain.view(bank.ADDRESS, "balanceOf", bytes(20)) == [0]


@pytest.mark.parametrize("function", ["allowance", "balanceOf"])
def test_views_write_nothing_even_in_a_transaction(chain, function):
    before = chain.view(bank.ADDRESS, "allowance", account("payer"), OPERATOR)
    arguments = (account("payer"), OPERATOR) if function == "allowance" else (OPERATOR,)
    chain.do("stranger", bank.ADDRESS, function, *arguments)
    assert allowance(chain) == before


def test_value_is_refused_by_modules(chain):
    result = chain.send("payer", bank.ADDRESS, "allow", OPERATOR, 1, FAR_MS, value=1)
    assert refused(result) == (Code.NOT_PAYABLE, None)
    assert chain.application.account(bank.ADDRESS) == (0, 0)


def test_calls_of_nothing(chain):
    for data in (b"", b"abc", bytes(4), chain.call_data(bank.ADDRESS, "allow", OPERATOR, 1, START_MS)[:-1]):
        result = chain.block(chain.raw("payer", bank.ADDRESS, data))[0]
        expected = Code.BAD_CALL_DATA if len(data) > 4 else Code.UNKNOWN_FUNCTION
        assert refused(result) == (expected, None)
    assert bytes.fromhex("00" * 18 + "0a04") == settlement.ADDRESS
