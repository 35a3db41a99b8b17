"""Voices: short recordings that the flow continues, encoded once each.

A voice is a wav file of the checkpoint's `assets` folder, named by its stem. "default" means, in this
order: the configured prompt file, the configured voice, the file in STEP_AUDIO2_DEFAULT_PROMPT_WAV,
`default_female`, the first by name. (What OpenAI's voice names stand for is a matter of the API.)
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cadence.audio.decode import decode_native
from cadence.audio.features import fbank, log_mel, prompt_mel
from cadence.audio.sinc import sinc_resample
from cadence.config import Token2WavConfig
from cadence.errors import CheckpointError, ConfigError, InvalidAudio, InvalidRequest, RequestError
from cadence.models.onnx import SpeakerEncoder, SpeechTokenizer
from cadence.token2wav.kept_encoder import KeptEncoder
from cadence.types import INPUT_RATE_HZ, OUTPUT_RATE_HZ, VoiceSample

__all__ = ["DEFAULT_VOICE", "MAX_PROMPT_S", "MIN_PROMPT_S", "VoiceEncoder", "VoicePrompt", "VoiceStore"]

DEFAULT_VOICE = "default"
DEFAULT_WAV_ENV = "STEP_AUDIO2_DEFAULT_PROMPT_WAV"
MIN_PROMPT_S = 0.5
MAX_PROMPT_S = 30.0  # what the speech tokenizer takes in one piece

_FRAMES_PER_CODE = 2
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class VoicePrompt:
    """What the flow needs of a voice.

    Attributes:
        codes: int32 [P], 25 a second.
        mel: float32 [2 P, 80], 50 frames a second.
        embedding: float32 [192], the speaker.
        key: digest of the recording: equal keys mean equal prompts.
    """

    codes: NDArray[np.int32]
    mel: NDArray[np.float32]
    embedding: NDArray[np.float32]
    key: str

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return self.codes.nbytes + self.mel.nbytes + self.embedding.nbytes


class VoiceEncoder:
    """Encodes recordings. Holds both ONNX models (half a gigabyte in the public size)."""

    def __init__(self, folder: Path) -> None:
        """Open the models of a `token2wav` folder.

        Raises:
            CheckpointError: one is missing or is another model.
        """
        self._tokenizer = SpeechTokenizer(folder / "speech_tokenizer_v2_25hz.onnx")
        self._speaker = SpeakerEncoder(folder / "campplus.onnx")

    def encode(self, data: bytes) -> VoicePrompt:
        """Encode a recording in any audio format; what is past 30 s is left out, with a warning.

        The models at 16 kHz hear the first channel, the prompt mel is of the channels' mean: this is
        what the reference does.

        Raises:
            InvalidAudio: not decodable, or shorter than 0.5 s.
        """
        samples, rate_hz = decode_native(data)
        seconds = samples.shape[1] / rate_hz
        if seconds < MIN_PROMPT_S:
            raise InvalidAudio(f"A voice needs at least {MIN_PROMPT_S} s of sound, found {seconds:.2f} s.")
        if seconds > MAX_PROMPT_S:
            _logger.warning("a voice of %.1f s is cut to its first %.0f s", seconds, MAX_PROMPT_S)
            samples = samples[:, : int(MAX_PROMPT_S * rate_hz)]
        heard = sinc_resample(samples[0], rate_hz, INPUT_RATE_HZ)
        codes = self._tokenizer.encode(log_mel(heard, padding=0))
        embedding = self._speaker.encode(fbank(heard))
        mel = prompt_mel(sinc_resample(samples.mean(axis=0), rate_hz, OUTPUT_RATE_HZ))
        key = hashlib.sha256(data).hexdigest()[:32]
        return VoicePrompt(codes, _fitted(mel, _FRAMES_PER_CODE * len(codes)), embedding, key)


def _fitted(mel: NDArray[np.float32], num_frames: int) -> NDArray[np.float32]:
    """Cut [F, 80] to [num_frames, 80], or repeat its last frame."""
    missing = max(0, num_frames - len(mel))
    return np.pad(mel[:num_frames], ((0, missing), (0, 0)), mode="edge")


class VoiceStore:
    """The voices of one checkpoint by name. Thread-safe; each is encoded at first use and kept."""

    def __init__(self, root: Path, config: Token2WavConfig | None = None) -> None:
        """Find the voices of a checkpoint folder; none is read yet.

        Raises:
            CheckpointError: the checkpoint has no voice and none is configured.
            ConfigError: a configured voice or file does not exist.
        """
        self._folder = root / "token2wav"
        found = {path.stem: path for path in sorted((root / "assets").glob("*.wav"))}
        default, self._default_from = _default_path(found, root, config or Token2WavConfig())
        self._paths = {DEFAULT_VOICE: default, **found}
        self._prompts: dict[Path, VoicePrompt] = {}
        self._lock = threading.Lock()
        self._encoder = KeptEncoder(lambda: VoiceEncoder(self._folder))

    def names(self) -> tuple[str, ...]:
        """All names, "default" first."""
        return tuple(self._paths)

    def prompt(self, name: str) -> VoicePrompt:
        """The encoded voice; seconds of work the first time.

        Raises:
            InvalidRequest: no such voice; lists the names.
            CheckpointError: its file or a model cannot be used.
        """
        path = self._paths.get(name)
        if path is None:
            raise InvalidRequest(
                f"There is no voice {name[:100]!r}.",
                param="voice",
                code="voice_not_found",
                hint=f"Voices: {', '.join(self._paths)}.",
            )
        with self._lock:
            if path not in self._prompts:
                self._prompts[path] = self._encode(path)
            return self._prompts[path]

    def encode(self, sample: VoiceSample) -> VoicePrompt:
        """Encode a recording that is none of the checkpoint's; it is the caller's to keep.

        Raises:
            InvalidAudio: not decodable, or shorter than 0.5 s.
            CheckpointError: a model cannot be used.
        """
        return self._encoder.encode(sample.wav)

    def close(self) -> None:
        """Free the encoder's models."""
        self._encoder.close()

    def _encode(self, path: Path) -> VoicePrompt:
        try:
            return self._encoder.encode(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"{self._called(path)}: the voice cannot be read ({error}).") from error
        except RequestError as error:
            raise CheckpointError(f"{self._called(path)}: not usable as a voice. {error}") from error

    def _called(self, path: Path) -> str:
        """A file, and who named it when that was not the checkpoint."""
        is_given = self._default_from is not None and path == self._paths[DEFAULT_VOICE]
        return f"{path} (from {self._default_from})" if is_given else str(path)


def _default_path(found: dict[str, Path], root: Path, config: Token2WavConfig) -> tuple[Path, str | None]:
    """The default voice's file, and what configured it."""
    if config.default_prompt_wav is not None and config.default_voice is not None:
        raise ConfigError("default_prompt_wav and default_voice name two default voices; give one.")
    if config.default_prompt_wav is not None:
        return _existing(config.default_prompt_wav, "default_prompt_wav"), "default_prompt_wav"
    if config.default_voice is not None and config.default_voice != DEFAULT_VOICE:
        if config.default_voice not in found:
            raise ConfigError(
                f"default_voice: there is no voice {config.default_voice!r}.",
                param="default_voice",
                hint=f"Voices: {', '.join(found)}.",
            )
        return found[config.default_voice], None
    if given := os.environ.get(DEFAULT_WAV_ENV):
        return _existing(given, DEFAULT_WAV_ENV), DEFAULT_WAV_ENV
    if not found:
        raise CheckpointError(
            f"{root / 'assets'}: expected a recording default_female.wav to take the voice from, found none.",
            hint="Give one with --default-prompt-wav or STEP_AUDIO2_DEFAULT_PROMPT_WAV.",
        )
    return found.get("default_female", next(iter(found.values()))), None


def _existing(name: str, param: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"{param}: there is no file {name!r}.", param=param)
    return path
