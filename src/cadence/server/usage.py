"""Token counts in the shapes that clients read."""

from __future__ import annotations

from typing import Any

from cadence.types import Usage

__all__ = ["chat_usage", "speech_usage", "usage_headers"]


def chat_usage(usages: list[Usage]) -> dict[str, Any]:
    """Usage of a chat completion; several answers share one prompt, which counts once."""
    prompt = usages[0].prompt_tokens
    completion = sum(usage.completion_tokens for usage in usages)
    spoken = sum(usage.completion_audio_tokens for usage in usages)
    heard = usages[0].prompt_audio_tokens
    cached = min(usage.prompt_cached_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "audio_tokens": heard,
            "text_tokens": prompt - heard,
            "cached_tokens": cached,
        },
        "completion_tokens_details": {"audio_tokens": spoken, "text_tokens": completion - spoken},
    }


def speech_usage(usage: Usage) -> dict[str, Any]:
    """Usage of a speech answer."""
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_token_details": {
            "text_tokens": usage.prompt_tokens - usage.prompt_audio_tokens,
            "audio_tokens": usage.prompt_audio_tokens,
        },
    }


def usage_headers(usage: Usage) -> dict[str, str]:
    """The same as headers, under the names that vLLM-Omni's clients read."""
    counts = {
        "INPUT": usage.prompt_tokens,
        "OUTPUT": usage.completion_tokens,
        "TOTAL": usage.prompt_tokens + usage.completion_tokens,
        "INPUT-TEXT": usage.prompt_tokens - usage.prompt_audio_tokens,
        "INPUT-AUDIO": usage.prompt_audio_tokens,
    }
    return {f"X-VLLM-OMNI-{name}-TOKENS": str(count) for name, count in counts.items()}
