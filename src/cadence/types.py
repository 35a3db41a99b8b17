"""Nouns that cross layers. No tensors, no I/O; arrays are numpy, named here for the type checker only.

Units are in the names. `ids` are vocabulary ids, `codes` are speech codes (0..6560, 25 a second).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Waveform: TypeAlias = NDArray[np.float32]  # [T], mono, ±1.0
    Mel: TypeAlias = NDArray[np.float32]  # [n_mels, F]

__all__ = [
    "CODES_PER_SECOND",
    "CODE_SAMPLES",
    "INPUT_RATE_HZ",
    "NUM_CODES",
    "OUTPUT_RATE_HZ",
    "AudioChunk",
    "AudioPart",
    "AudioSpan",
    "ChunkSchedule",
    "Done",
    "EngineHealth",
    "Event",
    "FinishReason",
    "Message",
    "ModelInfo",
    "Part",
    "Prompt",
    "ReasoningPart",
    "RepeatPart",
    "Request",
    "SamplingParams",
    "SpeechPart",
    "SpeechRequest",
    "StepOutput",
    "TextDelta",
    "TextPart",
    "ThinkerRequest",
    "Timings",
    "TokenLogprob",
    "ToolCallPart",
    "Usage",
    "VoiceSample",
    "WordTiming",
]

INPUT_RATE_HZ = 16_000
OUTPUT_RATE_HZ = 24_000
CODES_PER_SECOND = 25
CODE_SAMPLES = OUTPUT_RATE_HZ // CODES_PER_SECOND  # 960 samples of sound per speech code
NUM_CODES = 6561  # 3^8; the id after the last one is padding

FinishReason = Literal["stop", "length", "abort"]


# ------------------------------------------------------------------ what a caller asks for
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample one answer. Neutral values switch a parameter off.

    `top_k` <= 0 means all; `max_tokens` None means as many as the context allows; `seed` None draws
    one; `stop` strings are matched on the visible text and cut from it; `logprobs` is the number of
    alternatives to report per token (0 = the chosen token only), None = none. `skip_special_tokens`
    False shows control tokens of the text class by name.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    skip_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class TextPart:
    """Literal user text: encoded with special tokens disabled."""

    text: str


@dataclass(frozen=True, slots=True)
class AudioPart:
    """Sound in a message: float32 [T], mono, 16 kHz, ±1.0."""

    samples: Waveform


@dataclass(frozen=True, slots=True)
class SpeechPart:
    """Speech of an earlier turn by its text and codes (0..6560): written as groups of 1 text id, 4 codes."""

    text: str
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RepeatPart:
    """A spoken answer of this model, repeated id by id: an earlier `Done.output_ids`."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """What the model thought before an earlier answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A call the model made; `arguments` is JSON as it wrote it."""

    name: str
    arguments: str


Part: TypeAlias = TextPart | AudioPart | SpeechPart | RepeatPart | ReasoningPart | ToolCallPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Roles as the API names them (system, user, assistant), or as the model does (human,
    tool_json_schemas, function_output, input)."""

    role: str
    content: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class VoiceSample:
    """A recording to take the voice from: a WAV file, and a digest of it.

    Equal keys mean equal recordings: what is computed from one is kept under its key.
    """

    key: str
    wav: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One answer wanted from the engine.

    `voice_sample`: the recording to speak with, in place of the checkpoint's `voice`.
    `verbatim`: text that the answer must speak word for word (`output` is then "speech").
    `async_chunk`: stream token chunks between the stages; None = as the server is configured.
    `deadline_s`: whole time allowed, from submission; None = the engine's default.
    `audio_seed`: seed of the sound where it is to differ from the sampling's.
    `turn`: "new" opens an answer behind the messages, "continue" goes on with the last one, which is the
    assistant's, "none" leaves it to the model whose turn comes.
    `call`: the answer begins as the call of this tool, or, if empty, of one that the model names.
    `with_codes`: deltas carry the speech codes too.
    `word_timestamps`: deltas say when each word of a spoken answer is said.
    """

    request_id: str
    messages: tuple[Message, ...]
    output: Literal["text", "speech"] = "text"
    verbatim: str | None = None
    voice: str = "default"
    voice_sample: VoiceSample | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    async_chunk: bool | None = None
    deadline_s: float | None = None
    audio_seed: int | None = None
    turn: Literal["new", "continue", "none"] = "new"
    call: str | None = None
    with_codes: bool = False
    word_timestamps: bool = False


# ------------------------------------------------------------------ what a caller gets
@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token's log-probability and its alternatives (id, text, logprob), best first."""

    token_id: int
    token: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New visible text: the answer, or for speech the transcript of what is being said.

    `codes`: speech codes written since the last delta, up to a second of them, when they were asked for;
    the text is then empty where only codes came. `words`: when they were asked for, those whose place in
    the sound has become known; they come in order, behind their text and before most of their sound.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    codes: tuple[int, ...] = ()
    words: tuple[WordTiming, ...] = ()


@dataclass(frozen=True, slots=True)
class WordTiming:
    """One spoken word, punctuation included, and where it is in the sound, in seconds."""

    word: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """New sound: float32 [S], 24 kHz, ±1.0. Chunks of one answer join without gap or overlap."""

    samples: Waveform


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts; audio counts are part of the totals, and so are cached ones: tokens of the prompt
    that an earlier prompt had begun with, and that were not computed again."""

    prompt_tokens: int = 0
    prompt_audio_tokens: int = 0
    prompt_cached_tokens: int = 0
    completion_tokens: int = 0
    completion_audio_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds since submission; None = did not happen."""

    queue_s: float | None = None
    first_token_s: float | None = None
    first_audio_s: float | None = None
    total_s: float = 0.0
    audio_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The one last event of an answer. `stop_match` is the stop string or id that ended it; `output_ids`
    is all that the model wrote, without a stop id (empty for a text read in several pieces); `text_left`
    counts the ids of a verbatim text that were not spoken."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings = field(default_factory=Timings)
    stop_match: str | int | None = None
    output_ids: tuple[int, ...] = ()
    text_left: int = 0


Event: TypeAlias = TextDelta | AudioChunk | Done


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a running engine serves: enough for /v1/models and for validating requests.

    `voices` are the checkpoint's own, `uploaded_voices` those that users brought. `thinks`: a text answer
    begins inside the model's reasoning and `</think>` ends that.
    """

    model_id: str
    aliases: tuple[str, ...] = ()
    max_model_len: int
    voices: tuple[str, ...]
    uploaded_voices: tuple[str, ...] = ()
    can_speak: bool = True
    random_weights: bool = False
    thinks: bool = False
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """`ready`: can serve now. `alive`: worth keeping; False asks the supervisor for a restart."""

    ready: bool
    alive: bool
    detail: str = ""
    num_running: int = 0
    num_waiting: int = 0
    stages: Mapping[str, str] = field(default_factory=dict)


# ------------------------------------------------------------------ prompt -> thinker
@dataclass(frozen=True, slots=True)
class AudioSpan:
    """`count` patch ids from `start` on are replaced by the embeddings of one mel."""

    start: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids [N] and one log-mel [n_mels, F] per audio span, in order."""

    ids: tuple[int, ...]
    spans: tuple[AudioSpan, ...] = ()
    mels: tuple[Mel, ...] = ()

    @property
    def num_audio_tokens(self) -> int:
        """Patches that stand for sound."""
        return sum(span.count for span in self.spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkerRequest:
    """One sequence for the language model.

    `forced_text_ids`: not None switches verbatim speech on: wherever the sampled id is of the text
    class, the next of these is written instead (DESIGN, "Verbatim speech").
    `max_tokens` in `sampling` must be set: the stage allocates by it.
    """

    request_id: str
    prompt: Prompt
    sampling: SamplingParams
    forced_text_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """New ids of one sequence, in order; the last output has a finish reason and may have no ids.

    The id that stopped the sequence (eos, stop id) is included in `ids`. `logprobs` pairs with
    `ids` when asked for: (logprob, ((id, logprob), ...)). `num_cached` ids of the prompt were there
    already, from an earlier prompt that began alike.
    """

    ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    stop_match: int | None = None
    logprobs: tuple[tuple[float, tuple[tuple[int, float], ...]], ...] = ()
    num_cached: int = 0


# ------------------------------------------------------------------ router -> token2wav
@dataclass(frozen=True, slots=True)
class ChunkSchedule:
    """How many codes each streamed chunk renders: `first` twice, then growing by `growth` to `steady`.

    Each chunk but the last also sees `lookahead` more codes, which the next one renders. The first chunk
    waits for 5 + 3 codes, two whole groups of the language model's.
    """

    first: int = 5
    steady: int = 25
    growth: float = 1.8
    lookahead: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRequest:
    """One stream for Token2Wav. `streaming` False renders once, when the codes have ended.

    `voice_sample`: the recording to speak with, in place of the checkpoint's `voice`.
    """

    request_id: str
    voice: str = "default"
    voice_sample: VoiceSample | None = None
    seed: int | None = None
    streaming: bool = True
