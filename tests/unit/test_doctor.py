"""The doctor: a good checkpoint passes, each broken part is named, and golden data cannot be passed over.

The golden files here are made with the code under test, so these tests are about the doctor's own
bookkeeping; tests/parity holds the code to the reference implementation's numbers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cadence.audio.decode import decode_audio, decode_native
from cadence.audio.features import fbank, log_mel, prompt_mel
from cadence.audio.sinc import sinc_resample
from cadence.cli import main
from cadence.doctor.checkpoint import Parts, check_checkpoint
from cadence.doctor.golden import check_golden
from cadence.doctor.golden_flow import _pcm, _raw_speech
from cadence.doctor.report import Report
from cadence.models.conformer import NoMemory
from cadence.models.dit_memory import DiTSpan, NoDiTMemory
from cadence.models.flow_sampler import FlowSampler, Utterance
from cadence.models.hift import HiFTState
from cadence.models.noise import NoiseStrip
from cadence.token2wav.voices import VoiceEncoder

Arrays = dict[str, Any]
VOICE = "default_male"
SCHEDULE = [(0, 8, 0), (5, 12, 1)]


# ------------------------------------------------------------------ report
def test_close_measures_in_units_of_the_references_spread() -> None:
    report = Report(rtol=1e-2)
    want = np.array([0.0, 10.0])
    assert report.close("p", "near", want, want + np.array([0.0, 0.04]))
    assert not report.close("p", "far", want, want + np.array([0.0, 0.06]))
    assert report.checks[1].relative == pytest.approx(0.012)
    assert report.close("p", "loud enough", want, want + np.array([0.0, 0.06]), enough_db=40)
    assert not report.close("p", "shape", want, want[:1])
    assert not report.close("p", "nan", want, [0.0, np.nan])
    assert report.num_failed == 3


def test_equal_counts_what_differs() -> None:
    report = Report()
    assert report.equal("p", "same", [1, 2], [1, 2])
    assert not report.equal("p", "other", [1, 2, 3], [1, 0, 0])
    assert report.checks[-1].note == "2 of 3 differ"
    assert not report.equal("p", "shape", [1], [1, 2])


# ------------------------------------------------------------------ parts
def test_a_complete_checkpoint_passes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    answer = CliRunner().invoke(main, ["doctor", str(tiny_checkpoint), "--json", str(tmp_path / "out.json")])
    assert answer.exit_code == 0, answer.output
    assert "all good" in answer.output and "RANDOM WEIGHTS" in answer.output
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert {c["part"] for c in checks} == {"files", "config", "tokenizer", "thinker", "token2wav", "voices"}


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


BREAKAGES: dict[str, tuple[Callable[[Path], object], set[str], str]] = {
    "flow.pt is gone": (lambda r: (r / "token2wav/flow.pt").unlink(), {"files", "token2wav"}, "flow.pt"),
    "cut vocoder": (lambda r: _truncate(r / "token2wav/hift.pt"), {"token2wav"}, "hift.pt"),
    "cut weights": (lambda r: _truncate(r / "model.safetensors"), {"thinker"}, "model.safetensors"),
    "no JSON": (
        lambda r: (r / "config.json").write_text("{"),
        {"config", "thinker", "tokenizer"},
        "config.json",
    ),
    "foreign ONNX": (lambda r: _truncate(r / "token2wav/campplus.onnx"), {"voices"}, "campplus.onnx"),
    "no voices": (lambda r: shutil.rmtree(r / "assets"), {"voices"}, "default_"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_each_broken_part_is_named_and_hides_no_other(
    name: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    spoil, parts, word = BREAKAGES[name]
    root = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, root)
    spoil(root)
    report = Report()
    check_checkpoint(root, report)
    missed = [check for check in report.checks if not check.ok]
    assert {check.part for check in missed} == parts
    assert any(word in check.note for check in missed)


# ------------------------------------------------------------------ golden data
@pytest.fixture(scope="module")
def parts(tiny_checkpoint: Path) -> Parts:
    return check_checkpoint(tiny_checkpoint, Report())


@pytest.fixture(scope="module")
def golden(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one case of each kind."""
    folder = tmp_path_factory.mktemp("golden")
    np.save(
        folder / "rand_noise.npy", np.random.default_rng(0).standard_normal((1, 80, 2000)).astype(np.float32)
    )
    parts.noise = np.load(folder / "rand_noise.npy")
    with torch.inference_mode():
        np.savez(folder / "thinker_own.npz", **thinker_case(parts))
        np.savez(folder / f"prompt_{VOICE}.npz", **voice_case(parts))
        np.savez(folder / f"flow_offline_{VOICE}.npz", **offline_case(parts))
        np.savez(folder / f"flow_stream_{VOICE}.npz", **stream_case(parts))
    return folder


def thinker_case(parts: Parts) -> Arrays:
    """A prompt with one recording, decoded greedily for four ids."""
    thinker, tokenizer = parts.thinker, parts.tokenizer
    assert thinker is not None and tokenizer is not None
    special = tokenizer.special
    path = sorted((parts.root / "assets").glob("*.wav"))[0]
    mel = torch.from_numpy(log_mel(decode_audio(path.read_bytes()), thinker.audio_config.n_mels))[None]
    frames = torch.tensor([mel.shape[2]])
    count = thinker.num_patches(mel.shape[2])
    words = tokenizer.encode("Hello.")
    prompt = [*words, special.audio_start, *[special.audio_patch] * count, special.audio_end]
    encoder = thinker.encoder(mel, frames)
    adapter = thinker.adapter(encoder)
    embeds = thinker.embed_ids(torch.tensor(prompt)).clone()
    embeds[len(words) + 1 : len(words) + 1 + count] = adapter[0, :count]
    greedy, margins, first = [], [], None
    for _ in range(4):
        logits = thinker.logits(thinker.model(embeds[None], torch.arange(len(embeds)))[0])
        first = logits if first is None else first
        top = logits[-1].topk(2)
        greedy.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
        embeds = torch.cat([embeds, thinker.embed_ids(torch.tensor(greedy[-1:]))])
    assert first is not None
    top = first.topk(5)
    columns = np.arange(0, first.shape[1], 50)
    text = tokenizer.decode([i for i in greedy[:-1] if special.is_text(i)])
    codes = [special.code_of(i) for i in greedy[:-1] if special.is_code(i)]
    return {
        "ids": [prompt],
        "mels": mel,
        "mel_lens": frames - 2,
        "feat_lens": [count],
        "encoder": encoder,
        "adapter": adapter,
        "last_logits": first[-1],
        "top_values": top.values,
        "top_ids": top.indices,
        "columns": columns,
        "column_logits": first[:, columns],
        "greedy": greedy,
        "margins": margins,
        "returned": greedy[:-1],
        "text": text,
        "audio_tokens": np.array(codes, np.int64),
    }


def voice_case(parts: Parts) -> Arrays:
    """What a 24 kHz recording gives."""
    assert parts.speech_tokenizer is not None and parts.speaker_encoder is not None
    data = (parts.root / "assets" / f"{VOICE}.wav").read_bytes()
    prompt = VoiceEncoder(parts.root / "token2wav").encode(data)
    samples, rate_hz = decode_native(data)
    heard, own = (sinc_resample(samples[0], rate_hz, to_hz) for to_hz in (16_000, 24_000))
    mel = prompt_mel(own)
    codes = parts.speech_tokenizer.encode(log_mel(heard, 128, 0))
    fitted = np.pad(mel, ((0, 2 * len(codes) - len(mel)), (0, 0)), mode="edge")
    return {
        "audio16": heard,
        "audio24": own[None],
        "s3_mel": log_mel(heard, 128, 0),
        "tokens": codes[None],
        "token_lens": [len(codes)],
        "fbank": fbank(heard),
        "spk_emb": prompt.embedding[None],
        "mel24": mel[None],
        "prompt_mel": fitted[None],
        "mel_lens": [len(mel)],
    }


def _inputs(parts: Parts) -> tuple[FlowSampler, Arrays, torch.Tensor]:
    """Sampler with the golden noise, the voice, and twelve codes."""
    assert parts.flow is not None and parts.noise is not None
    sampler = FlowSampler(parts.flow, noise=NoiseStrip(80, given=torch.from_numpy(parts.noise)))
    prompt = VoiceEncoder(parts.root / "token2wav").encode(
        (parts.root / "assets" / f"{VOICE}.wav").read_bytes()
    )
    voice = {"prompt_codes": prompt.codes, "prompt_mel": prompt.mel, "embedding": prompt.embedding}
    return sampler, {k: torch.from_numpy(v) for k, v in voice.items()}, torch.arange(12) * 500


def offline_case(parts: Parts) -> Arrays:
    """One utterance through flow and vocoder."""
    flow, hift = parts.flow, parts.hift
    assert flow is not None and hift is not None
    sampler, voice, codes = _inputs(parts)
    utterance = Utterance(codes, **voice)
    mu = flow.encode([torch.cat([voice["prompt_codes"], codes]).long()], [NoMemory()], [True])[0]
    condition = torch.zeros_like(mu)
    condition[: len(voice["prompt_mel"])] = voice["prompt_mel"]
    rows = {"mu": mu.T, "spks": flow.speaker(voice["embedding"]), "cond": condition.T}
    data: Arrays = {key: torch.stack([row, torch.zeros_like(row)]) for key, row in rows.items()}
    times = torch.tensor(1 - np.cos(np.linspace(0, 0.5 * np.pi, 11)))
    solve = sampler.start([utterance])
    for step in range(10):
        if step in (0, 9):
            x = solve.frames[0]
            span = [DiTSpan(2, len(x), NoDiTMemory())]
            projected = flow.estimator.project(*_conditions(data, len(x)))
            out = flow.estimator(
                x.repeat(2, 1), projected, flow.estimator.modulation(times[step : step + 1])[0], span
            )
            data[f"step{step + 1}_x"] = x.T[None].repeat(2, 1, 1)
            data[f"step{step + 1}_out"] = out.view(2, len(x), 80).mT
            data[f"step{step + 1}_t"] = times[step].repeat(2).float()
        solve.advance()
    mel = sampler.generate([utterance])[0].T[None]
    noise = torch.randn(1, mel.shape[2] * 480, 9, generator=torch.Generator().manual_seed(0))
    for suffix, draw in (("", None), ("_seeded", noise)):
        wave, source = hift.vocode(mel, noise=draw)
        data |= {f"wav{suffix}": wave, f"source{suffix}": source[:, None]}
    return {
        **data,
        "tokens": codes,
        "t_span": times,
        "mel": mel,
        "f0": hift.f0_predictor(mel),
        "noise": noise,
    }


def _conditions(data: Arrays, num_frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """mu, speaker and condition as packed rows, guided then unguided."""
    mu, condition = (data[key].mT.flatten(0, 1) for key in ("mu", "cond"))
    return mu, data["spks"].repeat_interleave(num_frames, 0), condition


def stream_case(parts: Parts) -> Arrays:
    """The same codes in two chunks."""
    assert parts.hift is not None
    sampler, voice, codes = _inputs(parts)
    state = sampler.prepare(voice["prompt_codes"], voice["prompt_mel"], voice["embedding"])
    stream, vocoder = sampler.open(state), HiFTState()
    data: Arrays = {"tokens": codes, "schedule": SCHEDULE, "setup_att_len": state.num_frames}
    lens, sound = [], []
    for i, (start, stop, last) in enumerate(SCHEDULE):
        mel = sampler.step([stream], [codes[start:stop]], [bool(last)])[0].T
        data |= {f"chunk{i}_tokens": codes[start:stop], f"chunk{i}_mel": mel[None]}
        data[f"chunk{i}_speech"] = _raw_speech(parts.hift, vocoder, mel)
        data[f"chunk{i}_pcm"] = _pcm(parts.hift.stream(vocoder, mel, bool(last)))
        sound.append(data[f"chunk{i}_pcm"])
        lens.append([len(stream.window), state.num_frames + (2 * stop if last else 2 * (stop - 3))])
    return {**data, "pcm": np.concatenate(sound), "cache_lens": lens}


def run(parts: Parts, folder: Path) -> Report:
    """All checks of a golden folder."""
    report = Report()
    check_golden(parts, folder, report)
    return report


def test_golden_data_of_this_checkpoint_passes(parts: Parts, golden: Path) -> None:
    report = run(parts, golden)
    assert [check for check in report.checks if not check.ok] == []
    assert {c.part for c in report.checks} == {path.stem for path in golden.glob("*.npz")}


CHANGES: dict[str, tuple[str, Callable[[Arrays], object], str]] = {
    "another number": ("thinker_own", lambda a: a.update(last_logits=a["last_logits"] + 1), "last_logits"),
    "another id": ("thinker_own", lambda a: a.update(greedy=a["greedy"][::-1]), "greedy"),
    "another mel": (
        f"flow_stream_{VOICE}",
        lambda a: a.update(chunk1_mel=a["chunk1_mel"] * 1.01),
        "chunk1_mel",
    ),
    "another source": (f"flow_offline_{VOICE}", lambda a: a.update(wav=-a["wav"]), "wav"),
    "another voice": (f"prompt_{VOICE}", lambda a: a.update(spk_emb=-a["spk_emb"]), "spk_emb"),
    "an array is absent": (f"flow_offline_{VOICE}", lambda a: a.pop("mu"), "mu"),
    "an array is unknown": (f"prompt_{VOICE}", lambda a: a.update(extra=np.zeros(3)), "extra"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_differs_is_a_miss(name: str, parts: Parts, golden: Path, tmp_path: Path) -> None:
    stem, change, array = CHANGES[name]
    for path in golden.iterdir():
        if path.stem in (stem, f"prompt_{VOICE}", "rand_noise"):
            shutil.copy(path, tmp_path)
    with np.load(tmp_path / f"{stem}.npz") as data:
        arrays: Arrays = {key: data[key] for key in data.files}
    change(arrays)
    np.savez(tmp_path / f"{stem}.npz", **arrays)
    missed = [check for check in run(parts, tmp_path).checks if not check.ok]
    assert any(check.part == stem and check.name.startswith(array) for check in missed), missed


def test_foreign_and_empty_folders_are_misses(parts: Parts, tmp_path: Path) -> None:
    assert run(parts, tmp_path).num_failed == 1
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    assert "starts with none of" in run(parts, tmp_path).checks[0].note
