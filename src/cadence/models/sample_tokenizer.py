"""The sample checkpoint's tokenizer: a small byte-level BPE with Step-Audio 2's control tokens.

Ids follow the public order: text, Qwen's and Step's markers, markers of sound, speech codes. With the
public vocabulary the ids equal the public ones; otherwise the text part has 512 entries and everything
after it moves down, which also shows who hard-codes an id.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from cadence.types import NUM_CODES

__all__ = ["SampleVocabulary", "sample_vocabulary", "write_tokenizer"]

PUBLIC_TEXT_SIZE = 151_643  # Qwen2.5's byte-pair entries
PUBLIC_ROWS = 158_720  # rows of the public embedding; the last 462 stand for nothing
SMALL_TEXT_SIZE = 512
_ROW_MULTIPLE = 64

_QWEN = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>"),
    *("<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
]
_STEP = [
    *("<|EOT|>", "<|BOT|>", "<|THINK_START|>", "<|THINK_END|>"),
    *(f"<|reserved_{i}|>" for i in range(19)),
]
_SOUND = [
    *("<audio_start>", "<audio_end>", "<audio_patch>", "<|reserved_19|>", "<|reserved_20|>"),
    *("<tts_start>", "<tts_end>", "<tts_pad>"),
]

# Qwen2's word pattern: contractions, words, single digits, punctuation, line breaks, spaces.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Enough everyday words for a few hundred merges.
_CORPUS = """
The quick answer came over the water while the evening light was still warm, and everyone listened. When the
music started again the children ran along the street, laughing and calling to each other about what they had
seen. There were seven boats in the harbour that morning, each with a different name painted on its side. She
said that reading this paragraph at a natural pace would take less than a minute, so nobody needed to hurry.
Hello and welcome: you are a helpful assistant. Please translate the speech into another language, write down
what you hear, then speak the translation clearly. The weather is going to be better tomorrow than it was
yesterday. How many people have been waiting here since three o'clock? Something about the question made him
think of another place, where the mountain road turned through the forest and the stations were small.
user human system assistant audio voice text model sound speaker language stream request server answer
"""

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|BOT|>{{ {'user': 'human'}.get(message.role, message.role) }}\n"
    "{{ message.content }}{% if not (loop.last and continue_final_message) %}<|EOT|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|BOT|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class SampleVocabulary:
    """`special` maps each control token to its id; `num_rows` counts embedding rows, padding included."""

    text_size: int
    special: dict[str, int]
    num_rows: int

    @property
    def first_audio(self) -> int:
        """Id of `<audio_0>`."""
        return self.special["<audio_0>"]

    @property
    def num_ids(self) -> int:
        """Ids that have a token; the rows from here on have none."""
        return self.text_size + len(self.special)


def sample_vocabulary(*, public: bool) -> SampleVocabulary:
    """Ids of the sample's control tokens, public or close together."""
    size = PUBLIC_TEXT_SIZE if public else SMALL_TEXT_SIZE
    names = [*_QWEN, *_STEP, *_SOUND, *(f"<audio_{code}>" for code in range(NUM_CODES + 1))]
    special = {name: size + i for i, name in enumerate(names)}
    used = size + len(special)
    rows = PUBLIC_ROWS if public else -(-(used + 1) // _ROW_MULTIPLE) * _ROW_MULTIPLE
    return SampleVocabulary(size, special, rows)


def _byte_alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _learn_merges(count: int) -> list[tuple[str, str]]:
    """Plain byte-pair encoding of the corpus: the most frequent pair, ties by spelling."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words = [list(word) for word, _ in split.pre_tokenize_str(_CORPUS)]
    merges: dict[str, tuple[str, str]] = {}
    while len(merges) < count:
        pairs = Counter(pair for word in words for pair in pairwise(word) if "".join(pair) not in merges)
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges["".join(best)] = best
        words = [_merged(word, best) for word in words]
    return list(merges.values())


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for piece in word:
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result


def write_tokenizer(out: Path, vocabulary: SampleVocabulary) -> None:
    """Write tokenizer.json and the older files that say the same, into an existing folder."""
    alphabet = _byte_alphabet()
    merges = _learn_merges(SMALL_TEXT_SIZE - len(alphabet))
    tokens = [*alphabet, *(a + b for a, b in merges)]
    tokens += [f"[unused{i}]" for i in range(len(tokens), vocabulary.text_size)]
    vocab = {token: i for i, token in enumerate(tokens)}

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in vocabulary.special])
    tokenizer.save(str(out / "tokenizer.json"))

    _write_json(out / "vocab.json", vocab)
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(out / "added_tokens.json", vocabulary.special)
    ends = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    _write_json(out / "special_tokens_map.json", ends)
    _write_json(out / "tokenizer_config.json", _tokenizer_config(vocabulary) | ends)


def _tokenizer_config(vocabulary: SampleVocabulary) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {"content": name, "special": True, **flags} for name, i in vocabulary.special.items()
        },
        "bos_token": None,
        "unk_token": None,
        "errors": "replace",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "model_max_length": 32768,
        "chat_template": _CHAT_TEMPLATE,
    }


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
