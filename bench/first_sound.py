"""First sound of one utterance: async chunk beside sequential mode, in turns, against a running server.

    cadence serve CKPT & python bench/first_sound.py --url http://127.0.0.1:8092 --seconds 10 --runs 3

The utterance has a fixed length (a token limit of 5 ids per 4 codes), so that random weights serve as
well as trained ones. Prints both medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import httpx

CODES_PER_SECOND = 25
BYTES_PER_SECOND = 48_000  # pcm, 16 bit, 24 kHz
TEXT = "The first sound should come long before the last word has been thought of by the model at all."


def measure(client: httpx.Client, *, async_chunk: bool, num_tokens: int) -> tuple[float, float, float]:
    """TTFP, whole latency and length of the sound, each in seconds."""
    body = {
        "input": TEXT,
        "response_format": "pcm",
        "max_new_tokens": num_tokens,
        "seed": 1,
        "async_chunk": async_chunk,
    }
    start, first, size = time.perf_counter(), 0.0, 0
    with client.stream("POST", "/v1/audio/speech", json=body) as response:
        response.raise_for_status()
        for piece in response.iter_raw():
            first = first or time.perf_counter() - start
            size += len(piece)
    return first, time.perf_counter() - start, size / BYTES_PER_SECOND


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8092")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    num_tokens = round(options.seconds * CODES_PER_SECOND * 5 / 4)
    firsts: dict[bool, list[float]] = {True: [], False: []}
    with httpx.Client(base_url=options.url, timeout=900) as client:
        for run in range(options.runs):
            for mode in (True, False):
                first, total, audio = measure(client, async_chunk=mode, num_tokens=num_tokens)
                firsts[mode].append(first)
                name = "async_chunk" if mode else "sequential"
                print(
                    f"run {run} {name:11}  TTFP {first:6.2f} s  E2E {total:6.2f} s  audio {audio:5.2f} s",
                    flush=True,
                )
    streamed, whole = statistics.median(firsts[True]), statistics.median(firsts[False])
    print(
        f"median TTFP: async_chunk {streamed:.2f} s, sequential {whole:.2f} s, "
        f"sequential / async_chunk = {whole / streamed:.1f}"
    )


if __name__ == "__main__":
    main()
