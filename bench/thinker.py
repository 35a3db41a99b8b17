"""The Thinker beside plain `transformers` generate with a KV cache: same weights, same threads, in turns.

    python bench/thinker.py --json runs/thinker.json
    python bench/thinker.py --models nano --batches 1,8 --threads 2

`mid` is a random model of 12 layers, 1024 wide; `nano` the built-in checkpoint. Every figure is the median
of `--rounds` runs, the sides taking turns in one process. Decode is timed as the difference between answers
of N + 1 ids and of one. `first codes` is the time from submission until a new speech request has the codes
of its first chunk, alone and while seven others stream. `stall` is a stream's longest wait for its next id
while another's prompt of 240 ids is read, in one step and in parts that fit `prefill_stall_s`. Without
`transformers` installed its side is left out and the report says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from thinker_models import SIZES, random_model, reference_model
from torch import Tensor

import cadence
from cadence.bench.stage import machine
from cadence.config import ThinkerConfig
from cadence.models.step_audio import StepAudio, load_step_audio
from cadence.text import Tokenizer
from cadence.thinker.core import CoreLimits, ThinkerCore
from cadence.types import ChunkSchedule, Prompt, SamplingParams, StepOutput, ThinkerRequest

NANO = Path(cadence.__file__).parent / "nano"
TEXT = "The first sound should come long before the last word has been thought of."
STREAMS = 7
LONG_PROMPT = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One batch size; tokens a second over the whole batch, of ours and of transformers (None: skipped).

    `vs_one_at_a_time` compares with transformers at batch 1, `vs_batched` with its own batch.
    """

    batch: int
    prefill: float
    decode: float
    transformers_prefill: float | None = None
    transformers_decode: float | None = None
    prefill_ratio: float | None = None
    vs_batched: float | None = None
    vs_one_at_a_time: float | None = None
    same_ids: bool | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of both sides."""

    num_prompt: int
    num_tokens: int
    rounds: int


# ------------------------------------------------------------------ runs
def make_core(
    model: StepAudio, tokenizer: Tokenizer, num_ids: int, *, prefill_stall_s: float = math.inf
) -> ThinkerCore:
    """An engine with room for sixteen answers; nothing is reused from one run to the next."""
    limits = CoreLimits(
        num_ids=num_ids,
        eos_ids=tokenizer.special.stop_ids,
        max_model_len=2048,
        kv_cache_tokens=16 * 1024,
        tts_max_wait=8,
        reuse_prefixes=False,
        prefill_stall_s=prefill_stall_s,
    )
    return ThinkerCore(model, tokenizer.special, limits)


def prompts(batch: int, length: int) -> list[list[int]]:
    """Ids of text, the same for the same batch."""
    rng = random.Random(batch)
    return [[rng.randrange(256) for _ in range(length)] for _ in range(batch)]


def ask(core: ThinkerCore, ids: list[int], name: str, max_tokens: int, say: list[int] | None = None) -> None:
    """Queue one greedy request."""
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    request = ThinkerRequest(
        request_id=name,
        prompt=Prompt(ids=tuple(ids)),
        sampling=sampling,
        forced_text_ids=None if say is None else tuple(say),
    )
    core.add(request, core.check(request))


def write_ours(core: ThinkerCore, batch: list[list[int]], count: int) -> list[list[int]]:
    """Greedy answers of `count` ids."""
    answers: dict[str, list[int]] = {}
    for index, ids in enumerate(batch):
        ask(core, ids, str(index), count)
    while core.has_work:
        for name, item in core.step():
            if not isinstance(item, StepOutput):
                raise item
            answers.setdefault(name, []).extend(item.ids)
    return [answers[str(index)] for index in range(len(batch))]


@torch.inference_mode()
def write_reference(model: Any, batch: list[list[int]], count: int) -> list[list[int]]:
    """The same of transformers."""
    ids = torch.tensor(batch)
    found: Tensor = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        use_cache=True,
    )
    return found[:, ids.shape[1] :].tolist()


def timed(function: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    """Seconds, and what came of it."""
    begin = time.perf_counter()
    answers = function()
    return time.perf_counter() - begin, answers


def measure_batch(core: ThinkerCore, reference: Any, size: int, load: Load) -> Row:
    """Both sides at one batch size."""
    batch, steps = prompts(size, load.num_prompt), load.num_tokens
    sides: dict[str, Callable[[int], list[list[int]]]] = {"ours": lambda n: write_ours(core, batch, n)}
    if reference is not None:
        sides["theirs"] = lambda n: write_reference(reference, batch, n)
    first: dict[str, list[float]] = {name: [] for name in sides}
    rest: dict[str, list[float]] = {name: [] for name in sides}
    same = True
    for write in sides.values():
        write(2)  # warm
    for _ in range(load.rounds):
        answers = []
        for name, write in sides.items():
            short, _ = timed(lambda write=write: write(1))  # type: ignore[misc]
            whole, found = timed(lambda write=write: write(steps + 1))  # type: ignore[misc]
            first[name].append(short)
            rest[name].append(whole - short)
            answers.append(found)
        same = same and all(found == answers[0] for found in answers)
    prefill = {name: size * load.num_prompt / statistics.median(times) for name, times in first.items()}
    decode = {name: size * steps / statistics.median(times) for name, times in rest.items()}
    if reference is None:
        return Row(batch=size, prefill=prefill["ours"], decode=decode["ours"])
    return Row(
        batch=size,
        prefill=prefill["ours"],
        decode=decode["ours"],
        transformers_prefill=prefill["theirs"],
        transformers_decode=decode["theirs"],
        prefill_ratio=prefill["ours"] / prefill["theirs"],
        vs_batched=decode["ours"] / decode["theirs"],
        same_ids=same,
    )


def measure_first_codes(core: ThinkerCore, tokenizer: Tokenizer, rounds: int) -> dict[str, float]:
    """Time to the codes of a first chunk, alone and beside seven streams, in turns; and a stream's longest
    wait for its next id because a newcomer's prompt was read."""
    text, schedule = tokenizer.encode(TEXT), ChunkSchedule()
    wanted = schedule.first + schedule.lookahead
    times: dict[int, list[float]] = {0: [], STREAMS: []}
    for turn in range(rounds + 1):
        for others in (0, STREAMS):
            for index in range(others):
                ask(core, prompts(1, 60 + index)[0], f"stream {index}", 900, text * 8)
            for _ in range(8 if others else 0):
                core.step()
            begin, num_codes = time.perf_counter(), 0
            ask(core, prompts(1, 64)[0], "new", 900, text)
            while num_codes < wanted:
                for name, item in core.step():
                    if name == "new" and isinstance(item, StepOutput):
                        num_codes += sum(map(tokenizer.special.is_code, item.ids))
            if turn:  # the first turn warms
                times[others].append(time.perf_counter() - begin)
            for name in ["new", *(f"stream {index}" for index in range(others))]:
                core.abort(name)
    alone, beside = statistics.median(times[0]), statistics.median(times[STREAMS])
    return {"alone_s": alone, "with_7_streams_s": beside, "ratio": beside / alone}


def measure_stall(cores: dict[str, ThinkerCore], text: list[int], rounds: int) -> dict[str, float]:
    """A stream's longest step while another's prompt is read; the cores take turns."""
    longest: dict[str, list[float]] = {name: [] for name in cores}
    for turn in range(rounds + 1):
        for name, core in cores.items():
            ask(core, prompts(1, 40)[0], "stream", 900, text * 8)
            for _ in range(6):
                core.step()
            ask(core, prompts(1, LONG_PROMPT)[0], "long", 1)
            steps = []
            while "long" in core._sequences:
                begin = time.perf_counter()
                core.step()
                steps.append(time.perf_counter() - begin)
            core.abort("stream")
            if turn:  # the first turn warms, and teaches the budget
                longest[name].append(max(steps))
    return {name: statistics.median(times) for name, times in longest.items()}


# ------------------------------------------------------------------ report
def table(rows: list[Row]) -> str:
    """Markdown; the ratios are ours / theirs."""
    lines = [
        "| batch | prefill tok/s | transformers | ratio | decode tok/s | transformers | "
        "ratio | ratio to one at a time | same ids |",
        "| --- " * 9 + "|",
    ]

    def number(value: float | None, digits: int = 0) -> str:
        return "skipped" if value is None else f"{value:.{digits}f}"

    for row in rows:
        cells = [
            str(row.batch),
            number(row.prefill),
            number(row.transformers_prefill),
            number(row.prefill_ratio, 2),
            number(row.decode),
            number(row.transformers_decode),
            number(row.vs_batched, 2),
            number(row.vs_one_at_a_time, 2),
            "skipped" if row.same_ids is None else "yes" if row.same_ids else "no",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def against_one(rows: list[Row]) -> list[Row]:
    """Fill in the ratio to transformers answering one request after the other."""
    one = next((row.transformers_decode for row in rows if row.batch == 1), None)
    if one is None:
        return rows
    return [Row(**{**asdict(row), "vs_one_at_a_time": row.decode / one}) for row in rows]


def targets(rows: list[Row], first_codes: dict[str, float]) -> list[dict[str, Any]]:
    """What was aimed at, and whether it was reached."""
    by_batch = {row.batch: row for row in rows}
    found: list[tuple[str, float | None, float, bool]] = []
    if 1 in by_batch:
        found.append(("decode, batch 1: ours / transformers", by_batch[1].vs_batched, 1.3, True))
    if 8 in by_batch:
        found.append(("decode, batch 8: ours / one at a time", by_batch[8].vs_one_at_a_time, 4.0, True))
    found.append(("first codes beside 7 streams / alone", first_codes["ratio"], 2.0, False))
    return [
        {
            "name": name,
            "value": value,
            "target": target,
            "met": None if value is None else (value >= target) == at_least,
        }
        for name, value, target, at_least in found
    ]


def measure_model(name: str, batches: list[int], load: Load, weights: str) -> dict[str, Any]:
    """All figures of one model."""
    tokenizer = Tokenizer.open(NANO)
    if name == "nano":
        model = load_step_audio(NANO, device=torch.device("cpu"), dtype="float32")
    else:
        model = random_model(name, tokenizer.num_ids)
    reference = reference_model(model) if find_spec("transformers") else None
    model.prepare(weights)
    core = make_core(model, tokenizer, model.config.vocab_size)
    rows = against_one([measure_batch(core, reference, size, load) for size in batches])
    first_codes = measure_first_codes(core, tokenizer, load.rounds)
    in_parts = make_core(
        model, tokenizer, model.config.vocab_size, prefill_stall_s=ThinkerConfig().prefill_stall_s
    )
    stall = measure_stall(
        {"whole_prompt_s": core, "in_parts_s": in_parts}, tokenizer.encode(TEXT), load.rounds
    )
    aims = targets(rows, first_codes)
    print(f"\n{name}: {model.config.num_hidden_layers} layers, {model.config.hidden_size} wide")
    print(table(rows))
    print("first codes: " + ", ".join(f"{key} {value:.3f}" for key, value in first_codes.items()))
    print("stall: " + ", ".join(f"{key} {value:.3f}" for key, value in stall.items()))
    for aim in aims:
        value = "skipped" if aim["value"] is None else f"{aim['value']:.2f}"
        print(f"- {aim['name']}: {value} (target {aim['target']}, met: {aim['met']})")
    return {
        "model": name,
        "rows": [asdict(row) for row in rows],
        "first_codes": first_codes,
        "stall": stall,
        "targets": aims,
    }


def _transformers() -> str | None:
    return importlib.metadata.version("transformers") if find_spec("transformers") else None


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="mid,nano", help=f"of {', '.join([*SIZES, 'nano'])}")
    parser.add_argument("--batches", default="1,2,4,8,16")
    parser.add_argument("--prompt", type=int, default=32, help="ids of each prompt")
    parser.add_argument("--tokens", type=int, default=32, help="ids of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", choices=["plain", "int8"], default="plain", help="ours; int8: not exact")
    parser.add_argument("--json", type=Path, help="write every figure here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if not find_spec("transformers"):
        print("transformers is not installed: its side is skipped")
    load = Load(options.prompt, options.tokens, options.rounds)
    batches = [int(size) for size in options.batches.split(",")]
    models = [measure_model(name, batches, load, options.weights) for name in options.models.split(",")]
    if options.json:
        report = {
            "bench": "thinker",
            "machine": machine() | {"transformers": _transformers()},
            "settings": {**asdict(load), "weights": options.weights},
            "models": models,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
