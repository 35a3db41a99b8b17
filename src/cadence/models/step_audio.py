"""The Thinker's network: audio encoder, adapter, decoder and output head under the checkpoint's names."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.errors import CheckpointError, ConfigError
from cadence.models.audio_encoder import ADAPTER_HIDDEN, Adapter, AudioEncoder, AudioEncoderConfig
from cadence.models.decoder_step import DecoderStep
from cadence.models.int8 import Int8Product, int8_works, require_int8
from cadence.models.linear import Product
from cadence.models.qwen2 import AttentionMemory, Qwen2, Qwen2Config
from cadence.models.weights import load_strict, open_safetensors, read_json, resolve_dtype, total_memory_bytes

__all__ = ["StepAudio", "load_step_audio"]

PREPARED_MEMORY_SHARE = 1 / 6  # largest part of a machine's memory that weights held twice may have once


class StepAudio(nn.Module):
    """All parameters of `model.safetensors`: `encoder.*`, `adapter.*`, `model.*` and `lm_head.weight`."""

    def __init__(self, audio: AudioEncoderConfig, text: Qwen2Config) -> None:
        super().__init__()
        self.audio_config = audio
        self.config = text
        self.encoder = AudioEncoder(audio)
        self.adapter = Adapter(audio)
        self.model = Qwen2(text)
        if not text.tie_word_embeddings:
            self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self._step: DecoderStep | None = None
        self._heads: dict[tuple[int, int | None], Product] = {}

    def prepare(self, weights: str = "plain") -> None:
        """Lay the decoder out for serving; weights must be final. Nothing happens on a CPU whose memory is
        too small to hold the weights twice: they stay mapped then.

        Args:
            weights: "plain" keeps the numbers; "int8" rounds the layers' weights to eight bits, and what
                is multiplied with them, but not the head's.

        Raises:
            ConfigError: no such weights, or no int8 products in this build of torch or on this device.
        """
        if weights not in ("plain", "int8"):
            raise ConfigError(f"weights must be plain or int8, found {weights!r}.", param="thinker.weights")
        if weights == "int8":
            require_int8(self.device, self.dtype, "thinker.weights", works=int8_works())
            self._step = DecoderStep(self.model, Int8Product)
            return
        size = sum(parameter.nbytes for parameter in self.parameters())
        if self.device.type != "cpu" or size <= total_memory_bytes() * PREPARED_MEMORY_SHARE:
            self._step = DecoderStep(self.model)

    @property
    def is_prepared(self) -> bool:
        """Whether the decoder is laid out for serving; else its weights are read where they are mapped."""
        return self._step is not None

    def decode(self, embeds: Tensor, positions: Tensor, memory: AttentionMemory) -> Tensor:
        """Hidden states [N, hidden] of embeds [N, hidden] at `positions` [N]: see `Qwen2.forward`."""
        if self._step is None:
            return self.model(embeds, positions, memory)  # type: ignore[no-any-return]
        return self._step(embeds, positions, memory)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of everything computed with them."""
        return self.model.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embed_tokens.weight.device

    def embed_ids(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., hidden]."""
        return self.model.embed_tokens(ids)  # type: ignore[no-any-return]

    def embed_audio(self, mels: Tensor, num_frames: Tensor) -> Tensor:
        """mels [B, n_mels, F], num_frames [B] -> [B, n, hidden]; the first `num_patches` of a row count."""
        return self.adapter(self.encoder(mels.to(self.dtype), num_frames))  # type: ignore[no-any-return]

    def num_patches(self, num_frames: int) -> int:
        """Embeddings that stand for a piece of `num_frames` mel frames."""
        return self.adapter.num_embeddings(self.encoder.num_features(num_frames))

    def logits(self, hidden: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """hidden [..., hidden] -> logits [..., last - first] of the ids `first` to `last`, in float32.

        Only the rows of the head that are asked for are multiplied.
        """
        head = self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        if self._step is None:
            return F.linear(hidden, head.weight[first:last]).float()
        if (first, last) not in self._heads:
            self._heads[first, last] = Product(head.weight[first:last].detach())
        return self._heads[first, last](hidden).float()


def load_step_audio(root: Path, *, device: torch.device, dtype: str = "auto") -> StepAudio:
    """Load the Thinker of a checkpoint folder onto a device.

    Raises:
        CheckpointError: files missing, or config.json and weights disagree.
    """
    config_file = root / "config.json"
    config = read_json(config_file)
    tensors = open_safetensors(root)
    hidden_key = "adapter.linear1.bias"
    hidden = tensors.shape_of(hidden_key)[0] if hidden_key in tensors else ADAPTER_HIDDEN
    text = Qwen2Config.from_json(config)
    audio = AudioEncoderConfig.from_json(config, adapter_hidden=hidden)
    if audio.llm_dim != text.hidden_size:
        raise CheckpointError(
            f"{config_file}: audio_encoder_config.llm_dim is {audio.llm_dim}, but text_config.hidden_size "
            f"is {text.hidden_size}."
        )
    with torch.device("meta"):
        module = StepAudio(audio, text)
    first = next(iter(tensors), None)
    found = tensors[first].dtype if first is not None else torch.float32
    count = sum(parameter.numel() for parameter in module.parameters())
    target = resolve_dtype(dtype, device, num_parameters=count, checkpoint_dtype=found)
    load_strict(module, tensors, file=root, dtype=target, device=device)
    return module.eval()
