"""The stage YAML of vLLM-Omni, both schemas, as our configuration.

    stage_args:   the old schema: what each stage is, and its engine_args
    stages:       the new schema: knobs by stage id; `pipeline` says which stages there are

Stage 0 is the Thinker, stage 1 is Token2Wav. What is taken over: async_chunk, devices, max_num_seqs
(runtime.max_batch_size in the old schema), max_num_batched_tokens, max_model_len, dtype and the Thinker's
default_sampling_params. Keys about things that Cadence does not have (tensor parallelism, worker
classes, memory shares, ...) are set aside and named once. Anything else is an error.

`max_num_seqs` is honoured as what it says: so many requests are computed at once. Files made for an
engine that could only do one say 1; a note tells what to change.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cadence.config import EngineConfig, ServeConfig, ThinkerConfig, Token2WavConfig
from cadence.deploy.keys import ENGINE_KEYS, OLD_STAGE_KEYS, OLD_TOP_KEYS, STAGE_KEYS, TOP_KEYS
from cadence.deploy.sections import Notes, Section, read_yaml
from cadence.errors import ConfigError

__all__ = ["load_deploy_config"]

log = logging.getLogger(__name__)

_THINKER_STAGES = ("thinker", "step_audio2_thinker")
_PIPELINES = ("step_audio_2", "step_audio_2_asr")
_DTYPES = ("auto", "float32", "float", "bfloat16", "float16", "half")
_DTYPE_NAMES = {"float": "float32", "half": "float16"}
_MAX_DEPTH = 8  # of base_config files
# The documented commands name these files inside vLLM-Omni's source; without it, their meaning is known.
_WELL_KNOWN = {"step_audio_2.yaml": False, "step_audio_2_async_chunk.yaml": True}


@dataclass(slots=True)
class _Stage:
    """One stage's settings as read."""

    devices: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    dtype: str | None = None
    async_chunk: bool | None = None
    enforce_eager: bool | None = None
    sampling: dict[str, Any] = field(default_factory=dict)


def load_deploy_config(
    path: Path, *, say: Callable[[str], object] | None = None, has_cuda: bool | None = None
) -> ServeConfig:
    """Read a stage YAML.

    Args:
        path: the file. Two names that the documented commands use need not exist.
        say: gets each note, one line; None = logged as warnings.
        has_cuda: whether `devices` can be followed; None = look.

    Returns:
        A ServeConfig without a model, to lay flags over.

    Raises:
        ConfigError: names file, key path, what was expected and what was found.
    """
    say = say or log.warning
    if not path.exists() and path.name in _WELL_KNOWN:
        say(f"{path} is not there; its well-known settings are used.")
        return ServeConfig(model="", engine=EngineConfig(async_chunk=_WELL_KNOWN[path.name]))
    cuda = _cuda_is_here() if has_cuda is None else has_cuda
    notes = Notes()
    data = _inherit(path, cuda)
    top = Section(data, path, notes)
    read = _read_old if "stage_args" in data else _read_new
    engine, stages = read(top)
    for stage in stages.values():
        if stage.async_chunk is not None:
            engine = replace(engine, async_chunk=engine.async_chunk and stage.async_chunk)
    config = ServeConfig(
        model="",
        engine=engine,
        thinker=_thinker(stages.get(0, _Stage()), cuda, notes),
        token2wav=_token2wav(stages.get(1, _Stage()), cuda),
    )
    _note_devices(stages, cuda, notes)
    for line in notes.lines(path):
        say(line)
    return config


# ------------------------------------------------------------------ the two schemas
def _read_old(top: Section) -> tuple[EngineConfig, dict[int, _Stage]]:
    async_chunk = top.boolean("async_chunk")
    stages: dict[int, _Stage] = {}
    speaks = False
    for section in top.sections("stage_args"):
        stage_id = _stage_id(section, stages)
        section.choice("stage_type", ["llm"])
        engine_args = section.section("engine_args")
        kind = engine_args.choice("model_stage", [*_THINKER_STAGES, "token2wav"])
        is_thinker = kind in _THINKER_STAGES if kind else stage_id == 0
        if is_thinker != (stage_id == 0):
            raise engine_args.error("model_stage", "thinker in stage 0, token2wav in stage 1", kind)
        speaks = speaks or not is_thinker
        stage = _Stage()
        runtime = section.section("runtime")
        stage.devices = _devices(runtime)
        stage.max_num_seqs = runtime.integer("max_batch_size", minimum=1)
        runtime.set_aside(["process", "num_replicas", "env"])
        runtime.end()
        _read_engine(engine_args, stage)
        engine_args.end()
        _read_sampling(section, stage, is_thinker)
        section.set_aside(OLD_STAGE_KEYS)
        section.end()
        stages[stage_id] = stage
    top.set_aside(OLD_TOP_KEYS)
    top.end()
    if 0 not in stages:
        raise top.error("stage_args", "a Thinker as stage 0", sorted(stages))
    return EngineConfig(async_chunk=bool(async_chunk), thinker_only=not speaks), stages


def _read_new(top: Section) -> tuple[EngineConfig, dict[int, _Stage]]:
    async_chunk = top.boolean("async_chunk")
    pipeline = top.choice("pipeline", _PIPELINES)
    dtype = _dtype(top)
    stages: dict[int, _Stage] = {}
    for section in top.sections("stages"):
        stage_id = _stage_id(section, stages)
        stage = _Stage()
        stage.devices = _devices(section)
        stage.async_chunk = section.boolean("async_chunk")
        _read_engine(section, stage)
        runtime = section.section("runtime")
        stage.devices = stage.devices or _devices(runtime)
        runtime.set_aside(["num_replicas", "env"])
        runtime.end()
        for name in ("engine_args", "engine_extras"):
            nested = section.section(name)
            _read_engine(nested, stage)
            nested.end()
        stage.dtype = stage.dtype or dtype
        _read_sampling(section, stage, stage_id == 0)
        section.set_aside(STAGE_KEYS)
        section.end()
        stages[stage_id] = stage
    for stage_id in (0, 1):
        stages.setdefault(stage_id, _Stage(dtype=dtype))
    top.set_aside(TOP_KEYS)
    top.end()
    thinker_only = pipeline == "step_audio_2_asr"
    return EngineConfig(async_chunk=async_chunk is not False, thinker_only=thinker_only), stages


def _stage_id(section: Section, stages: Mapping[int, _Stage]) -> int:
    stage_id = section.take("stage_id")
    if stage_id not in (0, 1) or isinstance(stage_id, bool):
        raise section.error("stage_id", "0 (Thinker) or 1 (Token2Wav)", stage_id)
    if stage_id in stages:
        raise section.error("stage_id", "each stage once", stage_id)
    return int(stage_id)


def _read_engine(section: Section, stage: _Stage) -> None:
    """Engine arguments, wherever a schema puts them; values already read stay unless given here."""
    stage.max_num_seqs = section.integer("max_num_seqs", minimum=1) or stage.max_num_seqs
    stage.max_num_batched_tokens = (
        section.integer("max_num_batched_tokens", minimum=1) or stage.max_num_batched_tokens
    )
    stage.max_model_len = section.integer("max_model_len", minimum=1) or stage.max_model_len
    stage.dtype = _dtype(section) or stage.dtype
    eager = section.boolean("enforce_eager")
    stage.enforce_eager = stage.enforce_eager if eager is None else eager
    section.set_aside(ENGINE_KEYS)


def _read_sampling(section: Section, stage: _Stage, is_thinker: bool) -> None:
    """The Thinker's defaults; Token2Wav's are placeholders that its engine needed."""
    if not is_thinker:
        section.set_aside(["default_sampling_params"], of="Token2Wav")
        return
    given = section.section("default_sampling_params")
    values: dict[str, Any] = {
        "temperature": given.number("temperature", minimum=0.0, maximum=10.0),
        "top_p": given.number("top_p", minimum=1e-6, maximum=1.0),
        "top_k": given.integer("top_k", minimum=-1),
        "min_p": given.number("min_p", minimum=0.0, maximum=1.0),
        "repetition_penalty": given.number("repetition_penalty", minimum=1e-2, maximum=10.0),
        "presence_penalty": given.number("presence_penalty", minimum=-2.0, maximum=2.0),
        "frequency_penalty": given.number("frequency_penalty", minimum=-2.0, maximum=2.0),
        "seed": given.integer("seed"),
        "max_tokens": given.integer("max_tokens", minimum=1),
        "min_tokens": given.integer("min_tokens", minimum=0),
        "ignore_eos": given.boolean("ignore_eos"),
        "stop": _items(given, "stop", str),
        "stop_token_ids": _items(given, "stop_token_ids", int),
    }
    given.set_aside(["detokenize", "skip_special_tokens", "spaces_between_special_tokens"])
    given.end()
    stage.sampling = {key: value for key, value in values.items() if value is not None}


def _items(section: Section, key: str, kind: type) -> tuple[Any, ...] | None:
    value = section.take(key)
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    if not all(type(item) is kind for item in items):
        raise section.error(key, f"a list of {kind.__name__}", value)
    return tuple(items)


def _dtype(section: Section) -> str | None:
    name = section.choice("dtype", _DTYPES)
    return _DTYPE_NAMES.get(name, name) if name else None


def _devices(section: Section) -> str | None:
    value = section.take("devices")
    if value is None:
        return None
    if not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", str(value)) or isinstance(value, bool):
        raise section.error("devices", 'device numbers such as "0" or "0,1"', value)
    return str(value)


# ------------------------------------------------------------------ to our configuration
def _thinker(stage: _Stage, cuda: bool, notes: Notes) -> ThinkerConfig:
    given: dict[str, Any] = {
        "device": _device(stage, cuda),
        "dtype": stage.dtype,
        "max_num_seqs": stage.max_num_seqs,
        "max_num_batched_tokens": stage.max_num_batched_tokens,
        "max_model_len": stage.max_model_len,
        "enforce_eager": stage.enforce_eager,
    }
    if stage.max_num_seqs == 1:
        notes.sentences.append(
            "The Thinker's max_num_seqs is 1: requests are computed one after the other. Leave it out to "
            f"compute up to {ThinkerConfig().max_num_seqs} at once."
        )
    return ThinkerConfig(
        **{key: value for key, value in given.items() if value is not None}, default_sampling=stage.sampling
    )


def _token2wav(stage: _Stage, cuda: bool) -> Token2WavConfig:
    given: dict[str, Any] = {
        "device": _device(stage, cuda),
        "dtype": stage.dtype,
        "max_num_seqs": stage.max_num_seqs,
        "max_batch_size": stage.max_num_seqs and min(stage.max_num_seqs, Token2WavConfig().max_batch_size),
        "enforce_eager": stage.enforce_eager,
    }
    return Token2WavConfig(**{key: value for key, value in given.items() if value is not None})


def _device(stage: _Stage, cuda: bool) -> str | None:
    """The first of a stage's devices: each of our stages runs on one."""
    return f"cuda:{int(stage.devices.split(',')[0])}" if cuda and stage.devices else None


def _note_devices(stages: Mapping[int, _Stage], cuda: bool, notes: Notes) -> None:
    asked = {i: stage.devices for i, stage in stages.items() if stage.devices}
    if asked and not cuda:
        notes.sentences.append("The file names GPU devices; no CUDA device is here, so they are not used.")
    elif any("," in devices for devices in asked.values()):
        notes.sentences.append("Each stage runs on one device: the first of those listed.")


def _cuda_is_here() -> bool:
    """Whether an NVIDIA driver is in reach, found without loading torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


# ------------------------------------------------------------------ inheritance
def _inherit(path: Path, cuda: bool, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's mapping laid over that of its `base_config`, with the platform's overrides on top."""
    if path.resolve() in above or len(above) >= _MAX_DEPTH:
        raise ConfigError(f"{path}: base_config leads back to itself or is too deep.", param="base_config")
    data = read_yaml(path)
    base = data.pop("base_config", None)
    platforms = data.pop("platforms", None)
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError(
                f"{path}: base_config: expected a file name, found {base!r}.", param="base_config"
            )
        data = _merge(_inherit(path.parent / base, cuda, (*above, path.resolve())), data)
    if platforms is not None and not isinstance(platforms, dict):
        raise ConfigError(f"{path}: platforms: expected a mapping, found {platforms!r}.", param="platforms")
    override = (platforms or {}).get("cuda") if cuda else None
    return _merge(data, override) if isinstance(override, dict) else data


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`: mappings key by key, stage lists by stage_id, the rest replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        elif key in ("stages", "stage_args") and isinstance(old, list) and isinstance(value, list):
            merged[key] = _merge_stages(old, value)
        else:
            merged[key] = value
    return merged


def _merge_stages(old: list[Any], new: list[Any]) -> list[Any]:
    if not all(isinstance(stage, dict) for stage in (*old, *new)):
        return new
    over = {stage.get("stage_id"): stage for stage in new}
    kept = [_merge(stage, over.pop(stage.get("stage_id"), {})) for stage in old]
    return kept + list(over.values())
