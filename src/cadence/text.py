"""Text to ids and back: byte-level BPE with the Qwen2 pre-tokenisation.

User text is encoded by a tokenizer that does not know the added tokens at all, so no literal
`<|EOT|>`, `<audio_12>` or `<tool_call>` in it can ever become a control id. Decoding works on bytes:
each id stands for a fixed byte string, an answer is their sum read as UTF-8.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as BpeTokenizer
from tokenizers.models import BPE

from cadence.errors import CheckpointError, InvalidRequest
from cadence.tokens import TEXT_MARKERS, SpecialIds

__all__ = ["Detokenizer", "Tokenizer"]

# Qwen2's word pattern: contractions, words, single digits, punctuation, line breaks, spaces.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """The tokenizer of a checkpoint. Safe to share between threads: it is never changed.

    Attributes:
        special: the control ids, checked against config.json when the folder has one.
        num_ids: ids that stand for something.
    """

    def __init__(
        self,
        bpe: BpeTokenizer,
        added: Mapping[int, str],
        hidden: Iterable[int],
        *,
        special: SpecialIds,
    ) -> None:
        """Args: `bpe` without added tokens; `added` id -> content; `hidden` ids that text never shows."""
        self.special = special
        self._bpe = bpe
        self._added = dict(added)
        self._hidden = frozenset(hidden)
        self._bytes: dict[int, bytes] = {}
        self.num_ids = max(bpe.get_vocab_size(), max(self._added, default=-1) + 1)

    @classmethod
    def open(cls, root: Path) -> Tokenizer:
        """Read the tokenizer of a checkpoint folder: tokenizer.json, else vocab.json + merges.txt.

        Raises:
            CheckpointError: a file is missing or broken, or ids disagree between files.
        """
        path = root / "tokenizer.json"
        if path.is_file():
            bpe, added, flags = _from_tokenizer_json(path)
        elif (root / "vocab.json").is_file() and (root / "merges.txt").is_file():
            path = root / "vocab.json"
            bpe, added, flags = _from_vocab_and_merges(root)
        else:
            raise CheckpointError(
                f"{root} has no tokenizer.",
                hint="Expected tokenizer.json, or vocab.json and merges.txt.",
                param="tokenizer",
            )
        settings = _read_object(root / "tokenizer_config.json", optional=True)
        try:
            _add_declared(root, settings, added, flags)
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(
                "added_tokens.json or tokenizer_config.json declares tokens in a form that is not known.",
                param="tokenizer",
            ) from error
        vocab: dict[str, int] = bpe.get_vocab(with_added_tokens=False)
        vocab.update({content: token_id for token_id, content in added.items()})
        special = SpecialIds.from_vocab(
            vocab,
            eos_token=_token_content(settings.get("eos_token")),
            config=_read_object(root / "config.json", optional=True),
            source=path.name,
        )
        shown = set(TEXT_MARKERS.values())
        hidden = {
            i
            for i, name in added.items()
            if name not in shown and (flags.get(i, True) or not special.is_text(i))
        }
        return cls(bpe, added, hidden | {special.bot, special.eot, special.endoftext}, special=special)

    @property
    def added_tokens(self) -> Mapping[int, str]:
        """Every added token, id to content."""
        return self._added

    def encode(self, text: str) -> list[int]:
        """Ids of literal text; special token names in it are spelled out as ordinary text.

        Raises:
            InvalidRequest: the text is not valid Unicode (a lone surrogate).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"The text holds a lone surrogate at character {error.start}, which is not valid Unicode."
            ) from error
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD. Ids that stand for nothing give nothing."""
        return self.join_bytes(ids, skip_special=skip_special).decode("utf-8", "replace")

    def is_hidden(self, token_id: int) -> bool:
        """Whether an id is a control token, which visible text leaves out."""
        return token_id in self._hidden

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one id stands for; b"" for an id that stands for nothing."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._spell(token_id)
        return known

    def token_text(self, token_id: int) -> str:
        """One id as text, control tokens by name; part of a character shows as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def detokenizer(self, *, skip_special: bool = True) -> Detokenizer:
        """A fresh incremental decoder."""
        return Detokenizer(self, skip_special=skip_special)

    def join_bytes(self, ids: Iterable[int], *, skip_special: bool = True) -> bytes:
        """The bytes of ids in order; may end in the middle of a character."""
        return b"".join(self.token_bytes(i) for i in ids if not (skip_special and i in self._hidden))

    def _spell(self, token_id: int) -> bytes:
        content = self._added.get(token_id)
        if content is not None:
            return content.encode()
        if token_id < 0:
            return b""
        piece = self._bpe.id_to_token(token_id)
        return bytes(_BYTE_OF[char] for char in piece) if piece else b""


class Detokenizer:
    """Ids in, text out, a piece at a time; the pieces join to `Tokenizer.decode` of all ids.

    Bytes of an unfinished character are held back, so cost is linear and no piece ever shows half a
    character.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        """Args: `skip_special` leaves control tokens out."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        """New text that `ids` complete; may be empty."""
        return self._decoder.decode(self._tokenizer.join_bytes(ids, skip_special=self._skip_special))

    def flush(self) -> str:
        """What was held back at the end: U+FFFD for an unfinished character, else nothing."""
        return self._decoder.decode(b"", final=True)


# ------------------------------------------------------------------ reading the files
def _byte_of_char() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character: visible Latin-1 as itself, the rest
    (controls, space, soft hyphen) as characters from U+0100 on, in order."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(visible)]
    return {chr(b): b for b in visible} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_of_char()


def _read_object(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} cannot be read as JSON: {error}.", param=path.name) from error
    if not isinstance(data, dict):
        found = type(data).__name__
        raise CheckpointError(f"{path.name} must hold an object, found {found}.", param=path.name)
    return data


def _from_tokenizer_json(path: Path) -> tuple[BpeTokenizer, dict[int, str], dict[int, bool]]:
    data = _read_object(path)
    model = data.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind != "BPE":
        raise CheckpointError(f"{path.name}: model.type is {kind!r}, expected 'BPE'.", param="model.type")
    try:
        entries = [
            (int(e["id"]), str(e["content"]), bool(e.get("special", True))) for e in data["added_tokens"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path.name}: added_tokens is no list of tokens.", param="added_tokens"
        ) from error
    added = {token_id: content for token_id, content, _ in entries}
    flags = {token_id: is_special for token_id, _, is_special in entries}
    # Without added tokens no text can match one; padding and templates are not wanted either.
    data |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    try:
        bpe = BpeTokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises bare Exception for any bad file
        raise CheckpointError(f"{path.name} is no tokenizer file: {error}.", param=path.name) from error
    return _checked(bpe, path.name), added, flags


def _from_vocab_and_merges(root: Path) -> tuple[BpeTokenizer, dict[int, str], dict[int, bool]]:
    _read_object(root / "vocab.json")
    try:
        model = BPE.from_file(str(root / "vocab.json"), str(root / "merges.txt"))
    except Exception as error:  # the library raises bare Exception for any bad file
        raise CheckpointError(f"vocab.json and merges.txt do not fit: {error}.") from error
    bpe = BpeTokenizer(model)
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _checked(bpe, "vocab.json"), {}, {}


def _checked(bpe: BpeTokenizer, name: str) -> BpeTokenizer:
    vocab = bpe.get_vocab(with_added_tokens=False)
    lost = [char for char in _BYTE_OF if char not in vocab]
    if lost:
        raise CheckpointError(f"{name} is not byte-level: it has no token for {len(lost)} of 256 bytes.")
    return bpe


def _add_declared(
    root: Path, settings: Mapping[str, Any], added: dict[int, str], flags: dict[int, bool]
) -> None:
    """Add what added_tokens.json and tokenizer_config.json declare; two contents for an id are an error."""
    declared = {
        "added_tokens.json": {
            int(i): (str(content), True)
            for content, i in _read_object(root / "added_tokens.json", optional=True).items()
        },
        "tokenizer_config.json": {
            int(i): (_token_content(entry) or "", bool(entry.get("special", True)))
            for i, entry in (settings.get("added_tokens_decoder") or {}).items()
        },
    }
    for file, tokens in declared.items():
        for token_id, (content, is_special) in tokens.items():
            if added.setdefault(token_id, content) != content:
                raise CheckpointError(
                    f"{file}: id {token_id} is {content!r}, elsewhere it is {added[token_id]!r}.", param=file
                )
            if file == "tokenizer_config.json":
                flags[token_id] = is_special


def _token_content(entry: object) -> str | None:
    """A token as these files write it: a string or an object with `content`."""
    content = entry.get("content") if isinstance(entry, dict) else entry
    return str(content) if content is not None else None
