"""The flow and the vocoder against golden data, as a whole utterance and as a stream."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cadence.audio.pcm import PcmEncoder
from cadence.doctor.checkpoint import Parts
from cadence.doctor.golden import GoldenFile
from cadence.doctor.report import Report
from cadence.models.conformer import NoMemory
from cadence.models.dit_memory import DiTSpan, NoDiTMemory
from cadence.models.flow import Flow
from cadence.models.flow_sampler import FlowSampler, Utterance
from cadence.models.hift import HiFT, HiFTState
from cadence.models.noise import NoiseStrip
from cadence.types import OUTPUT_RATE_HZ

__all__ = ["check_offline", "check_stream"]

GROUPS = 2  # guided and unguided rows, in this order
# The source sums the pitch up into phases: a pitch rounded differently in its last digit (3e-4 Hz) moves
# the wave by a hundredth of its level after some seconds, unheard. So waves that come from our own pitch
# may pass by their signal-to-noise ratio; source and wave are also compared with the golden pitch given.
WAVE_DB = 40.0


def _tensor(golden: GoldenFile, name: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(golden[name]))


def _sampler(parts: Parts, name: str, report: Report) -> FlowSampler | None:
    """The flow with the golden start noise; None, and a miss, when there is no noise to inject."""
    assert parts.flow is not None
    if parts.noise is None:
        report.miss(name, "rand_noise.npy", "not compared: neither this folder nor a sibling holds it")
        return None
    noise = NoiseStrip(parts.flow.config.mel_dim, given=torch.from_numpy(parts.noise))
    return FlowSampler(parts.flow, noise=noise)


def _voice(golden: GoldenFile, voice: str) -> dict[str, Tensor]:
    """Codes [P], mel [2P, 80] and embedding [192] of the voice, from its own golden file."""
    with np.load(golden.path.with_name(f"prompt_{voice}.npz"), allow_pickle=False) as data:
        return {
            "prompt_codes": torch.from_numpy(data["tokens"][0]),
            "prompt_mel": torch.from_numpy(data["prompt_mel"][0]),
            "embedding": torch.from_numpy(data["spk_emb"][0]),
        }


@torch.inference_mode()
def check_offline(parts: Parts, golden: GoldenFile, voice: str, report: Report) -> None:
    """Compare one `flow_offline_<voice>` file: each stage on golden inputs, then the flow end to end."""
    assert parts.flow is not None and parts.hift is not None
    name = golden.path.stem
    sampler = _sampler(parts, name, report)
    if sampler is None:
        return
    utterance = Utterance(codes=_tensor(golden, "tokens"), **_voice(golden, voice))
    _check_encoder(parts.flow, utterance, golden, report)
    _check_estimator(parts.flow, golden, report)
    solve = sampler.start([utterance])
    report.close(name, "step1_x", golden["step1_x"], _doubled(solve.frames[0]))
    for _ in range(sampler.num_steps - 1):
        solve.advance()
    report.close(name, "step10_x", golden["step10_x"], _doubled(solve.frames[0]))
    report.close(name, "t_span", golden["t_span"], sampler.t_span)
    report.close(name, "mel", golden["mel"], sampler.generate([utterance])[0].T[None])
    _check_vocoder(parts, golden, report)


def _doubled(frames: Tensor) -> NDArray[np.float32]:
    """[n, 80] to the reference's guided and unguided rows [2, 80, n]."""
    array: NDArray[np.float32] = frames.T[None].repeat(GROUPS, 1, 1).numpy()
    return array


def _check_encoder(flow: Flow, utterance: Utterance, golden: GoldenFile, report: Report) -> None:
    """What the estimator is conditioned on; its unguided rows are zero."""
    name = golden.path.stem
    codes = torch.cat([utterance.prompt_codes, utterance.codes]).long()
    mu = flow.encode([codes], [NoMemory()], [True])[0]
    condition = torch.zeros_like(mu)
    condition[: len(utterance.prompt_mel)] = utterance.prompt_mel
    for key, rows in (("mu", mu.T), ("spks", flow.speaker(utterance.embedding)), ("cond", condition.T)):
        report.close(name, key, golden[key], torch.stack([rows, torch.zeros_like(rows)]))


def _check_estimator(flow: Flow, golden: GoldenFile, report: Report) -> None:
    """The DiT alone, on golden inputs."""
    mu, condition = (_tensor(golden, key).mT.flatten(0, 1) for key in ("mu", "cond"))
    num_frames = len(mu) // GROUPS
    speakers = _tensor(golden, "spks").repeat_interleave(num_frames, 0)
    projected = flow.estimator.project(mu, speakers, condition)
    for step in ("step1", "step10"):
        modulation = flow.estimator.modulation(_tensor(golden, f"{step}_t")[:1])[0]
        x = _tensor(golden, f"{step}_x").mT.flatten(0, 1)
        got = flow.estimator(x, projected, modulation, [DiTSpan(GROUPS, num_frames, NoDiTMemory())])
        report.close(
            golden.path.stem, f"{step}_out", golden[f"{step}_out"], got.view(GROUPS, num_frames, -1).mT
        )


def _check_vocoder(parts: Parts, golden: GoldenFile, report: Report) -> None:
    """Pitch, source and wave on the golden mel: without noise, then with the recorded draws."""
    assert parts.hift is not None
    name, hift = golden.path.stem, parts.hift
    mel = _tensor(golden, "mel")
    report.close(name, "f0", golden["f0"], hift.f0_predictor(mel))
    pitch = _tensor(golden, "f0")
    for suffix, noise in (("", None), ("_seeded", _tensor(golden, "noise"))):
        given = _tensor(golden, f"source{suffix}")[:, 0]
        report.close(name, f"source{suffix} of golden f0", given, hift.m_source(pitch, noise))
        report.close(
            name, f"wav{suffix} of golden source", golden[f"wav{suffix}"], hift.synthesise(mel, given)
        )
        wave, source = hift.vocode(mel, noise=noise)
        report.close(name, f"source{suffix}", given, source, enough_db=WAVE_DB)
        report.close(name, f"wav{suffix}", golden[f"wav{suffix}"], wave, enough_db=WAVE_DB)
    if "rand_ini" in golden:  # start phases that the reference draws and its own averaging removes
        _ = golden["rand_ini"]


@torch.inference_mode()
def check_stream(parts: Parts, golden: GoldenFile, voice: str, report: Report) -> None:
    """Compare one `flow_stream_<voice>` file: mel, wave and PCM of every chunk of its schedule."""
    assert parts.hift is not None
    name = golden.path.stem
    sampler = _sampler(parts, name, report)
    if sampler is None:
        return
    given = _voice(golden, voice)
    prepared = sampler.prepare(given["prompt_codes"], given["prompt_mel"], given["embedding"])
    report.equal(name, "setup_att_len", golden["setup_att_len"], prepared.num_frames)
    stream, state = sampler.open(prepared), HiFTState()
    codes, sound, windows = _tensor(golden, "tokens"), [], []
    for i, (start, stop, last) in enumerate(np.asarray(golden["schedule"], np.int64).tolist()):
        report.equal(name, f"chunk{i}_tokens", golden[f"chunk{i}_tokens"], codes[start:stop])
        mel = sampler.step([stream], [codes[start:stop]], [bool(last)])[0].T
        report.close(name, f"chunk{i}_mel", golden[f"chunk{i}_mel"], mel[None])
        speech = _raw_speech(parts.hift, state, mel)
        report.close(name, f"chunk{i}_speech", golden[f"chunk{i}_speech"], speech, enough_db=WAVE_DB)
        pcm = _pcm(parts.hift.stream(state, mel, bool(last)))
        windows.append(
            (len(stream.window), prepared.encoder[1].shape[-2] + stream.encoder.snapshot()[1].shape[-2])
        )
        report.close(name, f"chunk{i}_pcm", golden[f"chunk{i}_pcm"], pcm, enough_db=WAVE_DB)
        sound.append(pcm)
    report.close(name, "pcm", golden["pcm"], np.concatenate(sound), enough_db=WAVE_DB)
    report.equal(name, "cache_lens", golden["cache_lens"], windows)


def _raw_speech(hift: HiFT, state: HiFTState, mel: Tensor) -> Tensor:
    """What the vocoder makes of a chunk before cross-fading, [1, S]: kept frames first, their source kept."""
    joined = torch.cat([state.mel, mel], dim=1)[None]
    source = hift.excite(joined)
    source[:, : len(state.source)] = state.source
    return hift.synthesise(joined, source)


def _pcm(samples: Tensor) -> NDArray[np.int16]:
    """Sound as a client gets it."""
    encoder = PcmEncoder(OUTPUT_RATE_HZ)
    return np.frombuffer(encoder.encode(samples.numpy()) + encoder.flush(), "<i2")
