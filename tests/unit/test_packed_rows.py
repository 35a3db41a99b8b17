"""Packed products and packed rows give what the plain layers give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cadence.models.linear import Linear
from cadence.models.rows import RowConv, attend


@pytest.mark.parametrize("packed", [False, True])
def test_linear(packed: bool) -> None:
    layer, x = Linear(24, 40), torch.randn(2, 7, 24)
    if packed:
        layer.pack()
    expected = F.linear(x, layer.weight, layer.bias)
    assert torch.allclose(layer(x), expected, atol=1e-5)  # with gradients
    with torch.inference_mode():
        assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("taps", [3, 4, 5])
def test_row_conv_is_a_convolution_of_each_part(packed: bool, taps: int) -> None:
    conv = RowConv(8, 6, taps)
    parts = [torch.randn(groups, length + taps - 1, 8) for groups, length in ((2, 5), (1, 1), (3, 9))]
    expected = [conv(part.transpose(1, 2)).transpose(1, 2) for part in parts]
    if packed:
        conv.pack()
    with torch.inference_mode():
        for found, wanted in zip(conv.rows(parts), expected, strict=True):
            assert torch.allclose(found, wanted, atol=1e-5)


def test_attention_over_segments_is_attention_over_their_join() -> None:
    queries = torch.randn(4, 5, 16)
    segments = [(torch.randn(4, n, 16), torch.randn(4, n, 16)) for n in (3, 7, 1)]
    keys, values = (torch.cat(column, dim=1) for column in zip(*segments, strict=True))
    expected = F.scaled_dot_product_attention(queries, keys, values)
    assert torch.allclose(attend(queries / 4, segments), expected, atol=1e-5)
