"""Writes hift_tiny.npz and voice_tiny.npz: what the reference computes on the tiny sample checkpoint, seed 0.

    PYTHONPATH=src:<reference package> python tests/data/make_vocoder_golden.py

needs the reference package (`step-audio2` 1.0.0) unpacked on the path, with torch, torchaudio, s3tokenizer,
librosa, onnxruntime, onnx and tokenizers.
"""

import tempfile
import wave
from pathlib import Path

import numpy as np
import onnxruntime
import s3tokenizer
import torch
import torchaudio.compliance.kaldi as kaldi
import utils
from flashcosyvoice.modules.hifigan import ConvRNNF0Predictor, HiFTGenerator
from flashcosyvoice.utils.audio import mel_spectrogram

from cadence.models.sample import write_sample_checkpoint

HERE = Path(__file__).parent
CUTS = (10, 20, 14, 6)  # frames per streamed chunk
OFFLINE_FRAMES = 20
OVERLAP_FRAMES, OVERLAP = 8, 3840
KEEP = 7  # every seventh sample is enough to compare
NOISE_SEED = 5
WIDTH = 64


def random_with(seed: int | None) -> None:
    """Replace the draws of the reference's source: by zeros, or from one seeded generator in call order."""
    generator = torch.Generator().manual_seed(seed or 0)
    rand, randn = torch._C._VariableFunctions.rand, torch._C._VariableFunctions.randn
    if seed is None:
        torch.rand, torch.randn_like = lambda *s, **_: torch.zeros(*s), lambda x, **_: torch.zeros_like(x)
    else:
        torch.rand = lambda *s, **_: rand(*s, generator=generator)
        torch.randn_like = lambda x, **_: randn(x.shape, generator=generator)


def load_hift(root: Path) -> HiFTGenerator:
    """The reference's vocoder in the sample's size."""
    hift = HiFTGenerator(base_channels=WIDTH, f0_predictor=ConvRNNF0Predictor(cond_channels=WIDTH))
    state = torch.load(root / "token2wav" / "hift.pt", weights_only=True)
    hift.load_state_dict({key.removeprefix("generator."): value for key, value in state.items()}, strict=True)
    return hift.eval()


def some_mel(num_frames: int) -> torch.Tensor:
    """A smooth mel [1, 80, F] that float16 holds exactly."""
    knots = torch.randn(1, 80, 14, generator=torch.Generator().manual_seed(11))
    return (
        torch.nn.functional.interpolate(knots, size=num_frames, mode="linear")
        .mul(1.2)
        .sub(1.0)
        .half()
        .float()
    )


def stream(hift: HiFTGenerator, mel: torch.Tensor) -> np.ndarray:
    """Sound of a streamed mel, as the reference joins its chunks; 16 bit."""
    window = torch.from_numpy(np.hamming(2 * OVERLAP))
    known, source, held = mel[..., :0], torch.zeros(1, 1, 0), torch.zeros(1, 0)
    parts = []
    for i, part in enumerate(mel.split(CUTS, dim=2)):
        frames = torch.cat([known, part], dim=2)
        speech, source = hift(frames, source)
        if held.shape[1]:
            speech = speech.clone()
            speech[:, :OVERLAP] = speech[:, :OVERLAP] * window[:OVERLAP] + held * window[OVERLAP:]
        known, source, held = frames[..., -OVERLAP_FRAMES:], source[..., -OVERLAP:], speech[:, -OVERLAP:]
        parts.append(speech if i == len(CUTS) - 1 else speech[:, :-OVERLAP])
    return (torch.cat(parts, dim=1)[0].numpy() * 32767).astype(np.int16)


def vocoder_arrays(root: Path) -> dict[str, np.ndarray]:
    """Pitch, source and sound, offline and streamed."""
    hift, mel = load_hift(root), some_mel(sum(CUTS))
    random_with(None)
    wav, source = hift(mel[..., :OFFLINE_FRAMES])
    pcm = stream(hift, mel)
    random_with(NOISE_SEED)
    noisy, noisy_source = hift(mel[..., :OFFLINE_FRAMES])
    return {
        "mel": mel[0].numpy().astype(np.float16),
        "f0": hift.f0_predictor(mel[..., :OFFLINE_FRAMES])[0].detach().numpy(),
        "source": source[0, 0].numpy(),
        "wav": wav[0].numpy(),
        "source_noisy": noisy_source[0, 0, ::KEEP].numpy(),
        "wav_noisy": noisy[0, ::KEEP].numpy(),
        "cuts": np.array(CUTS),
        "pcm": pcm,
    }


def voice_arrays(root: Path) -> dict[str, np.ndarray]:
    """Prompt features of a stereo recording whose channels differ."""
    channels = []
    for name, start in (("default_female", 2400), ("default_male", 0)):
        with wave.open(str(root / "assets" / f"{name}.wav")) as file:
            channels.append(np.frombuffer(file.readframes(file.getnframes()), "<i2")[start : start + 19_201])
    pcm = np.stack(channels)
    path = str(root / "stereo.wav")
    with wave.open(path, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(pcm.T.tobytes())
    audio = s3tokenizer.load_audio(path, sr=16_000)
    mel = s3tokenizer.log_mel_spectrogram(audio)
    features = kaldi.fbank(audio[None], num_mel_bins=80, dither=0, sample_frequency=16_000)
    features = (features - features.mean(0, keepdim=True)).numpy()
    codes = run(
        root, "speech_tokenizer_v2_25hz", {"feats": mel[None].numpy(), "feats_length": [mel.shape[1]]}
    )
    mixed = torch.from_numpy(pcm.astype(np.float32) / 32768).mean(0, keepdim=True)
    prompt = mel_spectrogram(mixed)[0]
    prompt = torch.nn.functional.pad(prompt, (0, 2 * codes.shape[1] - prompt.shape[1]), mode="replicate")
    return {
        "pcm": pcm,
        "audio16": audio.numpy()[:400],
        "log_mel": mel.numpy()[:, :24],
        "log_mel_padded": utils.log_mel_spectrogram(audio, n_mels=128, padding=479).numpy()[:, -24:],
        "fbank": features[:24],
        "codes": codes[0].astype(np.int32),
        "embedding": run(root, "campplus", {"input": features[None]})[0],
        "prompt_mel": prompt.T.numpy()[-24:],
    }


def run(root: Path, name: str, inputs: dict[str, object]) -> np.ndarray:
    """First output of one of the checkpoint's ONNX models."""
    session = onnxruntime.InferenceSession(str(root / "token2wav" / f"{name}.onnx"))
    types = {"tensor(float)": np.float32, "tensor(int32)": np.int32}
    feeds = {node.name: np.asarray(inputs[node.name], types[node.type]) for node in session.get_inputs()}
    return session.run(None, feeds)[0]


def main() -> None:
    """Write both files."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_sample_checkpoint(root, preset="tiny", seed=0)
        np.savez_compressed(HERE / "voice_tiny.npz", **voice_arrays(root))
        np.savez_compressed(HERE / "hift_tiny.npz", **vocoder_arrays(root))


if __name__ == "__main__":
    main()
