"""What the server answers, described: made into JSON here, and shown in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "AudioAnswer",
    "ChatCompletion",
    "Choice",
    "ChoiceMessage",
    "ErrorBody",
    "ErrorDetail",
    "FunctionAnswer",
    "Health",
    "Load",
    "Model",
    "ModelList",
    "SpeechBatch",
    "SpeechBatchResult",
    "SpeechOutcome",
    "ToolCallAnswer",
    "Transcription",
    "Translation",
    "TtsAnswer",
    "VerboseTranscription",
    "Version",
]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(_Answer):
    """What went wrong; `param` is the field at fault, `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(_Answer):
    """Every error of this server."""

    error: ErrorDetail


class Model(_Answer):
    """A name that requests may use."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "cadence"
    root: str
    parent: None = None
    max_model_len: int
    random_weights: bool
    permission: list[dict[str, Any]] = []


class ModelList(_Answer):
    """All names."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(_Answer):
    """State of the server and its stages."""

    status: Literal["healthy", "ready", "alive"]
    num_running: int
    num_waiting: int
    stages: dict[str, str]


class Version(_Answer):
    """The server's version."""

    version: str


class Load(_Answer):
    """Requests in the server now, running or waiting."""

    server_load: int


class SpeechOutcome(_Answer):
    """How a speech request ended; its sound may have been cut short where `finish_reason` is "length"."""

    request_id: str
    status: Literal["running", "completed", "failed", "aborted"] = "running"
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: ErrorDetail | None = None


class SpeechBatchResult(_Answer):
    """One item of a batch: its file in base64, or its error."""

    index: int
    status: Literal["success", "error"]
    audio_data: str | None = None
    media_type: str | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: ErrorDetail | None = None


class SpeechBatch(_Answer):
    """A batch of texts that were read, in the order they were sent."""

    id: str
    results: list[SpeechBatchResult]
    total: int
    succeeded: int
    failed: int


class AudioAnswer(_Answer):
    """A spoken answer: the whole file in base64."""

    id: str
    data: str
    expires_at: int
    transcript: str


class TtsAnswer(_Answer):
    """Speech as text and codes, as StepFun's server writes it; can be sent back as it is."""

    tts_text: str
    tts_audio: str


class FunctionAnswer(_Answer):
    """Which function to call; `arguments` is JSON as the model wrote it."""

    name: str
    arguments: str


class ToolCallAnswer(_Answer):
    """A call that the model makes."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionAnswer


class ChoiceMessage(_Answer):
    """One answer. From `audio` on, fields are left out where they do not apply."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    audio: AudioAnswer | None = None
    tts_content: TtsAnswer | None = None
    tool_calls: list[ToolCallAnswer] | None = None
    reasoning_content: str | None = None


class TopLogprob(_Answer):
    """One token that was possible."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """One token that was chosen."""

    top_logprobs: list[TopLogprob]


class Logprobs(_Answer):
    """Log-probabilities of the text's tokens."""

    content: list[TokenLogprob]


class Choice(_Answer):
    """One of `n` answers."""

    index: int
    message: ChoiceMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(_Answer):
    """The answer to a chat request."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: dict[str, Any]


class Transcription(_Answer):
    """What was said."""

    text: str
    logprobs: list[TextLogprob] | None = None
    usage: TokenUsage


class TextLogprob(_Answer):
    """A token of the text."""

    token: str
    logprob: float
    bytes: list[int]


class TokenUsage(_Answer):
    """Tokens read and written."""

    type: Literal["tokens"]
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_token_details: dict[str, int]


class Translation(_Answer):
    """What was said, in another language."""

    text: str


class TranscriptSegment(_Answer):
    """A stretch of speech; times in seconds."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class DurationUsage(_Answer):
    """Seconds of sound, rounded up."""

    type: Literal["duration"]
    seconds: int


class VerboseTranscription(_Answer):
    """What was said, and when."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    segments: list[TranscriptSegment]
    usage: DurationUsage
