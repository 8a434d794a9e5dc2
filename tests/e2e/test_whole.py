"""The whole run can be cut into pieces: nothing is done twice, nothing that failed is forgotten."""

import json
import sys

import pytest

from tests.e2e import whole
from tests.e2e.manifest import Kind, Perturbation, generate
from tests.e2e.runner import Done, Outcome


@pytest.fixture
def pieces(monkeypatch, tmp_path):
    """Tests and runs that take no time; what was begun is in the list that is given."""
    begun = []
    clock = [0.0]

    def one(seed, given, wanted, _until_s):
        begun.append((seed, given.long))
        clock[0] += 60
        done = [Done(Perturbation(Kind.KILL, 0), 0.1, 0.2)] * min(30, wanted)
        return Outcome(generate(seed), done=done)

    def run_test(test):
        begun.append(test)
        clock[0] += 60
        return {"passed": test != "fails", "seconds": 60.0}

    monkeypatch.setattr(whole, "one", one)
    monkeypatch.setattr(whole, "run_test", run_test)
    monkeypatch.setattr(whole, "collect", lambda: ["first", "second"])
    monkeypatch.setattr(whole, "PERTURBATIONS", 70)
    monkeypatch.setattr(whole, "RANDOM", 20)
    monkeypatch.setattr(whole.time, "monotonic", lambda: clock[0])
    return begun, tmp_path / "build" / "report.json"


def ask(report, *, minutes=0, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["whole", "--minutes", str(minutes), "--report", str(report)])
    return whole.main()


def test_it_goes_on_where_it_stopped(pieces, monkeypatch):
    begun, report = pieces
    assert ask(report, minutes=2.5, monkeypatch=monkeypatch) == whole.LEFT
    assert begun == ["first", "second", (1, False)]
    assert ask(report, minutes=1, monkeypatch=monkeypatch) == whole.LEFT
    assert ask(report, monkeypatch=monkeypatch) == whole.DONE
    assert begun == ["first", "second", (1, False), (2, False), (3, False), (100, True)]
    value = json.loads(report.read_bytes())
    assert sum(run["perturbations"] for run in value["perturbed"]) == 70
    assert ask(report, monkeypatch=monkeypatch) == whole.DONE
    assert len(begun) == 6


def test_another_source_begins_anew(pieces, monkeypatch):
    begun, report = pieces
    assert ask(report, monkeypatch=monkeypatch) == whole.DONE
    monkeypatch.setattr(whole, "source_digest", lambda: "another")
    count = len(begun)
    assert ask(report, monkeypatch=monkeypatch) == whole.DONE
    assert len(begun) == 2 * count


def test_what_failed_is_tried_again_and_a_violation_stays(pieces, monkeypatch):
    begun, report = pieces
    monkeypatch.setattr(whole, "collect", lambda: ["fails"])
    assert ask(report, monkeypatch=monkeypatch) == whole.FAILED
    assert ask(report, monkeypatch=monkeypatch) == whole.FAILED
    assert begun.count("fails") == 2
    value = json.loads(report.read_bytes())
    value["tests"] = {"fails": {"passed": True}}
    value["random"][0]["violations"] = ["a receipt does not verify"]
    report.write_text(json.dumps(value))
    assert ask(report, monkeypatch=monkeypatch) == whole.FAILED


def test_it_knows_its_tests():
    assert len(whole.source_digest()) == 64
    assert all("::" in name for name in whole.collect())
