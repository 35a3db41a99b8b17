"""The vocoder laid out for a CPU gives what its layers give, and nearly in bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cadence.errors import ConfigError
from cadence.models import hift
from cadence.models.hift import FRAME_SAMPLES, HiFT, HiFTConfig
from cadence.models.hift_weights import load_hift


@pytest.mark.parametrize("base_channels", [16, 64])  # 2 channels at the end, and a multiple of the kernels' 8
@pytest.mark.parametrize("num_streams", [1, 3])
@pytest.mark.parametrize("min_filtered", [0, 10**9])  # every stage by minimal filtering, or by ONNX Runtime
def test_stages_give_what_the_layers_give(
    base_channels: int, num_streams: int, min_filtered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hift, "_MIN_FILTERED", min_filtered)
    torch.manual_seed(0)
    model = HiFT(HiFTConfig(base_channels=base_channels, f0_channels=8, kernels=(3, 5), dilations=(1, 3)))
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
            parameter.data[:2] = torch.tensor([0.0, 1e-7])  # Snakes that bend nothing
    mel, source = torch.randn(num_streams, 80, 5), torch.randn(num_streams, 5 * FRAME_SAMPLES)
    with torch.inference_mode():
        expected = model.synthesise(mel, source)
        model.prepare_inference(1)
        found = model.synthesise(mel, source)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.equal(found, expected)  # they did take part


@torch.inference_mode()
@pytest.mark.parametrize("num_threads", [1, 2])
def test_bfloat16_stays_close_and_streams_apart(num_threads: int) -> None:
    with torch.inference_mode(False):
        torch.manual_seed(0)
        model = HiFT(HiFTConfig(base_channels=64, f0_channels=8, kernels=(3, 5), dilations=(1, 3)))
    mel, source = torch.randn(3, 80, 20), torch.randn(3, 20 * FRAME_SAMPLES)
    expected = model.synthesise(mel, source)
    model.prepare_inference(num_threads, bfloat16=True)
    found = model.synthesise(mel, source)
    assert not torch.equal(found, expected)
    assert 10 * torch.log10(expected.var() / (found - expected).var()) > 35  # 42 dB in the public size
    alone = torch.cat([model.synthesise(mel[i : i + 1], source[i : i + 1]) for i in range(3)])
    # sums in another order may round a sample the other way
    assert 10 * torch.log10(expected.var() / (found - alone).var()) > 45


def test_bfloat16_is_refused_where_it_would_not_be_faster(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cadence.models.hift_weights.has_bfloat16", lambda: False)
    with pytest.raises(ConfigError) as found:
        load_hift(tiny_checkpoint / "token2wav", bfloat16=True)
    assert found.value.param == "token2wav.vocoder_weights"
    load_hift(tiny_checkpoint / "token2wav")


def test_gradients_go_through_the_layers() -> None:
    model = HiFT(HiFTConfig(base_channels=16, f0_channels=8, kernels=(3,), dilations=(1,)))
    model.prepare_inference(1)
    model(torch.randn(1, 80, 3)).sum().backward()
    block = model.resblocks[0]
    assert all(parameter.grad is not None for parameter in block.parameters())
