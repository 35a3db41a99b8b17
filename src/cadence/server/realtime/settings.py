"""How a session is configured: what `session.update` and `response.create` may say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cadence.errors import InvalidRequest, NotFound
from cadence.server.context import Context
from cadence.server.languages import find_language
from cadence.server.listen_prompt import listen_prompt
from cadence.server.realtime.tools import ToolChoice, Tools, choose_call
from cadence.server.schema import INT64, Body, Sampling, Text
from cadence.server.schema_speech import VoiceName, VoiceRef
from cadence.server.voice import choose_voice
from cadence.tokens import TEXT_MARKERS
from cadence.types import SamplingParams

__all__ = [
    "DEFAULT_INSTRUCTIONS",
    "NO_CHANGES",
    "TRANSCRIBERS",
    "AudioFormat",
    "ResponseBody",
    "ServerVad",
    "SessionBody",
    "Settings",
    "Transcription",
    "merged",
]

DEFAULT_INSTRUCTIONS = "You are a helpful assistant."
# What clients of OpenAI's API ask to transcribe with. Here one model does everything.
TRANSCRIBERS = frozenset(
    {"whisper-1", "gpt-transcribe", "gpt-live-transcribe", "gpt-realtime-whisper"}
    | {"gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-mini-transcribe-2025-12-15"}
)
Instructions = Annotated[Text, Field(max_length=32_000)]
Modalities = Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=1)]
MaxTokens = Annotated[int, Field(ge=1, le=1_000_000)] | Literal["inf"]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class AudioFormat(Body):
    """16-bit PCM at one of several rates (OpenAI: 24 kHz), or G.711 at 8 kHz."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: Literal[8000, 16000, 24000, 44100, 48000] | None = None

    @model_validator(mode="after")
    def _check_rate(self) -> AudioFormat:
        if self.type != "audio/pcm" and self.rate not in (None, 8000):
            raise PydanticCustomError("rate", "G.711 has 8000 samples a second")
        return self

    @property
    def rate_hz(self) -> int:
        """Samples a second."""
        return self.rate or (24_000 if self.type == "audio/pcm" else 8_000)


class ServerVad(Body):
    """The server hears where turns begin and end."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"idle_timeout_ms": ()}

    type: Literal["server_vad"]
    threshold: float = Field(0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(300, ge=0, le=5_000)
    silence_duration_ms: int = Field(500, ge=0, le=10_000)
    create_response: bool = True
    interrupt_response: bool = True


class Transcription(Body):
    """Asks for the text of what was heard."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"delay": ()}

    model: str | None = Field(None, max_length=256)
    language: Annotated[str, Field(max_length=64)] | None = None
    languages: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=16)] | None = None
    keywords: Annotated[list[Annotated[Text, Field(max_length=256)]], Field(max_length=100)] | None = None
    prompt: Annotated[Text, Field(max_length=8_000)] | None = None

    def system_prompt(self) -> str:
        """What the model is told; raises InvalidRequest for a language that has no name here."""
        where = "session.audio.input.transcription"
        spoken = [find_language(self.language, f"{where}.language")] if self.language else []
        spoken += [find_language(name, f"{where}.languages") for name in self.languages or ()]
        unique = list(dict.fromkeys(spoken))
        return listen_prompt(spoken=unique, context=self.prompt, words=self.keywords or ())


class InputAudio(Body):
    """Sound from the client."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"noise_reduction": ()}

    format: AudioFormat | None = None
    turn_detection: ServerVad | None = None
    transcription: Transcription | None = None


class OutputAudio(Body):
    """Sound to the client."""

    format: AudioFormat | None = None
    voice: VoiceName | VoiceRef | None = None
    speed: float | None = Field(None, ge=0.25, le=4.0, description="The pitch stays.")


class Audio(Body):
    """Sound in both directions."""

    input: InputAudio | None = None
    output: OutputAudio | None = None


class ResponseAudio(Body):
    """Sound of one response."""

    output: OutputAudio | None = None


_COMMON: Mapping[str, tuple[Any, ...]] = {"prompt": (), "reasoning": ()}


class _Tools(Sampling):
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None


class SessionBody(_Tools):
    """A session's settings; in an update, those that change. Sampling fields are an extension."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **_COMMON,
        "tracing": (),
        "include": ([],),
    }

    type: Literal["realtime", "transcription"] | None = None
    model: str | None = None
    instructions: Instructions | None = None
    output_modalities: Modalities | None = None
    max_output_tokens: MaxTokens | None = None
    truncation: Literal["auto", "disabled"] | None = None
    audio: Audio | None = None


class ResponseBody(_Tools):
    """What one response has of its own; the rest is as the session says."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = _COMMON

    conversation: Literal["auto", "none"] | None = None
    instructions: Instructions | None = None
    output_modalities: Modalities | None = None
    max_output_tokens: MaxTokens | None = None
    metadata: Metadata | None = None
    audio: ResponseAudio | None = None
    input: Annotated[list[dict[str, Any]], Field(max_length=256)] | None = None


NO_CHANGES = ResponseBody.model_validate({})
"""A response as the session says."""


class Settings:
    """What holds in a session, or for one response: checked, complete, not changed once made."""

    def __init__(self, body: SessionBody, context: Context, where: str = "session") -> None:
        """Raises InvalidRequest or NotFound for what the schema cannot check; `where` in the event it is."""
        self._body = body
        audio = body.audio
        assert audio is not None and audio.input is not None and audio.output is not None
        assert audio.input.format is not None and audio.output.format is not None
        self.input_format = audio.input.format
        self.output_format = audio.output.format
        self.only_transcribes = body.type == "transcription"
        self.speed = audio.output.speed or 1.0
        self.turn_detection = audio.input.turn_detection
        self.transcription = audio.input.transcription
        if self.only_transcribes and self.transcription is None:
            raise InvalidRequest(
                "A transcription session needs its transcription.", param="session.audio.input.transcription"
            )
        self.instructions = body.instructions or ""
        self.speaks = body.output_modalities == ["audio"]
        self.truncates = body.truncation != "disabled"
        places = {f"{where}__audio__output__voice": audio.output.voice}
        self.voice = choose_voice(context.engine.info, **places)
        _check_model(context, body.model, f"{where}.model")
        if self.speaks and not context.engine.info.can_speak:
            raise InvalidRequest(
                "This server answers in text only.", param=f"{where}.output_modalities", code="no_speech"
            )
        self.call = choose_call(body.tools or (), body.tool_choice, where)
        self.tools = () if body.tool_choice == "none" else tuple(body.tools or ())
        if self.transcription is not None:
            self.transcription.system_prompt()
            if self.transcription.model not in TRANSCRIBERS:
                _check_model(context, self.transcription.model, f"{where}.audio.input.transcription.model")

    @classmethod
    def initial(cls, context: Context, model: str, *, only_transcribes: bool = False) -> Settings:
        """Those of a new session."""
        pcm = {"type": "audio/pcm", "rate": 24_000}
        listens: dict[str, Any] | None = {} if only_transcribes else None
        values = {
            "type": "transcription" if only_transcribes else "realtime",
            "model": model,
            "instructions": DEFAULT_INSTRUCTIONS,
            "output_modalities": ["audio" if context.engine.info.can_speak else "text"],
            "max_output_tokens": "inf",
            "truncation": "auto",
            "tools": [],
            "tool_choice": "auto",
            "audio": {
                "input": {"format": pcm, "turn_detection": {"type": "server_vad"}, "transcription": listens},
                "output": {"format": pcm, "voice": "default", "speed": 1.0},
            },
        }
        return cls(SessionBody.model_validate(values), context)

    def updated(self, update: Body, context: Context, where: str = "session") -> Settings:
        """These with those of `update` laid over them."""
        values = merged(self._body.model_dump(), update.model_dump(exclude_unset=True))
        known = {name: value for name, value in values.items() if name in SessionBody.model_fields}
        return Settings(SessionBody.model_validate(known), context, where)

    def sampling(self, default: SamplingParams) -> SamplingParams:
        """How the model samples."""
        given = self._body.given()
        if isinstance(self._body.max_output_tokens, int):
            given["max_tokens"] = self._body.max_output_tokens
        if self.tools and self._body.parallel_tool_calls is False:
            given["stop"] = (*default.stop, TEXT_MARKERS["tool_call_end"])
        if "seed" in given:
            given["seed"] %= INT64
        return dataclasses.replace(default, **given)

    def wire(self) -> dict[str, Any]:
        """As the client reads them: sampling fields only where they were given."""
        shown = self._body.model_dump(exclude=set(Sampling.model_fields))
        if self.only_transcribes:
            return {"type": shown["type"], "audio": {"input": shown["audio"]["input"]}}
        if shown["parallel_tool_calls"] is None:
            del shown["parallel_tool_calls"]
        return {**shown, **self._body.given()}

    def response_wire(self) -> dict[str, Any]:
        """What a response shows of them."""
        shown = self.wire()
        return {
            "output_modalities": shown["output_modalities"],
            "max_output_tokens": shown["max_output_tokens"],
            "audio": {"output": {name: shown["audio"]["output"][name] for name in ("format", "voice")}},
        }


def _check_model(context: Context, name: str | None, where: str) -> None:
    """Raise NotFound for a model that is not served."""
    try:
        context.check_model(name)
    except NotFound as error:
        error.param = where
        raise


_NULLABLE = frozenset({"turn_detection", "transcription"})
_WHOLE = frozenset({"format", "voice", "tool_choice"})


def merged(current: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """`current` with the fields of `update` laid over it, objects field by field.

    null switches turn detection and transcription off; elsewhere it changes nothing. A format or a voice
    is replaced whole.
    """
    result = dict(current)
    for name, value in update.items():
        before = result.get(name)
        if value is None and name not in _NULLABLE:
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping) and name not in _WHOLE:
            value = merged(before, value)
        result[name] = value
    return result
