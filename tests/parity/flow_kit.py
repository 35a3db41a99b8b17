"""A small flow whose weights follow from their names, and prompts to go with it."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from cadence.models.flow import Flow, load_flow
from cadence.models.flow_config import read_flow_config
from cadence.models.flow_sampler import FlowSampler, Utterance

FLOW_YAML = """\
flow: !new:cosyvoice2.flow.flow.CausalMaskedDiffWithXvec
    input_size: 64
    output_size: 80
    spk_embed_dim: 192
    output_type: 'mel'
    vocab_size: 6561
    encoder: !new:cosyvoice2.transformer.upsample_encoder_v2.UpsampleConformerEncoderV2
        input_size: 64
        output_size: 64
        input_layer: 'linear'
        pre_lookahead_len: 3
        num_blocks: 2
        num_up_blocks: 2
        up_stride: 2
        up_scale_factor: 2
        attention_heads: 2
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        key_bias: true
        linear_units: 128
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.1
        normalize_before: true
    decoder: !new:cosyvoice2.flow.flow_matching.CausalConditionalCFM
        inference_cfg_rate: 0.7
        estimator: !new:cosyvoice2.flow.decoder_dit.DiT
            in_channels: 320
            out_channels: 80
            mlp_ratio: 4.0
            depth: 2
            num_heads: 2
            head_dim: 32
            hidden_size: 64
"""

# The longest prompt fits the window's tail, the others do not; P < 100 frames is the odd case.
PROMPT_CODES = {"short": 30, "long": 61}
SPEECH_CODES = 130


def write_flow(folder: Path) -> Path:
    """Write flow.yaml and flow.pt; each tensor is drawn from a seed made of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flow.yaml").write_text(FLOW_YAML, encoding="utf-8")
    with torch.device("meta"):
        flow = Flow(read_flow_config(folder / "flow.yaml"))
    tensors = {name: _weight(name, tuple(tensor.shape)) for name, tensor in flow.state_dict().items()}
    torch.save(tensors, folder / "flow.pt")
    return folder


def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) == 1:  # biases, and the weights of norms
        return 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
    if name.startswith("input_embedding"):
        return values
    return values / math.prod(shape[1:]) ** 0.5


def make_sampler(folder: Path, **options: int) -> FlowSampler:
    """A sampler over the written flow, with its default noise."""
    return FlowSampler(load_flow(folder), **options)


def draw(count: int, *shape: int, seed: int) -> Tensor:
    """Codes [count], or floats [count, *shape]."""
    generator = torch.Generator().manual_seed(seed)
    if not shape:
        return torch.randint(0, 6561, (count,), generator=generator)
    return torch.randn(count, *shape, generator=generator)


def prompt(num_codes: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [P], mel [2P, 80] and speaker embedding [192]."""
    return (
        draw(num_codes, seed=seed),
        draw(2 * num_codes, 80, seed=seed + 1000),
        draw(1, 192, seed=seed + 2000)[0],
    )


def utterance(num_codes: int, num_prompt: int, seed: int = 1) -> Utterance:
    """Speech after a prompt."""
    return Utterance(draw(num_codes, seed=seed + 3000), *prompt(num_prompt, seed))


def schedule(
    num_codes: int, sizes: tuple[int, ...] = (5, 10, 20, 25), ahead: int = 3
) -> list[tuple[int, int, bool]]:
    """(start, stop, last) of each chunk; the last size repeats."""
    parts, at, index = [], 0, 0
    while num_codes - at > sizes[min(index, len(sizes) - 1)] + ahead:
        size = sizes[min(index, len(sizes) - 1)]
        parts.append((at, at + size + ahead, False))
        at, index = at + size, index + 1
    return [*parts, (at, num_codes, True)]
