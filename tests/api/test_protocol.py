"""Below the application: what is not HTTP, and clients who say nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from cadence.server.protocol import HttpProtocol

from .conftest import Live


def connect(live: Live) -> socket.socket:
    host, port = live.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


async def read_all(connection: socket.socket) -> bytes:
    received = b""
    while data := await asyncio.to_thread(connection.recv, 65536):
        received += data
    connection.close()
    return received


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20) + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_not_http(live: Live, data: bytes) -> None:
    connection = connect(live)
    connection.sendall(data)
    head, _, body = (await read_all(connection)).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))
    assert body.startswith(b'{"error"') and json.loads(body)["error"]["message"]


async def test_silence_is_not_waited_for(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cadence.server.protocol.FIRST_REQUEST_S", 0.1)
    silent, half = connect(live), connect(live)
    half.sendall(b"GET /health HT")
    assert await read_all(silent) == b""
    assert await read_all(half) == b""
    async with live.http() as client:  # a connection that has asked something stays open
        assert (await client.get("/health")).status_code == 200
        await asyncio.sleep(0.2)
        assert (await client.get("/health")).status_code == 200


async def test_small_packets_do_not_wait(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    connection_made = HttpProtocol.connection_made

    def made(self: HttpProtocol, transport: Any) -> None:
        connection_made(self, transport)
        accepted = transport.get_extra_info("socket")
        found.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(HttpProtocol, "connection_made", made)
    async with live.http() as client:
        await client.get("/health")
    assert len(found) == 1 and found[0]
