"""What the flow remembers: of a voice (once, read-only, shared) and of one stream (its own).

A stream never copies its voice's keys and values: attention reads them where they are, next to the
stream's own. New frames are written in place. A step takes effect when it is committed, so that a step
that failed half-way can be run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from weakref import finalize

import torch
import torch.nn.functional as F
from torch import Tensor

from cadence.models.conformer import UP_RATE
from cadence.models.dit_memory import CONV_HISTORY, scaled_attention
from cadence.models.flow_config import FlowConfig
from cadence.models.frame_store import SpareWindow, grown
from cadence.models.frame_window import FrameWindow, WindowPlan
from cadence.models.transfers import to_device

__all__ = ["FRAMES", "EncoderHistory", "FlowMemory", "FlowStream", "StreamMemory", "VoiceState"]

FRAMES = 4  # the axis of frames among keys and values [steps, depth, 2, G, n, heads, d]

_STEADY_FRAMES = 50  # of a usual chunk: with room for them a full window never grows again
_WINDOW_GROWTH = 2.0  # it is full, and exact, after a few chunks
_LOG_GROWTH = 1.25  # it grows for minutes: copies are small beside a chunk's work, spare room would not be


@dataclass(frozen=True, slots=True, eq=False)
class VoiceState:
    """The flow after a voice prompt of P codes. Read-only: every stream of the voice reads these tensors.

    `keys_values` [steps, depth, 2, G, 2P, heads, d] and `conv` [steps, depth, 2, G, 2, C] belong to the
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
        return self.keys_values.shape[FRAMES]

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
        self.own = grown(self.own, -2, self.used + count, self._max, _LOG_GROWTH)

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
        shape = (num_steps, dit.depth, 2, config.groups, 0, dit.num_heads, dit.head_dim)
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
        """Keys and values [steps, depth, 2, G, n, heads, d]."""
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
            self._store.index_copy_(FRAMES, target, self._store.index_select(FRAMES, source))
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
        if self._spare is not None and not store.shape[FRAMES]:
            store = self._spare.take(store, limit)
        self._kept[0] = grown(store, FRAMES, needed, limit, _WINDOW_GROWTH)

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
        return self._store.nbytes // max(1, self._store.shape[FRAMES])

    @property
    def num_bytes(self) -> int:
        """Memory held, without the voice; of main memory what has been written."""
        window = self._used * self.frame_bytes if self._store.device.type == "cpu" else self._store.nbytes
        return window + self._conv.nbytes + self.encoder.num_bytes


class StreamMemory:
    """A stream's `DiTMemory` at one step: keys and values [depth, 2, G, n, heads, d]."""

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
        own = self._own[layer]
        for store, rows in zip(own, (keys, values), strict=True):
            store[:, self._slots] = rows.to(store.dtype)
        parts = [own[:, :, : self._plan.used]]
        if self._prompt is not None:
            parts += [self._prompt[layer, :, :, first:stop] for first, stop in self._plan.prompt_runs]
        seen = torch.cat([part.to(queries) for part in parts], dim=2)
        return scaled_attention(queries, seen[0], seen[1])

    def past(self) -> list[Tensor]:
        """The frames still attended to, the stream's own and its voice's."""
        runs = [self._own[:, :, :, first:stop] for first, stop in self._plan.past_runs]
        if self._prompt is not None:
            runs += [self._prompt[:, :, :, first:stop] for first, stop in self._plan.prompt_runs]
        return runs

    def precede(self, layer: int, conv: int, rows: Tensor) -> Tensor:
        """Rows with the stream's last two in front."""
        padded = torch.cat([self._conv[layer, conv], rows], dim=1)
        self._next_conv[layer, conv] = padded[:, -CONV_HISTORY:]
        return padded

    def recall(self, depth: int, groups: int, like: Tensor) -> Tensor:
        """The stream's last two rows of every convolution."""
        return self._conv

    def retain(self, rows: Tensor, fresh: Sequence[Tensor]) -> None:
        """Write these rows for the next chunk, and the new frames into their slots."""
        self._next_conv.copy_(rows)
        stores = self._own.view(-1, *self._own.shape[2:])  # [2·depth, G, n, heads, d]
        at = 0
        for first, stop in self._plan.slot_runs:
            new = [part[:, at : at + stop - first] for part in fresh]
            torch.stack(new, out=stores[:, :, first:stop])
            at += stop - first

    def group(self, index: int) -> StreamMemory:
        """One group's memory: views of this one's tensors."""
        part, own = copy(self), slice(index, index + 1)
        part._own = self._own[:, :, own]
        part._prompt = None if self._prompt is None else self._prompt[:, :, own]
        part._conv, part._next_conv = self._conv[:, :, own], self._next_conv[:, :, own]
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
        """Zeros [depth, 2, G, heads, length, d], in the dtype that is computed in."""
        *sizes, _, heads, dim = self._own.shape
        return self._conv.new_zeros(*sizes, heads, length, dim)

    def new_conv(self) -> Tensor:
        """Zeros [depth, 2, G, 2, C]."""
        return torch.zeros_like(self._conv)

    def copy_past(self, window: Tensor, conv: Tensor) -> int:
        """Copy the remembered frames to the front of `window`, the convolutions' rows to `conv`; the number
        of frames."""
        conv.copy_(self._conv)
        at = 0
        for run in self.past():
            count = run.shape[3]
            window[..., at : at + count, :].copy_(run.transpose(3, 4))
            at += count
        return at

    def write(self, fresh: Tensor, next_conv: Tensor) -> None:
        """Keep the step's keys and values [depth, 2, G, n, heads, d] and rows [depth, 2, G, 2, C]."""
        self._own[:, :, :, self._slots] = fresh
        self._next_conv.copy_(next_conv)
