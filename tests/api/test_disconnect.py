"""A client that leaves takes its work with it, wherever the work was."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from cadence.config import ServerConfig
from cadence.errors import StageFailed
from cadence.fake import FakeEngine, FakeFault

from .conftest import Live, run_live, until

LONG = "word " * 4000
HANG = FakeFault(0)


def connect(live: Live) -> socket.socket:
    host, port = live.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def head(path: str, num_bytes: int) -> bytes:
    """The first part of a POST request."""
    fields = ("Host: x", "Content-Type: application/json", f"Content-Length: {num_bytes}")
    return "\r\n".join((f"POST {path} HTTP/1.1", *fields, "", "")).encode()


def post(live: Live, path: str, body: dict[str, Any]) -> socket.socket:
    """Send a request and leave its connection open."""
    data = json.dumps(body).encode()
    connection = connect(live)
    connection.sendall(head(path, len(data)) + data)
    return connection


def reset(connection: socket.socket) -> None:
    """Close with a TCP RST, as a crashed client does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


SPEECH = ("/v1/audio/speech", {"input": LONG})
REQUESTS = [
    SPEECH,
    ("/v1/audio/speech", {"input": LONG, "stream": True}),
    ("/v1/audio/speech", {"input": LONG, "stream": False}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}], "n": 3, "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}], "n": 3}),
]


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_before_the_first_byte(live: Live, path: str, body: dict[str, Any], leave: Any) -> None:
    live.engine.fault = HANG
    connection = post(live, path, body)
    await until(lambda: live.engine.num_active == body.get("n", 1))
    leave(connection)
    await until(lambda: live.engine.num_active == 0, 2.0)
    assert live.engine.num_aborted == body.get("n", 1)


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
@pytest.mark.parametrize(("path", "body"), [REQUESTS[0], REQUESTS[1], REQUESTS[4]])
async def test_in_the_middle(live: Live, path: str, body: dict[str, Any], leave: Any) -> None:
    live.engine.delay_s = 0.01
    connection = post(live, path, body)
    assert await asyncio.to_thread(connection.recv, 10)
    leave(connection)
    await until(lambda: live.engine.num_active == 0, 2.0)
    assert live.engine.num_aborted == body.get("n", 1)


async def test_others_go_on(live: Live) -> None:
    live.engine.delay_s = 0.01
    async with live.http() as client:
        alone = (await client.post(SPEECH[0], json={"input": "one two three"})).content
        beside = asyncio.create_task(client.post(SPEECH[0], json={"input": "one two three"}))
        leavers = [post(live, *REQUESTS[i % 6]) for i in range(12)]
        await asyncio.sleep(0.05)
        for connection in leavers:
            connection.close()
        assert (await beside).content == alone
    await until(lambda: live.engine.num_active == 0, 2.0)


async def test_while_sending_the_body(live: Live) -> None:
    connection = connect(live)
    connection.sendall(head("/v1/audio/speech", 500) + b'{"input": "Hi')
    await asyncio.sleep(0.05)
    connection.close()
    async with live.http() as client:  # the server is as before
        assert (await client.get("/health")).status_code == 200
    assert live.engine.requests == []


async def test_broken_stream_ends_without_the_last_chunk(live: Live) -> None:
    live.engine.fault = FakeFault(6, StageFailed("The stage broke."))
    connection = post(live, *SPEECH)
    received = b""
    while data := await asyncio.to_thread(connection.recv, 65536):
        received += data
    assert received.startswith(b"HTTP/1.1 200")
    assert not received.endswith(b"0\r\n\r\n")


@pytest.fixture
def impatient() -> Iterator[Live]:
    """A server that soon gives up on clients who do not read or send."""
    with run_live(FakeEngine(), ServerConfig(send_stall_s=0.3, body_stall_s=0.2)) as live:
        yield live


async def test_reader_who_stalls(impatient: Live) -> None:
    connection = post(impatient, "/v1/audio/speech", {"input": LONG})  # more than all buffers hold
    await until(lambda: impatient.engine.num_active == 1)
    await until(lambda: impatient.engine.num_active == 0, 5.0)
    assert impatient.engine.num_aborted == 1
    connection.close()


async def test_sender_who_stalls(impatient: Live) -> None:
    connection = connect(impatient)
    connection.sendall(head("/v1/audio/speech", 500) + b"{")
    answer = b""
    while b'{"error"' not in answer and (data := await asyncio.to_thread(connection.recv, 65536)):
        answer += data
    connection.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'{"error"' in answer
