"""Audio by URL: what is read, and that nothing inside the server's own network is."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cadence.audio.encode import encode_wav
from cadence.config import ServerConfig
from cadence.errors import CadenceError, Forbidden, InvalidRequest, PayloadTooLarge
from cadence.fake import FakeEngine
from cadence.server.addresses import is_public
from cadence.server.app import create_app
from cadence.server.fetch import read_url

WAV = encode_wav(np.zeros(16_000, np.float32), 16_000)
CONFIG = ServerConfig(url_fetch_s=2.0, url_fetch_bytes=100_000)


class Site:
    """A web server of a few pages that counts who comes."""

    def __init__(self) -> None:
        self.num_connections = 0
        self.requests: list[bytes] = []
        self.pages: dict[str, bytes] = {}
        self.port = 0

    def page(self, path: str, body: bytes, status: str = "200 OK", *headers: str) -> None:
        lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", "")
        self.pages[path] = "\r\n".join(lines).encode() + body

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        request = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(request)
        path = request.split(b" ")[1].decode()
        if path == "/never":
            await asyncio.sleep(30)
        writer.write(self.pages.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
        await writer.drain()
        writer.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    server = await asyncio.start_server(site.answer, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    site.page("/a.wav", WAV)
    yield site
    server.close()


@pytest.fixture
def listed() -> ServerConfig:
    """The operator has named the local host, so it may be read."""
    return replace(CONFIG, allowed_media_domains=("localhost",))


async def fetch(url: str, config: ServerConfig = CONFIG) -> bytes:
    return await read_url(url, config, "audio_url")


async def test_reads_what_the_operator_allows(site: Site, listed: ServerConfig) -> None:
    assert await fetch(f"http://localhost:{site.port}/a.wav", listed) == WAV
    assert f"host: localhost:{site.port}".encode() in site.requests[0].lower()
    site.page("/go", b"", "302 Found", "Location: /a.wav")
    assert await fetch(f"http://localhost:{site.port}/go", listed) == WAV


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://127.1:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f.1:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://0.0.0.0:{port}/",
        "http://localhost:{port}/",
        "http://localhost/",
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fd00::1]/",
        "http://[fe80::1]/",
        "http://[ff02::1]/",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.0.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://192.0.2.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://user:pw@93.184.216.34/",
        "http://localhost@93.184.216.34/",
        "http://93.184.216.34:22/",
        "https://93.184.216.34:80/",
        "ftp://93.184.216.34/",
        "gopher://93.184.216.34/",
        "unix:///tmp/socket",
        "file:///etc/hostname",
        "FILE:///etc/hostname",
        "File://localhost/etc/hostname",
        "http:///a",
        "http://",
        "//93.184.216.34/",
        "a.wav",
        "http://exa mple/",
        "http://\u2025/",
        "http://a" + "b" * 300 + ".example/",
        "data:audio/wav,abc",
        "data:audio/wav;base64",
        "data:audio/wav;base64,!!!",
        "javascript:alert(1)",
    ],
)
async def test_refused(site: Site, url: str) -> None:
    with pytest.raises((Forbidden, InvalidRequest)) as caught:
        await fetch(url.format(port=site.port))
    assert caught.value.param == "audio_url"
    assert site.num_connections == 0


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:{port}/a.wav", "http://169.254.169.254/", "file:///etc/hostname", "ftp://x/", ""],
)
async def test_redirects_are_checked(site: Site, listed: ServerConfig, target: str) -> None:
    site.page("/go", b"", "302 Found", f"Location: {target.format(port=site.port)}")
    with pytest.raises((Forbidden, InvalidRequest)):
        await fetch(f"http://localhost:{site.port}/go", listed)
    assert all(request.startswith(b"GET /go") for request in site.requests)


async def test_names_are_resolved_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public when checked and local when used: the checked address is what is used."""
    answers = [["93.184.216.34", "127.0.0.1"], ["127.0.0.1"]]
    loop = asyncio.get_running_loop()

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers.pop(0)]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    with pytest.raises(Forbidden):  # one private address among public ones is enough
        await fetch("http://rebind.example/a.wav")
    with pytest.raises(Forbidden):
        await fetch("http://rebind.example/a.wav")
    assert site.num_connections == 0


async def test_limits(site: Site, listed: ServerConfig) -> None:
    site.page("/big", b"x" * 100_001)
    site.page("/loop", b"", "302 Found", "Location: /loop")
    base = f"http://localhost:{site.port}"
    with pytest.raises(PayloadTooLarge):
        await fetch(f"{base}/big", listed)
    for path in ("/loop", "/missing"):
        with pytest.raises(InvalidRequest) as caught:
            await fetch(base + path, listed)
        assert caught.value.code == "url_fetch_failed"
    assert len([r for r in site.requests if b"/loop" in r]) == 4
    with pytest.raises(InvalidRequest, match=r"within 0\.2 seconds"):
        await fetch(f"{base}/never", replace(listed, url_fetch_s=0.2))
    with pytest.raises(Forbidden, match="does not fetch"):
        await fetch(f"{base}/a.wav", replace(listed, allow_url_fetch=False))


async def test_local_files_only_below_the_folder(tmp_path: Path) -> None:
    root, secret = tmp_path / "media", tmp_path / "secret.wav"
    (root / "sub dir").mkdir(parents=True)
    (root / "sub dir" / "a.wav").write_bytes(WAV)
    (root / "big.wav").write_bytes(b"x" * 100_001)
    secret.write_bytes(WAV)
    (root / "link.wav").symlink_to(secret)
    os.mkfifo(root / "pipe")
    config = replace(CONFIG, allowed_local_media_path=str(root))
    assert await fetch(f"file://{root}/sub%20dir/a.wav", config) == WAV
    assert await fetch(f"file://localhost{root}/sub%20dir/a.wav", config) == WAV
    with pytest.raises(PayloadTooLarge):
        await fetch(f"file://{root}/big.wav", config)
    messages = set()
    for path in (
        "../secret.wav",
        "%2e%2e/secret.wav",
        "link.wav",
        "pipe",
        "none.wav",
        "",
        "a%00b",
        "%ff",
        "sub dir",
    ):
        with pytest.raises(Forbidden) as caught:
            await fetch(f"file://{root}/{path}", config)
        messages.add(str(caught.value))
    for url in (f"file://{secret}", "file:///etc/hostname", f"file://host{root}/sub%20dir/a.wav"):
        with pytest.raises(Forbidden) as caught:
            await fetch(url, config)
        messages.add(str(caught.value))
    assert len(messages) == 1  # refusals do not tell what exists


def test_public_addresses() -> None:
    assert all(map(is_public, ("93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808")))
    assert not any(map(is_public, ("", "x", "fe80::1%eth0", "::ffff:10.0.0.1", "2001:db8::1", "240.0.0.1")))


async def test_through_the_api(site: Site) -> None:
    config = replace(CONFIG, allowed_media_domains=("localhost",), max_audio_s=1.5)
    transport = httpx.ASGITransport(create_app(FakeEngine(), config))
    data = "data:audio/wav;base64," + base64.b64encode(WAV).decode()

    async def ask(*parts: Any) -> httpx.Response:
        content = [{"type": "audio_url", "audio_url": part} for part in parts]
        body = {"messages": [{"role": "user", "content": content}]}
        return await client.post("/v1/chat/completions", json=body)

    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for url in (f"http://localhost:{site.port}/a.wav", data):
            for part in (url, {"url": url}):
                answer = (await ask(part)).json()
                assert answer["choices"][0]["message"]["content"] == "I heard 1.00 seconds of audio."
        too_long = await ask(data, data)
        assert (too_long.status_code, too_long.json()["error"]["code"]) == (413, "audio_too_long")
        refused = await ask("http://10.0.0.1/")
        assert refused.status_code == 403
        assert refused.json()["error"]["param"] == "messages.0.content.0.audio_url"
        broken = await ask("data:audio/wav;base64,AAAA")
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_audio")
    assert issubclass(Forbidden, CadenceError)
