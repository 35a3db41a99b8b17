"""The flow: equal to the reference, and to itself whatever runs beside it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import flow_kit
import numpy as np
import pytest
import torch
from torch import Tensor

from cadence.models.flow import load_flow
from cadence.models.flow_sampler import FlowSampler
from cadence.models.flow_stream import FlowMemory, FlowStream, StreamMemory, VoiceState
from cadence.models.int8_graph import int8_graphs_work
from cadence.models.noise import NoiseStrip

GOLDEN = np.load(Path(__file__).parent.parent / "data" / "flow_tiny.npz")
KEPT = 6  # the golden file holds every sixth frame
DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append("cuda")
if torch.backends.mps.is_available():
    DEVICES.append("mps")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flow_kit.write_flow(tmp_path_factory.mktemp("flow"))


@pytest.fixture(scope="module", params=DEVICES)
def sampler(request: pytest.FixtureRequest, folder: Path) -> FlowSampler:
    flow = load_flow(folder, device=request.param)
    return FlowSampler(flow, noise=NoiseStrip(80, device=request.param))


@pytest.fixture(scope="module")
def voice(sampler: FlowSampler) -> VoiceState:
    return sampler.prepare(*flow_kit.prompt(30))


def assert_close(found: Tensor, expected: Tensor | np.ndarray, relative: float = 2e-5) -> None:
    expected = torch.as_tensor(expected)
    assert found.shape == expected.shape
    error = (found.cpu() - expected.cpu()).abs().max() / expected.abs().max()
    assert error < relative, f"relative error {error:.1e}"


def run(sampler: FlowSampler, voice: VoiceState, codes: Tensor) -> Tensor:
    """A whole stream alone."""
    stream = sampler.open(voice)
    parts = [sampler.step([stream], [codes[a:b]], [last])[0] for a, b, last in flow_kit.schedule(len(codes))]
    return torch.cat(parts)


# ------------------------------------------------------------------ the reference
@pytest.mark.parametrize("name", flow_kit.PROMPT_CODES)
def test_whole_utterance_equals_the_reference(sampler: FlowSampler, name: str) -> None:
    utterance = flow_kit.utterance(flow_kit.SPEECH_CODES, flow_kit.PROMPT_CODES[name])
    assert_close(sampler.generate([utterance])[0][::KEPT], GOLDEN[f"whole_{name}"])


@pytest.mark.parametrize("name", flow_kit.PROMPT_CODES)
def test_stream_equals_the_reference(sampler: FlowSampler, name: str) -> None:
    voice = sampler.prepare(*flow_kit.prompt(flow_kit.PROMPT_CODES[name]))
    found = run(sampler, voice, flow_kit.draw(flow_kit.SPEECH_CODES, seed=3001))
    assert_close(found[::KEPT], GOLDEN[f"stream_{name}"])


# ------------------------------------------------------------------ batches
def test_whole_utterances_in_a_batch_equal_each_alone(sampler: FlowSampler) -> None:
    utterances = [flow_kit.utterance(n, p, seed=n) for n, p in ((1, 5), (40, 30), (7, 61), (2, 1))]
    for together, utterance in zip(sampler.generate(utterances), utterances, strict=True):
        assert_close(together, sampler.generate([utterance])[0])


def test_streams_that_join_and_leave_a_batch_equal_each_alone(sampler: FlowSampler) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    voices = [sampler.prepare(*flow_kit.prompt(n, seed=n)) for n in (4, 20, 61)]
    waiting = [(rng.choice(voices), flow_kit.draw(rng.randrange(1, 120), seed=i)) for i in range(8)]
    alone = [run(sampler, *item) for item in waiting]
    found: list[list[Tensor]] = [[] for _ in waiting]
    plans = [flow_kit.schedule(len(codes)) for _, codes in waiting]
    streams: dict[int, FlowStream] = {}
    while any(plans):
        left = [i for i, plan in enumerate(plans) if plan]
        batch = rng.sample(left, rng.randint(1, min(4, len(left))))
        parts, ends = [], []
        for i in batch:
            streams.setdefault(i, sampler.open(waiting[i][0]))
            start, stop, last = plans[i].pop(0)
            parts.append(waiting[i][1][start:stop])
            ends.append(last)
        for i, mel in zip(batch, sampler.step([streams[i] for i in batch], parts, ends), strict=True):
            found[i].append(mel)
    for together, expected in zip(found, alone, strict=True):
        assert_close(torch.cat(together), expected)


def test_a_failed_step_can_be_run_again(
    sampler: FlowSampler, voice: VoiceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = flow_kit.draw(60, seed=5)
    expected = run(sampler, voice, codes)
    stream, parts = sampler.open(voice), []
    attend, retain = StreamMemory.attend, StreamMemory.retain

    def break_off(memory: StreamMemory, layer: int, *rows: Tensor) -> Tensor:
        found = attend(memory, layer, *rows)  # which has written the new frames
        if layer == 1:
            raise MemoryError
        return found

    def break_off_behind(memory: StreamMemory, rows: Tensor, fresh: Sequence[Tensor]) -> None:
        retain(memory, rows, fresh)  # the same of all layers
        raise MemoryError

    for start, stop, last in flow_kit.schedule(len(codes)):
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(StreamMemory, "attend", break_off)
            patch.setattr(StreamMemory, "retain", break_off_behind)
            sampler.step([stream], [codes[start:stop]], [last])
        parts += sampler.step([stream], [codes[start:stop]], [last])
    assert_close(torch.cat(parts), expected)


def test_a_voice_is_never_written(sampler: FlowSampler, voice: VoiceState) -> None:
    before = voice.keys_values.clone(), voice.conv.clone(), voice.encoder[1].clone()
    run(sampler, voice, flow_kit.draw(130, seed=6))
    assert all(map(torch.equal, before, (voice.keys_values, voice.conv, voice.encoder[1])))


# ------------------------------------------------------------------ lengths
@pytest.mark.parametrize("num_prompt", [1, 2, 3, 49, 50, 51])
def test_any_prompt_length(sampler: FlowSampler, num_prompt: int) -> None:
    voice = sampler.prepare(*flow_kit.prompt(num_prompt))
    assert voice.num_frames == 2 * num_prompt
    mel = run(sampler, voice, flow_kit.draw(70, seed=2))
    assert mel.shape == (140, 80) and mel.isfinite().all()


@pytest.mark.parametrize("num_codes", [1, 2, 3, 8, 9])
def test_short_streams(sampler: FlowSampler, voice: VoiceState, num_codes: int) -> None:
    assert run(sampler, voice, flow_kit.draw(num_codes, seed=3)).shape == (2 * num_codes, 80)


def test_long_prompts_and_long_speech_use_bounded_memory(folder: Path) -> None:
    # 1000 frames of prompt and 5000 positions are where the reference breaks.
    sampler = flow_kit.make_sampler(folder, num_steps=2, max_history_codes=300)
    voice = sampler.prepare(*flow_kit.prompt(520))
    stream, sizes = sampler.open(voice), []
    for part in flow_kit.draw(2600, seed=4).split(25):
        mel = sampler.step([stream], [torch.cat([part, part[:3]])], [False])[0]
        assert mel.isfinite().all()
        sizes.append(stream.num_bytes)
    assert sizes[-1] == sizes[len(sizes) // 2]
    assert len(stream.window) == 2 * 520 + 100


def test_forgetting_codes_changes_nothing_before_the_bound(folder: Path) -> None:
    codes = flow_kit.draw(130, seed=8)
    mels = []
    for bound in (100, 10_000):
        sampler = flow_kit.make_sampler(folder, num_steps=2, max_history_codes=bound)
        mels.append(run(sampler, sampler.prepare(*flow_kit.prompt(10)), codes))
    assert torch.equal(mels[0][:120], mels[1][:120])
    assert not torch.equal(mels[0][200:], mels[1][200:])


def test_without_guidance_nothing_is_computed_for_it_and_nothing_is_missing(tmp_path: Path) -> None:
    found = {}
    for rate in ("1.0e-9", "0.0"):
        folder = flow_kit.write_flow(tmp_path / rate)
        yaml = (folder / "flow.yaml").read_text().replace("cfg_rate: 0.7", f"cfg_rate: {rate}")
        (folder / "flow.yaml").write_text(yaml)
        sampler = flow_kit.make_sampler(folder, num_steps=3)
        voice = sampler.prepare(*flow_kit.prompt(20))
        whole = sampler.generate([flow_kit.utterance(n, 20, seed=n) for n in (30, 9)])
        found[rate] = (voice.num_bytes, [run(sampler, voice, flow_kit.draw(70, seed=2)), *whole])
    (doubled, expected), (single, mels) = found.values()
    assert single < 0.6 * doubled
    for mel, wanted in zip(mels, expected, strict=True):
        assert_close(mel, wanted)


# ------------------------------------------------------------------ noise
def test_given_noise_comes_first_and_the_rest_is_drawn() -> None:
    given = torch.randn(1, 80, 50)
    strip, plain = NoiseStrip(80, seed=3, given=given), NoiseStrip(80, seed=3)
    frames = strip.frames(0, 3000)
    assert torch.equal(frames[:50], given[0].T)
    assert torch.equal(frames[50:], plain.frames(50, 2950))
    assert torch.equal(plain.frames(1500, 20), NoiseStrip(80, seed=3).frames(1000, 600)[500:520])
    assert not torch.equal(plain.frames(0, 10), NoiseStrip(80, seed=4).frames(0, 10))


# ------------------------------------------------------------------ training
def test_training_pass_has_the_solver_s_mathematics_and_gradients(folder: Path) -> None:
    flow = load_flow(folder)
    utterance = flow_kit.utterance(20, 10)
    codes = torch.cat([utterance.prompt_codes, utterance.codes])
    condition = torch.zeros(60, 80)
    condition[:20] = utterance.prompt_mel
    noise = NoiseStrip(80).frames(0, 60)
    first = FlowSampler(flow, num_steps=1).start([utterance])
    first.advance()
    flow.requires_grad_(True)
    both = [
        flow(
            [codes, codes[:7]],
            [noise, noise[:14]],
            torch.zeros(2),
            utterance.embedding.expand(2, -1),
            [condition, condition[:14]],
            keep=torch.tensor([keep, True]),
        )[0][0]
        for keep in (True, False)
    ]
    assert_close(noise + 1.7 * both[0] - 0.7 * both[1], first.frames[0])
    both[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())


def test_chunked_training_sees_what_a_stream_sees(folder: Path) -> None:
    flow = load_flow(folder)
    codes = flow_kit.draw(40, seed=9)
    noisy, condition = flow_kit.draw(80, 80, seed=10), torch.zeros(80, 80)

    def velocity(codes: Tensor) -> Tensor:
        found: Tensor = flow(
            [codes], [noisy], torch.tensor([0.3]), torch.ones(1, 192), [condition], chunk_codes=10
        )[0][0]
        return found

    changed = codes.clone()
    changed[33:] = 0  # the look-ahead reaches three codes back, not into the first three chunks
    with torch.no_grad():
        assert torch.equal(velocity(codes)[:60], velocity(changed)[:60])
        assert not torch.equal(velocity(codes)[60:66], velocity(changed)[60:66])


# ------------------------------------------------------------------ rounded weights
def test_int8_weights_stay_close_and_streams_apart(folder: Path) -> None:
    if not int8_graphs_work():
        pytest.skip("no quantised kernels here")
    exact = FlowSampler(load_flow(folder))
    rounded = FlowSampler(load_flow(folder, int8=True))
    codes = flow_kit.draw(130, seed=4)
    expected = run(exact, exact.prepare(*flow_kit.prompt(30)), codes)
    voice = rounded.prepare(*flow_kit.prompt(30))
    alone = run(rounded, voice, codes)
    assert snr_db(alone, expected) > 25  # 43 in the public size
    assert not torch.equal(alone, expected)
    neighbour, stream, together = rounded.open(voice), rounded.open(voice), []
    for start, stop, last in flow_kit.schedule(len(codes)):
        other = flow_kit.draw(stop - start, seed=start) if not last else codes[start:stop]
        both = rounded.step([neighbour, stream], [other, codes[start:stop]], [last, last])
        together.append(both[1])
    # a row's rounding may fall to the other side where sums differ in their last digit
    assert snr_db(torch.cat(together), alone) > 45


def test_smaller_memory_stays_close_and_is_smaller(folder: Path) -> None:
    codes, flow = flow_kit.draw(260, seed=4), load_flow(folder)

    def of(memory: FlowMemory | None) -> tuple[Tensor, int]:
        sampler = FlowSampler(flow, memory=memory)
        voice = sampler.prepare(*flow_kit.prompt(61))
        stream = sampler.open(voice)
        mels, sizes = [], []
        for start, stop, last in flow_kit.schedule(len(codes)):
            mels += sampler.step([stream], [codes[start:stop]], [last])
            sizes.append(stream.num_bytes - stream.encoder.num_bytes)
        return torch.cat(mels), max(sizes)

    exact, plain_bytes = of(None)
    half, half_bytes = of(FlowMemory(dtype=torch.float16))
    assert snr_db(half, exact) > 50 and half_bytes < 0.6 * plain_bytes
    rough, rough_bytes = of(FlowMemory(dtype=torch.bfloat16))
    assert snr_db(rough, exact) > 35 and rough_bytes == half_bytes
    short, short_bytes = of(FlowMemory(max_frames=30))
    assert short_bytes < plain_bytes and not torch.equal(short, exact)
    assert torch.equal(short[:10], exact[:10])  # nothing was forgotten yet
    longer, _ = of(FlowMemory(max_frames=10_000))
    assert torch.equal(longer, exact)


def snr_db(found: Tensor, expected: Tensor) -> float:
    return float(10 * torch.log10(expected.var() / (found - expected).var()))
