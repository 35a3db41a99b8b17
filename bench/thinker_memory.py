"""Peak memory of loading a Thinker, and of its first answer, against the size of its weights.

    python bench/thinker_memory.py CHECKPOINT [--dtype bfloat16] [--no-answer]

Resident memory counts anonymous and file-mapped pages alike, so mapped weights that were touched count.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import torch

from cadence.config import ThinkerConfig
from cadence.thinker.local import LocalThinker
from cadence.types import Prompt, SamplingParams, ThinkerRequest

GB = 1e9


def resident_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS now, VmHWM the highest so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}; this script needs Linux")


async def answer(thinker: LocalThinker, max_tokens: int) -> float:
    """Seconds that a short greedy answer takes; it touches every weight of the decoder."""
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    request = ThinkerRequest(request_id="memory", prompt=Prompt(ids=tuple(range(32, 48))), sampling=sampling)
    begin = time.perf_counter()
    async for _ in thinker.generate(request):
        pass
    return time.perf_counter() - begin


def report(what: str, seconds: float, before: int, weights: int) -> None:
    """Print how long something took and the highest memory so far."""
    peak = resident_bytes("VmHWM")
    print(
        f"{what}: {seconds:.1f} s, peak {peak / GB:.2f} GB ({before / GB:.2f} before), "
        f"{peak / weights:.3f} x weights"
    )


def main() -> None:
    """Parse, load, answer, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--max-tokens", type=int, default=4)
    parser.add_argument("--no-answer", action="store_true")
    options = parser.parse_args()
    before = resident_bytes("VmRSS")
    begin = time.perf_counter()
    config = ThinkerConfig(device="cpu", dtype=options.dtype, max_model_len=4096, kv_cache_tokens=4096)
    thinker = LocalThinker.load(options.checkpoint, config)
    seconds = time.perf_counter() - begin
    model = thinker.core.runner.model
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    name = str(model.dtype).removeprefix("torch.")
    print(f"weights {weights / GB:.2f} GB in {name}, {torch.get_num_threads()} threads")
    report("load", seconds, before, weights)
    if not options.no_answer:
        took = asyncio.run(answer(thinker, options.max_tokens))
        report(f"answer of {options.max_tokens} ids", took, before, weights)
    asyncio.run(thinker.aclose())


if __name__ == "__main__":
    main()
