"""How answers are sampled when a request does not say: built in, then the checkpoint's, then the server's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cadence.errors import ConfigError
from cadence.types import SamplingParams

__all__ = ["BUILT_IN", "sampling_defaults"]

# What the publisher's own examples use for conversation and speech.
BUILT_IN = SamplingParams(temperature=0.7, top_p=0.9, repetition_penalty=1.05)

# generation_config.json's names -> ours
_CHECKPOINT_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
_TUPLES = ("stop", "stop_token_ids")


def sampling_defaults(
    generation_config: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, SamplingParams]:
    """Defaults by output kind ("text", "speech").

    Args:
        generation_config: the checkpoint's file, as read.
        overrides: SamplingParams fields of the server's configuration.

    Raises:
        ConfigError: an override that is no field of SamplingParams.
    """
    known = {field.name for field in dataclasses.fields(SamplingParams)}
    for name in overrides:
        if name not in known:
            raise ConfigError(
                f"default_sampling has no field {name!r}; it has: {', '.join(sorted(known))}.",
                param=f"default_sampling.{name}",
            )
    fields = {
        ours: generation_config[theirs]
        for theirs, ours in _CHECKPOINT_FIELDS.items()
        if isinstance(generation_config.get(theirs), int | float)
    }
    if generation_config.get("do_sample") is False:
        fields["temperature"] = 0.0
    fields |= {name: tuple(value) if name in _TUPLES else value for name, value in overrides.items()}
    sampling = dataclasses.replace(BUILT_IN, **fields)
    return {"text": sampling, "speech": sampling}
