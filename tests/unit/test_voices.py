"""Voices: which recording a name means, and what is refused."""

from __future__ import annotations

import io
import logging
import shutil
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from cadence.config import Token2WavConfig
from cadence.errors import CheckpointError, ConfigError, InvalidAudio, InvalidRequest
from cadence.models.onnx import SpeakerEncoder, SpeechTokenizer
from cadence.models.sample_onnx import write_speaker_encoder
from cadence.runtime.launch import start_stages
from cadence.runtime.stages import StageSpec
from cadence.token2wav import voices
from cadence.token2wav.local import LocalToken2Wav
from cadence.token2wav.voices import DEFAULT_WAV_ENV, VoiceEncoder, VoiceStore
from cadence.types import SpeechRequest


def wav(seconds: float, rate_hz: int = 24_000, channels: int = 1, seed: int = 0) -> bytes:
    """Noisy harmonics as a wav file."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    sound = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 12)) * 0.15
    samples = sound[:, None] + 0.03 * rng.standard_normal((len(time), channels))
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return data.getvalue()


@pytest.fixture(autouse=True)
def _no_configured_wav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEFAULT_WAV_ENV, raising=False)


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> VoiceEncoder:
    return VoiceEncoder(tiny_checkpoint / "token2wav")


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A folder with the tiny checkpoint's Token2Wav and assets of its own."""
    (tmp_path / "token2wav").symlink_to(tiny_checkpoint / "token2wav")
    shutil.copytree(tiny_checkpoint / "assets", tmp_path / "assets")
    return tmp_path


# ------------------------------------------------------------------ names
def test_default_comes_first_and_is_the_female_voice(checkpoint: Path) -> None:
    (checkpoint / "assets" / "anna.wav").write_bytes(wav(1.0))
    store = VoiceStore(checkpoint)
    assert store.names() == ("default", "anna", "default_female", "default_male")
    assert store.prompt("default") is store.prompt("default_female")
    assert len({store.prompt(name).key for name in store.names()}) == 3


def test_an_unknown_voice_is_refused_with_the_names(checkpoint: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nobody.*default, default_female, default_male") as caught:
        VoiceStore(checkpoint).prompt("nobody")
    assert (caught.value.param, caught.value.code) == ("voice", "voice_not_found")


@pytest.mark.parametrize("name", ["../assets/default_female", "/etc/passwd", "", "default_female.wav"])
def test_a_name_is_never_a_path(checkpoint: Path, name: str) -> None:
    with pytest.raises(InvalidRequest):
        VoiceStore(checkpoint).prompt(name)


def test_order_of_what_configures_the_default(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = checkpoint / "own.wav", checkpoint / "other.wav"
    own.write_bytes(wav(1.0, seed=1))
    other.write_bytes(wav(1.0, seed=2))

    def default(**config: str) -> str:
        return VoiceStore(checkpoint, Token2WavConfig(**config)).prompt("default").key  # type: ignore[arg-type]

    key = {
        path: VoiceEncoder(checkpoint / "token2wav").encode(path.read_bytes()).key for path in (own, other)
    }
    male = VoiceStore(checkpoint).prompt("default_male").key
    assert default(default_voice="default_male") == male
    monkeypatch.setenv(DEFAULT_WAV_ENV, str(other))
    assert default() == key[other]
    assert default(default_prompt_wav=str(own)) == key[own]
    assert default(default_voice="default_male") == male
    with pytest.raises(ConfigError, match="give one"):
        default(default_voice="default_male", default_prompt_wav=str(own))


def test_what_is_configured_must_exist(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no voice 'anna'"):
        VoiceStore(checkpoint, Token2WavConfig(default_voice="anna"))
    with pytest.raises(ConfigError, match=r"missing\.wav"):
        VoiceStore(checkpoint, Token2WavConfig(default_prompt_wav="missing.wav"))
    monkeypatch.setenv(DEFAULT_WAV_ENV, "missing.wav")
    with pytest.raises(ConfigError, match=DEFAULT_WAV_ENV):
        VoiceStore(checkpoint)


@pytest.mark.parametrize("in_process", [True, False])
async def test_a_broken_default_is_a_clear_error_before_serving(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, in_process: bool
) -> None:
    broken = checkpoint / "own.wav"
    spec = StageSpec.token2wav(checkpoint, Token2WavConfig(device="cpu", threads=1))

    async def start() -> None:
        await start_stages([spec], in_process=in_process, progress=lambda text, share: None)

    monkeypatch.setenv(DEFAULT_WAV_ENV, str(broken))
    for content, expected in (
        (None, DEFAULT_WAV_ENV),
        (b"RIFF not really", r"own\.wav.*STEP_AUDIO2_DEFAULT_PROMPT_WAV"),
        (wav(0.3), r"own\.wav.*at least 0\.5 s"),
    ):
        if content is not None:
            broken.write_bytes(content)
        with pytest.raises(ConfigError, match=expected):
            await start()


async def test_the_default_of_the_environment_is_spoken_with(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Token2WavConfig(device="cpu", threads=1, num_steps=2)

    async def speak(voice: str) -> np.ndarray:
        async def codes() -> AsyncIterator[list[int]]:
            yield list(range(20))

        stage = LocalToken2Wav.load(checkpoint, config)
        try:
            request = SpeechRequest(request_id="a", voice=voice, seed=1)
            return np.concatenate([chunk.samples async for chunk in stage.generate(request, codes())])
        finally:
            await stage.aclose()

    male = await speak("default_male")
    assert not np.array_equal(await speak("default"), male)
    monkeypatch.setenv(DEFAULT_WAV_ENV, str(checkpoint / "assets" / "default_male.wav"))
    assert np.array_equal(await speak("default"), male)


def test_a_checkpoint_without_voices(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "assets")
    with pytest.raises(CheckpointError, match=r"default_female\.wav"):
        VoiceStore(checkpoint)
    (checkpoint / "own.wav").write_bytes(wav(1.0))
    store = VoiceStore(checkpoint, Token2WavConfig(default_prompt_wav=str(checkpoint / "own.wav")))
    assert store.names() == ("default",)


def test_a_voice_is_encoded_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    class Counting(VoiceEncoder):
        def __init__(self, folder: Path) -> None:
            opened.append(folder)
            super().__init__(folder)

    monkeypatch.setattr(voices, "VoiceEncoder", Counting)
    store = VoiceStore(checkpoint)
    assert store.prompt("default_male") is store.prompt("default_male")
    assert len(opened) == 1


def test_a_broken_recording_is_named(checkpoint: Path) -> None:
    (checkpoint / "assets" / "broken.wav").write_bytes(b"RIFF not really")
    with pytest.raises(CheckpointError, match=r"broken\.wav"):
        VoiceStore(checkpoint).prompt("broken")


# ------------------------------------------------------------------ encoding
@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.013, 2.004])
@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 44_100])
def test_two_mel_frames_for_each_code(encoder: VoiceEncoder, seconds: float, rate_hz: int) -> None:
    prompt = encoder.encode(wav(seconds, rate_hz))
    assert abs(len(prompt.codes) - 25 * seconds) <= 1
    assert prompt.mel.shape == (2 * len(prompt.codes), 80)
    assert prompt.embedding.shape == (192,)
    assert (prompt.codes.dtype, prompt.mel.dtype, prompt.embedding.dtype) == (
        np.int32,
        np.float32,
        np.float32,
    )


def test_models_hear_the_first_channel_and_the_mel_is_of_the_mean(encoder: VoiceEncoder) -> None:
    stereo = np.frombuffer(wav(1.0, channels=2)[44:], "<i2").reshape(-1, 2)

    def encode(samples: np.ndarray) -> voices.VoicePrompt:
        data = io.BytesIO()
        with wave.open(data, "wb") as file:
            file.setnchannels(samples.shape[1])
            file.setsampwidth(2)
            file.setframerate(24_000)
            file.writeframes(samples.astype("<i2").tobytes())
        return encoder.encode(data.getvalue())

    both, first = encode(stereo), encode(stereo[:, :1])
    assert both.codes.tolist() == first.codes.tolist()
    assert np.array_equal(both.embedding, first.embedding)
    assert np.abs(both.mel - first.mel).max() > 0.1
    swapped = encode(stereo[:, ::-1])
    np.testing.assert_allclose(swapped.mel, both.mel, atol=1e-4)


def test_too_short_is_refused(encoder: VoiceEncoder) -> None:
    with pytest.raises(InvalidAudio, match=r"at least 0\.5 s.*0\.49 s"):
        encoder.encode(wav(0.49))


def test_too_long_is_cut_with_a_warning(encoder: VoiceEncoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prompt = encoder.encode(wav(31.0, 16_000))
    assert len(prompt.codes) == 750
    assert "cut" in caplog.text


def test_equal_recordings_have_equal_keys(encoder: VoiceEncoder) -> None:
    assert encoder.encode(wav(0.5)).key == encoder.encode(wav(0.5)).key
    assert encoder.encode(wav(0.5)).key != encoder.encode(wav(0.5, seed=1)).key


# ------------------------------------------------------------------ foreign models
def zeros(name: str, shape: tuple[int, ...], std: float) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_missing_and_foreign_models_are_refused_by_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(CheckpointError, match=r"model\.onnx.*missing"):
        SpeechTokenizer(path)
    path.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        SpeakerEncoder(path)
    write_speaker_encoder(path, zeros)
    with pytest.raises(CheckpointError, match=r"expected the inputs \['feats', 'feats_length'\]"):
        SpeechTokenizer(path)
    with pytest.raises(CheckpointError, match="one input and one output"):
        SpeakerEncoder(tiny_checkpoint / "token2wav" / "speech_tokenizer_v2_25hz.onnx")


def test_another_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "campplus.onnx"
    write_speaker_encoder(path, zeros)
    model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 512
    model.graph.initializer[1].CopyFrom(
        onnx.numpy_helper.from_array(np.zeros((48, 512), np.float32), "outer")
    )
    onnx.save(model, str(path))
    with pytest.raises(CheckpointError, match=r"192.*512"):
        SpeakerEncoder(path)


def test_an_embedding_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "campplus.onnx"
    write_speaker_encoder(path, lambda name, shape, std: np.full(shape, np.nan, np.float32))
    with pytest.raises(CheckpointError, match="finite"):
        SpeakerEncoder(path).encode(np.ones((10, 80), np.float32))
