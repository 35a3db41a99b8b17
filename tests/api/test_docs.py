"""Every example of the README and docs/api.md runs as it is written, against the fake engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cadence.audio.encode import encode_wav
from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.types import ModelInfo

from .conftest import run_live

ROOT = Path(__file__).parents[2]
INFO = ModelInfo(
    model_id="cadence-nano",
    aliases=("stepfun-ai/Step-Audio2-mini",),
    max_model_len=16384,
    voices=("default", "default_female", "default_male"),
)
SOUND = (0.3 * np.sin(np.arange(32_000) / 20)).astype(np.float32)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVER = re.compile(r"http://(?:localhost|127\.0\.0\.1):8092")


def _blocks(page: str, language: str) -> list[str]:
    """The examples of one language on one page that talk to a server."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [body for kind, body in BLOCK.findall(text) if kind == language and SERVER.search(body)]
    return [body for body in found if "make " not in body and "cadence serve" not in body]


EXAMPLES = [
    pytest.param(language, block, id=f"{page}-{language}-{number}")
    for page in ("README.md", "docs/api.md")
    for language in ("bash", "python")
    for number, block in enumerate(_blocks(page, language))
]


@pytest.mark.parametrize(("language", "block"), EXAMPLES)
def test_example(language: str, block: str, tmp_path: Path) -> None:
    (tmp_path / "hello.wav").write_bytes(encode_wav(SOUND, 16_000))
    runner = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
    with run_live(FakeEngine(info=INFO), ServerConfig(voices_dir=str(tmp_path / "voices"))) as live:
        code = SERVER.sub(live.url, block).replace("curl ", "curl -sS --fail-with-body ")
        done = subprocess.run([*runner, code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_the_pages_have_examples() -> None:
    assert len(EXAMPLES) >= 8
