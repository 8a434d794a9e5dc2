"""What real engines answer passes the check that every client makes for free, however the answer ended."""

import msgspec
import pytest

from avow.exact.hashing import Header
from avow.methods.optimistic.ends import ends_check
from avow.receipt.commitment import commit, effective_parts, request_parts, response_body
from avow.receipt.question import Facts, Question, Shown
from avow.receipt.report import Outcome
from avow.receipt.statement import Method, StreamEnd
from tests.engines.test_exact_chat import SEED, answer, content, engine, request
from tests.simulator import CHAT, Simulator

__all__ = ["engine"]


@pytest.fixture(scope="module")
def network():
    made = Simulator("ends of real runs")
    made.register(Method.OPTIMISTIC)
    return made


def found(network, asked, effective, answered, header, *, complete=True):
    body, shown = msgspec.json.encode(asked), msgspec.json.encode(effective)
    response, parts = response_body(answered)
    commitments = (
        commit("request", SEED, request_parts(CHAT, body)),
        commit("effective", SEED, effective_parts(shown)),
        commit("response", SEED, parts),
    )
    usage = tuple(
        (name, count) for name, count in answered["usage"].items() if name in ("prompt_tokens", "completion_tokens")
    )
    receipt = network._state(
        CHAT, Method.OPTIMISTIC, None, SEED, None, None, commitments, usage, None if complete else StreamEnd(bytes(32), 1), complete,
        header, shown=shown,
    )  # fmt: skip
    question = Question(0, request=body, response=response)
    check = ends_check(receipt, Facts(None, question, anchored=True, shown=Shown(receipt, question)))
    assert check.outcome is not Outcome.SKIPPED
    return check.outcome, check.code, Header.parse(header).finish


@pytest.mark.parametrize(
    "more",
    [{}, {"max_tokens": 1}, {"temperature": 0}, {"temperature": 2}, {"temperature": 1.37}, {"seed": (1 << 60) + 5}, {"seed": -3},
     {"max_tokens": 10**6}, {"max_completion_tokens": 5, "max_tokens": None}, {"max_tokens": None, "seed": None, "temperature": None}],
)  # fmt: skip
def test_an_answer(engine, network, more):
    asked = {**request(), **more}
    effective = engine.effective(asked)
    answered, trace = engine.traced_chat(asked, effective, SEED)
    assert found(network, asked, effective, answered, trace.header)[:2] == (Outcome.PASS, "")


def test_a_stop_text_wherever_it_ends(engine, network):
    whole = content(answer(engine))
    finishes = set()
    for start in range(0, len(whole) - 2, 3):
        asked = request(stop=[whole[start : start + 3]])
        effective = engine.effective(asked)
        answered, trace = engine.traced_chat(asked, effective, SEED)
        outcome, code, finish = found(network, asked, effective, answered, trace.header)
        assert (outcome, code) == (Outcome.PASS, "")
        finishes.add(finish)
    assert "text" in finishes


@pytest.mark.parametrize("after", [1, 2, 5, 9])
def test_a_caller_who_leaves(engine, network, after):
    asked = request(stream=True)
    effective = engine.effective(asked)
    seen = []
    answered, trace = engine.traced_chat(asked, effective, SEED, lambda chunk: seen.append(chunk) or len(seen) > after)
    assert found(network, asked, effective, answered, trace.header, complete=False)[:2] == (Outcome.PASS, "")
