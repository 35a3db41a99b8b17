"""Special ids and id ranges of a Step-Audio 2 vocabulary: their only home.

Ids are looked up by name and checked, never assumed. The vocabulary is laid out as

    0 .. text_limit-1            text, with the message markers `<|BOT|>`, `<|EOT|>` among them
    text_limit .. audio_0-1      `<audio_start>` and the other markers of sound (tts_start, tts_pad, ...)
    audio_0 .. audio_0+6560      speech codes 0..6560
    audio_0+6561                 padding of an audio slot
    num_ids ..                   rows of the embedding without a token: never to be sampled
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cadence.errors import CheckpointError
from cadence.types import NUM_CODES

__all__ = ["PADDING_CODE", "TEXT_MARKERS", "SpecialIds"]

PADDING_CODE = NUM_CODES  # 6561: fills an audio slot when there is nothing to say

_NAMES = {
    "bot": "<|BOT|>",
    "eot": "<|EOT|>",
    "endoftext": "<|endoftext|>",
    "audio_start": "<audio_start>",
    "audio_end": "<audio_end>",
    "audio_patch": "<audio_patch>",
    "tts_start": "<tts_start>",
    "tts_end": "<tts_end>",
    "tts_pad": "<tts_pad>",
}
TEXT_MARKERS = {
    "think": "<think>",
    "think_end": "</think>",
    "tool_call": "<tool_call>",
    "tool_call_end": "</tool_call>",
}
"""Markers that stand in visible text, where parsers look for them."""

_SOUND_MARKERS = ("audio_end", "audio_patch", "tts_start", "tts_end", "tts_pad")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """The ids that prompt, sampler and router steer by. Build with `from_vocab`.

    `eos` is the tokenizer's own end token. `think` to `tool_call_end` are the ids of the markers of reasoning
    and of tool calls where those are tokens (elsewhere they are spelled as ordinary text).
    """

    bot: int
    eot: int
    endoftext: int
    audio_start: int
    audio_end: int
    audio_patch: int
    tts_start: int
    tts_end: int
    tts_pad: int
    audio_0: int
    eos: int
    think: int | None = None
    think_end: int | None = None
    tool_call: int | None = None
    tool_call_end: int | None = None

    @property
    def text_limit(self) -> int:
        """First id that is not text: that of `<audio_start>`."""
        return self.audio_start

    @property
    def audio_padding(self) -> int:
        """The id that pads an audio slot: the one after the last speech code."""
        return self.audio_0 + PADDING_CODE

    @property
    def num_ids(self) -> int:
        """Ids in use; rows of the head from here on stand for nothing."""
        return self.audio_0 + PADDING_CODE + 1

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer of any variant, `<|EOT|>` first, without doubles."""
        return tuple(dict.fromkeys((self.eot, self.endoftext, self.eos)))

    def is_text(self, token_id: int) -> bool:
        """Whether an id is of the text class (message markers included)."""
        return 0 <= token_id < self.text_limit

    def is_code(self, token_id: int) -> bool:
        """Whether an id is a speech code 0..6560; the padding id is not."""
        return self.audio_0 <= token_id < self.audio_0 + NUM_CODES

    def code_of(self, token_id: int) -> int:
        """Speech code of an id; ValueError when the id is not one."""
        if not self.is_code(token_id):
            raise ValueError(f"id {token_id} is no speech code ({self.audio_0}..{self.audio_padding - 1})")
        return token_id - self.audio_0

    def id_of(self, code: int) -> int:
        """Id of a speech code 0..6560; ValueError when out of range."""
        if not 0 <= code < NUM_CODES:
            raise ValueError(f"speech code {code} is not in 0..{NUM_CODES - 1}")
        return self.audio_0 + code

    @classmethod
    def from_vocab(
        cls,
        vocab: Mapping[str, int],
        *,
        eos_token: str | None = None,
        config: Mapping[str, Any] | None = None,
        source: str = "the tokenizer",
    ) -> SpecialIds:
        """Look the names up and check what they say against each other and the model's config.

        Args:
            vocab: every token's name to its id, added tokens included.
            eos_token: the tokenizer's end token; None = `<|endoftext|>`.
            config: the checkpoint's config.json, checked against the ids when given.
            source: the file to name in errors.

        Raises:
            CheckpointError: a name is missing, codes are not in one run, or the config disagrees.
        """
        wanted = {**_NAMES, "audio_0": _code_name(0)}
        missing = [name for name in wanted.values() if name not in vocab]
        if missing:
            raise CheckpointError(
                f"{source} lacks the tokens {', '.join(missing)} that Step-Audio 2 needs.", param="tokenizer"
            )
        ids = {field: vocab[name] for field, name in wanted.items()}
        eos_name = eos_token or _NAMES["endoftext"]
        if eos_name not in vocab:
            raise CheckpointError(f"{source} names {eos_name!r} as its end token but has no such token.")
        _check_ranges(ids, vocab, source)
        special = cls(
            **ids,
            eos=vocab[eos_name],
            think=vocab.get(TEXT_MARKERS["think"]),
            think_end=vocab.get(TEXT_MARKERS["think_end"]),
            tool_call=vocab.get(TEXT_MARKERS["tool_call"]),
            tool_call_end=vocab.get(TEXT_MARKERS["tool_call_end"]),
        )
        if config is not None:
            special.check_config(config, source=source)
        return special

    def check_config(self, config: Mapping[str, Any], *, source: str = "the tokenizer") -> None:
        """Refuse a config.json that numbers its tokens otherwise than the tokenizer does.

        Checked, there and under text_config: `vocab_size` covers every id; keys such as
        `audio_start_token_id` hold the id of that name; `eos_token_id` is an id in use.

        Raises:
            CheckpointError: names the key and both values.
        """
        known = {f"{field}_token_id": getattr(self, field) for field in (*_NAMES, "audio_0")}
        text = config.get("text_config")
        sections = [("", config)] + ([("text_config.", text)] if isinstance(text, Mapping) else [])
        for prefix, section in sections:
            size = section.get("vocab_size")
            if isinstance(size, int) and size < self.num_ids:
                raise CheckpointError(
                    f"config.json: {prefix}vocab_size is {size}, but {source} numbers tokens up to "
                    f"{self.num_ids - 1}.",
                    param=f"{prefix}vocab_size",
                )
            for key, expected in known.items():
                value = section.get(key, expected)
                if value != expected:
                    raise CheckpointError(
                        f"config.json: {prefix}{key} is {value}, but {source} says {expected}.",
                        param=f"{prefix}{key}",
                    )
            _check_eos(section.get("eos_token_id"), self.num_ids, f"{prefix}eos_token_id", source)


def _code_name(code: int) -> str:
    return f"<audio_{code}>"


def _check_eos(value: object, num_ids: int, key: str, source: str) -> None:
    values: Sequence[object] = value if isinstance(value, list) else [value]
    for eos in values:
        if isinstance(eos, int) and not 0 <= eos < num_ids:
            raise CheckpointError(
                f"config.json: {key} is {eos}, but {source} numbers tokens 0 to {num_ids - 1}.", param=key
            )


def _check_ranges(ids: Mapping[str, int], vocab: Mapping[str, int], source: str) -> None:
    first = ids["audio_0"]
    for code in range(PADDING_CODE + 1):
        name = _code_name(code)
        if vocab.get(name) != first + code:
            raise CheckpointError(
                f"{source}: {name} has id {vocab.get(name)}, expected {first + code}: "
                f"speech codes must follow {_code_name(0)} ({first}) in one run."
            )
    limit = ids["audio_start"]
    for field in _SOUND_MARKERS:
        if not limit < ids[field] < first:
            raise CheckpointError(
                f"{source}: {_NAMES[field]} has id {ids[field]}, expected between <audio_start> ({limit}) "
                f"and {_code_name(0)} ({first})."
            )
    for field in ("bot", "eot", "endoftext"):
        if ids[field] >= limit:
            raise CheckpointError(
                f"{source}: {_NAMES[field]} has id {ids[field]}, expected below <audio_start> ({limit})."
            )
