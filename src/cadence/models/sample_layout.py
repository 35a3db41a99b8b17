"""Names, shapes and configuration of every tensor in the public checkpoint layout, as plain tables.

An independent statement of the layout: the loaders of the model modules are tested against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from cadence.models.hift import HiFTConfig

__all__ = [
    "FLOWS",
    "THINKERS",
    "FlowSizes",
    "ThinkerSizes",
    "flow_layout",
    "flow_yaml",
    "hift_layout",
    "thinker_config",
    "thinker_layout",
]

Layout: TypeAlias = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class ThinkerSizes:
    """Widths and depths of the language model (first row) and the audio encoder (second row)."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    audio_state: int
    audio_heads: int
    audio_layers: int


@dataclass(frozen=True, slots=True)
class FlowSizes:
    """Widths and depths of the flow: conformer encoder, then DiT."""

    hidden: int
    blocks: int
    up_blocks: int
    encoder_heads: int
    units: int
    depth: int
    heads: int
    head_dim: int


THINKERS = {
    "tiny": ThinkerSizes(64, 128, 2, 4, 2, 64, 4, 2),
    "small": ThinkerSizes(256, 704, 4, 8, 2, 128, 4, 4),
    "full": ThinkerSizes(3584, 18944, 28, 28, 4, 1280, 20, 32),
}
FLOWS = {
    "tiny": FlowSizes(64, 2, 2, 2, 128, 2, 2, 32),
    "small": FlowSizes(128, 3, 2, 4, 256, 4, 4, 32),
    "full": FlowSizes(512, 6, 4, 8, 2048, 16, 8, 64),
}


def _affine(name: str, outputs: int, *inputs: int) -> Layout:
    """Weight [outputs, *inputs] and bias [outputs]; without inputs, a norm's pair."""
    yield f"{name}.weight", (outputs, *inputs)
    yield f"{name}.bias", (outputs,)


# ------------------------------------------------------------------ thinker
def thinker_config(sizes: ThinkerSizes, *, vocabulary: int, eos_id: int, dtype: str) -> dict[str, Any]:
    """The content of `config.json`, with `cadence_sample` set: these weights are random."""
    text = {
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_attention_groups": sizes.kv_heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": vocabulary,
        "max_seq_len": 16384,
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_scaling": None,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
        "torch_dtype": dtype,
    }
    audio = {
        "n_mels": 128,
        "n_audio_ctx": 1500,
        "n_audio_state": sizes.audio_state,
        "n_audio_head": sizes.audio_heads,
        "n_audio_layer": sizes.audio_layers,
        "n_codebook_size": 4096,
        "llm_dim": sizes.hidden,
        "kernel_size": 3,
        "adapter_stride": 2,
    }
    return {
        "architectures": ["StepAudio2ForCausalLM"],
        "model_type": "step_audio_2",
        "auto_map": {
            "AutoConfig": "configuration_step_audio_2.StepAudio2Config",
            "AutoModelForCausalLM": "modeling_step_audio_2.StepAudio2ForCausalLM",
        },
        "text_config": text,
        "audio_encoder_config": audio,
        "vocab_size": vocabulary,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
        "torch_dtype": dtype,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "cadence_sample": True,
    }


def thinker_layout(config: dict[str, Any]) -> Layout:
    """Every tensor of the language model, the audio encoder and the adapter."""
    text = config["text_config"]
    yield from _language_model(text)
    yield "lm_head.weight", (text["vocab_size"], text["hidden_size"])
    yield from _audio_encoder(config["audio_encoder_config"])


def _language_model(text: dict[str, Any]) -> Layout:
    hidden, units = text["hidden_size"], text["intermediate_size"]
    kv = hidden // text["num_attention_heads"] * text["num_key_value_heads"]
    yield "model.embed_tokens.weight", (text["vocab_size"], hidden)
    for layer in range(text["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (hidden,)
        yield from _affine(f"{at}.self_attn.q_proj", hidden, hidden)
        yield from _affine(f"{at}.self_attn.k_proj", kv, hidden)
        yield from _affine(f"{at}.self_attn.v_proj", kv, hidden)
        yield f"{at}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
        yield f"{at}.mlp.gate_proj.weight", (units, hidden)
        yield f"{at}.mlp.up_proj.weight", (units, hidden)
        yield f"{at}.mlp.down_proj.weight", (hidden, units)
    yield "model.norm.weight", (hidden,)


def _audio_encoder(audio: dict[str, Any]) -> Layout:
    state = audio["n_audio_state"]
    yield from _affine("encoder.conv1", state, audio["n_mels"], 3)
    yield from _affine("encoder.conv2", state, state, 3)
    yield "encoder.positional_embedding.weight", (audio["n_audio_ctx"], state)
    for layer in range(audio["n_audio_layer"]):
        at = f"encoder.blocks.{layer}"
        yield from _affine(f"{at}.attn_ln", state)
        yield from _affine(f"{at}.attn.query", state, state)
        yield f"{at}.attn.key.weight", (state, state)
        yield from _affine(f"{at}.attn.value", state, state)
        yield from _affine(f"{at}.attn.out", state, state)
        yield from _affine(f"{at}.mlp_ln", state)
        yield from _affine(f"{at}.mlp.0", 4 * state, state)
        yield from _affine(f"{at}.mlp.2", state, 4 * state)
    yield from _affine("encoder.after_norm", state)
    yield from _affine("adapter.conv", state, state, audio["kernel_size"])
    yield from _affine("adapter.linear1", 2048, state)
    yield from _affine("adapter.linear2", audio["llm_dim"], 2048)


# ------------------------------------------------------------------ flow
def flow_yaml(sizes: FlowSizes) -> str:
    """The text of `flow.yaml`: class tags and constructor arguments."""
    return f"""\
flow: !new:cosyvoice2.flow.flow.CausalMaskedDiffWithXvec
    input_size: {sizes.hidden}
    output_size: 80
    spk_embed_dim: 192
    output_type: 'mel'
    vocab_size: 6561
    encoder: !new:cosyvoice2.transformer.upsample_encoder_v2.UpsampleConformerEncoderV2
        input_size: {sizes.hidden}
        output_size: {sizes.hidden}
        input_layer: 'linear'
        pre_lookahead_len: 3
        num_blocks: {sizes.blocks}
        num_up_blocks: {sizes.up_blocks}
        up_stride: 2
        up_scale_factor: 2
        attention_heads: {sizes.encoder_heads}
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        key_bias: true
        linear_units: {sizes.units}
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
            depth: {sizes.depth}
            num_heads: {sizes.heads}
            head_dim: {sizes.head_dim}
            hidden_size: {sizes.hidden}
"""


def flow_layout(sizes: FlowSizes) -> Layout:
    """Every tensor of `flow.pt`."""
    hidden = sizes.hidden
    yield "input_embedding.weight", (6561, hidden)
    yield from _affine("spk_embed_affine_layer", 80, 192)
    yield from _affine("encoder.pre_lookahead_layer.conv1", hidden, hidden, 4)
    yield from _affine("encoder.pre_lookahead_layer.conv2", hidden, hidden, 3)
    yield from _affine("encoder.up_layer.conv", hidden, hidden, 5)
    for part, stack, num_blocks in (
        ("embed", "encoders", sizes.blocks),
        ("up_embed", "up_encoders", sizes.up_blocks),
    ):
        yield from _affine(f"encoder.{part}.out.0", hidden, hidden)
        yield from _affine(f"encoder.{part}.out.1", hidden)
        for block in range(num_blocks):
            yield from _conformer_block(f"encoder.{stack}.{block}", sizes)
    yield from _affine("encoder.after_norm", hidden)
    yield from _affine("encoder_proj", 80, hidden)
    yield from _dit("decoder.estimator", sizes)


def _conformer_block(at: str, sizes: FlowSizes) -> Layout:
    hidden, heads = sizes.hidden, sizes.encoder_heads
    for bias in ("pos_bias_u", "pos_bias_v"):
        yield f"{at}.self_attn.{bias}", (heads, hidden // heads)
    for part in ("q", "k", "v", "out"):
        yield from _affine(f"{at}.self_attn.linear_{part}", hidden, hidden)
    yield f"{at}.self_attn.linear_pos.weight", (hidden, hidden)
    yield from _affine(f"{at}.feed_forward.w_1", sizes.units, hidden)
    yield from _affine(f"{at}.feed_forward.w_2", hidden, sizes.units)
    yield from _affine(f"{at}.norm_ff", hidden)
    yield from _affine(f"{at}.norm_mha", hidden)


def _dit(at: str, sizes: FlowSizes) -> Layout:
    hidden, inner = sizes.hidden, sizes.heads * sizes.head_dim
    yield from _affine(f"{at}.t_embedder.mlp.0", hidden, 256)
    yield from _affine(f"{at}.t_embedder.mlp.2", hidden, hidden)
    yield from _affine(f"{at}.in_proj", hidden, 320)
    for depth in range(sizes.depth):
        block = f"{at}.blocks.{depth}"
        for part in ("to_q", "to_k", "to_v"):
            yield from _affine(f"{block}.attn.{part}", inner, hidden)
        yield from _affine(f"{block}.attn.q_norm", sizes.head_dim)
        yield from _affine(f"{block}.attn.k_norm", sizes.head_dim)
        yield from _affine(f"{block}.attn.proj", hidden, inner)
        yield from _affine(f"{block}.mlp.fc1", 4 * hidden, hidden)
        yield from _affine(f"{block}.mlp.fc2", hidden, 4 * hidden)
        yield from _affine(f"{block}.conv.block.1", hidden, hidden, 3)
        yield from _affine(f"{block}.conv.block.3", hidden)
        yield from _affine(f"{block}.conv.block.6", hidden, hidden, 3)
        yield from _affine(f"{block}.adaLN_modulation.1", 9 * hidden, hidden)
    yield from _affine(f"{at}.final_layer.adaLN_modulation.1", 2 * hidden, hidden)
    yield from _affine(f"{at}.final_layer.linear", 80, hidden)


# ------------------------------------------------------------------ vocoder
def _normed(name: str, shape: tuple[int, ...], bias: int) -> Layout:
    """A weight-normed convolution: gain per first axis, direction, and a bias."""
    yield f"{name}.parametrizations.weight.original0", (shape[0], 1, 1)
    yield f"{name}.parametrizations.weight.original1", shape
    yield f"{name}.bias", (bias,)


def _snake_block(at: str, channels: int, kernel: int, config: HiFTConfig) -> Layout:
    for i in range(len(config.dilations)):
        for stage in ("1", "2"):
            yield from _normed(f"{at}.convs{stage}.{i}", (channels, channels, kernel), channels)
            yield f"{at}.activations{stage}.{i}.alpha", (channels,)


def hift_layout(config: HiFTConfig) -> Layout:
    """Every tensor of `hift.pt`, without the optional prefix `generator.`."""
    base, width = config.base_channels, config.f0_channels
    for i in range(5):
        yield from _normed(f"f0_predictor.condnet.{2 * i}", (width, width if i else 80, 3), width)
    yield from _affine("f0_predictor.classifier", 1, width)
    yield from _affine("m_source.l_linear", 1, 9)
    yield from _normed("conv_pre", (base, 80, 7), base)
    for i, (up_kernel, down_kernel) in enumerate(((16, 30), (11, 6), (7, 1))):
        inputs, outputs = base >> i, base >> (i + 1)
        yield from _normed(f"ups.{i}", (inputs, outputs, up_kernel), outputs)
        yield from _affine(f"source_downs.{i}", outputs, 18, down_kernel)
        yield from _snake_block(f"source_resblocks.{i}", outputs, config.source_kernels[i], config)
        for j, kernel in enumerate(config.kernels):
            yield from _snake_block(f"resblocks.{len(config.kernels) * i + j}", outputs, kernel, config)
    yield from _normed("conv_post", (18, base >> 3, 7), 18)
