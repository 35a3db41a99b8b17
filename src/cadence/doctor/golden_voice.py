"""What is computed once of a voice prompt, against golden data: on golden sound, then from the recording."""

from __future__ import annotations

import numpy as np

from cadence.audio.features import fbank, log_mel, prompt_mel
from cadence.doctor.checkpoint import TOKEN2WAV, Parts
from cadence.doctor.golden import GoldenFile
from cadence.doctor.report import Report
from cadence.token2wav.voices import VoiceEncoder

__all__ = ["check_voice"]

FRAMES_PER_CODE = 2


def check_voice(parts: Parts, golden: GoldenFile, voice: str, report: Report) -> None:
    """Compare one `prompt_<voice>` file."""
    assert parts.speech_tokenizer is not None and parts.speaker_encoder is not None
    name = golden.path.stem
    heard = np.asarray(golden["audio16"], np.float32)
    s3_mel = log_mel(heard, 128, 0)
    report.close(name, "s3_mel", golden["s3_mel"], s3_mel)
    codes = parts.speech_tokenizer.encode(s3_mel)
    report.equal(name, "tokens", golden["tokens"], codes[None])
    report.equal(name, "token_lens", golden["token_lens"], [len(codes)])
    banks = fbank(heard)
    report.close(name, "fbank", golden["fbank"], banks)
    report.close(name, "spk_emb", golden["spk_emb"], parts.speaker_encoder.encode(banks)[None])
    mel = prompt_mel(np.asarray(golden["audio24"], np.float32)[0])
    report.close(name, "mel24", golden["mel24"], mel[None])
    report.equal(name, "mel_lens", golden["mel_lens"], [len(mel)])
    missing = max(0, FRAMES_PER_CODE * len(codes) - len(mel))
    padded = np.pad(mel[: FRAMES_PER_CODE * len(codes)], ((0, missing), (0, 0)), mode="edge")
    report.close(name, "prompt_mel", golden["prompt_mel"], padded[None])
    recording = parts.root / "assets" / f"{voice}.wav"
    if not recording.is_file():
        report.miss(name, "from the recording", f"not compared: assets holds no {recording.name}")
        return
    prompt = VoiceEncoder(parts.root / TOKEN2WAV).encode(recording.read_bytes())
    report.equal(name, "tokens of the recording", golden["tokens"], prompt.codes[None])
    report.close(name, "spk_emb of the recording", golden["spk_emb"], prompt.embedding[None])
    report.close(name, "prompt_mel of the recording", golden["prompt_mel"], prompt.mel[None])
