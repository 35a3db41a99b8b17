"""The load: closed loop (a fixed number of callers) or open loop (arrivals at a rate)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from cadence.bench.client import RequestResult, Target, send

__all__ = ["Run", "run_closed", "run_open"]

OnResult = Callable[[RequestResult], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured setting. `concurrency` is None for an open loop, `rate_rps` for a closed one."""

    mode: str
    concurrency: int | None
    rate_rps: float | None
    wall_s: float
    results: tuple[RequestResult, ...]


async def run_closed(
    client: httpx.AsyncClient,
    target: Target,
    prompts: Sequence[str],
    *,
    mode: str,
    concurrency: int,
    num_requests: int,
    on_result: OnResult,
) -> Run:
    """`concurrency` callers, each sending its next request when its last one ended."""
    results: list[RequestResult] = []
    todo = iter(range(num_requests))

    async def caller() -> None:
        for index in todo:
            result = await send(client, target, prompts[index % len(prompts)], index % len(prompts))
            results.append(result)
            on_result(result)

    start_s = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(min(concurrency, num_requests))))
    wall_s = time.perf_counter() - start_s
    return Run(mode=mode, concurrency=concurrency, rate_rps=None, wall_s=wall_s, results=tuple(results))


async def run_open(
    client: httpx.AsyncClient,
    target: Target,
    prompts: Sequence[str],
    *,
    mode: str,
    rate_rps: float,
    num_requests: int,
    seed: int,
    on_result: OnResult,
) -> Run:
    """Poisson arrivals of `rate_rps` requests a second, sent whether or not earlier ones ended."""
    draw = random.Random(seed)

    async def arrive(index: int, at_s: float) -> RequestResult:
        await asyncio.sleep(at_s)
        result = await send(client, target, prompts[index % len(prompts)], index % len(prompts))
        on_result(result)
        return result

    arrivals, at_s = [], 0.0
    for index in range(num_requests):
        arrivals.append(arrive(index, at_s))
        at_s += draw.expovariate(rate_rps)
    start_s = time.perf_counter()
    results = await asyncio.gather(*arrivals)
    wall_s = time.perf_counter() - start_s
    return Run(mode=mode, concurrency=None, rate_rps=rate_rps, wall_s=wall_s, results=tuple(results))
