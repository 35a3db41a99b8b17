"""A spoken conversation over a real (tiny) language model: turns reuse what earlier ones computed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cadence.config import EngineConfig, ServerConfig, ThinkerConfig
from cadence.engine import Engine
from cadence.fake import FakeToken2Wav
from cadence.prompt import PromptBuilder
from cadence.server.app import create_app
from cadence.text import Tokenizer
from cadence.thinker.local import LocalThinker
from cadence.types import ModelInfo, SamplingParams

SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "default", "format": "wav"}}
FIRST = [{"role": "user", "content": "Tell me of the mountain road, and of the forest, and of the stations."}]


@asynccontextmanager
async def serving(root: Path) -> AsyncIterator[tuple[Engine, openai.AsyncOpenAI]]:
    tokenizer = Tokenizer.open(root)
    config = ThinkerConfig(device="cpu", threads=1, dtype="float32", kv_cache_tokens=2048)
    engine = Engine(
        await asyncio.to_thread(LocalThinker.load, root, config),
        FakeToken2Wav(),
        tokenizer=tokenizer,
        prompt_builder=PromptBuilder(tokenizer),
        info=ModelInfo(model_id="tiny", max_model_len=2048, voices=("default",)),
        config=EngineConfig(),
        default_sampling={"text": SamplingParams(), "speech": SamplingParams()},
    )
    transport = httpx.ASGITransport(create_app(engine, ServerConfig()))
    try:
        async with httpx.AsyncClient(transport=transport) as http:
            yield engine, openai.AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=http)
    finally:
        await engine.aclose()


async def say(client: openai.AsyncOpenAI, messages: list[dict[str, Any]], **fields: Any) -> Any:
    wanted = {"max_tokens": 64, "seed": 1, **SPOKEN, **fields}
    return await client.chat.completions.create(model="tiny", messages=messages, **wanted)  # type: ignore[call-overload]


@pytest.mark.parametrize("by_id", [True, False])
async def test_the_next_turn_does_not_pay_for_its_history(tiny_checkpoint: Path, by_id: bool) -> None:
    async with serving(tiny_checkpoint) as (engine, client):
        messages: list[dict[str, Any]] = list(FIRST)
        last = await say(client, messages)
        assert last.usage.prompt_tokens_details.cached_tokens == 0
        for turn in range(3):
            message = last.choices[0].message.model_dump()
            kept = (
                {"audio": {"id": message["audio"]["id"]}}
                if by_id
                else {"tts_content": message["tts_content"]}
            )
            messages += [{"role": "assistant", **kept}, {"role": "user", "content": f"And then, {turn}?"}]
            before = last.usage
            last = await say(client, messages)
            cached = last.usage.prompt_tokens_details.cached_tokens
            known = before.prompt_tokens + (before.completion_tokens if by_id else 0)
            assert known - 32 <= cached < last.usage.prompt_tokens
            anew = (await say(client, messages)).choices[0].message
            assert anew.tts_content == last.choices[0].message.tts_content, "computed again: the same"
        text = (await engine.render_metrics()).decode()
        hits = next(
            line for line in text.splitlines() if line.startswith("vllm_omni:prefix_cache_hits_total")
        )
        assert float(hits.split()[-1]) > 0
        stats = await engine.stats()
        assert stats["thinker_kv_tokens_used"] == stats["num_answers"] == 0
        assert stats["thinker_kv_tokens_kept"] > 0


async def test_a_conversation_cut_off_leaves_nothing_held(tiny_checkpoint: Path) -> None:
    async with serving(tiny_checkpoint) as (engine, client):
        first = await say(client, FIRST)
        reply = {"role": "assistant", "audio": {"id": first.choices[0].message.audio.id}}
        messages = [*FIRST, reply, {"role": "user", "content": "Go on."}]
        expected = await say(client, messages)
        for _ in range(3):
            task = asyncio.create_task(
                say(client, messages, max_tokens=1000, extra_body={"ignore_eos": True})
            )
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        for _ in range(200):
            stats = await engine.stats()
            if (
                stats["thinker_kv_tokens_used"]
                == stats["num_answers"]
                == stats["token2wav_num_sessions"]
                == 0
            ):
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail(f"something is held: {stats}")
        again = await say(client, messages)
        assert again.choices[0].message.tts_content == expected.choices[0].message.tts_content
