"""Events that the server sends: each has an id of its own and a type. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from cadence.errors import CadenceError
from cadence.server.context import new_id
from cadence.server.errors import error_object
from cadence.types import Usage

__all__ = ["ServerEvent", "error_event", "response_usage", "server_event", "transcription_usage"]

ServerEvent: TypeAlias = dict[str, Any]


def server_event(kind: str, **fields: Any) -> ServerEvent:
    """An event of a type, with its fields."""
    return {"type": kind, "event_id": f"event_{new_id()}", **fields}


def error_event(error: CadenceError, client_event_id: str | None) -> ServerEvent:
    """What went wrong with a client's event; the session lives on."""
    return server_event("error", error={**error_object(error), "event_id": client_event_id})


def response_usage(usage: Usage | None) -> Mapping[str, Any] | None:
    """Token counts of a response."""
    if usage is None:
        return None
    heard, spoken = usage.prompt_audio_tokens, usage.completion_audio_tokens
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_token_details": {
            "text_tokens": usage.prompt_tokens - heard,
            "audio_tokens": heard,
            "cached_tokens": usage.prompt_cached_tokens,
        },
        "output_token_details": {
            "text_tokens": usage.completion_tokens - spoken,
            "audio_tokens": spoken,
        },
    }


def transcription_usage(usage: Usage) -> Mapping[str, Any]:
    """Token counts of a transcription."""
    return {
        "type": "tokens",
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_token_details": {
            "text_tokens": usage.prompt_tokens - usage.prompt_audio_tokens,
            "audio_tokens": usage.prompt_audio_tokens,
        },
    }
