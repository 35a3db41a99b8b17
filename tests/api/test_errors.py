"""Whatever is sent, the answer is OpenAI's error object and never a 5xx; the server stays as it was."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cadence.config import ServerConfig
from cadence.errors import CadenceError, InternalError, RequestAborted
from cadence.fake import FakeEngine, FakeFault
from cadence.server.app import create_app

ROUTES = ("/v1/audio/speech", "/v1/chat/completions")
SPEECH: dict[str, Any] = {"input": "Hi.", "voice": "default", "seed": 1, "extra_params": {"top_p": 0.5}}
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}],
    "sampling_params_list": [{"temperature": 0.1}, {"seed": 1}],
    "stop": ["x"],
    "logit_bias": {"5": 1.0},
    "audio": {"voice": "default"},
}
JSON = {"Content-Type": "application/json"}


def check_error(answer: httpx.Response, status: int | None = None) -> dict[str, Any]:
    """The error object, after checking its shape."""
    assert answer.status_code == status or (status is None and 400 <= answer.status_code < 500), answer.text
    assert answer.text.startswith('{"error"')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    for leak in ("Traceback", "pydantic", "/src/", "site-packages", ".py"):
        assert leak not in error["message"]
    return error


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/a/b", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/audio/speech", 405),
        ("DELETE", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("HEAD", "/v1/models", 405),
        ("GET", "//v1/models", 404),
        ("GET", "/v1/../etc/passwd", 404),
    ],
)
async def test_wrong_paths_and_methods(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    if method == "HEAD":
        assert answer.status_code == status
    else:
        check_error(answer, status)
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"input": NaN}',
        b'{"input": "a", "temperature": Infinity}',
        b'{"input": "a", "temperature": 1e999}',
        b'{"input": "a", "temperature": 1e308}',
        b'{"input": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"input": "a", "input": "b"}',
        b'{"input": "\\ud800"}',
        b'{"input": "a\\u0000b"}',
        b'{"\\u0000": 1}',
        b'{"input": "\xff"}',
        b'\xef\xbb\xbf{"input": "a", "x": 1}',
        '{"input": "a"}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"input": {"a": 1}, "messages": {"role": "user"}}',
        b'{"input": null, "messages": null}',
        b'{"messages": []}',
        b'{"messages": [{"role": "robot", "content": "x"}]}',
        b'{"messages": [{"role": "user"}]}',
        b'{"messages": [{"role": "user", "content": null}]}',
        b'{"messages": [{"role": "user", "content": []}]}',
        b'{"messages": [{"role": "user", "content": [{}]}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}',
        b'{"messages": [{"role": "assistant", "content": "<tts_start>"}]}',
    ],
)
async def test_malformed_bodies(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    check_error(await client.post(path, content=body, headers=JSON), 400)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({**JSON, "Content-Encoding": "gzip"}, 415),
        ({**JSON, "X-Request-Id": "a b"}, 400),
        ({**JSON, "X-Request-Id": "a" * 129}, 400),
        ({**JSON, "X-Request-Id": ""}, 400),
    ],
)
async def test_wrong_headers(client: httpx.AsyncClient, headers: dict[str, str], status: int) -> None:
    check_error(await client.post(ROUTES[0], content=b'{"input": "a"}', headers=headers), status)


async def test_request_id_comes_back(client: httpx.AsyncClient) -> None:
    for path in ("/v1/models", "/nope"):
        answer = await client.get(path, headers={"X-Request-Id": "abc-1.2:3_4"})
        assert answer.headers.get_list("x-request-id") == ["abc-1.2:3_4"]


async def test_body_limits() -> None:
    transport = httpx.ASGITransport(create_app(FakeEngine(), ServerConfig(max_body_bytes=1000)))

    async def chunked() -> Any:
        for _ in range(100):
            yield b" " * 100

    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ROUTES:
            check_error(await client.post(path, content=b" " * 1001, headers=JSON), 413)
            check_error(await client.post(path, content=chunked(), headers=JSON), 413)
        lying = {**JSON, "Content-Length": "9" * 30}
        check_error(await client.post(ROUTES[0], content=b"{}", headers=lying), 413)


async def test_bodies_are_bounded_together() -> None:
    """Eight of the largest may be held; what comes on top is refused, and room is given back."""
    transport = httpx.ASGITransport(create_app(FakeEngine(), ServerConfig(max_body_bytes=1000)))
    go_on = asyncio.Event()

    async def slow() -> Any:
        yield b" " * 999
        await go_on.wait()
        yield b"x"

    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        posts = [asyncio.create_task(client.post(ROUTES[0], content=slow(), headers=JSON)) for _ in range(8)]
        await asyncio.sleep(0.1)
        refused = await client.post(ROUTES[0], content=b" " * 100, headers=JSON)
        check_error(refused, 429)
        go_on.set()
        for post in posts:
            check_error(await post, 400)
        check_error(await client.post(ROUTES[0], content=b" " * 100, headers=JSON), 400)


async def test_a_bug_tells_nothing(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for fault in (RuntimeError("secret /etc/path"), KeyError("secret"), ValueError("secret")):
        engine.fault = FakeFault(0, fault)
        for path, body in zip(ROUTES, (SPEECH, CHAT), strict=True):
            for stream in (False, True):
                answer = await client.post(path, json={**body, "stream": stream})
                assert "secret" not in answer.text
                check_error(answer, 500)


async def test_every_error_of_ours_has_its_status(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    def kinds(root: type[CadenceError]) -> list[type[CadenceError]]:
        return [root, *(kind for child in root.__subclasses__() for kind in kinds(child))]

    for kind in kinds(CadenceError):
        engine.fault = FakeFault(0, kind("It went wrong.", hint="Do better."))
        answer = await client.post(ROUTES[0], json={"input": "Hi."})
        assert answer.status_code == kind.http_status
        assert answer.json()["error"]["message"] == "It went wrong. Do better."
        assert ("retry-after" in answer.headers) == (kind.http_status in (429, 503))
    assert issubclass(RequestAborted, CadenceError) and InternalError.http_status == 500


def mutated(rng: random.Random, value: Any) -> Any:
    """The same JSON value with a few things wrong."""
    junk = [
        None,
        True,
        -1,
        0,
        2**70,
        1.5,
        "",
        "x",
        [],
        {},
        [None],
        {"x": 1},
        "\u202e",
        "<tts_start>",
        "9" * 999,
    ]
    if rng.random() < 0.15:
        return rng.choice(junk)
    if isinstance(value, dict):
        found = {key: mutated(rng, child) for key, child in value.items() if rng.random() > 0.1}
        return (
            {**found, rng.choice(["x", "type", "role", "n"]): rng.choice(junk)}
            if rng.random() < 0.1
            else found
        )
    if isinstance(value, list):
        return [mutated(rng, child) for child in value for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    return value


async def test_mutated_bodies(client: httpx.AsyncClient) -> None:
    seed = 20
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(400):
        path, base = rng.choice(list(zip(ROUTES, (SPEECH, CHAT), strict=True)))
        body = json.dumps(mutated(rng, base)).encode()
        if rng.random() < 0.3:
            at = rng.randrange(len(body) + 1)
            body = body[:at] + rng.randbytes(rng.randrange(4)) + body[at + rng.randrange(4) :]
        answer = await client.post(path, content=body, headers=JSON)
        assert answer.status_code == 200 or check_error(answer), body


junk_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted({*SPEECH, *CHAT, "stream", "n", "modalities"})), value=junk_json)
async def test_any_value_in_any_field(client: httpx.AsyncClient, field: str, value: Any) -> None:
    for path, body in zip(ROUTES, (SPEECH, CHAT), strict=True):
        content = json.dumps({**body, field: value}).encode()
        answer = await client.post(path, content=content, headers=JSON)
        assert answer.status_code == 200 or check_error(answer)
