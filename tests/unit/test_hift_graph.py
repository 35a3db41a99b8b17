"""The vocoder on ONNX Runtime gives what its layers give."""

from __future__ import annotations

import pytest
import torch

from cadence.models.hift import FRAME_SAMPLES, HiFT, HiFTConfig


@pytest.mark.parametrize("base_channels", [16, 64])  # 2 channels at the end, and a multiple of the kernels' 8
@pytest.mark.parametrize("num_streams", [1, 3])
def test_graphs_give_what_the_layers_give(base_channels: int, num_streams: int) -> None:
    torch.manual_seed(0)
    model = HiFT(HiFTConfig(base_channels=base_channels, f0_channels=8, kernels=(3, 5), dilations=(1, 3)))
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    mel, source = torch.randn(num_streams, 80, 5), torch.randn(num_streams, 5 * FRAME_SAMPLES)
    with torch.inference_mode():
        expected = model.synthesise(mel, source)
        model.load_graphs(1)
        found = model.synthesise(mel, source)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.equal(found, expected)  # they did take part


def test_gradients_go_through_the_layers() -> None:
    model = HiFT(HiFTConfig(base_channels=16, f0_channels=8, kernels=(3,), dilations=(1,)))
    model.load_graphs(1)
    model(torch.randn(1, 80, 3)).sum().backward()
    block = model.resblocks[0]
    assert all(parameter.grad is not None for parameter in block.parameters())
