"""What the gateway says of the transaction that overturned an answer."""

import pytest

from avow.chain.modules import optimistic
from avow.errors import NotFound, Unavailable
from avow.nodes.chain_client import Log
from avow.nodes.gateway.overturned import overturned_by
from avow.receipt.statement import Method
from tests.simulator import CHAT, Simulator


class Chain:
    def __init__(self, *found):
        self.found = list(found)
        self.asked = []

    async def logs(self, module, name, from_height, to_height=None, *, indexed=()):
        self.asked.append((module, name, from_height, to_height, indexed))
        return self.found


@pytest.fixture
def receipt():
    network = Simulator("optimistic")
    network.register(Method.OPTIMISTIC)
    [settled] = network.settle([network.answer(CHAT, network.chat_body("hello"), Method.OPTIMISTIC)[1]])
    return settled


@pytest.mark.parametrize(("cause", "word"), [(3, "fraud"), (4, "trace_withheld"), (99, "unknown")])
async def test_the_transaction_of_the_event(receipt, cause, word):
    statement, height = receipt.statement, receipt.settlement.height
    topics = (statement.private.key, statement.hash(), bytes(12) + b"\x0a" * 20)
    chain = Chain(Log(topics, (statement.columns.number, cause, 5), height + 3, b"\x0b" * 32))
    assert await overturned_by(chain, receipt) == {
        "transaction": "0x" + "0b" * 32,
        "height": height + 3,
        "cause": word,
        "winner": "0x" + "0a" * 20,
    }
    [(module, name, first, last, indexed)] = chain.asked
    assert (module, name, first, indexed) == (optimistic.ADDRESS, "Overturned", height, topics[:2])
    assert last > height


async def test_what_is_not_overturned_is_not_found(receipt):
    with pytest.raises(NotFound):
        await overturned_by(Chain(), receipt)
    with pytest.raises(NotFound, match="not settled"):
        await overturned_by(Chain(), receipt.with_settlement(None))
    with pytest.raises(Unavailable):
        await overturned_by(None, receipt)
