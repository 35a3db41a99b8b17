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
from cadence.server.reply import Reasoning, Reply, ReplyPiece, ReplyPlan
from cadence.server.schema_answers import (
    AudioAnswer,
    ChatCompletion,
    Choice,
    ChoiceMessage,
    FunctionAnswer,
    Logprobs,
    TokenLogprob,
    ToolCallAnswer,
    TopLogprob,
    TtsAnswer,
)
from cadence.server.spoken import SpokenAnswers
from cadence.server.tool_calls import CallArguments, CallStart
from cadence.server.usage import chat_usage
from cadence.types import AudioChunk, Done, Event, TextDelta
from cadence.types import TokenLogprob as EngineLogprob

__all__ = ["ChatAnswer", "ChatShape", "code_names", "finish_reason", "logprobs_of"]

_OPTIONAL = ("tts_content", "tool_calls", "reasoning_content")
_LOWEST_LOGPROB = -9999.0  # JSON has no infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatShape:
    """What a client asked its answer to look like.

    `audio_format`: the encoder of a spoken answer, None for text. `text_in_content`: the text goes into
    `content`, also when it is spoken. `reply`: what to look for in the text. `spoken`: where a spoken
    answer is kept for later turns.
    """

    chat_id: str
    model: str
    audio_format: str | None
    text_in_content: bool
    with_logprobs: bool
    with_usage: bool
    reply: ReplyPlan
    spoken: SpokenAnswers
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, answers: Sequence[ChatAnswer]) -> bytes:
        """The whole answer as JSON."""
        choices = [answer.choice() for answer in answers]
        completion = ChatCompletion(
            id=self.chat_id,
            created=self.created,
            model=self.model,
            choices=choices,
            usage=chat_usage([answer.done.usage for answer in answers]),
        )
        left_out = {i: {"message": self._absent(choice.message)} for i, choice in enumerate(choices)}
        return completion.model_dump_json(exclude={"choices": left_out}).encode()

    def _absent(self, message: ChoiceMessage) -> set[str]:
        """Fields that do not apply to a message; a spoken answer without sound says so by a null."""
        names = {name for name in _OPTIONAL if getattr(message, name) is None}
        return names | ({"audio"} if self.audio_format is None else set())


class ChatAnswer:
    """One of the answers of a request, as far as it has come."""

    def __init__(self, shape: ChatShape, index: int) -> None:
        self._shape = shape
        self._index = index
        self._reply = Reply(shape.reply)
        self._reasoning: list[str] = []
        self._text: list[str] = []
        self._calls: list[tuple[CallStart, list[str]]] = []
        self._codes: list[int] = []
        self._logprobs: list[EngineLogprob] = []
        self._samples: list[NDArray[np.float32]] = []
        self._audio_id = f"audio_{new_id()}"
        self._expires_at = shape.created
        self._done: Done | None = None

    @property
    def done(self) -> Done:
        """The end; raises InternalError when the engine never said it."""
        if self._done is None:
            raise InternalError("The answer has no end.")
        return self._done

    def add(self, event: Event) -> None:
        """Take the next event. At the end of a spoken answer it is kept for later turns."""
        if isinstance(event, TextDelta):
            self._logprobs += event.logprobs
            self._codes += event.codes
            self._add_pieces(self._reply.push(event.text))
        elif isinstance(event, AudioChunk):
            self._samples.append(event.samples)
        else:
            self._done = event
            self._add_pieces(self._reply.flush())
            if self._is_spoken and event.finish_reason != "abort":
                self._expires_at = self._shape.spoken.put(
                    self._audio_id, event.output_ids, "".join(self._text)
                )

    def choice(self) -> Choice:
        """The finished answer. A spoken one that has no sound is given as text."""
        text = "".join(self._text)
        audio = self._audio(text) if self._is_spoken else None
        in_content = self._shape.text_in_content or audio is None
        return Choice(
            index=self._index,
            message=ChoiceMessage(
                content=text if in_content and (text or not self._calls) else None,
                audio=audio,
                tts_content=self._tts(text) if audio else None,
                tool_calls=self._tool_calls() or None,
                reasoning_content="".join(self._reasoning) if self._shape.reply.thinks else None,
            ),
            logprobs=logprobs_of(self._logprobs) if self._shape.with_logprobs else None,
            finish_reason=finish_reason(self.done, num_calls=self._reply.num_calls),
        )

    @property
    def _is_spoken(self) -> bool:
        return any(samples.size for samples in self._samples)

    def _add_pieces(self, pieces: Sequence[ReplyPiece]) -> None:
        for piece in pieces:
            if isinstance(piece, Reasoning):
                self._reasoning.append(piece.text)
            elif isinstance(piece, CallStart):
                self._calls.append((piece, []))
            elif isinstance(piece, CallArguments):
                self._calls[piece.index][1].append(piece.text)
            else:
                self._text.append(piece)

    def _tool_calls(self) -> list[ToolCallAnswer]:
        return [
            ToolCallAnswer(
                id=f"call_{new_id()}", function=FunctionAnswer(name=call.name, arguments="".join(arguments))
            )
            for call, arguments in self._calls
        ]

    def _tts(self, text: str) -> TtsAnswer:
        return TtsAnswer(tts_text=text, tts_audio=code_names(self._codes))

    def _audio(self, transcript: str) -> AudioAnswer:
        samples = np.concatenate(self._samples)
        data = SoundWriter(SoundShape(format=self._shape.audio_format or "wav")).whole(samples)
        return AudioAnswer(
            id=self._audio_id,
            data=base64.b64encode(data).decode(),
            expires_at=self._expires_at,
            transcript=transcript,
        )


def code_names(codes: Sequence[int]) -> str:
    """Speech codes as StepFun's server writes them."""
    return "".join(f"<audio_{code}>" for code in codes)


def finish_reason(done: Done, *, num_calls: int = 0) -> Literal["stop", "length", "tool_calls"]:
    """The end as the API names it; raises RequestAborted for the one that is no answer."""
    if done.finish_reason == "abort":
        raise RequestAborted("The request was aborted.")
    return "tool_calls" if num_calls and done.finish_reason == "stop" else done.finish_reason


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
