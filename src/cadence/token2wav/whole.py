"""A whole utterance's mel to sound, piece by piece, so that streams can be served in between.

The samples are those of one pass: the source, whose phases run through the utterance, is made at once; the
network behind it sees a bounded neighbourhood of each sample, so a piece with that much around it comes
out as in the whole.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cadence.models.hift import (
    FRAME_SAMPLES,
    HOP,
    N_FFT,
    NUM_HARMONICS,
    UP_KERNELS,
    UP_RATES,
    HiFT,
    HiFTConfig,
    HiFTState,
)

__all__ = ["MAX_AT_ONCE", "WholeSound", "reach_frames"]

MAX_AT_ONCE = 3000
"""Frames (a minute) whose source is made at once; it takes 17 KB a frame, several times over."""

_BLOCK = 500  # of a longer utterance, which is streamed with the vocoder's own cross-fades


class WholeSound:
    """Vocoder work on one utterance, advanced piece by piece.

    Args:
        mel: [80, F], F >= 1.
        generator: draws the source's noise.
    """

    def __init__(self, vocoder: HiFT, mel: Tensor, generator: torch.Generator) -> None:
        self._vocoder, self._mel, self._generator = vocoder, mel, generator
        self._state = HiFTState(generator=generator) if mel.shape[1] > MAX_AT_ONCE else None
        self._source: Tensor | None = None
        self._reach = reach_frames(vocoder.config)
        self._done = 0
        self._pieces: list[Tensor] = []

    @torch.inference_mode()
    def advance(self, max_frames: int) -> bool:
        """Render the next `max_frames` or what is left; True when the sound is complete. The source takes a
        turn of its own."""
        if self._state is not None:
            self._stream(self._state)
        elif self._source is None:
            self._source = self._excite()
        else:
            self._render(self._source, max_frames)
        return self._done == self._mel.shape[1]

    @property
    def sound(self) -> Tensor:
        """[480 F] within ±1, once it is complete."""
        return torch.cat(self._pieces)

    def _stream(self, state: HiFTState) -> None:
        """The next block of a long utterance; its length is fixed, so the sound depends on nothing else."""
        stop = min(self._done + _BLOCK, self._mel.shape[1])
        last = stop == self._mel.shape[1]
        self._pieces.append(self._vocoder.stream(state, self._mel[:, self._done : stop], last))
        self._done = stop

    def _excite(self) -> Tensor:
        """The source [1, 480 F], with the noise that `HiFT.vocode` draws."""
        shape = (1, self._mel.shape[1] * FRAME_SAMPLES, NUM_HARMONICS)
        noise = torch.randn(shape, generator=self._generator, device=self._generator.device)
        return self._vocoder.excite(self._mel[None], noise.to(self._mel.device))

    def _render(self, source: Tensor, max_frames: int) -> None:
        """The next piece out of the frames that it depends on."""
        total = self._mel.shape[1]
        stop = min(self._done + max_frames, total)
        first, last = max(0, self._done - self._reach), min(total, stop + self._reach)
        sound = self._vocoder.synthesise(
            self._mel[None, :, first:last], source[:, first * FRAME_SAMPLES : last * FRAME_SAMPLES]
        )[0]
        self._pieces.append(sound[(self._done - first) * FRAME_SAMPLES : (stop - first) * FRAME_SAMPLES])
        self._done = stop


def reach_frames(config: HiFTConfig) -> int:
    """How many frames to either side a sample depends on, at most: the kernels' half widths summed up from
    the sound to the mel, each at the rate it runs at."""
    reach = N_FFT // HOP + 3  # the inverse transform and the last convolution
    for rate, width in zip(reversed(UP_RATES), reversed(UP_KERNELS), strict=True):
        widest = max((*config.kernels, *config.source_kernels))
        # Each of a block's dilated convolutions is followed by one without.
        reach += (widest // 2) * (sum(config.dilations) + len(config.dilations))
        reach = math.ceil((reach + width) / rate)
    return reach + 3  # the first convolution
