"""The page of measurements: tables go between their marks, from reports as the benchmarks write them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import pages  # noqa: E402

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 1, "capability": "AVX2", "torch": "2"}


def test_tables_replace_what_stood_between_their_marks() -> None:
    page = "a\n<!-- bench: serve -->\nold\n<!-- end -->\nb\n<!-- bench: growth -->\nkept\n<!-- end -->\n"
    filled = pages.fill(page, {"serve": "new\nlines"})
    assert filled == page.replace("old", "new\nlines")
    assert pages.fill(filled, {"serve": "new\nlines"}) == filled
    with pytest.raises(ValueError, match="thinker"):
        pages.fill(page, {"thinker": ""})


def test_the_page_has_a_place_for_every_benchmark() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    assert set(re.findall(r"<!-- bench: (\w+) -->", page)) == set(pages.PAGES)
    assert page.count("<!-- end -->") == len(pages.PAGES)


def test_a_growth_report_becomes_a_table() -> None:
    report = {
        "machine": MACHINE,
        "chunks": 200,
        "chunk_4_s": 0.1,
        "chunk_200_s": 0.105,
        "chunk_ratio": 1.05,
        "session_bytes_half_way": 2_000_000,
        "session_bytes": 2_000_000,
        "session_bytes_chunk_4": 1_900_000,
        "chunk_4_to_window": 1.04,
        "frame_bytes": 10_000,
        "num_streams": 3,
        "voice_bytes": 1_000_000,
        "voice_bytes_with_streams": 1_000_000,
    }
    found = pages.growth(report)
    assert "| chunk 200 | 105 ms (1.05 times chunk 4) |" in found
    assert "| 1.90 MB (1.04 times the keys" in found
    assert found.startswith("a CPU, 2 cores, 1 thread(s) used")
