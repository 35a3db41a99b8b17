"""A checkpoint folder, part by part: is it there, does it load strictly, does it compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cadence.audio.decode import decode_native
from cadence.audio.features import fbank, log_mel
from cadence.doctor.report import Report
from cadence.errors import CadenceError, CheckpointError
from cadence.hub import missing_files
from cadence.models.flow import Flow, load_flow
from cadence.models.flow_sampler import FlowSampler, Utterance
from cadence.models.hift import HiFT
from cadence.models.hift_weights import load_hift
from cadence.models.onnx import SpeakerEncoder, SpeechTokenizer
from cadence.models.step_audio import StepAudio, load_step_audio
from cadence.models.weights import read_json
from cadence.text import Tokenizer
from cadence.types import INPUT_RATE_HZ

__all__ = ["Parts", "check_checkpoint"]

TOKEN2WAV = "token2wav"
CPU = torch.device("cpu")
# what a broken file can raise besides our own errors
BROKEN = (CadenceError, OSError, ValueError, RuntimeError, KeyError)


@dataclass(slots=True)
class Parts:
    """What loaded; None where it did not. `noise` is golden start noise of the flow, [1, 80, N]."""

    root: Path
    tokenizer: Tokenizer | None = None
    thinker: StepAudio | None = None
    flow: Flow | None = None
    hift: HiFT | None = None
    speech_tokenizer: SpeechTokenizer | None = None
    speaker_encoder: SpeakerEncoder | None = None
    noise: NDArray[np.float32] | None = field(default=None, repr=False)


def check_checkpoint(root: Path, report: Report) -> Parts:
    """Check every part, each on its own, so that one broken file hides no other.

    Args:
        root: checkpoint folder in the public layout.
        report: gets one check per part and stage.
    """
    parts = Parts(root)
    steps: list[tuple[str, str, Callable[[Parts], str]]] = [
        ("files", "complete", _files),
        ("config", "sizes", _config),
        ("tokenizer", "special ids", _tokenizer),
        ("thinker", "weights", _thinker),
        ("thinker", "one step", _thinker_step),
        ("token2wav", "flow weights", _flow),
        ("token2wav", "vocoder weights", _hift),
        ("token2wav", "half a second", _render),
        ("voices", "speech tokenizer", _speech_tokenizer),
        ("voices", "speaker encoder", _speaker_encoder),
        ("voices", "recordings", _recordings),
    ]
    for part, name, check in steps:
        report.timed(part, name, lambda check=check: check(parts), BROKEN)  # type: ignore[misc]
    return parts


def _files(parts: Parts) -> str:
    if missing := missing_files(parts.root):
        raise CheckpointError(f"{parts.root} lacks {', '.join(missing)}.")
    size = sum(path.stat().st_size for path in parts.root.rglob("*") if path.is_file())
    return f"{size / 1e9:.2f} GB"


def _config(parts: Parts) -> str:
    config = read_json(parts.root / "config.json")
    text: dict[str, Any] = config.get("text_config") or {}
    label = ", RANDOM WEIGHTS (sample)" if config.get("cadence_sample") else ""
    layers, hidden, vocabulary = (text.get(k) for k in ("num_hidden_layers", "hidden_size", "vocab_size"))
    return f"{layers} layers of {hidden}, vocabulary {vocabulary}{label}"


def _tokenizer(parts: Parts) -> str:
    parts.tokenizer = Tokenizer.open(parts.root)
    special = parts.tokenizer.special
    probe = "Hello, 你好 <|EOT|> 🎵"
    ids = parts.tokenizer.encode(probe)
    if parts.tokenizer.decode(ids) != probe:
        raise CheckpointError(f"The tokenizer does not give {probe!r} back.")
    if escaped := [i for i in ids if not special.is_text(i) or i in special.stop_ids]:
        raise CheckpointError(f"Literal markers in a user's text become the control ids {escaped}.")
    return f"text < {special.text_limit}, <|EOT|> {special.eot}, codes from {special.audio_0}"


def _thinker(parts: Parts) -> str:
    parts.thinker = load_step_audio(parts.root, device=CPU)
    count = sum(parameter.numel() for parameter in parts.thinker.parameters())
    return f"{count / 1e6:.1f} M parameters, {str(parts.thinker.dtype).removeprefix('torch.')}"


@torch.inference_mode()
def _thinker_step(parts: Parts) -> str:
    if parts.thinker is None or parts.tokenizer is None:
        raise CheckpointError("Not run: the weights or the tokenizer did not load.")
    ids = torch.tensor(parts.tokenizer.encode("Hello, how are you?"))
    hidden = parts.thinker.model(parts.thinker.embed_ids(ids)[None], torch.arange(len(ids)))
    logits = parts.thinker.logits(hidden[0, -1])
    mels = torch.zeros(1, parts.thinker.audio_config.n_mels, 100)
    sound = parts.thinker.embed_audio(mels, torch.tensor([100]))
    if not (torch.isfinite(logits).all() and torch.isfinite(sound).all()):
        raise CheckpointError("The logits or the audio embeddings are not finite.")
    return f"most likely next: {parts.tokenizer.token_text(int(logits.argmax()))!r}"


def _flow(parts: Parts) -> str:
    parts.flow = load_flow(parts.root / TOKEN2WAV)
    encoder, dit = parts.flow.config.encoder, parts.flow.config.dit
    return f"encoder {encoder.num_blocks}+{encoder.num_up_blocks} blocks, DiT {dit.depth} of {dit.hidden}"


def _hift(parts: Parts) -> str:
    parts.hift = load_hift(parts.root / TOKEN2WAV)
    count = sum(parameter.numel() for parameter in parts.hift.parameters())
    return f"{count / 1e6:.1f} M parameters"


@torch.inference_mode()
def _render(parts: Parts) -> str:
    if parts.flow is None or parts.hift is None:
        raise CheckpointError("Not run: the flow or the vocoder did not load.")
    codes = torch.arange(0, 6500, 520)
    utterance = Utterance(codes, codes[:1], torch.zeros(2, 80), torch.ones(192))
    mel = FlowSampler(parts.flow).generate([utterance])[0]
    wave, _ = parts.hift.vocode(mel.T[None])
    if not (torch.isfinite(mel).all() and torch.isfinite(wave).all()):
        raise CheckpointError("The mel or the wave is not finite.")
    return f"mel level {float(mel.mean()):.2f}, wave peak {float(wave.abs().max()):.2f}"


def _speech_tokenizer(parts: Parts) -> str:
    parts.speech_tokenizer = SpeechTokenizer(parts.root / TOKEN2WAV / "speech_tokenizer_v2_25hz.onnx")
    codes = parts.speech_tokenizer.encode(log_mel(_hum(), 128, 0))
    return f"{len(codes)} codes for a second"


def _speaker_encoder(parts: Parts) -> str:
    parts.speaker_encoder = SpeakerEncoder(parts.root / TOKEN2WAV / "campplus.onnx")
    embedding = parts.speaker_encoder.encode(fbank(_hum()))
    return f"{len(embedding)} numbers, norm {float(np.linalg.norm(embedding)):.1f}"


def _recordings(parts: Parts) -> str:
    notes = []
    for path in sorted((parts.root / "assets").glob("default_*.wav")):
        samples, rate_hz = decode_native(path.read_bytes())
        notes.append(f"{path.stem} {samples.shape[-1] / rate_hz:.1f} s")
    if not notes:
        raise CheckpointError(
            f"{parts.root / 'assets'} holds no default_*.wav: there is no voice to speak with."
        )
    return ", ".join(notes)


def _hum() -> NDArray[np.float32]:
    """One second of a 200 Hz tone at 16 kHz."""
    tone: NDArray[np.float32] = np.sin(2 * np.pi * 200 / INPUT_RATE_HZ * np.arange(INPUT_RATE_HZ)).astype(
        np.float32
    )
    return 0.1 * tone
