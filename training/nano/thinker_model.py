"""Nano's language model in training form: the project's Qwen2 decoder with factored code tables.

A code's embedding and its row of the head are sums over its four parts (phone, position, boundary, pitch),
which takes a hundredth of the parameters and shares what is learned. `export_rows` writes them out as the
plain rows of the public layout; both forms give the same probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.models.qwen2 import Qwen2, Qwen2Config, rotary_table
from training.nano import phones

_PARTS = (phones.NUM_PHONES, phones.NUM_POSITIONS, phones.NUM_BOUNDARIES, phones.NUM_PITCHES)
SPELLED_PHONES = 12  # phones of a word that the auxiliary head spells


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkerSizes:
    """Sizes of the decoder; `num_text` counts text entries and markers, all before the codes."""

    num_text: int
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    units: int = 704
    spelling_layer: int = 2

    @property
    def num_ids(self) -> int:
        """Text, markers, codes and the padding code."""
        return self.num_text + phones.NUM_CODES + 1


def decoder_config(sizes: ThinkerSizes, *, num_rows: int) -> Qwen2Config:
    """The decoder's configuration with `num_rows` embedding rows."""
    return Qwen2Config(
        vocab_size=num_rows,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.units,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.hidden // sizes.heads,
        max_position_embeddings=4096,
        rope_theta=1e4,
    )


class NanoThinker(nn.Module):
    """Decoder, factored tables, and a head that spells words in phones while training."""

    def __init__(self, sizes: ThinkerSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.model = Qwen2(decoder_config(sizes, num_rows=sizes.num_text + 1))  # the last row: padding code
        self.code_tables = nn.ModuleList([nn.Embedding(n, sizes.hidden) for n in _PARTS])
        self.text_head = nn.Linear(sizes.hidden, sizes.num_text + 1, bias=False)
        self.code_heads = nn.ModuleList([nn.Linear(sizes.hidden, n, bias=False) for n in _PARTS])
        self.spelling = nn.Linear(sizes.hidden, SPELLED_PHONES * (phones.NUM_PHONES + 1))
        parts = phones.split_code(np.arange(phones.NUM_CODES))
        self.register_buffer("_parts", torch.tensor(np.stack(parts, 1)), persistent=False)
        self._initialise()

    def compile_layers(self) -> None:
        """Fuse what lies between the matrix products of each layer: a sixth of a training step's time."""
        for layer in self.model.layers:
            layer.compile(dynamic=True)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.04)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)
        for layer in self.model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                nn.init.normal_(projection.weight, std=0.04 / (2 * self.sizes.layers) ** 0.5)

    def parts_of(self, ids: Tensor) -> Tensor:
        """(phone, position, boundary, pitch) of code ids [...] -> [..., 4]; other ids give rubbish."""
        table: Tensor = self._parts
        return table[(ids - self.sizes.num_text).clamp(0, phones.NUM_CODES - 1)]

    def embed(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., hidden]."""
        first, padding = self.sizes.num_text, self.sizes.num_text + phones.NUM_CODES
        row = torch.where(ids == padding, first, ids).clamp(max=first)
        text: Tensor = self.model.embed_tokens(row)
        parts = self.parts_of(ids)
        code = sum(table(parts[..., i]) for i, table in enumerate(self.code_tables))
        is_code = (ids >= first) & (ids < padding)
        return torch.where(is_code[..., None], code, text)

    def hidden(self, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """embeds [B, T, hidden] -> (after the final norm, after the spelling layer)."""
        config = self.model.config
        positions = torch.arange(embeds.shape[1])
        cos, sin = rotary_table(positions, config.head_dim, config.rope_theta, embeds.dtype)
        x, spelled = embeds, embeds
        for index, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, None)
            if index + 1 == self.sizes.spelling_layer:
                spelled = x
        return self.model.norm(x), spelled

    def code_log_probs(self, hidden: Tensor) -> tuple[list[Tensor], Tensor]:
        """Log-probabilities of the four parts, and the log of the codes' whole mass before normalising."""
        logits = [head(hidden) for head in self.code_heads]
        mass = sum(part.logsumexp(-1) for part in logits)
        assert isinstance(mass, Tensor)
        return [part.log_softmax(-1) for part in logits], mass

    def next_logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., num_ids] as the exported head gives them."""
        text: Tensor = self.text_head(hidden)
        table: Tensor = self._parts
        code = sum(head(hidden)[..., table[:, i]] for i, head in enumerate(self.code_heads))
        assert isinstance(code, Tensor)
        return torch.cat([text[..., :-1], code, text[..., -1:]], -1)

    @torch.no_grad()
    def export_rows(self) -> tuple[Tensor, Tensor]:
        """(embedding [num_ids, hidden], head [num_ids, hidden]) as plain rows."""
        embedding = self.embed(torch.arange(self.sizes.num_ids))
        table: Tensor = self._parts
        code = sum(head.weight[table[:, i]] for i, head in enumerate(self.code_heads))
        assert isinstance(code, Tensor)
        head = torch.cat([self.text_head.weight[:-1], code, self.text_head.weight[-1:]])
        return embedding, head


def spelling_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of [N, SPELLED_PHONES * classes] against phones [N, SPELLED_PHONES], -1 = no target."""
    return F.cross_entropy(logits.reshape(-1, phones.NUM_PHONES + 1), target.reshape(-1), ignore_index=-1)
