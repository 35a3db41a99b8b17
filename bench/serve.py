"""First sound, real-time factor and continuity of a real server against the number of callers.

    python bench/serve.py --json runs/serve.json                     # the built-in model, started for this
    python bench/serve.py --url http://127.0.0.1:8092                # a server that runs already
    python bench/serve.py --concurrency 4 -- --threads 1             # flags behind -- go to `cadence serve`

Callers send their next request when the last one ended (closed loop), over HTTP on this machine, bare PCM.
A player that starts with the first sound and never pauses by itself is simulated at the client. `continuity`
of an answer is the share of its listening time that was sound; an answer is `continuous` when its stalls add
up to at most 0.1 s. `spread` is how far the least continuous stream lies below the most continuous one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import httpx

from cadence.bench.client import RequestResult, ServerInfo, Target, probe, send
from cadence.bench.data import PROMPTS
from cadence.bench.load import run_closed
from cadence.bench.report import GAP_S, percentile

START_S = 120.0
ONE_CALLER = {"TTFP at 1 caller, s": 0.150, "RTF at 1 caller": 0.3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number of callers. Times in seconds; `audio_per_s` over all callers together."""

    concurrency: int
    num_ok: int
    num_failed: int
    ttfp_p50_s: float
    ttfp_p95_s: float
    rtf_p50: float
    rtf_p95: float
    audio_per_s: float
    continuous: float
    continuity_min: float
    spread: float
    worst_stall_s: float


def continuity(result: RequestResult) -> float:
    """Share of the listening time that was sound, 0 to 1."""
    return result.audio_s / (result.audio_s + result.underrun_s)


def summarise(concurrency: int, results: Sequence[RequestResult], wall_s: float) -> Row:
    """Figures of one number of callers.

    Raises:
        SystemExit: no request succeeded.
    """
    ok = [result for result in results if not result.error]
    if not ok:
        raise SystemExit(f"every request failed: {results[0].error}")
    ttfp = [result.ttfp_s for result in ok if result.ttfp_s is not None]
    rtf = [result.rtf for result in ok if result.rtf is not None]
    shares = [continuity(result) for result in ok]
    return Row(
        concurrency=concurrency,
        num_ok=len(ok),
        num_failed=len(results) - len(ok),
        ttfp_p50_s=statistics.median(ttfp),
        ttfp_p95_s=percentile(ttfp, 0.95),
        rtf_p50=statistics.median(rtf),
        rtf_p95=percentile(rtf, 0.95),
        audio_per_s=sum(result.audio_s for result in ok) / wall_s,
        continuous=sum(result.underrun_s <= GAP_S for result in ok) / len(ok),
        continuity_min=min(shares),
        spread=1 - min(shares) / max(shares),
        worst_stall_s=max(result.underrun_s for result in ok),
    )


def targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What was aimed at for the built-in model on two cores, and whether it was reached."""
    by_load = {row.concurrency: row for row in rows}
    found: list[tuple[str, float, float, bool]] = []
    if one := by_load.get(1):
        values = (one.ttfp_p50_s, one.rtf_p50)
        found += [
            (name, value, aim, False) for (name, aim), value in zip(ONE_CALLER.items(), values, strict=True)
        ]
    if four := by_load.get(4):
        found.append(("share of continuous answers, 4 callers", four.continuous, 1.0, True))
        found.append(("spread of continuity, 4 callers", four.spread, 0.1, False))
    return [
        {"name": name, "value": value, "target": aim, "met": value >= aim if at_least else value <= aim}
        for name, value, aim, at_least in found
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| callers | TTFP median | TTFP 95 % | RTF median | audio s/s | continuous | least continuity "
        "| spread | worst stall |",
        "| --- " * 9 + "|",
    ]
    for row in rows:
        failed = f" ({row.num_failed} failed)" if row.num_failed else ""
        lines.append(
            f"| {row.concurrency}{failed} | {row.ttfp_p50_s * 1e3:.0f} ms | {row.ttfp_p95_s * 1e3:.0f} ms | "
            f"{row.rtf_p50:.2f} | {row.audio_per_s:.1f} | {row.continuous:.0%} | {row.continuity_min:.0%} | "
            f"{row.spread:.0%} | {row.worst_stall_s * 1e3:.0f} ms |"
        )
    return "\n".join(lines)


# ------------------------------------------------------------------ runs
@contextlib.contextmanager
def started(arguments: Sequence[str]) -> Iterator[str]:
    """Start `cadence serve` on a free port, yield its URL once it is ready, stop it afterwards."""
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    code = "from cadence.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", str(port), *arguments]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            _await_ready(server, url, log)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(timeout=60)
            except subprocess.TimeoutExpired:
                server.kill()


def _await_ready(server: subprocess.Popen[bytes], url: str, log: IO[str]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if server.poll() is not None:
            log.seek(0)
            raise SystemExit(f"the server did not start: {log.read()[-2000:]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2).is_success:
                return
        time.sleep(0.25)
    raise SystemExit(f"the server was not ready after {START_S:.0f} s")


async def measure(
    url: str, loads: Sequence[int], num_requests: int, fields: Mapping[str, Any]
) -> tuple[ServerInfo, list[Row], list[dict[str, Any]]]:
    """Each number of callers in turn, the server warm."""
    rows, requests = [], []
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        info = await probe(client, url)
        target = Target(url=url, model=info.model, extra={"seed": 0, **fields})
        for load in loads:
            await asyncio.gather(*(send(client, target, PROMPTS[i % len(PROMPTS)], i) for i in range(load)))
            run = await run_closed(
                client,
                target,
                PROMPTS,
                mode="default",
                concurrency=load,
                num_requests=max(num_requests, 2 * load),
                on_result=lambda result: print(result.error, file=sys.stderr) if result.error else None,
            )
            rows.append(summarise(load, run.results, run.wall_s))
            requests += [{"concurrency": load, **asdict(result)} for result in run.results]
    return info, rows, requests


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a running server; default: one is started")
    parser.add_argument("--concurrency", default="1,2,4,8")
    parser.add_argument("--num-requests", type=int, default=10, help="per number of callers, at least 2 each")
    parser.add_argument("--voice", default="default")
    parser.add_argument("--max-tokens", type=int, help="ids per answer; random weights know no end")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("serve", nargs="*", help="behind --: model and flags of the server that is started")
    options = parser.parse_args(arguments)
    loads = [int(load) for load in options.concurrency.split(",")]
    fields: dict[str, Any] = {"voice": options.voice}
    if options.max_tokens:
        fields["max_new_tokens"] = options.max_tokens
    with contextlib.nullcontext(options.url) if options.url else started(options.serve) as url:
        info, rows, requests = asyncio.run(measure(url.rstrip("/"), loads, options.num_requests, fields))
    print(f"{info.model}, Cadence {info.version}" if info.is_cadence else info.model)
    print(table(rows))
    aims = targets(rows)
    for aim in aims:
        print(f"- {aim['name']}: {aim['value']:.3f} (target {aim['target']}, met: {aim['met']})")
    if options.json:
        report = {
            "bench": "serve",
            "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "server": {"model": info.model, "version": info.version, "arguments": options.serve},
            "rows": [asdict(row) for row in rows],
            "targets": aims,
            "requests": requests,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
