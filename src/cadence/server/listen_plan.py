"""A form made into what is to be done: prompt, sampling, cuts, and the shape of the answer. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from cadence.audio.pieces import Piece, SplitPolicy
from cadence.errors import InvalidRequest
from cadence.prompt import MIN_AUDIO_S
from cadence.server.languages import LANGUAGES, Language, find_language
from cadence.server.listen_prompt import listen_prompt
from cadence.server.schema import INT64
from cadence.server.schema_listen import ListenForm, ServerVad, TranscriptionForm, TranslationForm
from cadence.server.transcript import Format, Shape
from cadence.types import INPUT_RATE_HZ, AudioPart, Message, Request, SamplingParams, TextPart

__all__ = ["ListenPlan", "make_plan"]

WHOLE = SplitPolicy()
TIMED = SplitPolicy(max_s=15.0, pause_s=0.5, min_s=1.0)
"""Times are told of pieces alone: where they are asked for, pieces are short."""

# Nobody says more than this many tokens a second: a longer text goes in circles.
_TOKENS_PER_S, _MORE_TOKENS = 20, 64
_THINKING_TOKENS = 2048
_PROMPT_TOKENS_PER_S, _PROMPT_TOKENS = 12.5, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenPlan:
    """What to do with a recording.

    `limit`: the client's own, in tokens for each piece; None = as many as the piece can take.
    """

    prompt: str
    sampling: SamplingParams
    limit: int | None
    policy: SplitPolicy
    shape: Shape
    stream: bool

    def request(self, request_id: str, number: int, piece: Piece, *, max_model_len: int) -> Request:
        """What to ask of the engine about piece `number`."""
        missing = int(MIN_AUDIO_S * INPUT_RATE_HZ) - piece.samples.size
        samples = np.pad(piece.samples, (0, missing)) if missing > 0 else piece.samples
        seed = self.sampling.seed
        sampling = dataclasses.replace(
            self.sampling,
            max_tokens=self.limit or self._usual_limit(samples.size / INPUT_RATE_HZ, max_model_len),
            seed=None if seed is None else (seed + number) % INT64,
        )
        system = Message("system", (TextPart(self.prompt),))
        return Request(
            request_id=f"{request_id}-{number}",
            messages=(system, Message("user", (AudioPart(samples),))),
            sampling=sampling,
        )

    def _usual_limit(self, seconds: float, max_model_len: int) -> int:
        used = _PROMPT_TOKENS + len(self.prompt) + int(_PROMPT_TOKENS_PER_S * seconds)
        needed = _MORE_TOKENS + int(_TOKENS_PER_S * seconds) + self.shape.thinks * _THINKING_TOKENS
        return max(1, min(needed, max_model_len - used))


def make_plan(form: ListenForm, default: SamplingParams, *, thinks: bool = False) -> ListenPlan:
    """What a form asks for.

    Args:
        default: the server's sampling of text answers.
        thinks: the model reasons before it writes.

    Raises:
        InvalidRequest: fields that do not go together, or a language unknown here.
    """
    _check_combination(form)
    to = _target(form)
    spoken = _spoken(form)
    with_logprobs = isinstance(form, TranscriptionForm) and bool(form.include)
    sampling = _sampling(form, default, tokens=with_logprobs or form.response_format == "verbose_json")
    shape = Shape(
        task="translate" if to else "transcribe",
        format=_format(form),
        language=to or (spoken[0] if len(spoken) == 1 else None),
        temperature=sampling.temperature,
        with_logprobs=with_logprobs,
        with_usage=form.stream_include_usage is not False,
        thinks=thinks,
    )
    words = [*(form.keywords or ()), *(form.hotwords or ())]
    return ListenPlan(
        prompt=listen_prompt(to=to, spoken=spoken, context=form.prompt, words=words),
        sampling=sampling,
        limit=form.max_completion_tokens,
        policy=_policy(form, shape),
        shape=shape,
        stream=bool(form.stream),
    )


def _check_combination(form: ListenForm) -> None:
    kind = form.response_format or "json"
    if kind == "diarized_json":
        _refuse(
            "response_format", "'diarized_json' is not supported: this server cannot tell speakers apart."
        )
    if form.stream and kind in ("srt", "vtt"):
        _refuse(
            "response_format", f"{kind!r} is a file and cannot be streamed; stream 'verbose_json' for times."
        )
    if "word" in (form.timestamp_granularities or ()):
        _refuse("timestamp_granularities", "Times of words are not supported: the model does not tell them.")
    if form.timestamp_granularities and kind != "verbose_json":
        _conflict("timestamp_granularities", "'timestamp_granularities' goes with 'verbose_json' only.")
    if isinstance(form, TranscriptionForm) and form.include and kind not in ("json", "text"):
        _conflict("include", "'include' goes with 'json' only.")
    if isinstance(form, TranscriptionForm) and form.include and kind == "text" and not form.stream:
        _conflict("include", "'include' goes with 'json' only.")
    if form.stream_include_usage is not None and not form.stream:
        _conflict("stream_include_usage", "'stream_include_usage' goes with 'stream' only.")


def _refuse(param: str, message: str) -> None:
    raise InvalidRequest(message, param=param, code="unsupported_value")


def _conflict(param: str, message: str) -> None:
    raise InvalidRequest(message, param=param, code="conflicting_fields")


def _format(form: ListenForm) -> Format:
    kind = form.response_format or "json"
    assert kind != "diarized_json"  # refused before
    return kind


def _target(form: ListenForm) -> Language | None:
    """The language to translate to; None = no translation."""
    if not isinstance(form, TranslationForm):
        return None
    return find_language(form.to_language, "to_language") if form.to_language else LANGUAGES["en"]


def _spoken(form: ListenForm) -> list[Language]:
    """The languages that may be spoken, as far as the client says. An empty text says nothing."""
    given = [("language", form.language)]
    if isinstance(form, TranscriptionForm):
        given += [("languages", name) for name in form.languages or ()]
    found = [find_language(name, param) for param, name in given if name and name.lower() != "auto"]
    return list(dict.fromkeys(found))


def _sampling(form: ListenForm, default: SamplingParams, *, tokens: bool) -> SamplingParams:
    """The form's own fields over the model's settings for the task; those of free answers do not fit.

    Recognition is greedy and translation nearly so. Repeating costs nothing: people do repeat themselves.
    """
    task = dataclasses.replace(
        default,
        temperature=0.1 if isinstance(form, TranslationForm) else 0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        min_tokens=0,
        logprobs=0 if tokens else None,
    )
    given = form.given()
    if "seed" in given:
        given["seed"] %= INT64
    return dataclasses.replace(task, **given)


def _policy(form: ListenForm, shape: Shape) -> SplitPolicy:
    """Where to cut: the client's own wishes, or what suits the format."""
    usual = TIMED if shape.timed else WHOLE
    vad = form.chunking_strategy
    if not isinstance(vad, ServerVad):
        return usual
    wishes = {
        "threshold": vad.threshold,
        "pause_s": None if vad.silence_duration_ms is None else vad.silence_duration_ms / 1000,
        "padding_s": None if vad.prefix_padding_ms is None else vad.prefix_padding_ms / 1000,
    }
    if vad.silence_duration_ms is not None:
        wishes["min_s"] = 0.0
    return dataclasses.replace(usual, **{name: value for name, value in wishes.items() if value is not None})
