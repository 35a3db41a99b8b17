"""Text to speech over POST /v1/audio/speech.

    python openai_speech_client.py --text "Hello, how are you?"
    python openai_speech_client.py --text "你好世界" -o output.wav
    python openai_speech_client.py --text "Hello, how are you?" --instructions "You are a friendly assistant."

Needs httpx only.
"""

from __future__ import annotations

import argparse
import sys

import httpx

TIMEOUT_S = 300.0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--api-base", default="http://localhost:8092", help="server (default: %(default)s)")
    parser.add_argument("--api-key", default="EMPTY", help="API key (default: %(default)s)")
    parser.add_argument("-m", "--model", default="stepfun-ai/Step-Audio2-mini", help="default: %(default)s")
    parser.add_argument("--text", required=True, help="text to speak")
    parser.add_argument("--voice", default="default", help="voice name (default: %(default)s)")
    parser.add_argument("--instructions", help="system prompt: how to read (default: the server's own)")
    parser.add_argument(
        "--response-format", default="wav", choices=["wav", "pcm"], help="default: %(default)s"
    )
    parser.add_argument(
        "-o", "--output", default="tts_output.wav", help="file to write (default: %(default)s)"
    )
    return parser.parse_args()


def request_body(args: argparse.Namespace) -> dict[str, str]:
    """The JSON body: only what was asked for, so that the server's defaults hold elsewhere."""
    body = {
        "model": args.model,
        "input": args.text,
        "voice": args.voice,
        "response_format": args.response_format,
    }
    if args.instructions:
        body["instructions"] = args.instructions
    return body


def main() -> int:
    """Send the request and write the answer; 0 when there is a file."""
    args = parse_args()
    print(f"Model: {args.model}\nText: {args.text}\nVoice: {args.voice}\nGenerating audio...")
    try:
        response = httpx.post(
            f"{args.api_base.rstrip('/')}/v1/audio/speech",
            json=request_body(args),
            headers={"Authorization": f"Bearer {args.api_key}"},
            timeout=TIMEOUT_S,
        )
    except httpx.HTTPError as error:
        print(f"Error: no answer from {args.api_base} ({error})", file=sys.stderr)
        return 1
    if response.is_error or response.content.startswith(b'{"error"'):
        print(f"Error: {response.status_code}\n{response.text}", file=sys.stderr)
        return 1
    with open(args.output, "wb") as file:
        file.write(response.content)
    print(f"Audio saved to: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
