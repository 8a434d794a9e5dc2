"""The command line and the SDK against a network of processes with a real model, and `avow up` itself."""

import json
import os
import re
import signal
import subprocess
import sys

import openai
import pytest

import avow
from avow.client.errors import StreamCut
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.network, pytest.mark.model, pytest.mark.xdist_group("network")]

AVOW = [sys.executable, "-c", "from avow.cli import main; main()"]


def environment(home):
    return os.environ | {"AVOW_HOME": str(home), "AVOW_MODELS": str(REPOSITORY / "build" / "model-cache")}


def run(home, *arguments, code=0):
    ran = subprocess.run(
        [*AVOW, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=240, env=environment(home)
    )
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran


def test_the_demo_holds(network, tmp_path):
    shown = json.loads(run(network.home, "demo", "--json", "--out", tmp_path).stdout)
    assert shown["ok"] is True
    assert {(item["program"], item["method"], item["stream"]) for item in shown["answers"]} == {
        (program, method, stream)
        for program, stream in ((network.chat_model, False), (network.chat_model, True), (network.classifier, False))
        for method in ("vanilla", "tee")
    } | {("magika-exact", "optimistic", False)}
    for item in shown["answers"]:
        run(network.home, "verify", item["receipt"], "--require", "settled,opened,fresh")


def test_ask_verify_refresh(network, tmp_path):
    answer = run(
        network.home, "ask", "What is the capital of France?", "--method", "tee", "--save", tmp_path / "r.json"
    )
    assert "Paris" in answer.stdout
    run(network.home, "verify", tmp_path / "r.json", "--require", "opened")
    run(network.home, "verify", tmp_path / "r.json", "--require", "tee", code=1)
    run(network.home, "receipts", "refresh", "--wait", "10")
    kept = json.loads(run(network.home, "receipts", "list", "--json").stdout)
    assert all(item["settled"] for item in kept)
    run(network.home, "receipts", "verify", kept[0]["id"], "--require", "settled")


def test_a_classified_file(network, tmp_path):
    (tmp_path / "file").write_text("#!/usr/bin/env python3\nimport sys\n\nprint(sys.argv)\n" * 4)
    shown = run(network.home, "infer", network.classifier, tmp_path / "file", "--method", "tee", "--settled")
    assert "python" in shown.stdout


def test_a_signed_request_and_a_stream(network):
    run(network.home, "key", "create", "asker")
    shown = json.loads(
        run(network.home, "ask", "Hi", "--account", "asker", "--max-tokens", 4, "--json", "--settled").stdout
    )
    assert {check["name"]: check["outcome"] for check in shown["receipt"]["checks"]}["requester"] == "pass"
    assert run(
        network.home, "ask", "Hi", "--account", "asker", "--max-tokens", 4, "--stream", "--method", "tee"
    ).stdout.strip()


def test_refusals_of_the_network(network):
    assert "nope" in run(network.home, "ask", "Hi", "--model", "nope", code=1).stderr
    assert "zkml" in run(network.home, "ask", "Hi", "--method", "zkml", code=1).stderr


def test_the_documentations_examples(network, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("AVOW_HOME", str(network.home))
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(
        r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "sdk.md").read_text(), re.MULTILINE | re.DOTALL
    ):
        exec(compile(block, "docs/sdk.md", "exec"), names)
    assert "Paris" in capsys.readouterr().out


def test_a_stream_left_early_proves_what_came(network, monkeypatch):
    monkeypatch.setenv("AVOW_HOME", str(network.home))
    with avow.Client() as client:
        with client.stream("Tell me a long story about the sea.", max_tokens=200, method="tee") as stream:
            for count, _ in enumerate(stream):
                if count == 12:
                    break
        assert stream.partial is not None
        assert avow.verify(stream.partial, client.session.trust).ok
        answer = client.chat("Hi", max_tokens=4)
        assert answer.settled().is_settled
    with pytest.raises(StreamCut):
        raise stream._live.cut("left early")


def test_openai_with_tools_and_schemas(network, monkeypatch):
    monkeypatch.setenv("AVOW_HOME", str(network.home))
    seen = []
    http = avow.openai_client(network.url, method="tee", on_receipt=seen.append)
    with openai.OpenAI(base_url=f"{network.url}/v1", api_key="none", http_client=http, max_retries=0) as client:
        schema = {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        }
        messages = [{"role": "user", "content": "Weather in Paris?"}]
        tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
        form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
        called = client.chat.completions.create(
            model=network.chat_model, messages=messages, tools=tools, tool_choice="required", max_tokens=60
        )
        assert called.choices[0].message.tool_calls[0].function.name == "weather"
        formed = client.chat.completions.create(
            model=network.chat_model, messages=messages, response_format=form, max_tokens=60, logprobs=True, n=2
        )
        assert len(formed.choices) == 2
        for options in (
            {"tools": tools, "tool_choice": "required"},
            {"response_format": form, "logprobs": True},
            {"n": 2},
        ):
            chunks = list(
                client.chat.completions.create(
                    model=network.chat_model, messages=messages, stream=True, max_tokens=60, **options
                )
            )
            assert chunks[-1].avow["method"] == "tee"
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=network.chat_model, messages=[], max_tokens=4)
    assert len(seen) == 5


def test_up_starts_says_where_and_stops(tmp_path):
    home = tmp_path / "home"
    process = subprocess.Popen(
        [*AVOW, "up", "--home", str(home), "--port", "0", "--model", "magika", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(home),
    )  # fmt: skip
    try:
        lines = []
        while not lines or lines[-1] != "}\n":
            line = process.stdout.readline()
            assert line, process.stderr.read()
            lines.append(line)
        state = json.loads("".join(lines))
        assert run(home, "status", "--json").stdout
        assert json.loads(run(home, "status", "--json").stdout)["gateway"] == state["url"]
        assert "already_up" in run(home, "up", "--port", "0", "--model", "magika", code=1).stderr
        run(home, "demo", code=2)  # it lists no chat model
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "stopped" in err
    assert not (home / "network.json").exists()
