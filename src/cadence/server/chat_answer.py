"""Chat answers as OpenAI shapes them: collecting the events of one answer, and writing what was collected."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cadence.audio.writer import SoundShape, SoundWriter
from cadence.errors import InternalError, RequestAborted
from cadence.server.context import new_id
from cadence.server.schema_answers import (
    AudioAnswer,
    ChatCompletion,
    Choice,
    ChoiceMessage,
    Logprobs,
    TokenLogprob,
    TopLogprob,
)
from cadence.server.usage import chat_usage
from cadence.types import AudioChunk, Done, Event, TextDelta
from cadence.types import TokenLogprob as EngineLogprob

__all__ = ["ChatAnswer", "ChatShape", "finish_reason", "logprobs_of"]

_LOWEST_LOGPROB = -9999.0  # JSON has no infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatShape:
    """What a client asked its answer to look like.

    `audio_format`: the encoder's name for a spoken answer, None for text. `text_in_content`: the text goes
    into `content`, also when it is spoken.
    """

    chat_id: str
    model: str
    audio_format: str | None
    text_in_content: bool
    with_logprobs: bool
    with_usage: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, answers: Sequence[ChatAnswer]) -> bytes:
        """The whole answer as JSON."""
        completion = ChatCompletion(
            id=self.chat_id,
            created=self.created,
            model=self.model,
            choices=[answer.choice() for answer in answers],
            usage=chat_usage([answer.done.usage for answer in answers]),
        )
        left_out = {"choices": {"__all__": {"message": {"audio"}}}} if self.audio_format is None else None
        return completion.model_dump_json(exclude=left_out).encode()


class ChatAnswer:
    """One of the answers of a request, as far as it has come."""

    def __init__(self, shape: ChatShape, index: int) -> None:
        self._shape = shape
        self._index = index
        self._text: list[str] = []
        self._logprobs: list[EngineLogprob] = []
        self._samples: list[NDArray[np.float32]] = []
        self._done: Done | None = None

    @property
    def done(self) -> Done:
        """The end; raises InternalError when the engine never said it."""
        if self._done is None:
            raise InternalError("The answer has no end.")
        return self._done

    def add(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, TextDelta):
            self._text.append(event.text)
            self._logprobs += event.logprobs
        elif isinstance(event, AudioChunk):
            self._samples.append(event.samples)
        else:
            self._done = event

    def choice(self) -> Choice:
        """The finished answer. A spoken one that has no sound is given as text."""
        text = "".join(self._text)
        audio = self._audio(text) if any(samples.size for samples in self._samples) else None
        content = text if self._shape.text_in_content or audio is None else None
        return Choice(
            index=self._index,
            message=ChoiceMessage(content=content, audio=audio),
            logprobs=logprobs_of(self._logprobs) if self._shape.with_logprobs else None,
            finish_reason=finish_reason(self.done),
        )

    def _audio(self, transcript: str) -> AudioAnswer:
        samples = np.concatenate(self._samples)
        data = SoundWriter(SoundShape(format=self._shape.audio_format or "wav")).whole(samples)
        return AudioAnswer(
            id=f"audio_{new_id()}",
            data=base64.b64encode(data).decode(),
            expires_at=self._shape.created,  # not kept: it cannot be referred to later
            transcript=transcript,
        )


def finish_reason(done: Done) -> Literal["stop", "length"]:
    """The end as the API names it; raises RequestAborted for the one that is no answer."""
    if done.finish_reason == "abort":
        raise RequestAborted("The request was aborted.")
    return done.finish_reason


def logprobs_of(tokens: Sequence[EngineLogprob]) -> Logprobs:
    """Log-probabilities as the API writes them."""
    return Logprobs(
        content=[
            TokenLogprob(
                **_logprob(token.token, token.logprob),
                top_logprobs=[TopLogprob(**_logprob(text, value)) for _, text, value in token.top],
            )
            for token in tokens
        ]
    )


def _logprob(text: str, value: float) -> dict[str, Any]:
    whole = "\ufffd" not in text  # a token may be part of a character: its bytes are not known here
    return {
        "token": text,
        "logprob": max(value, _LOWEST_LOGPROB),
        "bytes": list(text.encode()) if whole else None,
    }
