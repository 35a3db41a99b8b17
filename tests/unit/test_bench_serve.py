"""The serving benchmark against a real server of the tiny model, and its figures against a few by hand."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from cadence.bench.client import RequestResult

BENCH = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "serve.py"))


def result(**fields: Any) -> RequestResult:
    """An answer of two seconds, first heard after 0.1 s."""
    usual = {"prompt_index": 0, "sent_s": 0.0, "ttfp_s": 0.1, "e2e_s": 1.0, "audio_s": 2.0}
    return RequestResult(**{**usual, **fields})


def test_continuity_is_told_per_stream() -> None:
    results = [result(), result(underrun_s=0.05), result(underrun_s=0.5), result(error="HTTP 429: busy")]
    row = BENCH["summarise"](4, results, wall_s=2.0)
    assert (row.num_ok, row.num_failed, row.audio_per_s) == (3, 1, 3.0)
    assert row.continuous == pytest.approx(2 / 3)
    assert row.continuity_min == pytest.approx(0.8)
    assert row.spread == pytest.approx(0.2)
    met = {aim["name"]: aim["met"] for aim in BENCH["targets"]([row])}
    assert met == {"share of continuous answers, 4 callers": False, "spread of continuity, 4 callers": False}


def test_a_run_without_an_answer_says_why() -> None:
    with pytest.raises(SystemExit, match="busy"):
        BENCH["summarise"](1, [result(error="busy")], wall_s=1.0)


def test_a_server_is_started_measured_and_stopped(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "serve.json"
    BENCH["main"](
        [
            *f"--concurrency 1,2 --num-requests 2 --max-tokens 60 --json {out} --".split(),
            str(tiny_checkpoint),
            "--in-process",
        ]
    )
    report = json.loads(out.read_text())
    assert report["bench"] == "serve" and report["machine"]["cores"] >= 1
    assert [row["concurrency"] for row in report["rows"]] == [1, 2]
    assert all(row["num_failed"] == 0 and row["ttfp_p50_s"] > 0 for row in report["rows"])
    assert len(report["requests"]) == 2 + 4
    assert "| callers |" in capsys.readouterr().out
