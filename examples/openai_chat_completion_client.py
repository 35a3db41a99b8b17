"""Speech recognition, speech synthesis and speech to speech over POST /v1/chat/completions.

    python openai_chat_completion_client.py --query-type audio_to_text
    python openai_chat_completion_client.py -q audio_to_text -a speech.wav -p "Transcribe this audio."
    python openai_chat_completion_client.py -q text_to_audio -t "Hello, welcome to Step-Audio2."
    python openai_chat_completion_client.py -q audio_to_audio -a source.wav

Text is printed; audio is written to OUTPUT_DIR/audio_0.wav. Needs the openai package only.
"""

from __future__ import annotations

import argparse
import base64
import mimetypes
import sys
from pathlib import Path
from typing import Any, NamedTuple

from openai import OpenAI, OpenAIError

DEFAULT_AUDIO_URL = "https://vllm-public-assets.s3.us-west-2.amazonaws.com/multimodal_asset/mary_had_lamb.ogg"
SPEAK = "<tts_start>"  # at the end of the user's text: answer with speech


class Query(NamedTuple):
    """What one query type asks: the system prompt, the question, and how to sample."""

    system: str
    question: str
    hears: bool
    speaks: bool
    sampling: dict[str, Any]


QUERIES = {
    "audio_to_text": Query(
        "You are a speech recognition assistant. Transcribe the audio accurately.",
        "Please transcribe this audio.",
        hears=True,
        speaks=False,
        sampling={"repetition_penalty": 1.05, "stop_token_ids": [151645]},
    ),
    "text_to_audio": Query(
        "You are a text-to-speech assistant. Read the text aloud exactly as provided.",
        "Hello, this is a test of Step Audio 2 text to speech synthesis.",
        hears=False,
        speaks=True,
        sampling={"repetition_penalty": 1.1},
    ),
    "audio_to_audio": Query(
        "You are an audio processing assistant. Listen and repeat the audio content.",
        "Please listen to this audio and repeat its content.",
        hears=True,
        speaks=True,
        sampling={"repetition_penalty": 1.1},
    ),
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-q", "--query-type", default="audio_to_text", choices=sorted(QUERIES))
    parser.add_argument("-a", "--audio-path", help="input audio: a file or a URL (default: a public sample)")
    parser.add_argument("-t", "--text", help="text to speak (text_to_audio)")
    parser.add_argument("-p", "--prompt", help="own question instead of the query type's")
    parser.add_argument("-m", "--model", default="stepfun-ai/Step-Audio2-mini", help="default: %(default)s")
    parser.add_argument("--api-base", default="http://localhost:8092/v1", help="default: %(default)s")
    parser.add_argument("--api-key", default="EMPTY", help="default: %(default)s")
    parser.add_argument("--max-tokens", type=int, default=1024, help="default: %(default)s")
    parser.add_argument(
        "-o", "--output-dir", type=Path, default=Path("output_online"), help="default: %(default)s"
    )
    return parser.parse_args()


def audio_url(path: str | None) -> str:
    """A URL the server can read: remote ones as they are, files as data URLs."""
    if path is None:
        return DEFAULT_AUDIO_URL
    if path.startswith(("http://", "https://", "data:")):
        return path
    media_type = mimetypes.guess_type(path)[0] or "audio/wav"
    return f"data:{media_type};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def build_messages(args: argparse.Namespace) -> list[Any]:
    """One system and one user turn, in OpenAI's content parts."""
    query = QUERIES[args.query_type]
    question = args.prompt or (args.text if not query.hears and args.text else query.question)
    if query.speaks and not question.endswith(SPEAK):
        question += SPEAK
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    if query.hears:
        content.insert(0, {"type": "audio_url", "audio_url": {"url": audio_url(args.audio_path)}})
    system = [{"type": "text", "text": query.system}]
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def sampling_params(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Sampling of the language model, then of the vocoder stage (which takes none)."""
    thinker = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": -1,
        "max_tokens": args.max_tokens,
        "seed": 42,
        "detokenize": True,
        **QUERIES[args.query_type].sampling,
    }
    token2wav = {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": -1,
        "max_tokens": 1,
        "seed": 42,
        "detokenize": False,
    }
    return [thinker, token2wav]


def main() -> int:
    """Send the request; print the text and write the audio of each choice."""
    args = parse_args()
    client = OpenAI(base_url=args.api_base, api_key=args.api_key)
    try:
        completion = client.chat.completions.create(
            model=args.model,
            messages=build_messages(args),
            extra_body={"sampling_params_list": sampling_params(args)},
        )
    except (OpenAIError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    num_audio = 0
    for choice in completion.choices:
        spoken = choice.message.audio.transcript if choice.message.audio else None
        if text := choice.message.content or spoken:
            print(f"Text output: {text}")
        if choice.message.audio:
            args.output_dir.mkdir(parents=True, exist_ok=True)
            path = args.output_dir / f"audio_{num_audio}.wav"
            path.write_bytes(base64.b64decode(choice.message.audio.data))
            print(f"Audio saved to: {path}")
            num_audio += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
