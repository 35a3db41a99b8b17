"""The benchmarks of the vocoder stage: whole runs on a tiny checkpoint, and what their figures mean."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cadence.bench.command import bench
from cadence.bench.stage import STEADY, Stage, dit_flop
from cadence.config import Token2WavConfig
from cadence.types import CODE_SAMPLES

ROOT = Path(__file__).parents[2]
NEEDED = {"voice_setup_s", "warm_first_chunk_s", "steady_chunk_s", "offline_10s_s", "matmul_peak_gflops"}


@pytest.fixture
def threads() -> object:
    """The benchmarks set torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(tmp_path: Path, *arguments: str) -> dict[str, object]:
    file = tmp_path / "runs" / "figures.json"
    done = CliRunner().invoke(bench, [*arguments, "--json", str(file)])
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(file.read_text())
    assert found["bench"] == arguments[0] and found["machine"]
    for name, value in found.items():
        if isinstance(value, int | float):
            assert name in done.output, name
    return found


@pytest.mark.usefixtures("threads")
def test_token2wav_times_one_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    voice = tiny_checkpoint / "assets" / "default_male.wav"
    found = run(
        tmp_path,
        "token2wav",
        *("--checkpoint", str(tiny_checkpoint), "--voice", str(voice)),
        *("--rounds", "1", "--steps", "2", "--threads", "1"),
    )
    assert found.keys() >= NEEDED
    assert all(value > 0 for value in found.values() if isinstance(value, int | float))
    assert found["warm_first_chunk_s"] < found["offline_10s_s"]  # type: ignore[operator]
    parts = sum(found[f"steady_{part}_s"] for part in ("encoder", "dit", "hift"))  # type: ignore[misc]
    assert 0 < parts <= found["steady_chunk_s"] * 1.05  # type: ignore[operator]


@pytest.mark.usefixtures("threads")
def test_growth_weighs_a_stream_and_its_voice(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("--checkpoint", str(tiny_checkpoint), "--steps", "2", "--chunks", "12")
    found = run(tmp_path, "growth", *arguments)
    assert found["voice_bytes"] == found["voice_bytes_with_streams"]
    assert found["chunk_ratio"] == pytest.approx(found["chunk_12_s"] / found["chunk_4_s"])  # type: ignore[operator]
    assert len(found["chunk_times_s"]) == 15  # type: ignore[arg-type]
    assert found["window_bytes"] < found["session_bytes_chunk_4"] <= found["session_bytes"]  # type: ignore[operator]


def test_timing_the_parts_leaves_the_stage_as_it_was(tiny_checkpoint: Path) -> None:
    stage = Stage(tiny_checkpoint, Token2WavConfig(device="cpu", num_steps=2))
    _, voice = stage.prepare((tiny_checkpoint / "assets" / "default_female.wav").read_bytes())
    plain, timed = [stage.open(voice)], [stage.open(voice)]
    expected = stage.chunk(plain, 0, STEADY)[0]
    with stage.parts() as spent:
        found = stage.chunk(timed, 0, STEADY)[0]
    assert (found == expected).all() and all(seconds > 0 for seconds in spent.values())
    before = dict(spent)
    rest = stage.chunk(timed, STEADY, STEADY, last=True)[0]
    assert spent == before and len(found) + len(rest) == 2 * STEADY * CODE_SAMPLES


def test_operations_of_the_public_flow_are_those_of_a_second_of_speech() -> None:
    from cadence.models.dit import DiT
    from cadence.models.flow_config import DiTConfig

    with torch.device("meta"):
        dit = DiT(
            DiTConfig(
                in_channels=320,
                out_channels=80,
                hidden=512,
                depth=16,
                num_heads=8,
                head_dim=64,
                mlp_ratio=4.0,
            )
        )
    # 10 steps, guided and unguided rows of 50 frames: about 152 GFLOP with the reference's own counter
    assert 10 * dit_flop(dit, 2 * 50, seen=50) / 1e9 == pytest.approx(152, rel=0.03)


def test_without_the_reference_package_the_comparison_says_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    shutil.copytree(ROOT / "bench", folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, str(folder / "beside_reference.py")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "the reference needs" in done.stderr and "Traceback" not in done.stderr


def test_options_before_the_name_of_a_stage_s_bench_are_not_ignored() -> None:
    done = CliRunner().invoke(bench, ["--json", "x.json", "growth"])
    assert done.exit_code == 2 and "behind its name" in done.output
