"""`cadence serve` as a user runs it: from the first line printed to a clean end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process of its own and its URL; killed if a test left it running."""
    command = [
        sys.executable,
        "-m",
        "cadence",
        "serve",
        str(tiny_checkpoint),
        "--port",
        "0",
        "--threads",
        "1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"Cadence is ready: (\S+)", line):
            yield process, found[1]
            break
    else:
        pytest.fail(f"the server ended: {''.join(lines)}")
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stderr.close()


def test_the_server_answers_where_it_said(server: tuple[subprocess.Popen[str], str]) -> None:
    _, url = server
    assert httpx.get(f"{url}/health").status_code == 200
    assert "<title>Cadence</title>" in httpx.get(f"{url}/").text
    body = {"input": "Hi.", "stream": False, "seed": 1}
    first, second = (httpx.post(f"{url}/v1/audio/speech", json=body, timeout=100) for _ in range(2))
    assert first.status_code == 200, first.text
    assert first.content == second.content
    assert first.content[:4] == b"RIFF" and (len(first.content) - 44) % (2 * 960) == 0


def test_client_commands_reach_it(server: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    _, url = server
    out = tmp_path / "hello.wav"
    cadence = [sys.executable, "-m", "cadence"]
    subprocess.run([*cadence, "say", "Hi.", "-o", str(out), "--url", url], check=True, capture_output=True)
    assert out.read_bytes()[:4] == b"RIFF"
    heard = [*cadence, "transcribe", str(out), "--max-tokens", "4", "--url", url]
    subprocess.run(heard, check=True, capture_output=True)


def test_ctrl_c_ends_it_cleanly_with_its_children(server: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = server
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=40) == 0
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert len(gone) == len(children) and not alive


def test_a_wrong_model_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cadence", "serve", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: ") and "Traceback" not in done.stderr
