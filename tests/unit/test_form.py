"""Multipart forms: names with brackets, limits, and what is refused."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import httpx
import pytest
from starlette.requests import Request

from cadence.errors import CadenceError, InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from cadence.server.form import Form, read_form

FIELDS = [
    ("model", "m"),
    ("languages[]", "en"),
    ("languages[]", "zh"),
    ("keywords", "one"),
    ("keywords", "two"),
    ("chunking_strategy[type]", "server_vad"),
    ("chunking_strategy[threshold]", "0.5"),
]


def request(content: bytes, content_type: str, cut: Sequence[int] = ()) -> Request:
    """A request whose body arrives in parts."""
    cuts = [0, *cut, len(content)]
    parts = [content[a:b] for a, b in itertools.pairwise(cuts)]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    headers = [(b"content-type", content_type.encode())]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def encoded(fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """As httpx sends it."""
    everything = [(name, (None, value)) for name, value in fields] + [
        (name, ("a.wav", data)) for name, data in files
    ]
    sent = httpx.Request("POST", "http://x", files=everything)  # type: ignore[arg-type]
    return sent.read(), sent.headers["content-type"]


async def read(fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, bytes]] = ()) -> Form:
    return await read_form(request(*encoded(fields, files)), max_bytes=1 << 22, stall_s=5.0)


async def test_fields_and_files() -> None:
    data = random.Random(0).randbytes(3 << 20)  # more than is held in memory
    body, content_type = encoded(FIELDS, [("file", data)])
    form = await read_form(
        request(body, content_type, range(0, len(body), 65536)), max_bytes=1 << 22, stall_s=5
    )
    assert form.files == {"file": data}
    assert form.fields == {
        "model": "m",
        "languages": ["en", "zh"],
        "keywords": ["one", "two"],
        "chunking_strategy": {"type": "server_vad", "threshold": "0.5"},
    }


@pytest.mark.parametrize(
    "fields",
    [
        [("a[b]", "1"), ("a[b]", "2")],
        [("a", "1"), ("a[b]", "2")],
        [("a[b]", "1"), ("a", "2")],
        [("a[b][c]", "1")],
        [("[]", "1")],
        [("a]", "1")],
        [("a", "x\0y")],
        [(f"f{i}", "1") for i in range(300)],
        [("a", "x" * (1 << 20 | 1))],
    ],
)
async def test_refused(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidRequest):
        await read(fields)


async def test_files_are_few() -> None:
    for files in ([("file", b"1"), ("file", b"2")], [("file", b"1"), ("other", b"2")]):
        with pytest.raises(InvalidRequest):
            await read([], files)


async def test_limits_and_types() -> None:
    body, content_type = encoded([], [("file", bytes(1000))])
    with pytest.raises(PayloadTooLarge):
        await read_form(request(body, content_type), max_bytes=1000, stall_s=5)
    for wrong in ("application/json", "multipart/form-data", ""):
        with pytest.raises(UnsupportedMediaType):
            await read_form(request(body, wrong), max_bytes=10_000, stall_s=5)


async def test_broken_forms_are_refused_or_read() -> None:
    seed = 5
    print("seed", seed)
    rng = random.Random(seed)
    body, content_type = encoded(FIELDS, [("file", bytes(50))])
    for _ in range(300):
        broken = bytearray(body[: rng.randrange(len(body))] if rng.random() < 0.3 else body)
        for _ in range(rng.randrange(1, 6)):
            if broken:
                broken[rng.randrange(len(broken))] = rng.choice(b'\r\n-:;"[]\0\xffx')
        cuts = sorted(rng.randrange(len(broken) + 1) for _ in range(3))
        try:
            await read_form(request(bytes(broken), content_type, cuts), max_bytes=10_000, stall_s=5)
        except CadenceError as error:
            assert error.http_status == 400
