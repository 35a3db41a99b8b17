"""The Thinker's benchmark runs end to end on a tiny model and writes the keys it names."""

from __future__ import annotations

import json
import math
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "bench" / "thinker.py"


def test_a_short_run_writes_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    out = tmp_path / "runs" / "thinker.json"
    threads = torch.get_num_threads()
    main = runpy.run_path(str(SCRIPT))["main"]
    main(
        f"--models tiny --batches 1,2,8 --prompt 8 --tokens 4 --rounds 1 --threads 1 --json {out}".split(),
    )
    torch.set_num_threads(threads)
    report = json.loads(out.read_text())
    assert report["bench"] == "thinker"
    assert report["machine"]["threads"] == 1
    [model] = report["models"]
    assert [row["batch"] for row in model["rows"]] == [1, 2, 8]
    # Decode is a difference of two times, of four ids here: on a loaded machine it may come out negative.
    assert all(row["prefill"] > 0 and math.isfinite(row["decode"]) for row in model["rows"])
    assert model["first_codes"]["ratio"] == pytest.approx(
        model["first_codes"]["with_7_streams_s"] / model["first_codes"]["alone_s"]
    )
    assert model["stall"].keys() == {"whole_prompt_s", "in_parts_s"}
    assert len(model["targets"]) == 3
    if find_spec("transformers"):
        assert all(row["same_ids"] for row in model["rows"])
    else:
        assert "skipped" in capsys.readouterr().out
        assert all(row["transformers_decode"] is None for row in model["rows"])
