"""LocalThinker: the thread and its asyncio front."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from thinker_kit import Kit, run_all

from cadence.config import ThinkerConfig
from cadence.errors import CheckpointError, ConfigError, InvalidRequest, PromptTooLong, StageFailed
from cadence.thinker import local
from cadence.thinker.local import LocalThinker
from cadence.types import StepOutput, ThinkerRequest
from graph_kit import FakeGraphs

CONFIG = ThinkerConfig(kv_cache_tokens=1024, max_num_batched_tokens=64, max_num_seqs=4, threads=1)


@pytest.fixture(scope="module")
def kit(tiny_checkpoint: Path) -> Kit:
    return Kit(tiny_checkpoint, "cpu")


@pytest.fixture
async def thinker(kit: Kit) -> AsyncIterator[LocalThinker]:
    stage = LocalThinker(kit.core(kv_cache_tokens=1024, max_num_batched_tokens=64, max_num_seqs=4))
    yield stage
    await stage.aclose()


async def read(stage: LocalThinker, request: ThinkerRequest) -> tuple[tuple[int, ...], str | None]:
    outputs = [output async for output in stage.generate(request)]
    assert all(output.finish_reason is None for output in outputs[:-1])
    return tuple(token for output in outputs for token in output.ids), outputs[-1].finish_reason


async def held(stage: LocalThinker) -> float:
    stats = await stage.stats()
    return stats["num_running"] + stats["num_waiting"] + stats["kv_tokens_used"]


async def test_load_reports_progress_and_serves(tiny_checkpoint: Path, kit: Kit) -> None:
    seen: list[float] = []
    stage = LocalThinker.load(tiny_checkpoint, CONFIG, progress=lambda what, share: seen.append(share))
    try:
        assert seen == sorted(seen) and seen[-1] == 1.0
        request = kit.request("x", temperature=0)
        assert await read(stage, request) == run_all(kit.core(), [request])["x"]
        assert (await stage.stats())["kv_tokens_total"] == 1024
    finally:
        await stage.aclose()


async def test_the_first_speech_finds_everything_laid_out_and_nothing_left_behind(
    tiny_checkpoint: Path, kit: Kit
) -> None:
    stage = LocalThinker.load(tiny_checkpoint, CONFIG)
    try:
        stats = await stage.stats()
        assert stats["kv_tokens_used"] == stats["kv_tokens_kept"] == stats["num_running"] == 0
        heads = set(stage.core.runner.model._heads)
        assert len(heads) > 1
        await read(stage, replace(kit.request("x", temperature=0, max_tokens=40), forced_text_ids=(5, 6, 7)))
        await read(stage, kit.request("y", temperature=0))
        assert set(stage.core.runner.model._heads) == heads
    finally:
        await stage.aclose()


def test_a_stage_that_cannot_step_does_not_load(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, chunks: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr("cadence.thinker.runner.ThinkerRunner.step", broken)
    with pytest.raises(StageFailed):
        LocalThinker.load(tiny_checkpoint, CONFIG)


@pytest.mark.parametrize("enforce_eager", [False, True])
async def test_steps_are_captured_unless_told_otherwise(
    tiny_checkpoint: Path, kit: Kit, monkeypatch: pytest.MonkeyPatch, enforce_eager: bool
) -> None:
    backend = FakeGraphs()
    monkeypatch.setattr(
        local, "graph_backend", lambda device, *, enforce_eager: None if enforce_eager else backend
    )
    stage = LocalThinker.load(tiny_checkpoint, replace(CONFIG, enforce_eager=enforce_eager))
    try:
        request = kit.request("x", temperature=0)
        assert await read(stage, request) == run_all(kit.core(), [request])["x"]
    finally:
        await stage.aclose()
    assert (backend.num_captures > 0) is not enforce_eager


async def test_many_readers_get_what_they_get_alone(thinker: LocalThinker, kit: Kit) -> None:
    requests = kit.variety()
    expected = {name: a for request in requests for name, a in run_all(kit.core(), [request]).items()}
    answers = await asyncio.gather(*(read(thinker, request) for request in requests))
    assert dict(zip(expected, answers, strict=True)) == expected
    assert await held(thinker) == 0


async def test_a_reader_that_leaves_frees_its_memory(thinker: LocalThinker, kit: Kit) -> None:
    outputs = thinker.generate(kit.request("left", max_tokens=500))
    await anext(outputs)
    assert await held(thinker) > 0
    await outputs.aclose()
    assert await held(thinker) == 0
    task = asyncio.create_task(read(thinker, kit.request("cancelled", max_tokens=500)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await held(thinker) == 0


async def test_abort_ends_the_reader_and_ignores_unknown_ids(thinker: LocalThinker, kit: Kit) -> None:
    outputs = thinker.generate(kit.request("x", max_tokens=500))
    await anext(outputs)
    await thinker.abort("x")
    assert await held(thinker) == 0
    *_, last = [output async for output in outputs]
    assert last == StepOutput((), "abort")
    await thinker.abort("x")
    await thinker.abort("never seen")


async def test_refusals_reach_the_reader(thinker: LocalThinker, kit: Kit) -> None:
    with pytest.raises(PromptTooLong):
        await read(thinker, kit.request("x", max_tokens=5000))
    outputs = thinker.generate(kit.request("twice", max_tokens=500))
    await anext(outputs)
    with pytest.raises(InvalidRequest, match="twice"):
        await read(thinker, kit.request("twice"))
    assert (await anext(outputs)).ids, "the first of that id goes on"
    await outputs.aclose()
    assert await held(thinker) == 0


async def test_closing_ends_what_is_held(kit: Kit) -> None:
    stage = LocalThinker(kit.core())
    outputs = stage.generate(kit.request("x", max_tokens=1500))
    await anext(outputs)
    await stage.aclose()
    with pytest.raises(StageFailed):
        async for _ in outputs:
            pass
    with pytest.raises(StageFailed):
        await read(stage, kit.request("y"))
    await stage.abort("x")
    assert (await stage.stats())["num_running"] == 0
    await stage.aclose()


def test_settings_and_files_that_do_not_fit_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_model_len"):
        LocalThinker.load(tiny_checkpoint, ThinkerConfig(max_model_len=1 << 20))
    with pytest.raises(ConfigError, match="max_num_batched_tokens"):
        LocalThinker.load(tiny_checkpoint, ThinkerConfig(max_num_batched_tokens=8))
    shutil.copytree(tiny_checkpoint, tmp_path / "c", ignore=shutil.ignore_patterns("token2wav", "assets"))
    (tmp_path / "c" / "generation_config.json").write_text(json.dumps({"tts_max_wait": -1}))
    with pytest.raises(CheckpointError, match="tts_max_wait"):
        LocalThinker.load(tmp_path / "c", CONFIG)
