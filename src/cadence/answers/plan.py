"""How long an answer may get, and what the thinker is asked for. Pure."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence

from cadence.errors import InvalidRequest, PromptTooLong
from cadence.types import INPUT_RATE_HZ, AudioPart, Prompt, Request, SamplingParams, ThinkerRequest

__all__ = ["num_audio_s", "num_speech_ids", "plan_request", "with_seed"]

# Verbatim speech: generous bounds on the codes per text token, 25 codes a second. A token is spoken in
# about 0.3 s; digits and long words take up to a second, and a short text may begin and end in silence.
_CODES_PER_TEXT_ID = 25
_EXTRA_CODES = 75
_GROUP_CODES = 4  # each text slot is followed by four audio slots


def num_speech_ids(num_text_ids: int) -> int:
    """The most ids (text slots and audio slots) that speaking `num_text_ids` tokens may take."""
    codes = _EXTRA_CODES + _CODES_PER_TEXT_ID * num_text_ids
    return codes + codes // _GROUP_CODES + 2


def num_audio_s(request: Request) -> float:
    """Seconds of sound that a request brings."""
    parts = (part for message in request.messages for part in message.content)
    return sum(len(part.samples) for part in parts if isinstance(part, AudioPart)) / INPUT_RATE_HZ


def with_seed(sampling: SamplingParams) -> SamplingParams:
    """The same parameters with a seed: a fresh one where none was asked for."""
    if sampling.seed is not None:
        return sampling
    return dataclasses.replace(sampling, seed=secrets.randbits(62))


def plan_request(
    request: Request,
    prompt: Prompt,
    forced_text_ids: Sequence[int] | None,
    *,
    max_model_len: int,
    default_max_tokens: int | None = None,
) -> ThinkerRequest:
    """What to ask of the thinker, with `max_tokens` set.

    Args:
        request: its sampling must carry a seed.
        prompt: built from the request.
        forced_text_ids: ids of the text to speak verbatim; None = free answer.
        max_model_len: prompt and answer together, in ids.
        default_max_tokens: the server's own limit; it yields to the context, while one that the caller
            chose is refused when it does not fit.

    Raises:
        PromptTooLong: the prompt, or the prompt with the answer asked for, does not fit.
        InvalidRequest: nothing to speak.
    """
    num_prompt = len(prompt.ids)
    room = max_model_len - num_prompt
    if room < 1:
        raise PromptTooLong(
            f"The prompt has {num_prompt} tokens, but the model's context is {max_model_len}.",
            param="messages",
        )
    asked = request.sampling.max_tokens
    if asked is not None and asked > room and asked != default_max_tokens:
        raise PromptTooLong(
            f"The prompt has {num_prompt} tokens and max_tokens is {asked}: together they exceed the "
            f"model's context of {max_model_len}.",
            param="max_tokens",
            hint=f"Ask for at most {room}.",
        )
    max_tokens = room if asked is None else min(asked, room)
    forced: tuple[int, ...] | None = None
    if forced_text_ids is not None:
        forced = tuple(forced_text_ids)
        max_tokens = min(max_tokens, _verbatim_limit(len(forced), room, max_model_len))
    return ThinkerRequest(
        request_id=request.request_id,
        prompt=prompt,
        sampling=dataclasses.replace(request.sampling, max_tokens=max_tokens),
        forced_text_ids=forced,
    )


def _verbatim_limit(num_text_ids: int, room: int, max_model_len: int) -> int:
    if num_text_ids == 0:
        raise InvalidRequest("There is nothing to speak: the text is empty.", param="input")
    needed = num_text_ids * (1 + _GROUP_CODES)
    if needed > room:
        raise PromptTooLong(
            f"Speaking {num_text_ids} text tokens takes at least {needed} tokens; the model's context of "
            f"{max_model_len} has room for {room}.",
            param="input",
            hint="Split the text.",
        )
    return num_speech_ids(num_text_ids)
