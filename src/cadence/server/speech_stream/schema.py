"""What clients of `/v1/audio/speech/stream` may send."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cadence.errors import InvalidRequest
from cadence.server.schema import Body, Text, parse
from cadence.server.schema_speech import SpeechBody
from cadence.server.speech_stream.splitter import Granularity
from cadence.types import VoiceSample

__all__ = ["MESSAGES", "StreamConfig", "StreamOptions", "parse_config", "parse_message"]

_NOT_HERE = ("input", "stream", "stream_format")  # of a speech request: they have another form here


class StreamOptions(Body):
    """How utterances are cut and sent."""

    stream_audio: bool | None = Field(
        None, description="Send sound as it is made; else sentence by sentence."
    )
    split_granularity: Granularity | None = Field(None, description="Default: none.")
    word_timestamps: bool | None = Field(
        None, description="Tell when each word is said; needs `stream_audio` and pcm."
    )


class StreamConfig:
    """A checked `session.config`: the fields of a speech request, and those of `StreamOptions`."""

    def __init__(self, body: SpeechBody, options: StreamOptions) -> None:
        self._body = body
        self.sample: VoiceSample | None = None
        """The recording that the session brought, read once for all of its sentences."""
        self.stream_audio = bool(options.stream_audio)
        self.granularity: Granularity = options.split_granularity or "none"
        self.word_timestamps = bool(options.word_timestamps)
        if self.word_timestamps and not (self.stream_audio and body.response_format == "pcm"):
            raise InvalidRequest(
                "'word_timestamps' needs 'stream_audio': true and 'response_format': \"pcm\".",
                param="word_timestamps",
                code="conflicting_fields",
            )

    def speech(self, text: str) -> SpeechBody:
        """The request to read a text."""
        return self._body.model_copy(update={"input": text})


class InputText(Body):
    """More text."""

    type: Literal["input.text"]
    text: Text


class InputDone(Body):
    """The utterance is complete."""

    type: Literal["input.done"]


class InputCancel(Body):
    """Nothing of what was sent so far is to be heard any more."""

    type: Literal["input.cancel"]


class SessionClose(Body):
    """The end."""

    type: Literal["session.close"]


MESSAGES: dict[str, type[InputText | InputDone | InputCancel | SessionClose]] = {
    "input.text": InputText,
    "input.done": InputDone,
    "input.cancel": InputCancel,
    "session.close": SessionClose,
}


def parse_config(data: dict[str, Any]) -> StreamConfig:
    """Check a `session.config`; raises InvalidRequest that names the first field at fault."""
    given = {name: value for name, value in data.items() if name != "type"}
    for name in _NOT_HERE:
        if name in given:
            raise InvalidRequest(f"Unknown field '{name}'.", param=name, code="unknown_field")
    own = {name: given.pop(name) for name in StreamOptions.model_fields if name in given}
    return StreamConfig(parse(SpeechBody, {**given, "input": "."}), parse(StreamOptions, own))


def parse_message(data: dict[str, Any]) -> InputText | InputDone | InputCancel | SessionClose:
    """Check any other message; raises InvalidRequest."""
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in MESSAGES:
        known = ", ".join(("session.config", *MESSAGES))
        raise InvalidRequest(f"Unknown message type; known are: {known}.", param="type", code="unknown_event")
    return parse(MESSAGES[kind], data)
