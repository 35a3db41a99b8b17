"""The benchmark: its meter, its statistics, and whole runs against a small server made for it."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from cadence.bench.client import RequestResult, ServerInfo, Target, probe, send
from cadence.bench.command import Plan, bench, run_plan
from cadence.bench.data import PROMPTS, load_prompts
from cadence.bench.load import Run, run_open
from cadence.bench.meter import SoundMeter, wav_data_start
from cadence.bench.report import markdown, percentile, save_plot, summarise, to_json
from cadence.errors import ConfigError, ServiceError

SECOND = b"\x01\x00" * 24_000


def wav_head(rate_hz: int = 24_000, extra: bytes = b"") -> bytes:
    """A streamed WAV header, optionally with a chunk between fmt and data."""
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate_hz, rate_hz * 2, 2, 16)
    return b"RIFF\xff\xff\xff\xffWAVE" + fmt + extra + b"data\xff\xff\xff\xff"


# ------------------------------------------------------------------ meter
def test_first_sound_is_the_first_byte_after_the_wav_header() -> None:
    meter = SoundMeter(start_s=10.0)
    meter.feed(wav_head(), 10.5)
    assert meter.ttfp_s is None
    meter.feed(SECOND, 11.0)
    assert meter.ttfp_s == pytest.approx(1.0)
    assert meter.duration_s == pytest.approx(1.0)


@pytest.mark.parametrize("cut", [1, 3, 4, 30, 44, 60])
def test_header_may_be_cut_anywhere_and_hold_other_chunks(cut: int) -> None:
    stream = wav_head(16_000, extra=struct.pack("<4sI4s", b"LIST", 3, b"abc\0")) + SECOND[:32_000]
    meter = SoundMeter(start_s=0.0)
    meter.feed(stream[:cut], 1.0)
    meter.feed(stream[cut:], 2.0)
    assert meter.duration_s == pytest.approx(1.0, abs=1e-3)


def test_raw_pcm_has_no_header() -> None:
    meter = SoundMeter(start_s=0.0)
    meter.feed(SECOND[:2], 0.25)
    meter.feed(SECOND[2:], 0.25)
    assert (meter.ttfp_s, meter.duration_s) == (0.25, 1.0)
    assert wav_data_start(b"RIFF\0\0\0\0WAVE") is None


def test_underrun_is_the_total_stall_of_a_player() -> None:
    meter = SoundMeter(start_s=0.0)
    meter.feed(SECOND, 1.0)  # plays until 2.0
    meter.feed(SECOND, 1.9)  # in time: plays until 3.0
    assert meter.underrun_s == 0.0
    meter.feed(SECOND, 3.5)  # half a second late: plays until 4.5
    meter.feed(SECOND, 4.75)  # and a quarter more
    assert meter.underrun_s == pytest.approx(0.75)


# ------------------------------------------------------------------ report
def result(**fields: Any) -> RequestResult:
    """A result with the fields a test cares about."""
    return RequestResult(**{"prompt_index": 0, "sent_s": 0.0, **fields})


def test_percentiles_interpolate() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.95) == pytest.approx(1.95)
    assert math.isnan(percentile([], 0.5))


def test_summary_counts_failures_apart() -> None:
    good = result(ttfp_s=0.5, e2e_s=1.0, audio_s=2.0, underrun_s=0.0)
    gap = result(ttfp_s=1.5, e2e_s=3.0, audio_s=2.0, underrun_s=0.2)
    bad = result(error="HTTP 429: busy", e2e_s=0.01)
    run = Run(mode="async_chunk", concurrency=2, rate_rps=None, wall_s=4.0, results=(good, gap, bad))
    s = summarise(run)
    assert (s.num_ok, s.num_failed, s.errors) == (2, 1, ("HTTP 429: busy",))
    assert (s.ttfp.mean, s.e2e.mean, s.rtf.mean) == (1.0, 2.0, 1.0)
    assert (s.audio_per_s, s.continuous, s.worst_underrun_s) == (1.0, 0.5, 0.2)
    assert "| Async Chunk | 1000ms | 2000ms | 1.000 |" in markdown([s])
    assert json.loads(json.dumps(to_json({}, [run]), allow_nan=False))["runs"][0]["summary"]["num_ok"] == 2


def test_a_run_without_success_is_reported_not_crashed() -> None:
    run = Run(mode="x", concurrency=1, rate_rps=None, wall_s=1.0, results=(result(error="no"),))
    assert "nan" in markdown([summarise(run)])
    assert to_json({}, [run])["runs"][0]["summary"]["rtf"]["mean"] is None


def test_plot_is_written(tmp_path: Path) -> None:
    ok = result(ttfp_s=0.5, e2e_s=1.0, audio_s=2.0)
    runs = [Run(mode="a", concurrency=c, rate_rps=None, wall_s=1.0, results=(ok,)) for c in (1, 2)]
    save_plot([summarise(r) for r in runs], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------ whole runs
class Server:
    """A tiny OpenAI-like server: one second of sound in two pieces; records what it was asked."""

    def __init__(self, *, cadence: bool = True) -> None:
        self.cadence = cadence
        self.bodies: list[dict[str, Any]] = []
        self.running = self.most = 0

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.handle), base_url="http://test")

    async def handle(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            owner = "cadence" if self.cadence else "other"
            return httpx.Response(200, json={"data": [{"id": "m", "owned_by": owner}]})
        if request.url.path == "/version":
            return httpx.Response(200, json={"version": "1"})
        body = json.loads(request.content)
        self.bodies.append(body)
        if body.get("input") == "fail":
            return httpx.Response(429, json={"error": {"message": "queue full"}})
        sound = self._chat() if request.url.path.endswith("completions") else self._speech(body)
        return httpx.Response(200, content=self._counted(sound))

    async def _counted(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.running += 1
        self.most = max(self.most, self.running)
        async for part in parts:
            await asyncio.sleep(0)
            yield part
        self.running -= 1

    async def _speech(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        if body["stream_format"] == "sse":
            event = {"type": "speech.audio.delta", "audio": base64.b64encode(SECOND).decode()}
            for item in (event, {"type": "speech.audio.done"}):
                yield f"data: {json.dumps(item)}\n\n".encode()
            return
        if body["response_format"] == "wav":
            yield wav_head()
        yield SECOND[:20_000]
        yield SECOND[20_000:]

    async def _chat(self) -> AsyncIterator[bytes]:
        deltas = [{"audio": {"transcript": "hi"}}, {"audio": {"data": base64.b64encode(SECOND).decode()}}]
        for delta in deltas:
            yield f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode()
        yield b"data: [DONE]\n\n"


def plan(**fields: Any) -> Plan:
    """A small closed-loop plan."""
    given = {"modes": ("async_chunk", "sequential"), "concurrencies": (1, 3), "rates_rps": (), "seed": 0}
    return Plan(**{**given, "num_requests": 6, "num_warmup": 1, **fields})


async def test_closed_loop_runs_each_mode_and_load() -> None:
    server, said = Server(), list[str]()
    async with server.client() as client:
        info = await probe(client, "http://test")
        target = Target(url="http://test", model=info.model)
        runs = await run_plan(client, target, info, plan(), PROMPTS, said.append)
    assert [(r.mode, r.concurrency, len(r.results)) for r in runs] == [
        ("async_chunk", 1, 6),
        ("async_chunk", 3, 6),
        ("sequential", 1, 6),
        ("sequential", 3, 6),
    ]
    assert all(not r.error and r.audio_s == 1.0 for run in runs for r in run.results)
    assert server.most == 3
    assert [b["async_chunk"] for b in server.bodies] == [True] * 13 + [False] * 13


async def test_a_foreign_server_gets_no_field_of_ours() -> None:
    server, said = Server(cadence=False), list[str]()
    async with server.client() as client:
        info = await probe(client, "http://test")
        runs = await run_plan(
            client, Target(url="http://test"), info, plan(concurrencies=(1,)), PROMPTS, said.append
        )
    assert [r.mode for r in runs] == ["default"]
    assert all("async_chunk" not in body for body in server.bodies)
    assert any("--modes does not apply" in line for line in said)


async def test_open_loop_sends_without_waiting() -> None:
    server = Server()
    async with server.client() as client:
        run = await run_open(
            client,
            Target(url="http://test"),
            PROMPTS,
            mode="m",
            rate_rps=1e4,
            num_requests=5,
            seed=1,
            on_result=lambda _: None,
        )
    assert (run.concurrency, run.rate_rps, len(run.results)) == (None, 1e4, 5)
    assert all(not r.error for r in run.results)


@pytest.mark.parametrize(
    "fields", [{"response_format": "wav"}, {"stream_format": "sse"}, {"endpoint": "chat"}]
)
async def test_wav_and_chat_are_measured_alike(fields: dict[str, str]) -> None:
    async with Server().client() as client:
        got = await send(client, Target(url="http://test", **fields), "hello", 0)
    assert (got.error, got.audio_s) == ("", 1.0)
    assert got.ttfp_s is not None and got.rtf == got.e2e_s


async def test_failures_are_results() -> None:
    async with Server().client() as client:
        refused = await send(client, Target(url="http://test"), "fail", 0)
    assert refused.error.startswith("HTTP 429") and refused.ttfp_s is None
    broken = httpx.MockTransport(lambda _: httpx.Response(200, content=b""))
    async with httpx.AsyncClient(transport=broken) as client:
        assert (await send(client, Target(url="http://test"), "x", 0)).error == "no sound in the answer"


async def test_probe_names_the_url_and_the_remedy() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(ServiceError, match=r"http://test .*cadence serve"):
            await probe(client, "http://test")
    assert ServerInfo("m", "", False).is_cadence is False


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert "unknown mode 'fast'" in run(bench, ["--modes", "fast"]).output
    assert "above zero" in run(bench, ["--concurrency", "0"]).output
    answer = run(bench, ["--url", "http://127.0.0.1:9"])
    assert answer.exit_code == 2 and "No OpenAI-compatible server" in answer.output


def test_prompts_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\n 你好 \n", encoding="utf-8")
    assert load_prompts(file) == ("one", "你好")
    file.write_text("\n")
    with pytest.raises(ConfigError, match="holds no text"):
        load_prompts(file)
    with pytest.raises(ConfigError, match="Cannot read"):
        load_prompts(tmp_path / "absent")
