"""Noise to mel: the Euler solver with guidance, for whole utterances and for streams.

The reference's solver: a cosine schedule of `num_steps` steps, each moving along
(1 + g) · guided - g · unguided. Guided and unguided rows, and all utterances or streams of a call, go
through the DiT together; without guidance (g = 0) there are no unguided rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from cadence.models.conformer import UP_RATE, NoMemory
from cadence.models.device_graph import GraphBackend
from cadence.models.dit import Modulation
from cadence.models.dit_lanes import DiTLanes
from cadence.models.dit_memory import DiTMemory, DiTSpan, NoDiTMemory
from cadence.models.flow import Flow
from cadence.models.flow_graph import FlowGraphs
from cadence.models.flow_stream import FRAMES, FlowMemory, FlowStream, VoiceState
from cadence.models.frame_store import SpareWindow
from cadence.models.noise import NoiseStrip
from cadence.models.rows import pack, unpack
from cadence.models.transfers import to_device

__all__ = ["MAX_HISTORY_CODES", "FlowSampler", "Solve", "Utterance"]

_Estimator = Callable[[Tensor, Tensor, Modulation, Sequence[DiTSpan]], Tensor]  # as `DiT.forward`

MAX_HISTORY_CODES = 2500  # 100 s, where the reference's positions end


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """A whole utterance to render: codes [n], and the voice prompt's codes [P], mel [2P, 80] and
    speaker embedding [192]."""

    codes: Tensor
    prompt_codes: Tensor
    prompt_mel: Tensor
    embedding: Tensor


class FlowSampler:
    """Renders mel with a frozen `Flow`. Holds no state of any stream; safe to use from several threads."""

    def __init__(
        self,
        flow: Flow,
        *,
        num_steps: int = 10,
        noise: NoiseStrip | None = None,
        max_history_codes: int = MAX_HISTORY_CODES,
        memory: FlowMemory | None = None,
        graphs: GraphBackend | None = None,
    ) -> None:
        """`max_history_codes` bounds the encoder's memory of a stream (57 KB per code at full size), `memory`
        changes the DiT's; whole utterances need neither. `graphs` captures the streams' steps (None: all run
        eagerly)."""
        self.graphs = None if graphs is None else FlowGraphs(graphs, flow.estimator)
        self.estimator: _Estimator = self.graphs or flow.estimator
        if self.graphs is None and flow.lanes.count > 1:
            self.estimator = DiTLanes(flow.estimator, flow.lanes)
        self._memory, self._spare = memory, SpareWindow(FRAMES)
        self.flow, self.num_steps, self.max_history_codes = flow, num_steps, max_history_codes
        self._like = flow.encoder_proj.weight.detach()
        self.noise = noise or NoiseStrip(flow.config.mel_dim, device=self._like.device)
        times, self._deltas = _schedule(num_steps)
        with torch.inference_mode():
            self._modulations = flow.estimator.modulation(times.to(self._like.device))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._like.device

    @property
    def t_span(self) -> list[float]:
        """Times between which the steps go, 0 to 1: `num_steps` + 1 of them."""
        return [0.0, *accumulate(self._deltas)]

    # -------------------------------------------------------------- streams
    @torch.inference_mode()
    def prepare(self, codes: Tensor, mel: Tensor, embedding: Tensor) -> VoiceState:
        """Run a voice prompt through the flow once, for any number of streams.

        Args:
            codes: [P], P >= 1. mel: [2P, 80]. embedding: [192].
        """
        if len(mel) != UP_RATE * len(codes) or not len(codes):
            raise ValueError(f"A prompt needs two frames a code, found {len(mel)} for {len(codes)} codes.")
        device, ahead = self._like.device, self.flow.config.encoder.lookahead
        codes, mel = codes.to(device, torch.long), mel.to(self._like)
        stream = self._stream(None)
        # The reference lets the prompt be followed by its own first codes.
        repeated = codes.repeat(-(-ahead // len(codes)))[:ahead]
        speaker = self.flow.speaker(embedding.to(device))
        self._run([stream], [torch.cat([codes, repeated])], [False], [speaker], mel)
        return stream.as_voice(speaker)

    def open(self, voice: VoiceState) -> FlowStream:
        """A new stream after the voice's prompt."""
        return self._stream(voice)

    @torch.inference_mode()
    def step(
        self, streams: Sequence[FlowStream], codes: Sequence[Tensor], last: Sequence[bool]
    ) -> list[Tensor]:
        """Render the next chunk of each stream, all in one batch.

        Nothing changes in any stream when this raises, so streams may be tried again.

        Args:
            codes: [n_i] each, 1 or more to render; unless `last`, followed by `lookahead` more that the
                next chunk begins with.

        Returns:
            Mel [2 m_i, 80] each, m_i = n_i if last, else n_i - lookahead.
        """
        speakers = [stream.voice.speaker for stream in streams if stream.voice is not None]
        ready = [to_device(part.to(torch.long), self._like.device) for part in codes]
        return self._run(streams, ready, last, speakers)

    def _stream(self, voice: VoiceState | None) -> FlowStream:
        max_codes = self.max_history_codes if voice is not None else 1 << 30
        return FlowStream(
            self.flow.config,
            voice,
            num_steps=self.num_steps,
            max_codes=max_codes,
            like=self._like,
            memory=self._memory,
            spare=self._spare,
        )

    def _run(
        self,
        streams: Sequence[FlowStream],
        codes: Sequence[Tensor],
        last: Sequence[bool],
        speakers: Sequence[Tensor],
        condition: Tensor | None = None,
    ) -> list[Tensor]:
        ahead = self.flow.config.encoder.lookahead
        plans = [
            stream.begin(len(part) - (0 if end else ahead))
            for stream, part, end in zip(streams, codes, last, strict=True)
        ]
        mus = self.flow.encode(codes, [stream.encoder for stream in streams], last)
        noise = [self.noise.frames(plan.noise_offset, len(mu)) for plan, mu in zip(plans, mus, strict=True)]
        conditions = [torch.zeros_like(mu) if condition is None else condition for mu in mus]
        solve = Solve(
            self, noise, mus, speakers, conditions, lambda step: [stream.memory(step) for stream in streams]
        )
        while not solve.advance():
            pass
        for stream in streams:
            stream.commit()
        return solve.frames

    # -------------------------------------------------------------- whole utterances
    @torch.inference_mode()
    def start(self, utterances: Sequence[Utterance]) -> Solve:
        """Encode whole utterances of any lengths; the solver takes them further step by step."""
        device = self._like.device
        codes = [torch.cat([u.prompt_codes, u.codes]).to(device, torch.long) for u in utterances]
        mus = self.flow.encode(codes, [NoMemory() for _ in codes], [True] * len(codes))
        conditions = []
        for utterance, mu in zip(utterances, mus, strict=True):
            condition = torch.zeros_like(mu)
            condition[: len(utterance.prompt_mel)] = utterance.prompt_mel.to(mu)
            conditions.append(condition)
        memories: list[DiTMemory] = [NoDiTMemory() for _ in mus]
        return Solve(
            self,
            [self.noise.frames(0, len(mu)) for mu in mus],
            mus,
            [self.flow.speaker(u.embedding.to(device)) for u in utterances],
            conditions,
            lambda step: memories,
        )

    def generate(self, utterances: Sequence[Utterance]) -> list[Tensor]:
        """Render whole utterances: mel [2 n_i, 80] each, without the prompts'."""
        solve = self.start(utterances)
        while not solve.advance():
            pass
        return [mel[len(u.prompt_mel) :] for mel, u in zip(solve.frames, utterances, strict=True)]


def _schedule(num_steps: int) -> tuple[Tensor, list[float]]:
    """Times [steps] and step widths. Times are summed up in float32, as the reference does."""
    ends = 1 - torch.cos(torch.linspace(0, 1, num_steps + 1) * 0.5 * math.pi)
    time, times, deltas = ends[0], [], []
    for step in range(num_steps):
        delta = ends[step + 1] - time
        times.append(time)
        deltas.append(float(delta))
        time = time + delta
    return torch.stack(times), deltas


class Solve:
    """A run of the solver that is advanced one step at a time."""

    def __init__(
        self,
        sampler: FlowSampler,
        noise: Sequence[Tensor],
        mus: Sequence[Tensor],
        speakers: Sequence[Tensor],
        conditions: Sequence[Tensor],
        memories: Callable[[int], Sequence[DiTMemory]],
    ) -> None:
        self._sampler, self._memories, self._step = sampler, memories, 0
        self._lengths = [len(mu) for mu in mus]
        self._x = pack([part.float() for part in noise])  # float32 whatever the network's dtype
        estimator = sampler.flow.estimator
        speaker_rows = pack([s.expand(n, -1) for s, n in zip(speakers, self._lengths, strict=True)])
        self._groups = sampler.flow.config.groups
        self._projected = estimator.project(pack(mus), speaker_rows, pack(conditions))
        if self._groups > 1:
            # The unguided rows' conditions are zero: the bias alone is left.
            bias = estimator.in_proj.bias
            guided = unpack(self._projected, self._lengths)
            self._projected = torch.cat([row for part in guided for row in (part, bias.expand_as(part))])

    @torch.inference_mode()
    def advance(self) -> bool:
        """Take one step; True when it was the last."""
        sampler, step = self._sampler, self._step
        spans = [
            DiTSpan(self._groups, n, memory)
            for n, memory in zip(self._lengths, self._memories(step), strict=True)
        ]
        x = self._x
        if self._groups > 1:
            x = torch.cat([part for part in unpack(x, self._lengths) for _ in range(self._groups)])
        inputs = (x.to(self._projected.dtype), self._projected, sampler._modulations[step], spans)
        velocity = sampler.estimator(*inputs).float()
        self._x = self._x + sampler._deltas[step] * self._guided(velocity)
        self._step += 1
        return self._step == sampler.num_steps

    def _guided(self, velocity: Tensor) -> Tensor:
        """(1 + g) · guided - g · unguided of the velocity's rows."""
        if self._groups == 1:
            return velocity
        halves = [part.chunk(2) for part in unpack(velocity, [2 * n for n in self._lengths])]
        guided, unguided = (pack(parts) for parts in zip(*halves, strict=True))
        rate = self._sampler.flow.config.guidance
        return (1.0 + rate) * guided - rate * unguided

    @property
    def frames(self) -> list[Tensor]:
        """The utterances' frames [n_i, 80] where the solver stands, float32."""
        return unpack(self._x, self._lengths)
