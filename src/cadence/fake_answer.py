"""What the fake engine says to a request: its events one after the other, pure but for the clock."""

from __future__ import annotations

import asyncio
import json
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from cadence.answers.stopping import StopMatcher
from cadence.errors import (
    CadenceError,
)
from cadence.runtime.fake_stages import tone
from cadence.types import (
    CODE_SAMPLES,
    CODES_PER_SECOND,
    INPUT_RATE_HZ,
    NUM_CODES,
    OUTPUT_RATE_HZ,
    AudioChunk,
    AudioPart,
    Done,
    Event,
    FinishReason,
    Part,
    RepeatPart,
    Request,
    SpeechPart,
    TextDelta,
    TextPart,
    Timings,
    TokenLogprob,
    Usage,
    WordTiming,
)

__all__ = ["Active", "answer_text", "events_of", "heard_s", "num_tokens", "parts_of", "pieces"]

CODES_PER_CHAR = 1
CHUNK_CODES = 5
FIRST_CODE_ID = 151_696


@dataclass(slots=True)
class Active:
    """One request's state: what another task may do to it, and what it counted."""

    started: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reason: CadenceError | None = None
    num_events: int = 0
    num_text: int = 0
    num_codes: int = 0
    num_sent_codes: int = 0
    ids: list[int] = field(default_factory=list)
    first_token_s: float | None = None
    first_audio_s: float | None = None


def pieces(text: str) -> list[str]:
    """The fake's tokens: words with the space before them. Joined they are `text` again."""
    return re.findall(r"\s*\S+|\s+$", text)


def heard_s(request: Request) -> float:
    """Seconds of sound in a request."""
    heard = sum(part.samples.size for part in parts_of(request) if isinstance(part, AudioPart))
    return float(heard) / INPUT_RATE_HZ


def num_tokens(part: Part) -> int:
    """Words, and the ids of speech in the history; sound that was heard counts apart."""
    if isinstance(part, TextPart):
        return len(pieces(part.text))
    if isinstance(part, SpeechPart):
        return len(pieces(part.text)) + len(part.codes)
    return len(part.ids) if isinstance(part, RepeatPart) else 0


def answer_text(request: Request, *, thinks: bool = False) -> str:
    """What the fake says: the verbatim text, or an echo of the last message and the sound heard.

    A model that `thinks` says so before a text answer; a call that was asked for gets the echo as its
    argument, and is of the tool "echo" where the request leaves that open.
    """
    if request.verbatim is not None:
        return request.verbatim
    if request.call is not None:
        name = "" if request.call else "echo\n"
        return f"{name}{json.dumps({'text': _echo(request)})}</tool_call>"
    if thinks and request.output == "text" and request.turn == "new":
        return f"Let me see.\n</think>\n\n{_echo(request)}"
    return _echo(request)


def _echo(request: Request) -> str:
    last = request.messages[-1] if request.messages else None
    text = " ".join(p.text for p in last.content if isinstance(p, TextPart)) if last else ""
    said = [f"You said: {text}"] if text else []
    if heard_s(request) > 0:
        said.append(f"I heard {heard_s(request):.2f} seconds of audio.")
    return " ".join(said) or "You said nothing."


def parts_of(request: Request) -> Iterator[Part]:
    """Every part of every message."""
    for message in request.messages:
        yield from message.content


def events_of(request: Request, text: str, state: Active, num_prompt: int, num_audio: int) -> Iterator[Event]:
    """Every event of one answer, Done last; only timings depend on the clock."""
    matcher = StopMatcher(request.sampling.stop)
    limit = request.sampling.max_tokens
    finish: FinishReason = "stop"
    match: str | None = None
    text_left = 0
    logprobs: list[TokenLogprob] = []
    said = pieces(text)
    for number, piece in enumerate(said):
        if limit is not None and state.num_text + state.num_codes >= limit:
            finish = "length"
            text_left = len(said) - number
            break
        state.num_text += 1
        state.ids.append(zlib.crc32(piece.encode()) % 150_000)
        state.first_token_s = state.first_token_s or since_start(state)
        if request.sampling.logprobs is not None:
            logprobs.append(_logprob(piece, request.sampling.logprobs))
        result = matcher.push(piece)
        if result.text:
            yield TextDelta(result.text, tuple(logprobs), _unsent_codes(request, state))
            logprobs.clear()
        if result.match is not None:
            match = result.match
            break
        if request.output == "speech":
            room = None if limit is None else limit - state.num_text - state.num_codes
            start = state.num_codes
            yield from _speak(request, state, piece, room)
            if request.word_timestamps and piece.strip():
                yield TextDelta("", words=(_timing(piece, start, state.num_codes),))
    held = matcher.flush() if match is None else ""
    codes = _unsent_codes(request, state)
    if held or codes:
        yield TextDelta(held, tuple(logprobs), codes)
    usage = Usage(
        prompt_tokens=num_prompt,
        prompt_audio_tokens=num_audio,
        completion_tokens=state.num_text + state.num_codes,
        completion_audio_tokens=state.num_codes,
    )
    yield Done(
        finish_reason=finish,
        usage=usage,
        timings=_timings(state),
        stop_match=match,
        output_ids=tuple(state.ids),
        text_left=text_left if request.verbatim is not None else 0,
    )


def _unsent_codes(request: Request, state: Active) -> tuple[int, ...]:
    """Codes written since the last delta, when the request wants them: they count up from 0."""
    if not request.with_codes:
        return ()
    first, state.num_sent_codes = state.num_sent_codes, state.num_codes
    return tuple(code % NUM_CODES for code in range(first, state.num_codes))


def _speak(request: Request, state: Active, piece: str, room: int | None) -> Iterator[AudioChunk]:
    """A tone as long as the word, in chunks of at most 0.2 s, phase-continuous over the answer."""
    num_codes = max(4, CODES_PER_CHAR * len(piece))
    if room is not None:
        num_codes = min(num_codes, room)
    while num_codes > 0:
        count = min(CHUNK_CODES, num_codes)
        voice = request.voice_sample.key if request.voice_sample else request.voice
        samples = tone(voice, request.sampling.seed, state.num_codes * CODE_SAMPLES, count * CODE_SAMPLES)
        num_codes -= count
        state.ids += [
            FIRST_CODE_ID + code % NUM_CODES for code in range(state.num_codes, state.num_codes + count)
        ]
        state.num_codes += count
        state.first_audio_s = state.first_audio_s or since_start(state)
        yield AudioChunk(samples)


def _timing(piece: str, start: int, end: int) -> WordTiming:
    return WordTiming(piece.strip(), start / CODES_PER_SECOND, end / CODES_PER_SECOND)


def since_start(state: Active) -> float:
    """Seconds since the request was accepted, above zero."""
    return max(time.monotonic() - state.started, 1e-9)


def _timings(state: Active) -> Timings:
    return Timings(
        queue_s=0.0,
        first_token_s=state.first_token_s,
        first_audio_s=state.first_audio_s,
        total_s=since_start(state),
        audio_s=state.num_codes * CODE_SAMPLES / OUTPUT_RATE_HZ,
    )


def _logprob(piece: str, num_top: int) -> TokenLogprob:
    token_id = zlib.crc32(piece.encode()) % 150_000
    top = [(token_id, piece, -0.25), *((i, f"<{i}>", -2.0 - i) for i in range(1, num_top))]
    return TokenLogprob(token_id, piece, float(np.float32(-0.25)), tuple(top[:num_top]))
