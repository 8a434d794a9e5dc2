"""The relay, against an upstream made here that behaves well, badly, and not at all."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from avow.engines import load
from avow.engines.errors import EngineClosed, InvalidOptions, InvalidRequest, UpstreamFailed
from avow.models.manifest import Manifest
from avow.models.store import StoredProgram

ASK = {"model": "relay", "messages": [{"role": "user", "content": "x"}], "temperature": 0.5, "avow": {"method": "tee"}}
WHOLE = {
    "id": "up-1",
    "object": "chat.completion",
    "created": 5,
    "model": "secret-name",
    "system_fingerprint": "fp",
    "unknown": "dropped",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris", "secret": 1},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 99},
}


def chunk(delta, finish=None, **more):
    return {"id": "up-1", "created": 5, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def events(*answers, done=True):
    lines = [f"data: {json.dumps(answer)}\r\n\r\n" for answer in answers] + ["data: [DONE]\n\n"] * done
    return ": comment\n\n" + "".join(lines)


class Upstream(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        self.seen = []
        self.answer = (200, json.dumps(WHOLE))
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        status, text = self.server.answer
        self.send_response(status)
        if status == 302:
            self.send_header("location", "http://127.0.0.1:1/")
        self.end_headers()
        try:
            self.wfile.write(text.encode())
        except ConnectionError:
            pass

    def log_message(self, *_args):
        pass


@pytest.fixture
def upstream():
    server = Upstream()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def program(**options):
    manifest = Manifest(
        "relay", "none", "remote", (), {"model": "up-model", **options}, "unknown", "https://up.example"
    )
    return StoredProgram(manifest.program_id, manifest, {})


@pytest.fixture
def engine(upstream, monkeypatch):
    monkeypatch.setenv("AVOW_REMOTE_KEY", "sesame")
    port = upstream.server_address[1]
    made = load(program(url=f"http://127.0.0.1:{port}/v1/", key_variable="AVOW_REMOTE_KEY", timeout_s=5))
    yield made
    made.close()


def ask(engine, emit=None, **fields):
    request = {**ASK, **fields}
    return engine.chat(request, engine.effective(request), emit)


def test_an_answer_is_relayed_in_strict_form(engine, upstream):
    answer = ask(engine)
    path, headers, body = upstream.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer sesame"
    assert body == {"model": "up-model", "messages": ASK["messages"], "temperature": 0.5}
    assert answer["model"] == "relay"
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Paris",
        "refusal": None,
        "annotations": [],
    }
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    assert "unknown" not in answer


def test_the_effective_parameters_say_that_only_the_relay_is_proven(engine):
    effective = engine.effective(ASK)
    assert effective["engine"]["proves"] == "relay"
    assert effective["engine"]["url"].endswith("/v1/chat/completions")
    assert effective["sent"] == {"model": "up-model", "temperature": 0.5}
    assert "sesame" not in json.dumps(effective)


def test_a_stream_is_relayed_as_it_comes_and_adds_up(engine, upstream):
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    upstream.answer = (
        200,
        events(
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "Let "}),
            chunk({"content": "me"}),
            chunk({"tool_calls": [call]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
            chunk({}, "tool_calls"),
            {"id": "up-1", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 7}},
        ),
    )
    chunks = []
    answer = ask(engine, chunks.append, stream=True, stream_options={"include_usage": True})
    message = answer["choices"][0]["message"]
    assert message["content"] == "Let me"
    assert message["tool_calls"] == [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert [c["choices"][0]["delta"].get("content") for c in chunks[:3]] == ["", "Let ", "me"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == answer["usage"]
    assert upstream.seen[0][2]["stream_options"] == {"include_usage": True}


def test_who_stops_listening_stops_the_relay(engine, upstream):
    upstream.answer = 200, events(*(chunk({"content": "x"}) for _ in range(50)), chunk({}, "stop"))
    seen = []
    answer = ask(engine, lambda c: seen.append(c) or len(seen) == 3, stream=True)
    assert len(seen) == 3
    assert answer["choices"][0]["message"]["content"] == "xxx"
    assert answer["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503, 302, 204])
def test_an_upstream_that_fails_is_a_clear_error_without_its_words(engine, upstream, status):
    upstream.answer = status, "" if status in (204, 302) else "internal secrets"
    with pytest.raises(UpstreamFailed) as failed:
        ask(engine)
    assert "secrets" not in str(failed.value.as_json())
    assert failed.value.fields["upstream_status"] == status
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_request_that_the_upstream_refuses_is_the_callers(engine, upstream, status):
    upstream.answer = status, "{}"
    with pytest.raises(InvalidRequest):
        ask(engine)


BROKEN = [
    "",
    "not json",
    "[]",
    '{"choices": 5}',
    '{"choices": []}',
    json.dumps({"choices": [{"index": 99, "message": {}}]}),
    json.dumps({"choices": [{"message": {"content": 5}}]}),
    json.dumps({"choices": [{"message": {"content": "x"}}]}),
    json.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": "magic"}]}),
    json.dumps({"choices": [{"message": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": -1}}),
    "[" * 100_000,
]


@pytest.mark.parametrize("text", BROKEN, ids=lambda t: t[:30])
def test_an_answer_that_is_none_is_refused(engine, upstream, text):
    upstream.answer = 200, text
    with pytest.raises(UpstreamFailed):
        ask(engine)
    upstream.answer = 200, f"data: {text}\n\n"
    with pytest.raises(UpstreamFailed):
        ask(engine, lambda _c: None, stream=True)


def test_a_stream_that_breaks_off_is_no_answer(engine, upstream):
    upstream.answer = 200, events(chunk({"content": "half"}), done=False)
    with pytest.raises(UpstreamFailed):
        ask(engine, lambda _c: None, stream=True)


def test_an_answer_without_end_is_cut(engine, upstream, monkeypatch):
    monkeypatch.setattr("avow.engines.remote.MAX_ANSWER", 10_000)
    upstream.answer = 200, "x" * 50_000
    with pytest.raises(UpstreamFailed, match="large"):
        ask(engine)
    with pytest.raises(UpstreamFailed, match="large"):
        ask(engine, lambda _c: None, stream=True)


def test_an_upstream_that_is_away(engine, upstream):
    made = load(program(url="http://127.0.0.1:1"))
    with pytest.raises(UpstreamFailed):
        ask(made)
    made.close()
    with pytest.raises(EngineClosed):
        ask(made)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://example.com/v1"},
        {"url": "ftp://127.0.0.1"},
        {"url": "https://"},
        {"url": "https://user:pass@example.com"},
        {"url": "https://example.com/?q=1"},
        {"url": "https://example.com", "key_variable": "AWS_SECRET_ACCESS_KEY"},
        {"url": "https://example.com", "key_variable": "AVOW_REMOTE_UNSET"},
        {"url": "https://example.com", "header": "x"},
        {},
    ],
)
def test_options_are_checked(options, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do not send")
    with pytest.raises(InvalidOptions):
        load(program(**options))
