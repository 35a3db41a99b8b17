"""The reference package's Token2Wav on a CPU, for benchmarks that run it beside ours.

`pip install --no-deps step-audio2==1.0.0 s3tokenizer torchaudio einops hyperpyyaml` and `pip install librosa`
in an environment that also has Cadence, never in Cadence's own. Its code asks for CUDA by name, reads sound
through torchcodec and would take the speech tokenizer's weights out of the real graph: these three are
redirected, nothing else is changed.
"""

from __future__ import annotations

import contextlib
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
import torch
from torch import Tensor

MODULES = ("token2wav", "flashcosyvoice", "cosyvoice2", "s3tokenizer", "torchaudio", "hyperpyyaml", "einops")


def missing() -> list[str]:
    """Modules that the reference needs and this environment lacks."""
    return [name for name in MODULES if find_spec(name) is None]


class _OnTheCPU(types.ModuleType):
    """`torch` for a module that names CUDA: tensors stay here, autocast does nothing."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.amp = types.SimpleNamespace(autocast=lambda *_, **__: contextlib.nullcontext())

    def __getattr__(self, name: str) -> Any:
        real = getattr(torch, name)
        if name not in {"tensor", "zeros", "ones", "arange"}:
            return real
        return lambda *args, **options: real(*args, **{k: v for k, v in options.items() if k != "device"})


class _TokenizerGraph:
    """The speech tokenizer's graph as it lies in the checkpoint, behind the call that the reference makes."""

    def __init__(self, path: str) -> None:
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def cuda(self) -> _TokenizerGraph:
        return self

    def eval(self) -> _TokenizerGraph:
        return self

    def quantize(self, mels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        inputs = {"feats": mels.numpy(), "feats_length": lengths.numpy().astype(np.int32)}
        codes = torch.from_numpy(self._session.run(None, inputs)[0]).int()
        return codes, torch.tensor([codes.shape[1]], dtype=torch.int32)


def _read(path: str, **_: Any) -> tuple[Tensor, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


class Reference:
    """The reference stage on one checkpoint, with our start noise in place of its own unseeded one."""

    def __init__(self, checkpoint: Path, voice: Path, noise: Tensor) -> None:
        """`noise`: [F, 80], as many frames as prompt and speech have at most."""
        import s3tokenizer
        import token2wav
        import torchaudio

        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
        torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
        torchaudio.load, torchaudio.save = _read, lambda *_, **__: None
        s3tokenizer.load_model = _TokenizerGraph
        token2wav.torch = _OnTheCPU()
        self.voice = str(voice)
        with torch.inference_mode(False):
            self.stage: Any = token2wav.Token2wav(str(checkpoint / "token2wav"))
        self.stage.flow.decoder.rand_noise = noise.T[None].contiguous()
        self.mels: list[Tensor] = []
        vocoder = self.stage.hift

        def listen(*args: Any, **options: Any) -> Any:
            self.mels.append(options["speech_feat"] if "speech_feat" in options else args[0])
            return vocoder(*args, **options)

        self.stage.hift = listen

    @torch.inference_mode()
    def set_up(self) -> None:
        """What each request pays before its first chunk; the recording's features are kept."""
        self.stage.set_stream_cache(self.voice)

    def features(self) -> None:
        """Read the recording: tokens, speaker, mel."""
        self.stage.cache.pop(self.voice, None)
        self.stage.cache[self.voice] = self.stage._prepare_prompt(self.voice)

    @torch.inference_mode()
    def chunk(self, codes: list[int], *, last: bool = False) -> bytes:
        """The next chunk of the stream, 16-bit samples."""
        sound: bytes = self.stage.stream(codes, self.voice, last_chunk=last)
        return sound

    @torch.inference_mode()
    def whole(self, codes: list[int]) -> Tensor:
        """A whole utterance; its mel [F, 80]."""
        self.mels.clear()
        self.stage(codes, self.voice)
        return self.mels[-1][0].T
