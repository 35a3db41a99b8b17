"""Stage `vocabulary`: nano's byte-level BPE, written as the tokenizer files of the public layout.

Text entries come first, then the markers that Step-Audio 2 names, then the speech codes. The system
prompts that the server writes are in the training text often enough to become a few tokens each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from cadence.prompt import READ_ALOUD_PROMPT
from cadence.text import Tokenizer as CadenceTokenizer
from cadence.types import NUM_CODES
from training.nano import corpus, settings

TEXT_SIZE = 4096
SYSTEM_PROMPTS = {
    "read": READ_ALOUD_PROMPT,
    "transcribe": "请记录下你所听到的语音内容。",
    "repeat": "Repeat what you hear.\n",
}
_ROLES = ["system\n", "human\n", "assistant\n"]
_TEMPLATE_WEIGHT, _PROMPT_WEIGHT = 1, 20_000
_MARKERS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|EOT|>",
    "<|BOT|>",
    "<audio_start>",
    "<audio_end>",
    "<audio_patch>",
    "<tts_start>",
    "<tts_end>",
    "<tts_pad>",
]
# Qwen2's word pattern: contractions, words, single digits, punctuation, line breaks, spaces.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def folder() -> Path:
    """Where the tokenizer files lie."""
    path = settings.work_dir() / "vocabulary"
    path.mkdir(parents=True, exist_ok=True)
    return path


def open_tokenizer() -> CadenceTokenizer:
    """The tokenizer as the server opens it."""
    return CadenceTokenizer.open(folder())


def _learn() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=TEXT_SIZE, initial_alphabet=alphabet, show_progress=False)
    lines = [s.text for s in corpus.load() if not s.held_out]
    lines += [part for part in (*SYSTEM_PROMPTS.values(), *_ROLES) for _ in range(_PROMPT_WEIGHT)]
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def run() -> dict[str, float]:
    """Learn the merges and write the files."""
    tokenizer = _learn()
    size = tokenizer.get_vocab_size()
    names = [*_MARKERS, *(f"<audio_{code}>" for code in range(NUM_CODES + 1))]
    out = folder()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    ends = {"eos_token": "<|EOT|>", "pad_token": "<|endoftext|>"}
    _write(out / "special_tokens_map.json", ends)
    _write(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_bos_token": False,
            "add_prefix_space": False,
            "bos_token": None,
            "unk_token": None,
            "errors": "replace",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096,
            **ends,
        },
    )
    opened = open_tokenizer()
    sample = [s.text for s in corpus.load() if not s.held_out][:5000]
    num_words = sum(len(text.split()) for text in sample)
    return {
        "text_size": size,
        "ids": opened.num_ids,
        "tokens_per_word": round(sum(len(opened.encode(text)) for text in sample) / num_words, 3),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
