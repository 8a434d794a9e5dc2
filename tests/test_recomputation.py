"""An optimistic receipt whose program is run again: the same bits, or the check that says where they differ."""

import json
from dataclasses import replace

import msgspec
import pytest
from click.testing import CliRunner

from avow.cli.verify import verify as verify_command
from avow.engines.errors import InvalidOptions
from avow.engines.exact import load_program
from avow.engines.inference_protocol import parse_infer
from avow.engines.interface import load
from avow.exact.hashing import Header
from avow.models.store import Store
from avow.receipt.commitment import commit, effective_parts, request_parts, response_body
from avow.receipt.receipt import Opening
from avow.receipt.statement import Method
from avow.recomputation import CannotRecompute, body_of, recompute
from avow.verification import verify
from tests.nodes import optimistic
from tests.simulator import Simulator

INFER = "POST /v2/models/small-exact/infer"
SEED = bytes(range(32))


class World:
    def __init__(self, home):
        program = optimistic.small_program()
        self.home = home
        self.program_id = optimistic.install(home, program)
        self.store = Store(home)
        self.body = optimistic.body_of(program, 1)
        engine = load(self.store.get(self.program_id))
        request = parse_infer(self.body).body
        effective = msgspec.json.encode(engine.effective(request))
        answer, self.trace = engine.traced_infer(request, SEED)
        engine.close()
        self.response, parts = response_body(answer)
        self.network = network = Simulator("recomputed")
        network.register(Method.OPTIMISTIC)
        commitments = (
            commit("request", SEED, request_parts(INFER, self.body)),
            commit("effective", SEED, effective_parts(effective)),
            commit("response", SEED, parts),
        )
        receipt = network._state(
            INFER, Method.OPTIMISTIC, None, SEED, None, self.program_id, commitments, (("inferences", 1),), None, True, self.trace.header,
            shown=effective,
        )  # fmt: skip
        self.receipt = receipt.opened(self.body, self.response)

    def judge(self, receipt, found):
        return verify(receipt, self.network.trust(), now_ms=self.network.now_ms, recomputation=found)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("home"))


def test_the_same_bits(world):
    found = recompute(world.receipt, world.store)
    assert found.header == world.trace.header
    report = world.judge(world.receipt, found)
    assert (report["ends"].outcome, "of the tensors" in report["ends"].detail) == ("pass", True)
    assert report["recomputed"].outcome == "pass"
    assert report["processing"].outcome == "pass"
    assert (
        recompute(replace(world.receipt, opening=replace(world.receipt.opening, request=None)), world.store, world.body)
        == found
    )


def test_a_node_that_ran_something_else(world):
    header = Header.parse(world.trace.header)
    lied = Header(**{**{name: getattr(header, name) for name in Header.__slots__}, "root": bytes(32)}).encoded()
    receipt = replace(world.receipt, opening=replace(world.receipt.opening, header=lied))
    report = world.judge(receipt, recompute(receipt, world.store))
    assert report["recomputed"].code == "wrong_run"


def test_an_answer_that_was_cut_is_followed(world):
    """Of a cut answer, as many steps are run as the header claims."""
    private = replace(world.receipt.statement.private, complete=False)
    receipt = replace(world.receipt, statement=replace(world.receipt.statement, private=private))
    found = recompute(receipt, world.store)
    assert found.header == world.trace.header
    assert found.response is None


def test_what_cannot_be_run_again(world, tmp_path):
    vanilla = world.network.answer("POST /v1/chat/completions", world.network.chat_body("x"))[1]
    for receipt in (vanilla, world.receipt.redacted()):
        with pytest.raises(CannotRecompute):
            recompute(receipt, world.store)
    for opening in (replace(world.receipt.opening, header=None), replace(world.receipt.opening, request=None)):
        with pytest.raises(CannotRecompute):
            recompute(replace(world.receipt, opening=opening), world.store)
    with pytest.raises(Exception, match="no such program"):
        recompute(world.receipt, Store(tmp_path))


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m", "messages":[{"role":"user","content":"a"} , {"role":"user","content":"b"}],"temperature":0.70,"a/b":{"~":1}}',
        b'{"inputs":[],"x":[1],"~t":null}',
        b'{"tools":[2],"messages":"none"}',
        b"{}",
    ],
)
def test_a_request_comes_back_from_its_parts(body):
    opening = Opening(SEED, INFER, b"{}", request=tuple(request_parts(INFER, body)))
    again = body_of(opening)
    assert json.loads(again) == json.loads(body)
    assert request_parts(INFER, again) == list(opening.request)


def test_at_the_command_line(world, tmp_path, monkeypatch):
    path, trust = tmp_path / "receipt.json", tmp_path / "trust.json"
    path.write_bytes(world.receipt.to_json())
    trust.write_bytes(world.network.trust().to_json())
    arguments = [
        str(path),
        "--trust",
        str(trust),
        "--recompute",
        "--json",
        "--home",
        str(world.home),
        "--at",
        str(world.network.now_ms),
    ]
    result = CliRunner().invoke(verify_command, arguments, standalone_mode=False)
    assert result.exception is None, result.output
    shown = json.loads(result.output)
    outcomes = {check["name"]: check["outcome"] for check in shown["checks"]}
    assert (outcomes["recomputed"], outcomes["processing"]) == ("pass", "pass")
    assert result.return_value == 0


def test_a_manifest_that_no_fraud_proof_could_hold(world):
    """Nobody could prove a fault of such a program, so nobody runs it."""
    stored = world.store.get(world.program_id)
    manifest = stored.manifest
    room = 8_192 - len(replace(manifest, options={**manifest.options, "x": ""}).encoded())
    most = replace(manifest, options={**manifest.options, "x": "x" * (room - 3)})
    assert len(most.encoded()) <= 8_192
    load_program(replace(stored, manifest=most))
    with pytest.raises(InvalidOptions, match="8 KiB"):
        load_program(replace(stored, manifest=replace(manifest, options={**manifest.options, "x": "x" * room})))
