"""The models that `bench/thinker.py` measures: random ones, and transformers' twin of any."""

from __future__ import annotations

from typing import Any

import torch

from cadence.models.audio_encoder import AudioEncoderConfig
from cadence.models.qwen2 import Qwen2Config
from cadence.models.step_audio import StepAudio

SIZES = {  # hidden, intermediate, layers, heads, key/value heads
    "tiny": (64, 128, 2, 4, 2),
    "mid": (1024, 2816, 12, 16, 4),
}


def random_model(size: str, vocab_size: int) -> StepAudio:
    """A model of seeded random weights that keep the scale of what passes through, in numbers that a
    checkpoint in bfloat16 can hold."""
    hidden, units, layers, heads, kv_heads = SIZES[size]
    text = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=units,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
    )
    audio = AudioEncoderConfig(
        n_audio_state=64, n_audio_head=4, n_audio_layer=1, llm_dim=hidden, adapter_hidden=64
    )
    model = StepAudio(audio, text)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                scale = 1.0 if "embed" in name else weight.shape[-1] ** -0.5
                weight.copy_((torch.randn(weight.shape, generator=generator) * scale).bfloat16())
    return model.eval().requires_grad_(False)


def reference_model(model: StepAudio) -> Any:
    """The same decoder and head as transformers' Qwen2ForCausalLM."""
    from transformers import Qwen2Config as PublicConfig
    from transformers import Qwen2ForCausalLM

    config = model.config
    theta = {"rope_type": "default", "rope_theta": config.rope_theta}
    public = PublicConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        rope_parameters=theta,
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=None,
    )
    reference = Qwen2ForCausalLM(public).eval()
    tensors = {name: x for name, x in model.state_dict().items() if name.startswith(("model.", "lm_head"))}
    reference.load_state_dict(tensors, strict=not config.tie_word_embeddings)
    reference.generation_config.pad_token_id = 0
    return reference
