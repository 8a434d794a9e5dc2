"""`avow ask`, `avow infer`: answers that held, their receipts, and clear errors."""

import io
import json
import sys

import avow as package
from tests.simulated_gateway import begin_part, event_parts
from tests.simulator import Simulator


def receipts(home):
    return sorted((home / "receipts").glob("*.json"))


def test_an_answer_and_a_line_about_its_receipt(avow, gateway, home):
    ran = avow("ask", "hello")
    assert (ran.code, ran.out) == (0, "You said: hello\n")
    assert "vanilla" in ran.err
    assert "not settled yet" in ran.err
    assert len(receipts(home)) == 1
    assert avow("ask", "hello", "--no-keep", "--method", "tee", "--model", "echo").code == 0
    assert len(receipts(home)) == 1


def test_a_stream_is_shown_as_it_comes(avow, gateway):
    ran = avow("ask", "hello there", "--stream", "--settled")
    assert (ran.code, ran.out) == (0, "You said: hello there \n")
    assert "settled" in ran.err


def test_json_and_a_saved_receipt(avow, gateway, tmp_path):
    ran = avow(
        "ask",
        "hello",
        "--json",
        "--settled",
        "--save",
        tmp_path / "r.json",
        "--temperature",
        "0.5",
        "--seed",
        "3",
        "--system",
        "Be brief.",
    )
    assert ran.code == 0
    assert ran.json["answer"]["choices"][0]["message"]["content"] == "You said: hello"
    assert ran.json["receipt"]["settled"] is True
    assert ran.json["settled_ms"] >= 0
    sent = json.loads(gateway.requests[-1][2])
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent["temperature"], sent["seed"]) == (0.5, 3)
    assert avow("verify", tmp_path / "r.json", "--require", "settled,opened").code == 0


def test_the_prompt_may_come_from_standard_input(avow, gateway, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    assert avow("ask", "-").out == "You said: from a pipe\n"


def test_control_characters_do_not_reach_the_terminal(avow, gateway):
    ran = avow("ask", "\x1b[31mred\x07")
    assert "\x1b" not in ran.out
    assert "\x07" not in ran.out


def test_the_gateways_words_do_not_steer_the_terminal(avow, gateway):
    gateway.refusal = (400, b'{"error":{"message":"\\u001b[2Jgone","code":"bad\\u0007"}}')
    ran = avow("ask", "hello")
    assert ran.code == 1
    assert "gone" in ran.err
    assert "\x07" not in ran.err
    assert "\x1b[2J" not in ran.err


def test_a_signed_request(avow, gateway, home):
    assert avow("ask", "hello", "--account", "alice").code == 2
    assert avow("key", "create", "alice").code == 0
    ran = avow("ask", "hello", "--account", "alice", "--json")
    checks = {check["name"]: check["outcome"] for check in ran.json["receipt"]["checks"]}
    assert checks["requester"] == "pass"


def test_a_lie_is_one_clear_line(avow, gateway, home):
    from tests.simulated_gateway import splice

    gateway.answer = lambda body, receipt: splice(body.replace(b"You", b"Me!"), receipt)
    ran = avow("ask", "hello")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ")
    assert "response_mismatch" in ran.err
    assert "Traceback" not in ran.err
    assert avow("ask", "hello", "--json").json["error"]["code"] == "response_mismatch"
    assert receipts(home) == []


def test_a_cut_stream_leaves_its_receipt(avow, gateway, home, tmp_path):
    def events(streamed):
        yield begin_part(streamed)
        yield event_parts(streamed.events[0])
        yield event_parts(streamed.events[1])
        yield None

    gateway.events = events
    ran = avow("ask", "hello", "--stream")
    assert ran.code == 1
    assert ran.out == "You "
    assert "stream_cut" in ran.err
    [partial] = receipts(home)
    assert avow("verify", partial).code == 0
    assert "broke off" in avow("verify", partial).out
    assert avow("ask", "hello", "--stream", "--save", tmp_path / "p.json").code == 1
    assert avow("verify", tmp_path / "p.json", "--require", "settled").code == 1


def test_a_demand_that_is_not_met(avow, gateway):
    ran = avow("ask", "hello", "--require", "requester")
    assert (ran.code, ran.out) == (1, "")
    assert "receipt_refused" in ran.err
    assert avow("ask", "hello", "--require", "settled", "--json").json["receipt"]["settled"], "it is waited for"
    assert avow("ask", "hello", "--require", "magic").code == 2


def test_another_network_than_the_pinned_one_says_what_to_do(avow, gateway, home):
    (home / "trust.json").write_bytes(Simulator("other").trust().to_json())
    ran = avow("ask", "hello", "--url", gateway.url)
    assert ran.code == 1
    assert "the pinned chain is" in ran.err
    assert "--home" in ran.err
    assert "`avow trust pin URL`" in ran.err
    assert avow("ask", "hello", "--json").json["error"]["hint"]


def test_nobody_there(avow, gateway):
    ran = avow("ask", "hello", "--url", "http://127.0.0.1:9")
    assert ran.code == 1
    assert "avow up" in ran.err


def test_infer(avow, gateway, tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"1234")
    ran = avow("infer", "length", file, "--method", "tee")
    assert (ran.code, ran.out) == (0, "length  8\n")
    ran = avow("infer", "length", file, "--json", "--settled", "--save", tmp_path / "r.json")
    assert ran.json["answer"]["outputs"][0]["data"] == [8]
    assert avow("verify", tmp_path / "r.json").code == 0
    file.write_text(json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["abc"]}]}))
    assert avow("infer", "length", file, "--tensors").out == "length  3\n"
    file.write_text("[]")
    assert avow("infer", "length", file, "--tensors").code == 2
    file.write_bytes(bytes(6 * 1024 * 1024))
    assert avow("infer", "length", file).code == 2
    assert avow("infer", "length", tmp_path / "nothing").code == 2


def test_the_public_face():
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    try:
        _ = package.nothing
    except AttributeError as error:
        assert "nothing" in str(error)
