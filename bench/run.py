"""Every benchmark in its short form, and docs/performance.md brought up to date with what they measured.

    python bench/run.py [token2wav growth thinker serve]     # all of them, some ten minutes on two cores

The JSON goes to runs/. Take a quiet machine: whatever else runs is measured too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pages

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs"
PAGE, PLOTS = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance"
BENCH = [sys.executable, "-m", "cadence.bench"]
COMMANDS = {
    "token2wav": [*BENCH, "token2wav"],
    "growth": [*BENCH, "growth", "--chunks", "200"],
    "thinker": [sys.executable, str(ROOT / "bench" / "thinker.py"), "--models", "nano", "--batches", "1,4,8"],
    "serve": [*BENCH, "--concurrency", "1,2,4,8", "--num-requests", "12", "--modes", "async_chunk"],
}
START_S = 180


@contextlib.contextmanager
def server() -> Iterator[str]:
    """`cadence serve` with the built-in model on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cadence", "serve", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz").is_success:
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("The server did not start.")
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def run(name: str) -> dict[str, object]:
    """Run one benchmark; what it wrote."""
    file = RUNS / f"{name}.json"
    print(f"\n== {name}", flush=True)
    with server() if name == "serve" else contextlib.nullcontext() as url:
        where = ["--url", url] if url else []
        subprocess.run([*COMMANDS[name], *where, "--json", str(file)], check=True, env=os.environ)
    report: dict[str, object] = json.loads(file.read_text())
    return report


def main() -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COMMANDS)}")
    names = parser.parse_args().names or [*COMMANDS]
    if unknown := [name for name in names if name not in COMMANDS]:
        parser.error(f"there is no benchmark {unknown[0]!r}")
    RUNS.mkdir(exist_ok=True)
    reports = {name: run(name) for name in names}
    page = pages.fill(PAGE.read_text(), {name: pages.PAGES[name](found) for name, found in reports.items()})
    PAGE.write_text(page)
    for path in pages.draw(reports, PLOTS):
        print(path.relative_to(ROOT))
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
