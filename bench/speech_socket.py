"""Many utterances on one socket: does the hundredth wait longer for its first sound than the second?

    python bench/speech_socket.py --url ws://localhost:8092 --utterances 100

Every utterance is the same text, so that each costs the same. Prints the time to the first sound of the
second, of the last, and how these times are spread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time

from websockets.asyncio.client import ClientConnection, connect

TEXT = "The next train leaves from platform two."


async def first_sound_s(socket: ClientConnection, text: str) -> float:
    """Send one utterance, read it to its end; seconds until its first sound."""
    await socket.send(json.dumps({"type": "input.text", "text": text}))
    started = time.perf_counter()
    await socket.send(json.dumps({"type": "input.done"}))
    first = 0.0
    while True:
        message = await socket.recv()
        if isinstance(message, bytes):
            first = first or time.perf_counter() - started
            continue
        event = json.loads(message)
        if event["type"] == "error":
            raise RuntimeError(event["message"])
        if event["type"] == "session.done":
            return first


async def measure(url: str, num_utterances: int, text: str, api_key: str, max_new_tokens: int) -> list[float]:
    """Seconds to the first sound of each utterance, on one socket."""
    headers = {"Authorization": f"Bearer {api_key}"}
    async with connect(f"{url}/v1/audio/speech/stream", additional_headers=headers) as socket:
        config = {"response_format": "pcm", "stream_audio": True, "seed": 1, "max_new_tokens": max_new_tokens}
        await socket.send(json.dumps({"type": "session.config", **config}))
        return [await first_sound_s(socket, text) for _ in range(num_utterances)]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="ws://localhost:8092")
    parser.add_argument("--api-key", default="EMPTY")
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--max-new-tokens", type=int, default=75, help="2.4 s of speech")
    args = parser.parse_args()
    times = asyncio.run(measure(args.url, args.utterances, args.text, args.api_key, args.max_new_tokens))
    early, late = statistics.median(times[1:11]), statistics.median(times[-10:])
    print("| utterance | first sound |\n| --- | --- |")
    for name, seconds in (
        ("first", times[0]),
        ("second", times[1]),
        ("last", times[-1]),
        ("median of 2 to 11", early),
        ("median of the last ten", late),
    ):
        print(f"| {name} | {1000 * seconds:.0f} ms |")
    print(f"\nlast ten by 2 to 11: {late / early:.2f}")


if __name__ == "__main__":
    main()
