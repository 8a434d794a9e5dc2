"""Openings over HTTP: who is shown what, demands, and their end."""

import time

import msgspec
import pytest

from avow.exact import descent, hashing
from avow.exact.claims import ClaimedRun, Claims, Withheld
from avow.exact.descent import Demand
from avow.exact.tensors import WIDTHS, size_of
from avow.nodes.watcher.check import check_shown
from avow.nodes.watcher.errors import OpeningWrong
from avow.receipt.encoding import encode, from_base64url
from avow.receipt.finality import OptimisticParameters
from avow.receipt.statement import TERMS_PAYER_OPENS, private_hash
from tests.nodes.optimistic import network_of, until

STRANGER = bytes(range(1, 33))
LONG = OptimisticParameters(window_ms=60_000, move_ms=1_000)


@pytest.fixture
async def network(tmp_path):
    async with network_of(tmp_path, rules=LONG) as made:
        yield made


async def test_the_appointed_watcher_and_the_payer_are_shown_all_that_it_takes_and_a_stranger_nothing(network):
    receipt = await network.ask()
    columns = receipt.statement.columns
    for key in (network.watcher, network.payer):
        shown = await network.opening(receipt.id, key)
        said = check_shown(shown, columns.pack(), private_hash(shown.private))
        assert said == receipt.statement.private
        assert hashing.trace_of(shown.header) == columns.trace == hashing.trace_of(receipt.opening.header)
        assert shown.seed == receipt.opening.seed
    assert await network.opening(receipt.id, STRANGER, status=403) == "not_entitled"
    assert await network.opening(receipt.id, None, status=403) == "not_entitled"
    assert await network.demand(receipt.id, STRANGER, Demand().encoded(), status=403) == "not_entitled"
    assert await network.opening("00" * 32, network.watcher, status=404) == "receipt_not_found"


async def test_the_audience_that_the_caller_chose_is_the_one_that_is_shown(network):
    public = await network.ask(avow_audience="public")
    assert (await network.opening(public.id, None)).header
    payers = await network.ask(avow_audience="payer")
    answer = await network.http.get(
        f"/receipts/{payers.id}/opening", headers=network.signed(payers.id, network.watcher)
    )
    assert answer.status_code == 403
    private = from_base64url(answer.json()["error"]["avow"]["private"])
    assert private_hash(private) == private_hash(encoded(payers))  # an appointed watcher is shown why
    answer = await network.http.get(f"/receipts/{payers.id}/opening", headers=network.signed(payers.id, STRANGER))
    assert "private" not in answer.json()["error"]["avow"]
    assert (await network.opening(payers.id, network.payer)).header
    stranger = network.client(STRANGER).address
    named = await network.ask(avow_audience=f"watchers,0x{stranger.hex()}")
    assert (await network.opening(named.id, STRANGER)).header
    assert (await network.opening(named.id, network.watcher)).header


def encoded(receipt):
    return encode(receipt.statement.private.to_value())


async def test_a_question_is_signed_for_one_receipt_by_one_account_within_a_minute(network):
    receipt, other = await network.ask(1), await network.ask(2)
    header = network.signed(receipt.id, network.watcher)
    answer = await network.http.get(f"/receipts/{other.id}/opening", headers=header)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "bad_asker")
    old = network.signed(receipt.id, network.watcher, time.time_ns() // 1_000_000 - 61_000)
    answer = await network.http.get(f"/receipts/{receipt.id}/opening", headers=old)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "bad_asker")
    answer = await network.http.get(f"/receipts/{receipt.id}/opening", headers={"avow-watcher": "AAAA"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_option")


async def test_terms_say_that_the_payer_alone_opens_on_chain_and_the_audience_stays(network):
    receipt = await network.ask(avow_opening="payer")
    assert receipt.statement.columns.terms == TERMS_PAYER_OPENS
    assert (await network.opening(receipt.id, network.watcher)).header


async def test_demands_over_http_lead_from_the_header_to_every_chunk(network):
    receipt = await network.ask(3, samples=2)
    trace = receipt.statement.columns.trace
    shown = await network.opening(receipt.id, network.watcher)
    header = hashing.Header.parse(shown.header)
    assert await network.demand(receipt.id, network.watcher, Demand().encoded()) == shown.header

    answers = {}

    class Asked:
        def ask(self, demand):
            return answers.get(demand.encoded())

    zeros = [bytes(32)] * header.leaves
    run = ClaimedRun(Claims(trace, Asked()), shown.header, zeros, hashing.Salts(shown.seed), lambda _slot: b"")
    found = None
    for _ in range(40):
        try:
            found = list(run.tree.differing())
            break
        except Withheld as withheld:
            demand = withheld.demand
            answers[demand.encoded()] = await network.demand(receipt.id, network.watcher, demand.encoded())
    assert len(found) == header.leaves
    end = descent.Demand(shown.header, None, hashing.INPUT_SLOT, header.inputs[0])
    answer = await network.demand(receipt.id, network.watcher, end.encoded())
    content = descent.check_answer(end, answer, trace).content
    assert content[0] == 2 * size(network.program.inputs[0])
    assert hashing.tensor_digest(*content) == header.inputs[0]


def size(tensor):
    return size_of(tensor.shape) * WIDTHS[tensor.type]


async def test_a_demand_that_shows_nothing_committed_is_refused(network):
    receipt, other = await network.ask(1), await network.ask(2)
    shown = await network.opening(other.id, network.watcher)
    foreign = Demand(shown.header, None, hashing.INPUT_SLOT, hashing.Header.parse(shown.header).inputs[0]).encoded()
    assert await network.demand(receipt.id, network.watcher, foreign, status=400) == "demand_refused"
    assert await network.demand(receipt.id, network.watcher, b"\xff", status=400) == "bad_encoding"
    assert await network.demand(receipt.id, network.watcher, bytes(descent.MAX_DEMAND + 1), status=413) == "too_large"


async def test_what_is_shown_of_another_statement_or_changed_is_found_out(network):
    receipt, other = await network.ask(1), await network.ask(2)
    shown = await network.opening(receipt.id, network.watcher)
    columns, private = receipt.statement.columns.pack(), private_hash(shown.private)
    for changes in (
        {"columns": other.statement.columns.pack()},
        {"seed": bytes(32)},
        {"request": shown.request.replace(b"[", b"[1,", 1)},
        {"response": shown.response + b" "},
        {"effective": b"{}"},
        {"endpoint": "POST /v1/chat/completions"},
        {"stream": bytes(40)},
        {"private": b"\xa0"},
    ):
        changed = msgspec.structs.replace(shown, **changes)
        if changes.keys() == {"response"}:  # white space around it is not committed
            check_shown(changed, columns, private)
            continue
        with pytest.raises(OpeningWrong):
            check_shown(changed, columns, private)


async def test_openings_are_gone_when_the_answer_is_final(tmp_path):
    async with network_of(tmp_path, rules=OptimisticParameters(window_ms=1_200, move_ms=500)) as network:
        receipt = await network.ask()
        assert (await network.opening(receipt.id, network.watcher)).seed

        async def gone():
            answer = await network.http.get(
                f"/receipts/{receipt.id}/opening", headers=network.signed(receipt.id, network.watcher)
            )
            return answer.status_code == 404 and answer.json()["error"]["code"] == "opening_gone"

        await until(gone)
        code = await network.demand(receipt.id, network.watcher, Demand().encoded(), status=404)
        assert code == "opening_gone"
