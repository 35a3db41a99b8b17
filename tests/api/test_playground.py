"""The playground's files as they are served; what the page does is tested in a browser (tests/browser)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from urllib.parse import urljoin

import httpx
import pytest

from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.server.app import create_app
from cadence.server.playground import playground_routes

PATHS = [route.path for route in playground_routes()]
KEYS = ("a-key",)


@pytest.fixture
async def guarded() -> AsyncIterator[httpx.AsyncClient]:
    """A server that wants a key, asked without one."""
    transport = httpx.ASGITransport(create_app(FakeEngine(), ServerConfig(api_keys=KEYS)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def test_the_page_and_its_parts_are_there() -> None:
    assert {"/", "/playground/app.js", "/playground/audio/player-worklet.js"} <= {*PATHS}
    assert not {path for path in PATHS if "index" in path or ".." in path}


@pytest.mark.parametrize("path", PATHS)
async def test_a_file(guarded: httpx.AsyncClient, path: str) -> None:
    answer = await guarded.get(path)
    assert answer.status_code == 200
    kind = {"": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kind[path.rpartition(".")[2] if "." in path else ""])
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    again = await guarded.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await guarded.head(path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("path", PATHS)
async def test_a_file_names_only_what_is_there(guarded: httpx.AsyncClient, path: str) -> None:
    text = (await guarded.get(path)).text
    outside = re.findall(r"https?://[^\s\"'<>]+", text)
    assert [url for url in outside if not url.startswith("http://www.w3.org/")] == []
    named = re.findall(r"""(?:from|new URL\()\s*"(\.[^"]+)"|(?:href|src)="(/playground/[^"]+)\"""", text)
    assert {urljoin(path, name) for pair in named for name in pair if name} <= {*PATHS}
    if path == "/":
        inline = r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son[a-z]+=|javascript:"
        assert re.findall(inline, text) == []  # the policy would not let it run


async def test_everything_else_still_needs_the_key(guarded: httpx.AsyncClient) -> None:
    for path in ("/playground", "/playground/", "/playground/no.js", "/playground/%2e%2e/app.py", "/metrics"):
        assert (await guarded.get(path)).status_code == 401
    assert (await guarded.post("/")).status_code == 405


async def test_the_page_can_be_off() -> None:
    transport = httpx.ASGITransport(create_app(FakeEngine(), ServerConfig(playground=False)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in PATHS:
            assert (await client.get(path)).status_code == 404
