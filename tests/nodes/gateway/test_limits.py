"""What a gateway refuses, and that it refuses in OpenAI's envelope and stays healthy."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avow.errors import AvowError
from avow.nodes.gateway import Limits
from avow.nodes.gateway.options import avow_headers, read_head, read_options
from avow.receipt.encoding import base64url
from tests.nodes.gateway.conftest import JSON
from tests.nodes.gateway.simulated_node import chat


async def raw(gateway, data, *, wait_s=5.0):
    """What the gateway answers to bytes on a socket."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(wait_s):
            return await reader.read(65536)
    finally:
        writer.close()


def error_of(answer):
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "malformed_request", None),
        (b"{", "malformed_request", None),
        (b"[]", "malformed_request", None),
        (b'"text"', "malformed_request", None),
        (b"\xff\xfe{}", "malformed_request", None),
        (b"{}", "malformed_request", "model"),
        (b'{"model":""}', "malformed_request", "model"),
        (b'{"model":7}', "malformed_request", "model"),
        (b'{"model":"echo","stream":"yes"}', "malformed_request", "stream"),
        (b'{"model":"echo","avow":{"methd":"tee"}}', "malformed_request", "avow"),
        (b'{"model":"echo","avow":{"method":7}}', "malformed_request", "avow.method"),
        (b'{"model":"echo","avow":{"method":"magic"}}', "bad_option", "avow.method"),
        (b'{"model":"echo","avow":{"finality":"soon"}}', "bad_option", "avow.finality"),
        (b'{"model":"echo","avow":{"nonce":"?"}}', "bad_option", "avow-nonce"),
        (b'{"model":"echo","avow":{"nonce":"AAAA"}}', "bad_option", "avow-nonce"),
        (b'{"model":"length","messages":[]}', "wrong_endpoint", "model"),
    ],
)
async def test_malformed_requests(gateway, body, code, param):
    assert error_of(await gateway.chat(body)) == (400, code, param)


async def test_deep_nesting_is_refused_and_not_a_crash(gateway):
    body = b'{"model":"echo","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    status, _, _ = error_of(await gateway.chat(body))
    assert status == 400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("avow-method", "magic"),
        ("avow-methd", "tee"),
        ("avow-finality", "never"),
        ("avow-nonce", "AAAA"),
        ("avow-nonce", "A" * 400),
        ("avow-nonce", "AAAAAAAAAAA="),
        ("avow-seed", base64url(b"1" * 31)),
        ("avow-client-key", base64url(b"\x04" + b"1" * 63)),
        ("avow-client-key", base64url(b"\x02" + b"1" * 64)),
        ("avow-requester", base64url(b"1" * 65)),
    ],
)
async def test_malformed_headers(gateway, name, value):
    answer = await gateway.http.post("/v1/chat/completions", content=chat(stream=True), headers=JSON | {name: value})
    status, code, _ = error_of(answer)
    assert (status, code) == (400, "bad_option")


async def test_a_header_that_occurs_twice_is_refused(gateway):
    headers = [*JSON.items(), ("avow-method", "tee"), ("avow-method", "vanilla")]
    answer = await gateway.http.post("/v1/chat/completions", content=chat(), headers=headers)
    assert error_of(answer)[:2] == (400, "bad_option")


async def test_a_client_key_without_a_stream_is_refused(gateway):
    answer = await gateway.chat(chat(), avow_client_key=base64url(b"\x04" + b"1" * 64))
    assert error_of(answer) == (400, "bad_option", "avow-client-key")


async def test_unknown_models_and_paths(gateway):
    assert error_of(await gateway.chat(b'{"model":"gpt-9"}')) == (404, "model_not_found", "model")
    assert error_of(await gateway.http.get("/v1/nothing"))[:2] == (404, "not_found")
    assert error_of(await gateway.http.get("/v1/chat/completions"))[:2] == (404, "not_found")
    assert error_of(await gateway.http.post("/v1/models", content=b"{}"))[:2] == (405, "method_not_allowed")
    assert error_of(await gateway.http.post("/v2/models/none/infer", content=b"{}", headers=JSON))[:2] == (
        404,
        "model_not_found",
    )


async def test_bodies_beyond_the_limit(node, make_gateway):
    async with make_gateway(node, limits=Limits(body_bytes=1000)) as gateway:
        answer = await gateway.chat(chat("x" * 2000))
        assert error_of(answer)[:2] == (413, "too_large")

        async def pieces():
            for _ in range(10):
                yield b" " * 300

        answer = await gateway.http.post("/v1/chat/completions", content=pieces(), headers=JSON)
        assert error_of(answer)[:2] == (413, "too_large")
        assert not node.jobs
        assert (await gateway.chat(chat())).status_code == 200


async def test_only_json_uncompressed(gateway):
    for headers in ({}, {"content-type": "text/plain"}, JSON | {"content-encoding": "gzip"}):
        answer = await gateway.http.post("/v1/chat/completions", content=chat(), headers=headers)
        assert error_of(answer)[:2] == (415, "unsupported_media_type")
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        answer = await gateway.http.post("/v1/chat/completions", content=chat(), headers={"content-type": kind})
        assert answer.status_code == 200


async def test_heads_beyond_the_limit(gateway):
    for head in (b"a: " + b"x" * 40_000, b"\r\n".join(b"h%d: 1" % n for n in range(200))):
        answer = await raw(gateway, b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + head + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"
    answer = await raw(gateway, b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert (await gateway.http.get("/health")).status_code == 200


async def test_what_is_not_http_is_refused(gateway):
    answer = await raw(gateway, b"\x16\x03\x01\x02\x00\x01\x00")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


async def test_a_loopback_gateway_answers_for_loopback_names_alone(gateway):
    port = gateway.url.rpartition(":")[2].encode()
    for host, status in (
        (b"evil.example:" + port, b"421"),
        (b"127.0.0.1.evil.example", b"421"),
        (b"localhost:" + port, b"200"),
        (b"[::1]:" + port, b"200"),
        (b"127.0.0.1", b"200"),
    ):
        answer = await raw(gateway, b"GET /health HTTP/1.1\r\nconnection: close\r\nhost: " + host + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 " + status), (host, answer[:80])


async def test_other_hosts_where_they_are_allowed(node, make_gateway):
    async with make_gateway(node, allowed_hosts=("avow.example", "127.0.0.1")) as gateway:
        assert (await gateway.http.get("/health", headers={"host": "avow.example"})).status_code == 200
        assert (await gateway.http.get("/health", headers={"host": "localhost"})).status_code == 421


HEADER_NAMES = st.sampled_from(
    [
        b"avow-method",
        b"avow-finality",
        b"avow-nonce",
        b"avow-seed",
        b"avow-client-key",
        b"avow-requester",
        b"avow-x",
        b"host",
    ]
)


@given(
    st.lists(
        st.tuples(HEADER_NAMES, st.binary(max_size=120) | st.sampled_from([b"tee", b"settled", b"A" * 43])), max_size=5
    ),
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(["model", "stream", "avow", "method", "nonce", "finality"]), inner
        ),
    ).map(lambda value: json.dumps(value).encode()),
)
@settings(max_examples=400, deadline=None)
def test_options_are_read_or_refused_with_a_typed_error(headers, body):
    try:
        head = read_head(body)
        options = read_options(avow_headers(headers), head.avow, lambda length: b"r" * length)
    except AvowError as error:
        assert 400 <= error.http_status < 500
    else:
        assert 8 <= len(options.nonce) <= 64
        assert options.finality in ("instant", "settled")


@given(st.binary(max_size=600))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_body_is_answered(gateway, body):
    answer = await gateway.chat(body)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["code"]
