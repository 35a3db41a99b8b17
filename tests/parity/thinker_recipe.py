"""The small Thinker that `tests/data/thinker_tiny.npz` was computed on: sizes, weights and inputs by recipe.

Weights and inputs come from numpy's seeded generator, so that the file holds outputs alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

CONFIG = {
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_attention_groups": 2,
        "num_key_value_heads": 2,
        "vocab_size": 600,
        "max_seq_len": 16384,
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "eos_token_id": 0,
    },
    "audio_encoder_config": {
        "n_mels": 80,
        "n_audio_ctx": 200,
        "n_audio_state": 48,
        "n_audio_head": 3,
        "n_audio_layer": 2,
        "llm_dim": 64,
        "kernel_size": 3,
        "adapter_stride": 2,
    },
    "use_sliding_window": False,
    "tie_word_embeddings": False,
}
ADAPTER_HIDDEN = 32
FRAMES = (302, 121)  # one even, one odd number of mel frames
SPANS = ((5, 38), (50, 15))  # where their embeddings go: start, count
NUM_IDS = 80


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """One array for each name: norms near 1, matrices scaled by their fan-in, biases small."""
    state = {}
    for name, shape in shapes.items():
        draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        if name.endswith("bias"):
            draw *= 0.1
        elif len(shape) == 1:
            draw = 1 + 0.1 * draw
        elif "embed" not in name:
            draw /= np.sqrt(np.prod(shape[1:]), dtype=np.float32)
        state[name] = draw
    return state


def inputs() -> tuple[NDArray[np.int64], list[NDArray[np.float32]]]:
    """ids [NUM_IDS] and one mel [80, F] for each of FRAMES."""
    rng = np.random.default_rng(7)
    ids = rng.integers(0, 600, NUM_IDS)
    return ids, [rng.standard_normal((80, frames)).astype(np.float32) for frames in FRAMES]
