"""What the flow remembers: of a voice (once, read-only, shared) and of one stream (its own).

A stream never copies its voice's keys and values: attention reads them where they are, next to the
stream's own. New frames are written in place. A step takes effect when it is committed, so that a step
that failed half-way can be run again.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from weakref import finalize

import torch
import torch.nn.functional as F
from torch import Tensor

from cadence.models.conformer import UP_RATE
from cadence.models.cpu import has_bfloat16
from cadence.models.dit_memory import CONV_HISTORY
from cadence.models.flow_config import FlowConfig
from cadence.models.frame_store import SpareWindow, grown
from cadence.models.frame_window import FrameWindow, WindowPlan
from cadence.models.graph_attention import fused_attention, fused_attention_works
from cadence.models.rows import attend
from cadence.models.transfers import to_device

__all__ = ["EncoderHistory", "FlowMemory", "FlowStream", "StreamMemory", "VoiceState"]

_STEADY_FRAMES = 50  # of a usual chunk: with room for them a full window never grows again
_WINDOW_GROWTH = 2.0  # it is full, and exact, after a few chunks
_LOG_GROWTH = 1.25  # it grows for minutes: copies are small beside a chunk's work, spare room would not be


@dataclass(frozen=True, slots=True, eq=False)
class VoiceState:
    """The flow after a voice prompt of P codes. Read-only: every stream of the voice reads these tensors.

    `keys_values` [steps, depth, 2, G·heads, 2P, d] and `conv` [steps, depth, 2, G, 2, C] belong to the
    DiT, G being `FlowConfig.groups`; `encoder` holds keys and values [layers, 2, heads, n, d] per stage,
    `tails` the encoder's convolutions' last rows; `speaker` [80] is projected.
    """

    speaker: Tensor
    keys_values: Tensor
    conv: Tensor
    encoder: tuple[Tensor, Tensor]
    tails: dict[str, Tensor]

    @property
    def num_frames(self) -> int:
        """Mel frames of the prompt."""
        return self.keys_values.shape[4]

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        tensors = (self.speaker, self.keys_values, self.conv, *self.encoder, *self.tails.values())
        return sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True, slots=True)
class FlowMemory:
    """How a stream remembers keys and values, where not exactly as the reference does: in another dtype, of
    at most `max_frames` newest frames (50 a second). Either makes streams smaller and changes the sound."""

    dtype: torch.dtype | None = None
    max_frames: int | None = None


class _Log:
    """Keys and values of one encoder stage: the voice's, then a sliding window of the stream's own."""

    def __init__(
        self, prefix: Tensor | None, shape: tuple[int, int, int], max_length: int, like: Tensor
    ) -> None:
        """`shape` is (layers, heads, d); the stream's own part never holds more than `max_length`."""
        self._prefix, self._max = prefix, max_length
        layers, heads, dim = shape
        self.own = like.new_empty(layers, 2, heads, 0, dim)
        self.used = self._new = 0

    def begin(self, count: int) -> None:
        """Make room for `count` frames. At the bound, the oldest quarter goes."""
        self._new = count
        if self.used + count > self._max:
            keep = max(0, min(self.used, self._max - count) - self._max // 4)
            # Cloned, because source and target overlap.
            self.own[..., :keep, :] = self.own[..., self.used - keep : self.used, :].clone()
            self.used = keep
        self.own = grown(self.own, self.used + count, self._max, _LOG_GROWTH)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Write the new frames' [heads, n, d]; everything remembered, oldest first."""
        store, stop = self.own[layer], self.used + self._new
        store[0, :, self.used : stop] = keys
        store[1, :, self.used : stop] = values
        own = (store[0, :, :stop], store[1, :, :stop])
        return [own] if self._prefix is None else [(self._prefix[layer, 0], self._prefix[layer, 1]), own]

    def commit(self) -> None:
        """Keep what was written."""
        self.used += self._new


class EncoderHistory:
    """A stream's `EncoderMemory`.

    The reference attends to all of a stream and breaks at 5000 positions. Here the stream's newest
    `max_codes` are exact history and older ones are forgotten; the prompt then stands directly before
    what is left, so that distances stay in the range the model was trained on.
    """

    def __init__(self, config: FlowConfig, voice: VoiceState | None, max_codes: int, like: Tensor) -> None:
        encoder = config.encoder
        head_dim = encoder.hidden // encoder.num_heads
        counts = (encoder.num_blocks, encoder.num_up_blocks)
        self._logs = [
            _Log(
                None if voice is None else voice.encoder[stage],
                (count, encoder.num_heads, head_dim),
                max_codes * UP_RATE**stage,
                like,
            )
            for stage, count in enumerate(counts)
        ]
        self.tails: dict[str, Tensor] = {} if voice is None else dict(voice.tails)
        self._new_tails: dict[str, Tensor] = {}

    def begin(self, num_codes: int) -> None:
        """Make room for the codes that the next step renders."""
        for stage, log in enumerate(self._logs):
            log.begin(num_codes * UP_RATE**stage)
        self._new_tails = {}

    def extend(self, stage: int, layer: int, keys: Tensor, values: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Write new frames; all keys and values, oldest first."""
        return self._logs[stage].extend(layer, keys, values)

    def precede(self, name: str, rows: Tensor, count: int) -> Tensor:
        """Rows with the stream's last `count` rows in front."""
        tail = self.tails.get(name)
        padded = F.pad(rows, (0, 0, count, 0)) if tail is None else torch.cat([tail, rows])
        self._new_tails[name] = padded[-count:].clone()
        return padded

    def mask(self, stage: int, start: int, count: int, length: int) -> Tensor | None:
        """Everything remembered is visible."""
        return None

    def commit(self) -> None:
        """Keep what the step wrote."""
        for log in self._logs:
            log.commit()
        self.tails = self._new_tails

    def snapshot(self) -> tuple[Tensor, Tensor]:
        """Keys and values of both stages, without spare room."""
        low, high = (log.own[..., : log.used, :].clone() for log in self._logs)
        return low, high

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(log.own.nbytes for log in self._logs) + sum(tail.nbytes for tail in self.tails.values())


class FlowStream:
    """One stream's state in the flow; `begin`, run the layers, `commit`."""

    def __init__(
        self,
        config: FlowConfig,
        voice: VoiceState | None,
        *,
        num_steps: int,
        max_codes: int,
        like: Tensor,
        memory: FlowMemory | None = None,
        spare: SpareWindow | None = None,
    ) -> None:
        """Without a voice, the stream is a prompt about to become one. `like` gives dtype and device. The
        window comes from `spare` where one lies there, and goes there when the stream is gone.
        """
        memory = memory or FlowMemory()
        dit = config.dit
        self.voice = voice
        self.encoder = EncoderHistory(config, voice, max_codes, like)
        self.window = FrameWindow(0 if voice is None else voice.num_frames, memory.max_frames)
        heads = config.groups * dit.num_heads
        shape = (num_steps, dit.depth, 2, heads, 0, dit.head_dim)
        self._kept = [like.new_empty(shape, dtype=memory.dtype or like.dtype)]  # the one window
        self._spare = None if voice is None else spare  # a prompt's window becomes its voice's
        if self._spare is not None:
            finalize(self, self._spare.keep, self._kept).atexit = False
        # Two generations: the layers read one and write the other; commit swaps them.
        conv_shape = (2, num_steps, dit.depth, 2, config.groups, CONV_HISTORY, dit.hidden)
        self._conv = like.new_zeros(conv_shape)
        if voice is not None:
            self._conv[0] = voice.conv
        self._live = self._used = 0
        self._plan: WindowPlan | None = None

    @property
    def _store(self) -> Tensor:
        """Keys and values [steps, depth, 2, G·heads, n, d]."""
        return self._kept[0]

    def begin(self, num_codes: int) -> WindowPlan:
        """Make room for the frames of `num_codes`; where they go and where their noise starts."""
        num_frames = num_codes * UP_RATE
        self.encoder.begin(num_codes)
        plan = self.window.plan(num_frames)
        if len(plan.move_from):
            source, target = (
                to_device(torch.from_numpy(s), self._store.device) for s in (plan.move_from, plan.move_to)
            )
            self._store.index_copy_(4, target, self._store.index_select(4, source))
            self.window.move(plan)
        self._make_room(plan.used, num_frames)
        self._plan = plan
        return plan

    def _make_room(self, used: int, num_frames: int) -> None:
        limit = num_frames if self.voice is None else self.window.max_own + max(num_frames, _STEADY_FRAMES)
        self._used = max(self._used, used)
        # Main memory is given page by page when it is first written: a whole window costs nothing before,
        # while one that grows is written twice, most of it within a single chunk.
        store = self._store
        needed = limit if store.device.type == "cpu" else used
        if self._spare is not None and not store.shape[-2]:
            store = self._spare.take(store, limit)
        self._kept[0] = grown(store, needed, limit, _WINDOW_GROWTH)

    def memory(self, step: int) -> StreamMemory:
        """The DiT's memory at one step of the solver."""
        assert self._plan is not None, "begin comes first"
        return StreamMemory(
            self._store[step],
            None if self.voice is None else self.voice.keys_values[step],
            self._conv[self._live, step],
            self._conv[1 - self._live, step],
            self._plan,
        )

    def commit(self) -> None:
        """Keep what the step wrote."""
        assert self._plan is not None, "begin comes first"
        self.encoder.commit()
        self.window.commit(self._plan)
        self._live, self._plan = 1 - self._live, None

    def as_voice(self, speaker: Tensor) -> VoiceState:
        """This stream, which was a prompt, as the state that others start from."""
        return VoiceState(
            speaker=speaker,
            keys_values=self._store,
            conv=self._conv[self._live].clone(),
            encoder=self.encoder.snapshot(),
            tails=self.encoder.tails,
        )

    @property
    def frame_bytes(self) -> int:
        """Keys and values of one frame, at every layer and step."""
        return self._store[..., :1, :].numel() * self._store.element_size()

    @property
    def num_bytes(self) -> int:
        """Memory held, without the voice; of main memory what has been written."""
        window = self._used * self.frame_bytes if self._store.device.type == "cpu" else self._store.nbytes
        return window + self._conv.nbytes + self.encoder.num_bytes


class StreamMemory:
    """A stream's `DiTMemory` at one step: keys and values [depth, 2, G·heads, n, d]."""

    def __init__(
        self, own: Tensor, prompt: Tensor | None, conv: Tensor, next_conv: Tensor, plan: WindowPlan
    ) -> None:
        self._own, self._prompt, self._conv, self._next_conv, self._plan = own, prompt, conv, next_conv, plan
        slots = plan.slots
        first, last = int(slots[0]), int(slots[-1])
        contiguous = last - first + 1 == len(slots)
        self._slots: slice | Tensor = (
            slice(first, last + 1) if contiguous else to_device(torch.from_numpy(slots), own.device)
        )

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Write the new frames into their slots, then attend to the whole window."""
        groups, heads, count, dim = queries.shape
        own = self._own[layer]
        for store, rows in zip(own.view(2, groups, heads, -1, dim), (keys, values), strict=True):
            store[:, :, self._slots] = rows.to(store.dtype)
        used = self._plan.used
        if self._prompt is None and used == count:
            # A whole prompt at once: the fused kernel spares the score matrix.
            return F.scaled_dot_product_attention(queries, keys, values)
        parts = self._parts(layer, own, used)
        if queries.device.type == "cpu" and parts[0].dtype == torch.float32 and fused_attention_works():
            joined = torch.cat(parts, dim=2).view(2, groups, heads, -1, dim)
            return fused_attention(queries, joined[0], joined[1])
        scaled = (queries * dim**-0.5).reshape(-1, count, dim).to(parts[0].dtype)
        found = attend(scaled, [(part[0], part[1]) for part in parts]).to(queries.dtype)
        return found.view(groups, heads, count, dim)

    def _parts(self, layer: int, own: Tensor, used: int) -> list[Tensor]:
        """Keys and values [2, G·heads, n, d] of the window's parts, in the dtype to multiply them in."""
        parts = [own[:, :, :used]]
        if self._prompt is not None:
            parts += [self._prompt[layer, :, :, first:stop] for first, stop in self._plan.prompt_runs]
        if own.dtype == torch.bfloat16 and own.device.type == "cpu" and has_bfloat16():
            # Joined, as a few rows' products with cold memory cost more than a copy of it.
            return [torch.cat(parts, dim=2)]
        return [part.to(self._conv) for part in parts]

    def precede(self, layer: int, conv: int, rows: Tensor) -> Tensor:
        """Rows with the stream's last two in front."""
        padded = torch.cat([self._conv[layer, conv], rows], dim=1)
        self._next_conv[layer, conv] = padded[:, -CONV_HISTORY:]
        return padded

    def recall(self, depth: int, groups: int, like: Tensor) -> Tensor:
        """The stream's last two rows of every convolution."""
        return self._conv

    def retain(self, rows: Tensor) -> None:
        """Write these rows for the next chunk."""
        self._next_conv.copy_(rows)

    def group(self, index: int) -> StreamMemory:
        """One group's memory: views of this one's tensors."""
        part, groups = copy(self), self._conv.shape[2]
        heads = slice(index * (count := self._own.shape[2] // groups), (index + 1) * count)
        part._own = self._own[:, :, heads]
        part._prompt = None if self._prompt is None else self._prompt[:, :, heads]
        part._conv, part._next_conv = (
            conv[:, :, index : index + 1] for conv in (self._conv, self._next_conv)
        )
        return part

    # ------------------------------------------------------------ for steps that work on tensors of their own
    @property
    def has_voice(self) -> bool:
        """Whether a prompt stands before the stream's own frames."""
        return self._prompt is not None

    @property
    def num_past(self) -> int:
        """Frames remembered."""
        return self._plan.noise_offset

    @property
    def dtype(self) -> torch.dtype:
        """In which keys and values are kept."""
        return self._own.dtype

    def new_window(self, length: int) -> Tensor:
        """Zeros [depth, 2, G·heads, length, d], in the dtype that is computed in."""
        *sizes, _, dim = self._own.shape
        return self._conv.new_zeros(*sizes, length, dim)

    def new_conv(self) -> Tensor:
        """Zeros [depth, 2, G, 2, C]."""
        return torch.zeros_like(self._conv)

    def copy_past(self, window: Tensor, conv: Tensor) -> int:
        """Copy the remembered frames to the front of `window`, the convolutions' rows to `conv`; the number
        of frames."""
        conv.copy_(self._conv)
        runs = [(self._own, run) for run in self._plan.past_runs]
        if self._prompt is not None:
            runs += [(self._prompt, run) for run in self._plan.prompt_runs]
        at = 0
        for store, (first, stop) in runs:
            window[..., at : at + stop - first, :].copy_(store[..., first:stop, :])
            at += stop - first
        return at

    def write(self, fresh: Tensor, next_conv: Tensor) -> None:
        """Keep the step's keys and values [depth, 2, G·heads, n, d] and rows [depth, 2, G, 2, C]."""
        self._own[:, :, :, self._slots] = fresh
        self._next_conv.copy_(next_conv)
