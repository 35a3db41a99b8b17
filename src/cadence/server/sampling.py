"""From sampling fields in a body to `SamplingParams`: the request's own laid over the defaults.

The same parameter may stand in several places (top level, `extra_params`, `sampling_params_list`) and
under several names (`max_tokens`, `max_completion_tokens`). Different values for one are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from cadence.errors import InvalidRequest
from cadence.server.schema import INT64, conflict
from cadence.server.schema_chat import ChatBody, StageSampling
from cadence.server.schema_speech import SpeechBody
from cadence.types import SamplingParams

__all__ = [
    "audio_seed",
    "chat_sampling",
    "speech_limit",
    "speech_sampling",
    "wants_logprobs",
    "with_seed_offset",
]


def speech_sampling(body: SpeechBody, default: SamplingParams) -> SamplingParams:
    """Sampling of a text to read.

    The length of verbatim speech follows from its text: a default limit meant for free answers (1024 in
    the well-known stage YAML, 32 s of sound) must not cut it. The client's own limit holds.
    """
    if body.verbatim is not False:
        default = dataclasses.replace(default, max_tokens=None)
    extra = body.extra_params
    given = _Given()
    given.add("", body.given())
    given.add("", {"max_tokens": body.max_new_tokens}, {"max_tokens": "max_new_tokens"})
    if extra is not None:
        given.add("extra_params.", extra.given())
        given.add("extra_params.", {"max_tokens": extra.max_new_tokens}, {"max_tokens": "max_new_tokens"})
    return dataclasses.replace(default, **given.values)


def speech_limit(body: SpeechBody) -> int | None:
    """The client's own limit on tokens."""
    if body.max_new_tokens is None and body.extra_params is not None:
        return body.extra_params.max_new_tokens
    return body.max_new_tokens


def chat_sampling(body: ChatBody, default: SamplingParams) -> SamplingParams:
    """Sampling of a chat answer: top level and the first stage of `sampling_params_list`."""
    given = _Given()
    given.add("", body.given())
    given.add("", _common(body))
    given.add("", {"skip_special_tokens": body.skip_special_tokens})
    given.add("", {"max_tokens": body.max_completion_tokens}, {"max_tokens": "max_completion_tokens"})
    if body.logprobs is False and body.top_logprobs is not None:
        raise InvalidRequest("'top_logprobs' contradicts 'logprobs': false.", param="top_logprobs")
    if wants_logprobs(body):
        given.add("", {"logprobs": body.top_logprobs or 0})
    if body.sampling_params_list:
        stage = body.sampling_params_list[0]
        given.add("sampling_params_list.0.", stage.given())
        given.add("sampling_params_list.0.", _common(stage))
    return dataclasses.replace(default, **given.values)


def wants_logprobs(body: ChatBody) -> bool:
    """Whether log-probabilities are asked for, by either of the two fields."""
    return bool(body.logprobs) or body.top_logprobs is not None


def audio_seed(body: ChatBody) -> int | None:
    """The seed of the vocoder stage, when the request gives one of its own."""
    stages = body.sampling_params_list or ()
    return _non_negative(stages[1].seed) if len(stages) > 1 and stages[1].seed is not None else None


def with_seed_offset(sampling: SamplingParams, offset: int) -> SamplingParams:
    """The same sampling for answer number `offset` of several: each has its own seed."""
    if sampling.seed is None or offset == 0:
        return sampling
    return dataclasses.replace(sampling, seed=_non_negative(sampling.seed + offset))


def _common(source: ChatBody | StageSampling) -> dict[str, Any]:
    """Fields that chat bodies and stages share beyond `Sampling`, as `SamplingParams` wants them."""
    stop = source.stop
    return {
        "max_tokens": source.max_tokens,
        "min_tokens": source.min_tokens,
        "stop": (stop,) if isinstance(stop, str) else None if stop is None else tuple(stop),
        "stop_token_ids": None if source.stop_token_ids is None else tuple(source.stop_token_ids),
        "ignore_eos": source.ignore_eos,
        "logit_bias": _biases(source.logit_bias),
    }


def _biases(given: Mapping[str, float] | None) -> dict[int, float] | None:
    return None if given is None else {int(token): value for token, value in given.items()}


def _non_negative(seed: int) -> int:
    """Generators take no negative seeds; this keeps different ones apart within 63 bits."""
    return seed % INT64


class _Given:
    """Collects values and where each came from."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._fields: dict[str, str] = {}

    def add(self, prefix: str, values: Mapping[str, Any], fields: Mapping[str, str] | None = None) -> None:
        """Add what is not None; `fields` gives the client's name of a parameter where it differs."""
        for name, value in values.items():
            if value is None:
                continue
            if name == "seed":
                value = _non_negative(value)
            field = prefix + (fields or {}).get(name, name)
            if name in self.values and self.values[name] != value:
                raise conflict(self._pair(name, field))
            self.values[name] = value
            self._fields.setdefault(name, field)

    def _pair(self, name: str, field: str) -> Iterable[str]:
        return field, self._fields[name]
