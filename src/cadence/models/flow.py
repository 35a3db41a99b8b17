"""The flow: speech codes, a speaker and a prompt's mel to a mel spectrogram.

`Flow` is the network under the checkpoint's own names; it serves training as it is. Turning noise into
mel with it, offline or as a stream, is `models.flow_sampler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.models.conformer import UP_RATE, EncoderMemory, NoMemory, UpsamplingConformer
from cadence.models.dit import DiT, Modulation
from cadence.models.dit_graph import EXACT, graphs_work
from cadence.models.dit_memory import DiTSpan, Sequences
from cadence.models.flow_config import FlowConfig, read_flow_config
from cadence.models.int8 import require_int8
from cadence.models.int8_graph import INT8, int8_graphs_work
from cadence.models.lanes import Lanes
from cadence.models.linear import Linear
from cadence.models.rows import RowConv, pack, unpack
from cadence.models.weights import load_pt, load_strict

__all__ = ["Flow", "load_flow"]


class Flow(nn.Module):
    """Conformer encoder, DiT and the projections between them."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.vocab_size, config.encoder.hidden)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_dim, config.mel_dim)
        self.encoder = UpsamplingConformer(config.encoder)
        self.encoder_proj = nn.Linear(config.encoder.hidden, config.mel_dim)
        self.decoder = nn.ModuleDict({"estimator": DiT(config.dit)})
        self.lanes = Lanes(1)  # for the estimator's rows

    @property
    def estimator(self) -> DiT:
        """The DiT."""
        module = self.decoder["estimator"]
        assert isinstance(module, DiT)
        return module

    def speaker(self, embedding: Tensor) -> Tensor:
        """Speaker embeddings [..., 192] to [..., 80]; their length does not matter."""
        weight = self.spk_embed_affine_layer.weight
        output: Tensor = self.spk_embed_affine_layer(F.normalize(embedding.to(weight), dim=-1))
        return output

    def encode(
        self, codes: Sequence[Tensor], memories: Sequence[EncoderMemory], last: Sequence[bool]
    ) -> list[Tensor]:
        """Codes [n_i] to mel conditions (mu) [2 m_i, 80]; see `UpsamplingConformer.forward`."""
        embedded = [self.input_embedding(part) for part in codes]
        parts = self.encoder(embedded, memories, last)
        lengths = [len(part) for part in parts]
        return unpack(self.encoder_proj(pack(parts)), lengths)

    def forward(
        self,
        codes: Sequence[Tensor],
        noisy: Sequence[Tensor],
        times: Tensor,
        embeddings: Tensor,
        conditions: Sequence[Tensor],
        *,
        keep: Tensor | None = None,
        chunk_codes: int | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One training pass over whole utterances.

        Args:
            codes: [n_i] each, 0..6560.
            noisy: mel on its way from noise, [2 n_i, 80] each.
            times: [B], where on that way, 0..1; [1] for all of them.
            embeddings: speakers [B, 192].
            conditions: known mel frames, zero elsewhere, [2 n_i, 80] each.
            keep: bool [B]; False drops an utterance's conditions, as guidance needs to be taught.
            chunk_codes: attend as a stream of such chunks does; None = to the whole utterance.

        Returns:
            Velocities [2 n_i, 80] each, and the encoder's mu [2 n_i, 80] each.
        """
        mus = self.encode(codes, [NoMemory(chunk_codes) for _ in codes], [True] * len(codes))
        lengths = [len(mu) for mu in mus]
        mask = None if keep is None else keep.to(mus[0].dtype)[:, None]
        speakers = self.speaker(embeddings)
        rows = torch.repeat_interleave(
            torch.arange(len(codes)), torch.tensor(lengths), output_size=sum(lengths)
        ).to(times.device)
        inputs = [pack(mus), speakers[rows], pack(list(conditions))]
        if mask is not None:
            inputs = [part * mask[rows] for part in inputs]
        moments = self.estimator.modulation(times)
        modulation = moments[0]
        if len(moments) > 1:
            modulation = Modulation(
                torch.stack([m.blocks for m in moments], dim=2)[:, :, rows],
                torch.stack([m.final for m in moments], dim=1)[:, rows],
            )
        spans = [DiTSpan(1, n, Sequences(_chunk_mask(n, chunk_codes, times.device))) for n in lengths]
        velocities = self.estimator(pack(list(noisy)), self.estimator.project(*inputs), modulation, spans)
        return unpack(velocities, lengths), mus

    def prepare_inference(
        self, num_threads: int | None = None, *, int8: bool = False, cache: torch.dtype | None = None
    ) -> Flow:
        """Lay weights out for speed and freeze; values and names stay.

        `num_threads` are those of ONNX Runtime and of the estimator's lanes, None = as many as torch has now.
        `int8` rounds what the estimator's blocks multiply. Streams are to keep keys and values in the dtype
        `cache` (None: float32).
        """
        on_cpu = self.encoder_proj.weight.device.type == "cpu"
        lanes = self.config.groups if on_cpu else 1
        self.lanes = Lanes(num_threads or torch.get_num_threads(), lanes)
        slots = self.config.groups // self.lanes.count  # one stream's guided and unguided rows
        kernels = INT8 if int8 else EXACT
        in_graphs = set(
            self.estimator.load_graph(
                self.lanes.threads_each, kernels, slots=slots, past=cache or torch.float32
            )
        )
        for module in self.modules():
            if isinstance(module, RowConv | Linear) and module not in in_graphs:
                module.pack()
        return self.eval().requires_grad_(False)


def _chunk_mask(num_frames: int, chunk_codes: int | None, device: torch.device) -> Tensor | None:
    """[n, n], True where a frame may see: its own chunk and those before."""
    if chunk_codes is None:
        return None
    chunk = torch.arange(num_frames, device=device) // (chunk_codes * UP_RATE)
    return chunk[None, :] <= chunk[:, None]


def load_flow(
    root: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    int8: bool = False,
    num_threads: int | None = None,
    cache: torch.dtype | None = None,
) -> Flow:
    """Load `flow.yaml` and `flow.pt` from a checkpoint's token2wav folder; `int8` rounds the DiT's weights,
    `num_threads` and `cache` are for `Flow.prepare_inference`.

    Raises:
        CheckpointError: a file is missing, foreign, or does not fit the other.
        ConfigError: `int8` where it cannot be computed.
    """
    config = read_flow_config(root / "flow.yaml")
    with torch.device("meta"):
        flow = Flow(config)
    file = root / "flow.pt"
    load_strict(flow, load_pt(file), file=file, dtype=dtype, device=device)
    if int8:
        works = graphs_work() and int8_graphs_work()
        require_int8(torch.device(device), dtype, "token2wav.flow_weights", works=works)
    return flow.prepare_inference(num_threads, int8=int8, cache=cache)
