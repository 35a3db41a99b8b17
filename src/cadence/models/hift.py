"""HiFT vocoder: mel -> pitch -> harmonic source -> upsampling network -> inverse Fourier transform.

After HiFTNet (Li et al. 2023, arXiv 2309.09493) with Step-Audio 2's sizes and quirks: the phase restarts
with every call, and the cross-fade between chunks adds up to 1.08. Module names are those of `hift.pt`;
weight norm is folded into plain weights when loading (`hift_weights`), so one network trains and serves.

Frames are 20 ms: 50 a second, 480 samples each at 24 kHz.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadence.models.dit_graph import graphs_work
from cadence.models.hift_bfloat16 import Bfloat16Rows
from cadence.models.hift_filter import FilteredRows
from cadence.models.hift_graph import Channels
from cadence.models.hift_lanes import StageLanes
from cadence.models.hift_stage import Layout, Stage
from cadence.models.lanes import Lanes
from cadence.types import OUTPUT_RATE_HZ

__all__ = ["FRAME_SAMPLES", "HiFT", "HiFTConfig", "HiFTState"]

NUM_MELS = 80
FRAME_SAMPLES = 480
UP_RATES = (8, 5, 3)
UP_KERNELS = (16, 11, 7)
N_FFT, HOP = 16, 4  # 8 * 5 * 3 * 4 = 480
NUM_BINS = N_FFT // 2 + 1

NUM_HARMONICS = 9  # the fundamental and eight above it
SINE_LEVEL = 0.1
VOICED_NOISE = 0.003
UNVOICED_NOISE = SINE_LEVEL / 3
VOICED_HZ = 10.0  # a lower pitch means unvoiced
MAX_MAGNITUDE = 100.0
LIMIT = 0.99

_MIN_FILTERED = 2048  # numbers in a frame: with fewer, a filter's small products take longer than they save

OVERLAP_FRAMES = 8  # 160 ms of each streamed chunk are rendered again with the next one
OVERLAP = OVERLAP_FRAMES * FRAME_SAMPLES


@dataclass(frozen=True, slots=True)
class HiFTConfig:
    """Sizes; the defaults are the public model's. `base_channels` is divided by 2, 4 and 8 on the way up."""

    base_channels: int = 512
    f0_channels: int = 512
    kernels: tuple[int, ...] = (3, 7, 11)
    source_kernels: tuple[int, int, int] = (7, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)


@dataclass(slots=True)
class HiFTState:
    """One stream's memory between chunks: 33 KB at most, whatever the stream's length.

    Attributes:
        generator: draws the source's noise, in order; None = no noise.
        mel: [80, <= 8] newest frames.
        source: [<= 3840] excitation of these frames.
        speech: [<= 3840] their sound, held back until the next chunk is cross-faded with it.
    """

    generator: torch.Generator | None = None
    mel: Tensor = field(default_factory=lambda: torch.zeros(NUM_MELS, 0))
    source: Tensor = field(default_factory=lambda: torch.zeros(0))
    speech: Tensor = field(default_factory=lambda: torch.zeros(0))


@lru_cache(maxsize=4)
def _hann(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # serving may come first, training must still be able to use it
        return torch.hann_window(N_FFT, device=device)


@lru_cache(maxsize=4)
def _fades(device: torch.device) -> tuple[Tensor, Tensor]:
    """Rising and falling half of a Hamming window [3840] each; in float64 as the reference has them."""
    window = torch.hamming_window(2 * OVERLAP, periodic=False, dtype=torch.float64)
    if device.type == "mps":  # has no float64
        window = window.float()
    return window[:OVERLAP].to(device), window[OVERLAP:].to(device)


# ------------------------------------------------------------------ layers
class Snake(nn.Module):
    """x + sin²(αx) / α with one α per channel (Ziyin et al. 2020, arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> same."""
        alpha = self.alpha[:, None]
        scale = 1.0 / (alpha + 1e-9)
        if torch.is_grad_enabled():
            return x + scale * torch.sin(alpha * x).square()
        ripple = (
            x * alpha
        ).sin_()  # one buffer instead of three: this is most of the time outside of convolutions
        return ripple.square_().mul_(scale).add_(x)


class SnakeBlock(nn.Module):
    """Residual pairs of convolutions: a dilated one, a plain one, a Snake before each."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Conv1d:
            return nn.Conv1d(
                channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2
            )

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> same."""
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for snake1, dilated, snake2, plain in layers:
            x = x + plain(snake2(dilated(snake1(x))))
        return x


class PitchPredictor(nn.Module):
    """Five convolutions over the mel, then one non-negative number a frame: pitch in Hz."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (NUM_MELS, channels, channels, channels, channels):
            layers += [nn.Conv1d(inputs, channels, 3, padding=1), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """[B, 80, F] -> [B, F]."""
        hidden = self.condnet(mel).transpose(1, 2)
        pitch: Tensor = self.classifier(hidden).squeeze(-1).abs()
        return pitch


class HarmonicSource(nn.Module):
    """Nine harmonics of the pitch plus noise, mixed to one excitation in ±1."""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(NUM_HARMONICS, 1)

    def forward(self, pitch: Tensor, noise: Tensor | None) -> Tensor:
        """Excitation of a pitch track; gradients reach the mixing weights alone.

        Args:
            pitch: [B, F] Hz; `VOICED_HZ` or less is unvoiced.
            noise: [B, 480 F, 9] standard normal, or None for silence between the harmonics.

        Returns:
            [B, 480 F].
        """
        with torch.no_grad():
            waves = _harmonics(pitch)
            voiced = (pitch > VOICED_HZ).to(pitch.dtype).repeat_interleave(FRAME_SAMPLES, dim=1)[..., None]
            waves *= voiced
            if noise is not None:
                waves += (voiced * VOICED_NOISE + (1 - voiced) * UNVOICED_NOISE) * noise
        mixed: Tensor = torch.tanh(self.l_linear(waves)).squeeze(-1)
        return mixed


def _harmonics(pitch: Tensor) -> Tensor:
    """Sines [B, 480 F, 9] of amplitude `SINE_LEVEL`.

    Phases are summed per frame and interpolated linearly. The reference draws a random start phase too,
    but adds it to a sample that its own averaging over the frame never reads: it has no effect.
    float32 in the reference's order: phases grow to 1e5 rad and their rounding is heard by a comparison.
    """
    orders = torch.arange(1, NUM_HARMONICS + 1, device=pitch.device, dtype=pitch.dtype)
    turns = (pitch[..., None] * orders / OUTPUT_RATE_HZ) % 1  # per sample; [B, F, 9]
    phase = torch.cumsum(turns, dim=1) * 2 * math.pi
    phase = phase.transpose(1, 2) * FRAME_SAMPLES
    phase = F.interpolate(phase, scale_factor=float(FRAME_SAMPLES), mode="linear").transpose(1, 2)
    return torch.sin(phase) * SINE_LEVEL


# ------------------------------------------------------------------ network
class HiFT(nn.Module):
    """The vocoder. Safe to share between streams: it keeps nothing from call to call."""

    def __init__(self, config: HiFTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HiFTConfig()
        self.f0_predictor = PitchPredictor(config.f0_channels)
        self.m_source = HarmonicSource()
        self.conv_pre = nn.Conv1d(NUM_MELS, config.base_channels, 7, padding=3)
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for i, (rate, kernel) in enumerate(zip(UP_RATES, UP_KERNELS, strict=True)):
            inputs, outputs = config.base_channels >> i, config.base_channels >> (i + 1)
            self.ups.append(nn.ConvTranspose1d(inputs, outputs, kernel, rate, padding=(kernel - rate) // 2))
            # The source's spectrum comes at the last stage's rate; earlier stages take it in larger steps.
            step = math.prod(UP_RATES[i + 1 :])
            width, padding = (2 * step, step // 2) if step > 1 else (1, 0)
            self.source_downs.append(nn.Conv1d(2 * NUM_BINS, outputs, width, step, padding=padding))
            self.source_resblocks.append(SnakeBlock(outputs, config.source_kernels[i], config.dilations))
            self.resblocks.extend(SnakeBlock(outputs, k, config.dilations) for k in config.kernels)
        self.conv_post = nn.Conv1d(config.base_channels >> len(UP_RATES), 2 * NUM_BINS, 7, padding=3)
        self._stages: list[StageLanes] = []  # the stages' residual blocks, for inference

    def prepare_inference(self, num_threads: int, *, bfloat16: bool = False) -> None:
        """Lay the residual blocks out for a CPU; later weights are not seen. With `bfloat16` what their
        convolutions multiply is rounded."""
        weight = self.conv_pre.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return
        lanes, self._stages = Lanes(num_threads), []
        for i, (source, branches) in enumerate(zip(self.source_resblocks, self._branches(), strict=True)):
            channels = self.config.base_channels >> (i + 1)
            layout: Layout = FilteredRows()
            if bfloat16:
                layout = Bfloat16Rows()
            elif channels * math.prod(UP_RATES[: i + 1]) < _MIN_FILTERED and graphs_work():
                layout = Channels(lanes.threads_each)
            self._stages.append(StageLanes(Stage(source, branches, layout), source, branches, lanes))

    def _branches(self) -> list[list[nn.Module]]:
        n = len(self.config.kernels)
        return [list(self.resblocks[i * n : (i + 1) * n]) for i in range(len(UP_RATES))]

    def forward(self, mel: Tensor, noise: Tensor | None = None) -> Tensor:
        """Mel [B, 80, F] to sound [B, 480 F], with gradients (none through the pitch)."""
        return self.synthesise(mel, self.excite(mel, noise))

    def excite(self, mel: Tensor, noise: Tensor | None = None) -> Tensor:
        """Harmonic source [B, 480 F] of a mel [B, 80, F]; see `HarmonicSource` for the noise."""
        source: Tensor = self.m_source(self.f0_predictor(mel.float()), noise)
        return source

    def synthesise(self, mel: Tensor, source: Tensor) -> Tensor:
        """Sound [B, 480 F] within ±0.99 from a mel [B, 80, F] and its source [B, 480 F]."""
        dtype = self.conv_pre.weight.dtype
        window = _hann(source.device)
        spectrum = torch.stft(source.float(), N_FFT, HOP, N_FFT, window, return_complex=True)
        excitation = torch.cat([spectrum.real, spectrum.imag], dim=1).to(dtype)  # [B, 18, 120 F + 1]
        x = self.conv_pre(mel.to(dtype))
        for i, (up, blocks) in enumerate(zip(self.ups, self._branches(), strict=True)):
            x = up(F.leaky_relu(x, 0.1))
            if i == len(UP_RATES) - 1:
                x = F.pad(x, (1, 0), mode="reflect")  # one more frame, as the centred transform has
            source_part = self.source_downs[i](excitation)
            if self._stages and not torch.is_grad_enabled():
                x = self._stages[i](x, source_part)
                continue
            x = x + self.source_resblocks[i](source_part)
            branches = [block(x) for block in blocks]
            x = torch.stack(branches).mean(0) if torch.is_grad_enabled() else _mean_(branches)
        x = self.conv_post(F.leaky_relu(x)).float()
        magnitude = x[:, :NUM_BINS].exp().clamp(max=MAX_MAGNITUDE)
        angle = torch.sin(x[:, NUM_BINS:])
        sound = torch.istft(torch.polar(magnitude, angle), N_FFT, HOP, N_FFT, window)
        return sound.clamp(-LIMIT, LIMIT)

    # -------------------------------------------------------------- whole utterances
    @torch.inference_mode()
    def vocode(
        self,
        mel: Tensor,
        *,
        noise: Tensor | None = None,
        generators: Sequence[torch.Generator | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Render whole utterances of one length.

        Args:
            mel: [B, 80, F].
            noise: [B, 480 F, 9] standard normal; wins over `generators`.
            generators: one a row, to draw its noise from; None (or None in it) = no noise.

        Returns:
            Sound and source, [B, 480 F] each.
        """
        if noise is None and generators is not None:
            noise = _draw(generators, mel.shape[-1], mel.device)
        source = self.excite(mel, noise)
        return self.synthesise(mel, source), source

    # -------------------------------------------------------------- streams
    def stream(self, state: HiFTState, mel: Tensor, last: bool = False) -> Tensor:
        """Render the next chunk of one stream; see `stream_batch`."""
        return self.stream_batch([state], [mel], [last])[0]

    @torch.inference_mode()
    def stream_batch(
        self, states: Sequence[HiFTState], mels: Sequence[Tensor], last: Sequence[bool]
    ) -> list[Tensor]:
        """Render the next chunk of several streams, those of equal length in one pass.

        Args:
            states: changed in place.
            mels: new frames [80, F] of each; F may differ, and be 0 for a stream that ends.
            last: whether this is the stream's end; nothing is held back then.

        Returns:
            Sound [S] of each within ±1. All of a stream's chunks together hold 480 samples a frame;
            160 ms of it come with the chunk after.
        """
        joined = [_recall(state, mel) for state, mel in zip(states, mels, strict=True)]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, (mel, state) in enumerate(zip(joined, states, strict=True)):
            groups.setdefault((mel.shape[-1], len(state.source)), []).append(i)
        sounds: dict[int, Tensor] = {}
        for (num_frames, num_known), rows in groups.items():
            if num_frames == 0:
                sounds.update((i, joined[i].new_zeros(0)) for i in rows)
                continue
            mel = torch.stack([joined[i] for i in rows])
            source = self.excite(mel, _draw([states[i].generator for i in rows], num_frames, mel.device))
            if num_known:
                source[:, :num_known] = torch.stack([states[i].source for i in rows])
            speech = self.synthesise(mel, source)
            for row, i in enumerate(rows):
                sounds[i] = _retain(states[i], joined[i], source[row], speech[row], last[i])
        return [sounds[i] for i in range(len(states))]


def _mean_(branches: list[Tensor]) -> Tensor:
    """Mean of equal shapes, summed in the first one's memory."""
    total = branches[0]
    for branch in branches[1:]:
        total += branch
    return total.div_(len(branches))


def _draw(
    generators: Sequence[torch.Generator | None], num_frames: int, device: torch.device
) -> Tensor | None:
    """Noise [B, 480 F, 9], each row from its own generator so that neighbours never change it."""
    if all(generator is None for generator in generators):
        return None
    shape = (num_frames * FRAME_SAMPLES, NUM_HARMONICS)
    rows = [
        torch.zeros(shape) if g is None else torch.randn(shape, generator=g, device=g.device)
        for g in generators
    ]
    return torch.stack([row.to(device) for row in rows])


def _recall(state: HiFTState, mel: Tensor) -> Tensor:
    """The frames to render: those kept from the chunk before, then the new ones."""
    known = state.mel.to(mel)
    if known.shape[-1] < OVERLAP_FRAMES and known.shape[-1]:
        # Less than the overlap so far, so no sound has left yet: begin again with all of it.
        state.source = state.source.new_zeros(0)
        state.speech = state.speech.new_zeros(0)
    return torch.cat([known, mel], dim=-1)


def _retain(state: HiFTState, mel: Tensor, source: Tensor, speech: Tensor, last: bool) -> Tensor:
    """Cross-fade with the sound held back, keep the newest overlap, return what may leave."""
    if len(state.speech):
        rise, fall = _fades(speech.device)
        head = speech[:OVERLAP] * rise + state.speech * fall
        speech = torch.cat([head.to(speech.dtype), speech[OVERLAP:]])
    state.mel = mel[:, -OVERLAP_FRAMES:].clone()
    state.source = source[-OVERLAP:].clone()
    state.speech = speech[-OVERLAP:].clone()
    leaving = speech if last else speech[: max(0, len(speech) - OVERLAP)]
    return leaving.clamp(-1.0, 1.0)
