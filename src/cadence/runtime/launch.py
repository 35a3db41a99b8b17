"""From a configuration to running stages: everything an engine is made of."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from cadence.config import ServeConfig
from cadence.errors import CheckpointError
from cadence.hub import model_aliases, resolve_checkpoint
from cadence.prompt import PromptBuilder, detect_variant
from cadence.runtime.client import ThinkerClient, Token2WavClient
from cadence.runtime.sampling_defaults import sampling_defaults
from cadence.runtime.stages import Progress, Stage, StageSpec, load_stage
from cadence.runtime.status import StageStatus
from cadence.runtime.supervisor import Supervisor
from cadence.runtime.threads import num_cores, split_threads
from cadence.text import Tokenizer
from cadence.thinker.base import Thinker
from cadence.token2wav.base import Token2Wav
from cadence.types import ModelInfo, SamplingParams

__all__ = ["Launched", "launch", "start_stages"]

_DEFAULT_POSITIONS = 16384
_KV_BLOCK = 16  # the local thinker hands its memory out in blocks of so many tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The parts of an engine, running. `monitors` tells the state of stages that live in processes;
    `single_sentences`, that the checkpoint wants its texts one sentence at a time."""

    thinker: Thinker
    token2wav: Token2Wav | None
    tokenizer: Tokenizer
    prompt_builder: PromptBuilder
    info: ModelInfo
    default_sampling: Mapping[str, SamplingParams]
    monitors: Mapping[str, Callable[[], StageStatus]]
    single_sentences: bool


async def launch(config: ServeConfig, progress: Progress) -> Launched:
    """Resolve the checkpoint and start its stages at the same time; returns when all are warm.

    Raises:
        ConfigError: the configuration or the checkpoint cannot be served.
        StageFailed: a stage's process died while it loaded. Nothing is left running.
    """
    thinker_only = config.engine.thinker_only
    root = await asyncio.to_thread(
        resolve_checkpoint, config.model, thinker_only=thinker_only, progress=progress
    )
    model_config = _read(root / "config.json")
    tokenizer = await asyncio.to_thread(Tokenizer.open, root)
    max_model_len = _max_model_len(config, model_config)
    prompt_builder = PromptBuilder(
        tokenizer,
        detect_variant(config.model, root.name),
        num_mels=model_config.get("audio_encoder_config", {}).get("n_mels", 128),
        max_model_len=max_model_len,
    )
    generation = _read(root / "generation_config.json")
    defaults = sampling_defaults(generation, config.thinker.default_sampling)
    single_sentences = generation.get("tts_single_sentences", False)
    if not isinstance(single_sentences, bool):
        raise CheckpointError("generation_config.json: tts_single_sentences must be true or false.")
    specs = _specs(root, config)
    stages, monitors = await start_stages(specs, in_process=config.engine.in_process, progress=progress)
    token2wav = cast("Token2Wav | None", stages.get("token2wav"))
    names = (*config.served_model_names, *model_aliases(config.model))
    return Launched(
        thinker=cast(Thinker, stages["thinker"]),
        token2wav=token2wav,
        tokenizer=tokenizer,
        prompt_builder=prompt_builder,
        info=ModelInfo(
            model_id=names[0],
            aliases=tuple(dict.fromkeys(names[1:])),
            max_model_len=max_model_len,
            voices=await token2wav.voices() if token2wav is not None else (),
            can_speak=token2wav is not None,
            random_weights=bool(model_config.get("cadence_sample", False)),
            thinks=prompt_builder.variant == "think",
            created=int(time.time()),
        ),
        default_sampling=defaults,
        monitors=monitors,
        single_sentences=single_sentences,
    )


def _specs(root: Path, config: ServeConfig) -> list[StageSpec]:
    """The stages to start, the machine's cores shared out between them."""
    can_speak = not config.engine.thinker_only
    threads = split_threads(
        num_cores(), config.thinker.threads, config.token2wav.threads, can_speak=can_speak
    )
    specs = [StageSpec.thinker(root, replace(config.thinker, threads=threads[0]))]
    if can_speak:
        specs.append(StageSpec.token2wav(root, replace(config.token2wav, threads=threads[1])))
    return specs


async def start_stages(
    specs: list[StageSpec], *, in_process: bool, progress: Progress
) -> tuple[dict[str, Stage], dict[str, Callable[[], StageStatus]]]:
    """Start stages at the same time; when one cannot start, stop the others and raise its error."""
    start = _start_here if in_process else _start_child
    tasks = {spec.name: asyncio.create_task(start(spec, _titled(spec.name, progress))) for spec in specs}
    try:
        await asyncio.gather(*tasks.values())
    except BaseException:
        for task in tasks.values():
            task.cancel()
        for started in await asyncio.gather(*tasks.values(), return_exceptions=True):
            if not isinstance(started, BaseException):
                await started[0].aclose()
        raise
    results = {name: task.result() for name, task in tasks.items()}
    stages = {name: stage for name, (stage, _) in results.items()}
    monitors = {name: monitor for name, (_, monitor) in results.items() if monitor is not None}
    return stages, monitors


async def _start_here(spec: StageSpec, progress: Progress) -> tuple[Stage, None]:
    return await asyncio.to_thread(load_stage, spec, progress), None


async def _start_child(spec: StageSpec, progress: Progress) -> tuple[Stage, Callable[[], StageStatus]]:
    supervisor = Supervisor(spec, progress=progress)
    await supervisor.start()
    client = ThinkerClient(supervisor) if spec.name == "thinker" else Token2WavClient(supervisor)
    return client, supervisor.status


def _titled(name: str, progress: Progress) -> Progress:
    return lambda text, fraction: progress(f"{name}: {text}", fraction)


def _max_model_len(config: ServeConfig, model_config: Mapping[str, Any]) -> int:
    """Ids in prompt and answer: the model's positions, or less by flag or by the memory for their keys."""
    text = model_config.get("text_config", {})
    kv_cache_tokens = config.thinker.kv_cache_tokens or 0
    limits = [
        text.get("max_position_embeddings") or _DEFAULT_POSITIONS,
        text.get("max_seq_len"),
        config.thinker.max_model_len,
        kv_cache_tokens - kv_cache_tokens % _KV_BLOCK,
    ]
    return min(int(limit) for limit in limits if limit)


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of the checkpoint; {} when there is none."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path.name} cannot be read as JSON: {error}.", param=path.name) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path.name} must hold an object.", param=path.name)
    return data
