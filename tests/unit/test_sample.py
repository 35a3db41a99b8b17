"""The sample checkpoint: complete, deterministic, and usable by everything that reads a checkpoint."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from cadence.models.sample import write_sample_checkpoint
from cadence.models.sample_layout import FLOWS, THINKERS, flow_layout, thinker_config, thinker_layout
from cadence.models.sample_tokenizer import sample_vocabulary
from cadence.models.weights import load_pt, open_safetensors
from cadence.text import Tokenizer


@pytest.fixture(scope="module")
def small_twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("small")
    write_sample_checkpoint(root / "one", preset="small", dtype="float32")
    write_sample_checkpoint(root / "three", preset="small", dtype="float32", shards=3)
    return root / "one", root / "three"


def test_every_file_of_the_public_layout_is_there(tiny_checkpoint: Path) -> None:
    names = {path.relative_to(tiny_checkpoint).as_posix() for path in tiny_checkpoint.rglob("*.*")}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "vocab.json"),
        *("merges.txt", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"),
        *("assets/default_female.wav", "assets/default_male.wav", "token2wav/flow.pt", "token2wav/flow.yaml"),
        *("token2wav/hift.pt", "token2wav/hift.json", "token2wav/campplus.onnx"),
        "token2wav/speech_tokenizer_v2_25hz.onnx",
    }


def test_it_says_that_its_weights_are_random(tiny_checkpoint: Path) -> None:
    assert json.loads((tiny_checkpoint / "config.json").read_text())["cadence_sample"] is True


def test_tensors_are_those_of_the_layout(tiny_checkpoint: Path) -> None:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    tensors = open_safetensors(tiny_checkpoint)
    assert {key: tensors.shape_of(key) for key in tensors} == dict(thinker_layout(config))
    assert tensors["lm_head.weight"].dtype == torch.bfloat16
    flow = load_pt(tiny_checkpoint / "token2wav" / "flow.pt")
    assert {key: tuple(value.shape) for key, value in flow.items()} == dict(flow_layout(FLOWS["tiny"]))


def test_the_public_sizes_are_the_published_ones() -> None:
    config = thinker_config(THINKERS["full"], vocabulary=158_720, eos_id=151_643, dtype="bfloat16")
    thinker = sum(np.prod(shape, dtype=np.int64) for _, shape in thinker_layout(config))
    flow = sum(np.prod(shape, dtype=np.int64) for _, shape in flow_layout(FLOWS["full"]))
    assert 8.0e9 < thinker < 8.5e9
    assert 150e6 < flow < 157e6


def test_shards_hold_what_one_file_holds(small_twice: tuple[Path, Path]) -> None:
    one, three = (open_safetensors(root) for root in small_twice)
    assert len({three.file_of(key) for key in three}) == 3
    assert set(one) == set(three)
    assert all(torch.equal(one[key], three[key]) for key in one)


def test_a_tensor_depends_on_seed_and_name_alone(
    tiny_checkpoint: Path, small_twice: tuple[Path, Path], tmp_path: Path
) -> None:
    name = "adapter.linear1.bias"  # has the same shape in every preset
    tiny, small = open_safetensors(tiny_checkpoint)[name], open_safetensors(small_twice[0])[name]
    assert torch.equal(tiny, small.to(torch.bfloat16))
    write_sample_checkpoint(tmp_path, seed=1)
    assert not torch.equal(tiny, open_safetensors(tmp_path)[name])


def test_the_tokenizer_reads_its_own_text(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.open(tiny_checkpoint)
    for text in ("Hello there, how are you?", "你好，世界 \n 1234", "naïve 🎧 <|EOT|>"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert max(ids) < tokenizer.special.endoftext
    assert len(tokenizer.encode("the water in the evening")) < len("the water in the evening") / 2


def test_public_ids() -> None:
    special = sample_vocabulary(public=True).special
    known = {
        "<|endoftext|>": 151_643,
        "<|EOT|>": 151_665,
        "<audio_start>": 151_688,
        "<audio_patch>": 151_690,
        "<tts_pad>": 151_695,
        "<audio_0>": 151_696,
        "<audio_6561>": 158_257,
    }
    assert {name: special[name] for name in known} == known
    assert sample_vocabulary(public=True).num_rows == 158_720


def test_rows_past_the_tokenizer_are_padding(tiny_checkpoint: Path) -> None:
    special = Tokenizer.open(tiny_checkpoint).special
    head = open_safetensors(tiny_checkpoint)["lm_head.weight"].float()
    assert len(head) > special.num_ids
    assert head[special.num_ids :].std() < 0.5 * head[: special.num_ids].std()


def test_greedy_ids_mix_text_and_audio(tiny_checkpoint: Path) -> None:
    special = Tokenizer.open(tiny_checkpoint).special
    head = open_safetensors(tiny_checkpoint)["lm_head.weight"].float()
    hidden = torch.randn(200, head.shape[1], generator=torch.Generator().manual_seed(0))
    best = (hidden @ head.T).argmax(dim=1)
    share = (best >= special.audio_0).float().mean().item()
    assert 0.2 < share < 0.8
    assert best.max() < special.num_ids


def test_voices_are_sound(tiny_checkpoint: Path) -> None:
    for name in ("default_female", "default_male"):
        with wave.open(str(tiny_checkpoint / "assets" / f"{name}.wav")) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        assert len(samples) > 24_000
        assert samples.std() > 0.02 and np.abs(samples).max() < 0.6


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="huge"):
        write_sample_checkpoint(tmp_path, preset="huge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 shards"):
        write_sample_checkpoint(tmp_path, shards=0)
