"""The vocoder's laws: streaming against offline, batches against alone, strict loading."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hift_kit import some_mel
from torch import Tensor

from cadence.errors import CheckpointError
from cadence.models.hift import FRAME_SAMPLES, HiFT, HiFTConfig, HiFTState
from cadence.models.hift_weights import load_hift, read_hift_config, save_hift
from cadence.models.sample_layout import hift_layout

SMALL = HiFTConfig(base_channels=16, f0_channels=8)
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def hift(tiny_checkpoint: Path) -> HiFT:
    return load_hift(tiny_checkpoint / "token2wav")


def stream(hift: HiFT, mel: Tensor, cuts: list[int], seed: int | None = None) -> list[Tensor]:
    state = HiFTState(generator=None if seed is None else torch.Generator().manual_seed(seed))
    return [hift.stream(state, part, i == len(cuts) - 1) for i, part in enumerate(mel.split(cuts, dim=1))]


# ------------------------------------------------------------------ sound
def test_sound_is_alive_and_within_the_limiter(hift: HiFT) -> None:
    sound, source = hift.vocode(some_mel(50)[None])
    assert sound.shape == source.shape == (1, 50 * FRAME_SAMPLES)
    assert torch.isfinite(sound).all() and sound.std() > 0.005 and sound.abs().max() <= 0.99
    pitch = hift.f0_predictor(some_mel(50)[None])
    assert (pitch > 10).float().mean() > 0.8


@pytest.mark.parametrize(
    "cuts", [[30], [10, 20], [1, 1, 28], [3, 4, 23], [8, 22], [29, 1], [20, 10, 0], [0, 30]]
)
def test_chunks_hold_every_sample_whatever_the_cuts(hift: HiFT, cuts: list[int]) -> None:
    parts = stream(hift, some_mel(30), cuts)
    assert sum(len(part) for part in parts) == 30 * FRAME_SAMPLES
    assert all(part.abs().max() <= 1.0 for part in parts if len(part))


def test_a_stream_without_any_frame_is_silent(hift: HiFT) -> None:
    assert len(hift.stream(HiFTState(), some_mel(4)[:, :0], last=True)) == 0


def test_streaming_equals_offline_away_from_seams(hift: HiFT) -> None:
    # The phase restarts with each chunk, so the law holds for the network: take the pitch away.
    silent = HiFT(hift.config)
    silent.load_state_dict(hift.state_dict())
    torch.nn.init.zeros_(silent.f0_predictor.classifier.weight)
    torch.nn.init.zeros_(silent.f0_predictor.classifier.bias)
    mel, cuts = some_mel(150), [50, 50, 50]
    whole = silent.vocode(mel[None])[0][0]
    parts = torch.cat(stream(silent, mel, cuts))
    reach = 14  # frames that the convolutions see to each side
    for start, end in ((0, 50), (42, 100), (92, 150)):  # rendered with 8 frames of the chunk before
        inner = slice(
            (start + (start > 0) * reach) * FRAME_SAMPLES, (end - (end < 150) * reach) * FRAME_SAMPLES
        )
        torch.testing.assert_close(parts[inner], whole[inner], rtol=0, atol=1e-5)


def test_a_batch_equals_each_alone(hift: HiFT) -> None:
    cuts = {0: [10, 20, 9], 1: [10, 20, 9], 2: [12, 18, 9], 3: [10, 20, 9]}
    mels = {i: some_mel(39, seed=i) for i in cuts}
    states = [HiFTState(generator=torch.Generator().manual_seed(i) if i else None) for i in cuts]
    parts: dict[int, list[Tensor]] = {i: [] for i in cuts}
    pieces = {i: mels[i].split(cuts[i], dim=1) for i in cuts}
    for step in range(3):
        sounds = hift.stream_batch(states, [pieces[i][step] for i in cuts], [step == 2] * len(cuts))
        for i, sound in enumerate(sounds):
            parts[i].append(sound)
    for i in cuts:
        alone = torch.cat(stream(hift, mels[i], cuts[i], seed=i or None))
        torch.testing.assert_close(torch.cat(parts[i]), alone, rtol=0, atol=2e-4)


def test_the_seed_alone_decides_the_noise(hift: HiFT) -> None:
    mel = some_mel(12)[None]

    def render(seed: int) -> Tensor:
        return hift.vocode(mel, generators=[torch.Generator().manual_seed(seed)])[0]

    assert torch.equal(render(3), render(3))
    assert not torch.equal(render(3), render(4))


def test_state_does_not_grow(hift: HiFT) -> None:
    state, sizes = HiFTState(), []
    for _ in range(4):
        hift.stream(state, some_mel(20))
        held = (state.mel, state.source, state.speech)
        sizes.append(sum(part.untyped_storage().nbytes() for part in held))
    assert len(set(sizes)) == 1 and sizes[0] == 4 * (80 * 8 + 2 * 8 * FRAME_SAMPLES)


def test_gradients_reach_every_weight_but_those_of_the_pitch() -> None:
    torch.manual_seed(0)
    hift = HiFT(SMALL)
    hift(torch.randn(1, 80, 6)).square().sum().backward()
    without = {name.split(".")[0] for name, parameter in hift.named_parameters() if parameter.grad is None}
    assert without == {"f0_predictor"}


# ------------------------------------------------------------------ loading
def write(folder: Path, change: Callable[[Tensors], Tensors] = lambda tensors: tensors) -> Path:
    """A small vocoder in the public spelling, changed on the way to disk."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"generator.{name}": torch.randn(shape, generator=generator) for name, shape in hift_layout(SMALL)
    }
    torch.save(change(tensors), folder / "hift.pt")
    sizes = {"base_channels": SMALL.base_channels, "f0_channels": SMALL.f0_channels}
    (folder / "hift.json").write_text(json.dumps(sizes))
    return folder


def test_the_public_layout_is_this_network() -> None:
    with torch.device("meta"):
        network = HiFT(HiFTConfig())
    folded = {
        name.replace("parametrizations.weight.original1", "weight"): shape
        for name, shape in hift_layout(HiFTConfig())
        if not name.endswith("original0")
    }
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == folded
    assert sum(parameter.numel() for parameter in network.parameters()) == 20_806_557


def test_both_spellings_and_no_prefix_load_the_same(tmp_path: Path) -> None:
    def older(tensors: Tensors) -> Tensors:
        names = {
            "parametrizations.weight.original0": "weight_g",
            "parametrizations.weight.original1": "weight_v",
        }
        renamed = {}
        for key, value in tensors.items():
            for new, old in names.items():
                key = key.replace(new, old)
            renamed[key.removeprefix("generator.")] = value
        return renamed

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = load_hift(write(tmp_path / "a")), load_hift(write(tmp_path / "b", older))
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


def test_saving_and_loading_is_the_identity(tmp_path: Path) -> None:
    torch.manual_seed(0)
    hift = HiFT(SMALL)
    save_hift(hift, tmp_path)
    again = load_hift(tmp_path)
    assert again.config == SMALL
    for name, value in hift.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-6, atol=1e-7, msg=name)


BROKEN: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (lambda t: {k: v for k, v in t.items() if k != "generator.conv_pre.bias"}, "conv_pre.bias"),
    "foreign": (lambda t: t | {"generator.lstm.weight": torch.zeros(1)}, "lstm.weight"),
    "shape": (lambda t: t | {"generator.conv_post.bias": torch.zeros(17)}, r"conv_post.bias.*18.*17"),
    "half a pair": (
        lambda t: {k: v for k, v in t.items() if k != "generator.ups.0.parametrizations.weight.original1"},
        "ups.0",
    ),
    "gain's shape": (
        lambda t: t | {"generator.conv_pre.parametrizations.weight.original0": torch.ones(1, 80, 1)},
        "one gain per row",
    ),
    "both prefixes": (lambda t: t | {"conv_pre.bias": torch.zeros(16)}, "prefix"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_foreign_checkpoint_is_refused_by_name(tmp_path: Path, case: str) -> None:
    change, message = BROKEN[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        load_hift(write(tmp_path, change))
    assert "hift.pt" in str(caught.value)


class Canary:
    """Leaves a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_code_in_a_checkpoint_never_runs(tmp_path: Path, protocol: str) -> None:
    write(tmp_path)
    canary = tmp_path / "ran"
    if protocol == "torch":
        torch.save({"generator.conv_pre.bias": Canary(canary)}, tmp_path / "hift.pt")
    else:
        (tmp_path / "hift.pt").write_bytes(pickle.dumps(Canary(canary), protocol=2))
    with pytest.raises(CheckpointError, match=r"hift\.pt"):
        load_hift(tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "sizes",
    [
        {"base_channels": 12},
        {"base_channels": 0},
        {"base_channels": True},
        {"base_channels": [64]},
        {"kernels": []},
        {"kernels": [3, 4]},
        {"source_kernels": [7, 7]},
        {"dilations": 3},
        {"harmonics": 8},
    ],
)
def test_bad_sizes_are_refused_by_name(tmp_path: Path, sizes: dict[str, object]) -> None:
    (tmp_path / "hift.json").write_text(json.dumps(sizes))
    with pytest.raises(CheckpointError, match=next(iter(sizes)).rstrip("s")):
        read_hift_config(tmp_path)


def test_without_sizes_the_public_ones_hold(tmp_path: Path) -> None:
    assert read_hift_config(tmp_path) == HiFTConfig()
