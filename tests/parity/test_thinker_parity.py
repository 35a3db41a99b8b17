"""The Thinker's network equals the reference implementation on the same weights and inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import thinker_recipe as recipe
import torch
from safetensors.torch import save_file

from cadence.errors import CheckpointError
from cadence.models.audio_encoder import AudioEncoderConfig
from cadence.models.qwen2 import Qwen2Config
from cadence.models.step_audio import StepAudio, load_step_audio

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "thinker_tiny.npz")


def shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = StepAudio(
            AudioEncoderConfig.from_json(recipe.CONFIG, adapter_hidden=recipe.ADAPTER_HIDDEN),
            Qwen2Config.from_json(recipe.CONFIG),
        )
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("thinker")
    tensors = {name: torch.from_numpy(array) for name, array in recipe.weights(shapes()).items()}
    save_file(tensors, root / "model.safetensors")
    (root / "config.json").write_text(json.dumps(recipe.CONFIG))
    return root


@pytest.fixture
def model(folder: Path, device: str) -> StepAudio:
    return load_step_audio(folder, device=torch.device(device), dtype="float32")


def close(found: torch.Tensor, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    difference = np.abs(found.cpu().numpy() - expected).max() / expected.std()
    assert difference < tolerance, f"largest difference {difference:.2e} of the standard deviation"


@torch.inference_mode()
def embeddings(model: StepAudio) -> torch.Tensor:
    ids, mels = recipe.inputs()
    embeds = model.embed_ids(torch.from_numpy(ids).to(model.device)).clone()
    for (start, count), mel in zip(recipe.SPANS, mels, strict=True):
        frames = torch.tensor([mel.shape[1]])
        audio = model.embed_audio(torch.from_numpy(mel)[None].to(model.device), frames)
        assert model.num_patches(mel.shape[1]) == count
        embeds[start : start + count] = audio[0, :count]
    return embeds


@torch.inference_mode()
def test_encoder_and_adapter(model: StepAudio) -> None:
    _, mels = recipe.inputs()
    for index, mel in enumerate(mels):
        tensor, frames = torch.from_numpy(mel)[None].to(model.device), torch.tensor([mel.shape[1]])
        close(model.encoder(tensor, frames)[0, ::8], GOLDEN[f"encoder_{index}"])
        count = model.num_patches(mel.shape[1])
        close(model.embed_audio(tensor, frames)[0, :count:4], GOLDEN[f"adapter_{index}"])


@torch.inference_mode()
def test_pieces_padded_into_one_batch_give_what_they_give_alone(model: StepAudio) -> None:
    _, mels = recipe.inputs()
    padded = torch.zeros(2, 80, max(recipe.FRAMES))
    for index, mel in enumerate(mels):
        padded[index, :, : mel.shape[1]] = torch.from_numpy(mel)
    together = model.embed_audio(padded.to(model.device), torch.tensor(recipe.FRAMES))
    count = model.num_patches(recipe.FRAMES[1])
    close(together[1, :count:4], GOLDEN["adapter_1"])


@torch.inference_mode()
def test_logits(model: StepAudio) -> None:
    embeds = embeddings(model)
    logits = model.logits(model.model(embeds[None], torch.arange(len(embeds), device=model.device)))[0]
    close(logits[::4], GOLDEN["logits"])
    close(logits[-1], GOLDEN["last_logits"])


@torch.inference_mode()
def test_greedy_ids(model: StepAudio) -> None:
    embeds = embeddings(model)
    for expected, margin in zip(GOLDEN["greedy"], GOLDEN["margins"], strict=True):
        hidden = model.model(embeds[None], torch.arange(len(embeds), device=model.device))[0, -1]
        found = model.logits(hidden).argmax()
        assert int(found) == expected or margin < 1e-4
        embeds = torch.cat((embeds, model.embed_ids(torch.tensor([expected], device=model.device))))


def test_it_trains(folder: Path) -> None:
    """Plain modules: gradients reach every parameter through the same forward that serves."""
    model = load_step_audio(folder, device=torch.device("cpu"), dtype="float32").train()
    model.requires_grad_(True)
    embeds = model.embed_ids(torch.arange(6)).clone()
    mel = torch.from_numpy(recipe.inputs()[1][1])[None]
    embeds[1:4] = model.embed_audio(mel, torch.tensor([mel.shape[2]]))[0, :3]
    model.logits(model.model(embeds[None], torch.arange(6))).logsumexp(-1).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_size": 128}, "llm_dim"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "multiple"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, tmp_path: Path, change: dict, says: str) -> None:
    config = json.loads(json.dumps(recipe.CONFIG))
    config["text_config"].update(change)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=says):
        load_step_audio(tmp_path, device=torch.device("cpu"))
