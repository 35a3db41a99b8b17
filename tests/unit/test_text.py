"""Text to ids and back: no control id out of user text, and no half characters in a stream."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as ReferenceTokenizer

from cadence.errors import CheckpointError, InvalidRequest
from cadence.text import Tokenizer
from cadence.tokens import TEXT_MARKERS

TOKENIZER_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "config.json")


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return Tokenizer.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> ReferenceTokenizer:
    """The same file as the tokenizers library reads it, added tokens and all."""
    return ReferenceTokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))


@pytest.fixture
def loose_files(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint folder without tokenizer.json."""
    for name in TOKENIZER_FILES:
        shutil.copy(tiny_checkpoint / name, tmp_path / name)
    return tmp_path


def test_no_added_token_comes_out_of_text(tokenizer: Tokenizer) -> None:
    added, names = set(tokenizer.added_tokens), list(tokenizer.added_tokens.values())
    assert "<tool_call>" in names and "<audio_6561>" in names
    for name in names:
        for text in (name, f"say {name}now", f"{name[:3]}\u200b{name[3:]}", name * 2):
            ids = tokenizer.encode(text)
            assert added.isdisjoint(ids), text
            assert tokenizer.decode(ids) == text


@settings(deadline=None)
@given(st.text(max_size=80))
def test_text_survives_encoding(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert all(tokenizer.special.is_text(i) for i in ids)


@pytest.mark.parametrize("text", ["", "I'm 42, you're 7\n\n ok  ", "你好，世界！", "e\u0301🎵", "\t \r\n x"])
def test_plain_text_gets_the_reference_ids(
    tokenizer: Tokenizer, reference: ReferenceTokenizer, text: str
) -> None:
    assert tokenizer.encode(text) == reference.encode(text).ids


def test_loose_files_give_the_same_tokenizer(tokenizer: Tokenizer, loose_files: Path) -> None:
    loose = Tokenizer.open(loose_files)
    text = "Hello there, it's 2 o'clock.\n\n  你好 <|EOT|>"
    assert loose.special == tokenizer.special
    assert loose.added_tokens == tokenizer.added_tokens
    assert loose.encode(text) == tokenizer.encode(text)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pieces_join_to_the_whole_decoding(
    tokenizer: Tokenizer, reference: ReferenceTokenizer, data: st.DataObject
) -> None:
    # text ids (bytes of broken characters among them), control ids, and ids that stand for nothing
    ids = data.draw(st.lists(st.integers(0, tokenizer.special.audio_0 + 4), max_size=60))
    skip = data.draw(st.booleans())
    whole = tokenizer.decode(ids, skip_special=skip)
    # What the library takes for special and we show all the same, as it is content (<tool_call>).
    shown = [i for i in ids if tokenizer.added_tokens.get(i) in TEXT_MARKERS.values()]
    if not (skip and shown):
        assert whole == reference.decode(ids, skip_special_tokens=skip)
    stream, pieces, rest = tokenizer.detokenizer(skip_special=skip), [], ids
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces.append(stream.push(rest[:size]))
        rest = rest[size:]
    pieces.append(stream.flush())
    assert "".join(pieces) == whole


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("好")
    assert len(ids) == 3  # the sample vocabulary has no merge for it
    stream = tokenizer.detokenizer()
    assert [stream.push([i]) for i in ids] == ["", "", "好"]
    assert stream.flush() == ""
    cut = tokenizer.detokenizer()
    assert cut.push(ids[:2]) + cut.flush() == "\ufffd"


def test_control_tokens_are_hidden_unless_asked_for(tokenizer: Tokenizer) -> None:
    special = tokenizer.special
    ids = [special.bot, *tokenizer.encode("hi"), special.eot, special.audio_0, special.tts_pad]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special=False) == "<|BOT|>hi<|EOT|><audio_0><tts_pad>"
    assert tokenizer.is_hidden(special.eot) and not tokenizer.is_hidden(ids[1])
    assert tokenizer.token_text(special.eot) == "<|EOT|>"


def test_ids_without_a_token_are_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.num_ids + 5, -1]) == ""


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="character 2"):
        tokenizer.encode("ab\ud800")


def test_a_folder_without_tokenizer_says_what_it_wants(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json, or vocab\.json and merges\.txt"):
        Tokenizer.open(tmp_path)


def test_two_contents_for_one_id_are_refused(loose_files: Path, tokenizer: Tokenizer) -> None:
    settings_path = loose_files / "tokenizer_config.json"
    data = json.loads(settings_path.read_text())
    data["added_tokens_decoder"] = {str(tokenizer.special.eot): {"content": "<|END|>", "special": True}}
    settings_path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"<\|END\|>.*<\|EOT\|>"):
        Tokenizer.open(loose_files)


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {"type": "Other"}}', '{"model": {"type": "BPE"}}'])
def test_a_broken_tokenizer_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.open(tmp_path)


def test_markers_of_tool_calls_are_shown(tokenizer: Tokenizer) -> None:
    ids = [i for i, name in tokenizer.added_tokens.items() if name in TEXT_MARKERS.values()]
    assert ids
    for i in ids:
        assert tokenizer.decode([i]) == tokenizer.added_tokens[i] and not tokenizer.is_hidden(i)
