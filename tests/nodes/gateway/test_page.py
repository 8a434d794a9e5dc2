"""The receipt page in a real browser: what a person sees, with the secret and without it."""

import asyncio
import html
import re
import shutil

import pytest

from tests.nodes.gateway.simulated_node import chat

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--enable-logging=stderr"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=8000"),
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH to look at the page with"),
]


@pytest.fixture
def look(gateway, tmp_path):
    async def look(path):
        """The page's document once its script has run, and what the browser complained about."""
        process = await asyncio.create_subprocess_exec(
            *(BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", gateway.url + path),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(120):
            document, messages = await process.communicate()
        complaints = [line for line in messages.decode().splitlines() if "CONSOLE" in line]
        return document.decode(), complaints

    return look


def text_of(document):
    body = re.sub(r"<noscript>.*?</noscript>", "", document.partition("<body>")[2], flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


async def test_who_has_the_secret_sees_the_words_and_every_check(gateway, look):
    words = 'Is <img src=x onerror="document.title=1"> markup? & "quotes"'
    answer = await gateway.chat(chat(words), avow_method="tee", avow_finality="settled")
    document, complaints = await look(answer.json()["avow"]["page"])
    shown = text_of(document)
    assert complaints == []
    assert words in shown
    assert f"You said: {words}" in shown
    assert "<img src=x" not in document
    assert 'data-outcome="warn"' in document
    for outcome in ("pass", "warn", "skipped"):
        assert f'class="outcome {outcome}"' in document
    assert "What this does not prove" in shown
    assert "development enclave, not hardware" in shown
    assert "avow verify receipt-" in shown
    assert document.count('download="receipt-') == 3
    assert "in block" in shown


async def test_without_the_secret_there_are_checks_and_no_words(gateway, look):
    answer = await gateway.chat(chat("the secret words"), avow_finality="settled")
    document, complaints = await look(answer.json()["avow"]["page"].partition("#")[0])
    assert complaints == []
    assert "the secret words" not in document
    assert "carries no secret" in text_of(document)
    assert 'class="outcome pass"' in document
    assert document.count('download="receipt-') == 2


async def test_a_stream_and_tensors_are_shown(gateway, look):
    streamed = await gateway.chat(chat("one two three", stream=True), avow_finality="settled")
    identity, secret = re.search(r'"page":"/r/(\w+)#([\w-]+)"', streamed.text).groups()
    document, _ = await look(f"/r/{identity}#{secret}")
    assert "You said: one two three" in text_of(document)
    body = b'{"inputs":[{"name":"text","shape":[1],"datatype":"BYTES","data":["YWJj"]}]}'
    answer = await gateway.http.post(
        "/v2/models/length/infer",
        content=body,
        headers={"content-type": "application/json", "avow-finality": "settled"},
    )
    document, _ = await look(answer.json()["avow"]["page"])
    shown = text_of(document)
    assert "Input text" in shown
    assert "3 bytes\nabc" in shown
    assert "length: 4" in shown


async def test_a_receipt_that_is_not_there_is_said_to_be_missing(gateway, look):
    document, _ = await look("/r/" + "00" * 32)
    assert "There is no such receipt here" in text_of(document)
