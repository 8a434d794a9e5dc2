"""What a holder sees when an optimistic answer is overturned after it was given."""

import json
import time

import pytest

from avow.cli import main
from avow.client.errors import AnswerOverturned, ReceiptRefused, RemoteError
from avow.client.saved import SavedReceipts
from avow.client.session import Session, Settings
from avow.receipt.finality import BatchState
from avow.receipt.report import CheckName
from avow.receipt.statement import Method
from tests.simulator import CHAT, Simulator


@pytest.fixture
def network():
    network = Simulator("optimistic", start_ms=time.time_ns() // 1_000_000 - 30_000)
    network.register(Method.OPTIMISTIC)
    return network


@pytest.fixture
def session(network, tmp_path):
    return Session(
        "http://127.0.0.1:1", Settings(network.trust(), tmp_path, clock_ms=lambda: network.now_ms, save=True)
    )


@pytest.fixture
def settled(network):
    body = network.chat_body("hello")
    response, receipt = network.answer(CHAT, body, Method.OPTIMISTIC)
    [receipt] = network.settle([receipt])
    return network.finality(receipt.opened(body, response))


def overturned(network, receipt):
    return network.finality(receipt, overturned=(receipt.statement.columns.number,))


def test_it_is_an_error_of_its_own_with_the_receipt_that_proves_it(network, session, settled):
    assert session.settled(settled, settled.to_bytes()) is not None
    shown = overturned(network, settled)
    with pytest.raises(AnswerOverturned, match="the answer was overturned: a fault was proven") as raised:
        session.settled(settled, shown.to_bytes())
    assert raised.value.receipt == shown
    assert raised.value.report[CheckName.FINALITY].code == "overturned"


def test_what_does_not_hold_otherwise_is_not_said_to_be_overturned(network, session, settled):
    other = network.finality(settled, overturned=(settled.statement.columns.number,), operator=bytes(20))
    with pytest.raises(ReceiptRefused) as raised:
        session.settled(settled, other.to_bytes())
    assert not isinstance(raised.value, AnswerOverturned)


def test_refresh_keeps_the_proof_and_says_so(network, settled, tmp_path, monkeypatch, capsys):
    """Without an id, all that can still change is asked for; what is final or overturned is not asked for again."""
    saved = SavedReceipts(tmp_path)
    body = network.chat_body("other")
    response, receipt = network.answer(CHAT, body, Method.OPTIMISTIC)
    [final] = network.settle([receipt])
    final = network.finality(final.opened(body, response), state=BatchState.FINAL)
    saved.save(settled)
    saved.save(final)
    (tmp_path / "trust.json").write_bytes(network.trust().to_json())
    asked = []

    def fetched(_client, identity, wait=0.0):
        asked.append(identity)
        return overturned(network, settled)

    monkeypatch.setattr("avow.client.sync.Client.receipt", fetched)
    for code, word in ((1, "overturned: a fault was proven"), (0, "every kept receipt is settled")):
        with pytest.raises(SystemExit) as stopped:
            main(["receipts", "refresh", "--url", "http://127.0.0.1:1", "--home", str(tmp_path)])
        said = capsys.readouterr()
        assert stopped.value.code == code, said.err
        assert word in said.out + said.err
    assert asked == [settled.id]
    assert saved.load(settled.id).settlement.finality is not None


def test_fetch_says_what_overturned_it_and_keeps_what_is_kept_here(network, settled, tmp_path, monkeypatch, capsys):
    saved = SavedReceipts(tmp_path)
    (tmp_path / "trust.json").write_bytes(network.trust().to_json())
    shown = overturned(network, settled)
    monkeypatch.setattr("avow.client.sync.Client.receipt", lambda *_: shown.redacted())
    by = json.dumps({"transaction": "0x" + "ab" * 32, "height": 17, "cause": "trace_withheld", "winner": "0x"}).encode()
    for kept, answers in ((False, True), (True, False)):
        if kept:
            saved.save(settled)

        def answered(_client, path, _headers, *, answers=answers):
            assert path == f"/receipts/{settled.id}/overturned"
            if answers:
                return by
            raise RemoteError("not here", status=404)

        monkeypatch.setattr("avow.client.sync.Client._get", answered)
        with pytest.raises(SystemExit) as stopped:
            main(["receipts", "fetch", settled.id, "--url", "http://127.0.0.1:1", "--home", str(tmp_path)])
        said = capsys.readouterr().err
        assert stopped.value.code == 1
        assert "the answer was overturned: a fault was proven" in said
        assert "[answer_overturned]" in said
        assert (f"transaction 0x{'ab' * 32} at height 17 (trace withheld)" in said) is answers
        assert f"kept as {saved.folder / settled.id}.json" in said
        assert saved.load(settled.id).to_bytes() == (shown if kept else shown.redacted()).to_bytes()


def test_fetch_of_what_does_not_hold_says_which_check(network, settled, tmp_path, monkeypatch, capsys):
    (tmp_path / "trust.json").write_bytes(Simulator("other").trust().to_json())
    monkeypatch.setattr("avow.client.sync.Client.receipt", lambda *_: settled)
    with pytest.raises(SystemExit) as stopped:
        main(["receipts", "fetch", settled.id, "--url", "http://127.0.0.1:1", "--home", str(tmp_path)])
    said = capsys.readouterr().err
    assert stopped.value.code == 1
    assert "chain: the statement is for" in said
    assert "hint: the address is of another network than the pinned one" in said
    assert not (tmp_path / "receipts").exists()
