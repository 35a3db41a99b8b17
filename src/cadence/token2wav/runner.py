"""Codes to sound: the flow and the vocoder over a batch of sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from cadence.errors import CadenceError, StageFailed
from cadence.models.flow_sampler import FlowSampler, Solve, Utterance
from cadence.models.flow_stream import VoiceState
from cadence.models.hift import HiFT, HiFTState
from cadence.models.transfers import to_host
from cadence.token2wav.scheduler import Chunk
from cadence.token2wav.session import StreamState
from cadence.token2wav.voice_cache import prompt_tensors
from cadence.token2wav.voices import VoicePrompt
from cadence.token2wav.whole import MAX_AT_ONCE, WholeSound

if TYPE_CHECKING:
    from cadence.types import Waveform

__all__ = ["Runner", "WholeJob", "waveform"]

T = TypeVar("T")


class WholeJob:
    """A whole utterance under way through the flow, step by step, so that streams can go in between."""

    def __init__(self, solve: Solve, num_prompt_frames: int) -> None:
        self._solve = solve
        self._num_prompt_frames = num_prompt_frames

    def advance(self) -> bool:
        """Take one solver step; True when the mel is complete."""
        return self._solve.advance()

    @property
    def mel(self) -> Tensor:
        """[80, 2n] without the prompt."""
        return self._solve.frames[0][self._num_prompt_frames :].T


class Runner:
    """Runs batches; holds no sessions. One thread uses it at a time."""

    def __init__(self, sampler: FlowSampler, vocoder: HiFT) -> None:
        self.sampler, self.vocoder = sampler, vocoder

    @property
    def gains_by_batches(self) -> bool:
        """Whether streams side by side take much less time than one after the other. A CPU is busy with one:
        four at once take 3.7 times as long at the public sizes, 2 to 3 times in the built-in checkpoint."""
        return self.sampler.device.type != "cpu"

    def open(self, voice: VoiceState, generator: torch.Generator) -> StreamState:
        """State of a new stream."""
        return StreamState(self.sampler.open(voice), HiFTState(generator=generator))

    def render(
        self, states: Sequence[StreamState], chunks: Sequence[Chunk], codes: Sequence[Sequence[int]]
    ) -> list[Waveform | Exception]:
        """Render one chunk of each stream: `codes` are the chunk's and those it looks ahead at.

        Returns:
            Sound [S] (may be empty), or why this stream failed; the others are unaffected.
        """
        tensors = [torch.tensor(part, dtype=torch.long) for part in codes]

        def flow(rows: Sequence[int]) -> list[Tensor]:
            streams = [states[row].flow for row in rows]
            return self.sampler.step(
                streams, [tensors[row] for row in rows], [chunks[row].last for row in rows]
            )

        found = _attributed(flow, range(len(states)))
        mels = {row: mel.T for row, mel in enumerate(found) if isinstance(mel, Tensor)}

        def vocoder(rows: Sequence[int]) -> list[Waveform]:
            return self._speak(
                [states[row].vocoder for row in rows],
                [mels[row] for row in rows],
                [chunks[row].last for row in rows],
            )

        results: dict[int, Waveform | Exception] = {
            row: error for row, error in enumerate(found) if isinstance(error, Exception)
        }
        sounds = _attributed(vocoder, list(mels))
        results.update(zip(mels, sounds, strict=True))
        return [results[row] for row in range(len(states))]

    def _speak(
        self, states: Sequence[HiFTState], mels: Sequence[Tensor], last: Sequence[bool]
    ) -> list[Waveform]:
        before = [(copy(state), _draws(state)) for state in states]
        try:
            return _numpy(*self.vocoder.stream_batch(states, mels, last))
        except Exception:
            # The vocoder replaces tensors and never writes into them, so this undoes a failed batch.
            for state, (old, draws) in zip(states, before, strict=True):
                state.mel, state.source, state.speech = old.mel, old.source, old.speech
                if state.generator is not None and draws is not None:
                    state.generator.set_state(draws)
            raise

    def begin_whole(self, codes: Sequence[int], prompt: VoicePrompt) -> WholeJob:
        """Encode a whole utterance."""
        utterance = Utterance(torch.tensor(codes, dtype=torch.long), *prompt_tensors(prompt))
        return WholeJob(self.sampler.start([utterance]), len(utterance.prompt_mel))

    def speak_whole(self, job: WholeJob, generator: torch.Generator) -> WholeSound:
        """The vocoder's work on a complete job, to be advanced piece by piece."""
        return WholeSound(self.vocoder, job.mel, generator)

    def finish_whole(self, job: WholeJob, generator: torch.Generator) -> Waveform:
        """Sound [960 n] of a complete job, all of it now."""
        speech = self.speak_whole(job, generator)
        while not speech.advance(MAX_AT_ONCE):
            pass
        return waveform(speech)


def waveform(speech: WholeSound) -> Waveform:
    """Complete sound on the host."""
    return _numpy(speech.sound)[0]


def _draws(state: HiFTState) -> Tensor | None:
    return None if state.generator is None else state.generator.get_state()


def _numpy(*sounds: Tensor) -> list[Waveform]:
    return [sound.numpy() for sound in to_host(*(sound.float() for sound in sounds))]


def _attributed(run: Callable[[Sequence[int]], Sequence[T]], rows: Sequence[int]) -> list[T | Exception]:
    """Run a batch; when it fails, run each row alone, so that only the rows at fault fail.

    `run` must leave its rows' state untouched when it raises.
    """
    if not rows:
        return []
    try:
        return [*run(rows)]
    except Exception as error:  # noqa: BLE001 - a batch's border: the error goes to the rows at fault
        if len(rows) == 1:
            return [error if isinstance(error, CadenceError) else _failure(error)]
    return [result for row in rows for result in _attributed(run, [row])]


def _failure(error: Exception) -> StageFailed:
    failure = StageFailed("The vocoder stage failed while it worked on this request.")
    failure.__cause__ = error
    return failure
