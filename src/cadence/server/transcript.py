"""What a transcription answers: the whole of it as JSON, text or subtitles, and the events of a stream."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

from cadence.server.hearing import Heard
from cadence.server.languages import Language, guess_language
from cadence.server.reply import ReasoningSplitter
from cadence.server.stream import sse
from cadence.server.subtitles import Segment, TextJoiner, srt, vtt
from cadence.types import INPUT_RATE_HZ, TextDelta, TokenLogprob, Usage

__all__ = ["Format", "Shape", "Transcript"]

Format = Literal["json", "text", "srt", "vtt", "verbose_json"]
JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the answer is to look.

    `language`: of the text, where it is known; else its script tells. `with_usage` is about streams.
    `thinks`: the model reasons before it writes, which nobody asked to read.
    """

    task: Literal["transcribe", "translate"]
    format: Format
    language: Language | None
    temperature: float
    with_logprobs: bool = False
    with_usage: bool = True
    thinks: bool = False

    @property
    def timed(self) -> bool:
        """Whether the times of segments are told."""
        return self.format in ("srt", "vtt", "verbose_json")


@dataclass(slots=True)
class Transcript:
    """Collects what the model wrote, piece by piece."""

    shape: Shape
    text: str = ""
    finish_reason: str = "stop"
    _joiner: TextJoiner = field(default_factory=TextJoiner)
    _reasoning: ReasoningSplitter | None = None
    _piece_text: str = ""
    _piece_tokens: list[TokenLogprob] = field(default_factory=list)
    _segments: list[dict[str, Any]] = field(default_factory=list)
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    _usages: list[Usage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next_piece()

    def add(self, event: TextDelta | Heard) -> list[bytes]:
        """Take what comes; the events that tell a stream's reader."""
        if isinstance(event, TextDelta):
            return self._add_text(event)
        self._usages.append(event.done.usage)
        if event.done.finish_reason != "stop":
            self.finish_reason = event.done.finish_reason
        events = []
        if self._piece_text and self.shape.timed:
            self._segments.append(self._segment(event))
            events.append(sse({"type": "transcript.text.segment", **_streamed(self._segments[-1])}))
        self._next_piece()
        return events

    def done(self) -> bytes:
        """The last event of a stream."""
        event: dict[str, Any] = {"type": "transcript.text.done", "text": self.text}
        if self.shape.with_logprobs:
            event["logprobs"] = _logprobs(self._logprobs)
        if self.shape.with_usage:
            event["usage"] = self._token_usage()
        return sse({**event, "finish_reason": self.finish_reason})

    def body(self, duration_s: float) -> tuple[bytes, str]:
        """The whole answer and its media type."""
        kind = self.shape.format
        if kind == "text":
            return f"{self.text}\n".encode(), PLAIN
        if kind in ("srt", "vtt"):
            segments = [Segment(s["start"], s["end"], s["text"]) for s in self._segments]
            return (srt if kind == "srt" else vtt)(segments).encode(), PLAIN
        answer = self._verbose(duration_s) if kind == "verbose_json" else self._plain()
        return json.dumps(answer, ensure_ascii=False).encode(), JSON

    # ------------------------------------------------------------------ inside
    def _next_piece(self) -> None:
        self._joiner.next_piece()
        self._piece_text, self._piece_tokens = "", []
        self._reasoning = ReasoningSplitter() if self.shape.thinks else None

    def _add_text(self, event: TextDelta) -> list[bytes]:
        text = event.text if self._reasoning is None else self._reasoning.push(event.text)[1]
        if not text:
            return []
        new = self._joiner.push(text)
        self.text += new
        self._piece_tokens += event.logprobs
        self._piece_text = (self._piece_text + new).lstrip()
        if self.shape.with_logprobs:
            self._logprobs += event.logprobs
        if not new:
            return []
        delta: dict[str, Any] = {"type": "transcript.text.delta", "delta": new}
        if self.shape.with_logprobs:
            delta["logprobs"] = _logprobs(event.logprobs)
        return [sse(delta)]

    def _segment(self, heard: Heard) -> dict[str, Any]:
        """A piece in the shape of Whisper's segments; its probabilities are those of our detector."""
        piece, text = heard.piece, self._piece_text
        logprobs = [token.logprob for token in self._piece_tokens]
        return {
            "id": len(self._segments),
            "seek": round(100 * piece.start / INPUT_RATE_HZ),
            "start": round(piece.speech_start / INPUT_RATE_HZ, 3),
            "end": round(piece.speech_end / INPUT_RATE_HZ, 3),
            "text": text,
            "tokens": [token.token_id for token in self._piece_tokens],
            "temperature": self.shape.temperature,
            "avg_logprob": sum(logprobs) / len(logprobs) if logprobs else 0.0,
            "compression_ratio": len(text.encode()) / len(zlib.compress(text.encode())),
            "no_speech_prob": 1.0 - piece.probability,
        }

    def _plain(self) -> dict[str, Any]:
        answer: dict[str, Any] = {"text": self.text}
        if self.shape.with_logprobs:
            answer["logprobs"] = _logprobs(self._logprobs)
        if self.shape.task == "transcribe":
            answer["usage"] = self._token_usage()
        return answer

    def _verbose(self, duration_s: float) -> dict[str, Any]:
        language = self.shape.language or guess_language(self.text)
        return {
            "task": self.shape.task,
            "language": language.name,
            "duration": round(duration_s, 3),
            "text": self.text,
            "segments": self._segments,
            "usage": {"type": "duration", "seconds": math.ceil(duration_s)},
        }

    def _token_usage(self) -> dict[str, Any]:
        prompt = sum(usage.prompt_tokens for usage in self._usages)
        audio = sum(usage.prompt_audio_tokens for usage in self._usages)
        written = sum(usage.completion_tokens for usage in self._usages)
        return {
            "type": "tokens",
            "input_tokens": prompt,
            "output_tokens": written,
            "total_tokens": prompt + written,
            "input_token_details": {"audio_tokens": audio, "text_tokens": prompt - audio},
        }


def _streamed(segment: dict[str, Any]) -> dict[str, Any]:
    """A segment as a stream tells it. Who speaks is not known here; clients expect the key."""
    kept = {key: segment[key] for key in ("start", "end", "text")}
    return {"id": f"seg_{segment['id']}", "speaker": "", **kept}


def _logprobs(tokens: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
    return [{"token": t.token, "logprob": t.logprob, "bytes": list(t.token.encode())} for t in tokens]
