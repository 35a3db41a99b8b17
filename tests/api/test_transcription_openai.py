"""The official client transcribes and translates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openai
import pytest
from openai.types.audio import TranscriptionVerbose

from cadence.audio.encode import encode_wav
from cadence.fake import answer_text
from talker import talk

from .conftest import Live

RATE_HZ = 16_000
SILENCE = np.zeros(3 * RATE_HZ, np.float32)
SPEECH = encode_wav(talk(2.0), RATE_HZ)
THREE = encode_wav(
    np.concatenate([talk(2.0), SILENCE, talk(3.0, seed=1), SILENCE, talk(2.0, seed=2)]), RATE_HZ
)
"""Three utterances, seven seconds of speech in thirteen."""
FILE = ("three.wav", THREE)


async def test_json(live: Live) -> None:
    answer = await live.openai().audio.transcriptions.create(model="fake", file=FILE)
    assert answer.text == " ".join(answer_text(request) for request in live.engine.requests)
    assert answer.text.count("I heard") == 3
    usage = answer.usage
    assert usage is not None and usage.type == "tokens" and usage.total_tokens == usage.input_tokens + 18
    assert usage.input_token_details is not None and usage.input_token_details.audio_tokens
    first = live.engine.requests[0]
    assert [message.role for message in first.messages] == ["system", "user"]
    assert first.messages[0].content[0].text == "请记录下你所听到的语音内容。"  # type: ignore[union-attr]
    assert first.output == "text" and first.sampling.temperature == 0 and first.sampling.max_tokens


async def test_default_file_name(live: Live, tmp_path: Path) -> None:
    """Bytes and open files go without a name of ours; their content tells the format."""
    client = live.openai()
    assert (await client.audio.transcriptions.create(model="fake", file=SPEECH)).text.startswith("I heard")
    path = tmp_path / "x.bin"
    path.write_bytes(SPEECH)
    assert (await client.audio.transcriptions.create(model="fake", file=path)).text.startswith("I heard")


async def test_plain_formats(live: Live) -> None:
    client = live.openai()
    text = await client.audio.transcriptions.create(model="fake", file=FILE, response_format="text")
    assert isinstance(text, str) and text.count("I heard") == 3 and text.endswith("\n")
    srt = await client.audio.transcriptions.create(model="fake", file=FILE, response_format="srt")
    blocks = srt.strip().split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == ["1", "2", "3"]
    assert blocks[0].split("\n")[1].startswith("00:00:0") and " --> 00:00:0" in blocks[0]
    vtt = await client.audio.transcriptions.create(model="fake", file=FILE, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:0") and vtt.count(" --> ") == 3


async def test_verbose(live: Live) -> None:
    answer = await live.openai().audio.transcriptions.create(
        model="fake",
        file=FILE,
        response_format="verbose_json",
        timestamp_granularities=["segment"],
        language="en",
    )
    assert isinstance(answer, TranscriptionVerbose)
    assert answer.duration == 13.0 and answer.language == "english"
    assert answer.usage is not None and answer.usage.seconds == 13
    assert answer.segments is not None
    starts = [segment.start for segment in answer.segments]
    ends = [segment.end for segment in answer.segments]
    assert starts == pytest.approx([0.0, 5.0, 11.0], abs=0.15)
    assert ends == pytest.approx([2.0, 8.0, 13.0], abs=0.15)
    assert " ".join(segment.text for segment in answer.segments) == answer.text
    for number, segment in enumerate(answer.segments):
        assert segment.id == number and segment.tokens and segment.avg_logprob == pytest.approx(-0.25)
        assert segment.compression_ratio > 0 and segment.no_speech_prob < 0.2 and segment.temperature == 0


async def test_stream(live: Live) -> None:
    client = live.openai()
    stream = await client.audio.transcriptions.create(
        model="fake", file=FILE, stream=True, include=["logprobs"]
    )
    events = [event async for event in stream]
    assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in events[:-1]) == done.text  # type: ignore[union-attr]
    assert done.text == (await client.audio.transcriptions.create(model="fake", file=FILE)).text
    assert done.usage is not None and done.usage.output_tokens == 18
    assert done.logprobs is not None and "".join(token.token or "" for token in done.logprobs).startswith(
        "I heard"
    )


async def test_stream_with_times(live: Live) -> None:
    stream = await live.openai().audio.transcriptions.create(
        model="fake", file=FILE, stream=True, response_format="verbose_json"
    )
    segments = [event async for event in stream if event.type == "transcript.text.segment"]
    assert [segment.id for segment in segments] == ["seg_0", "seg_1", "seg_2"]
    assert segments[1].start == pytest.approx(5.0, abs=0.15) and segments[1].text.startswith("I heard")


async def test_hints_reach_the_model(live: Live) -> None:
    await live.openai().audio.transcriptions.create(
        model="fake",
        file=SPEECH,
        language="de",
        prompt="Grüße aus Köln.",
        temperature=0.5,
        extra_body={"keywords": ["Cadence", "Token2Wav"], "seed": 7, "top_p": 0.5, "repetition_penalty": 1.1},
    )
    (request,) = live.engine.requests
    system = request.messages[0].content[0].text  # type: ignore[union-attr]
    assert system.startswith("请记录下你所听到的语音内容。")
    assert all(hint in system for hint in ("德语", "Grüße aus Köln.", "Cadence、Token2Wav"))
    sampling = request.sampling
    assert (sampling.temperature, sampling.seed, sampling.top_p) == (0.5, 7, 0.5)
    assert sampling.repetition_penalty == 1.1


async def test_chunking_strategy(live: Live) -> None:
    client = live.openai()
    vad = {"type": "server_vad", "silence_duration_ms": 4000, "prefix_padding_ms": 100, "threshold": 0.5}
    await client.audio.transcriptions.create(model="fake", file=FILE, chunking_strategy=vad)  # type: ignore[arg-type]
    assert len(live.engine.requests) == 1  # no pause is four seconds long
    live.engine.requests.clear()
    await client.audio.transcriptions.create(model="fake", file=FILE, chunking_strategy="auto")
    assert len(live.engine.requests) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the client's; the route is used all the same
async def test_translation(live: Live) -> None:
    client = live.openai()
    answer = await client.audio.translations.create(model="fake", file=SPEECH)
    assert answer.text.startswith("I heard")
    system = live.engine.requests[0].messages[0].content[0].text  # type: ignore[union-attr]
    assert system == "请仔细聆听这段语音，然后将其内容翻译成英文。"
    verbose = await client.audio.translations.create(
        model="fake", file=SPEECH, response_format="verbose_json"
    )
    assert verbose.language == "english" and verbose.segments  # type: ignore[union-attr]
    assert isinstance(
        await client.audio.translations.create(model="fake", file=SPEECH, response_format="srt"), str
    )


async def test_silence_is_an_empty_text(live: Live) -> None:
    client = live.openai()
    rng = np.random.default_rng(0)
    for sound in (SILENCE, 0.05 * rng.standard_normal(5 * RATE_HZ).astype(np.float32)):
        wav = encode_wav(sound, RATE_HZ)
        assert (await client.audio.transcriptions.create(model="fake", file=wav)).text == ""
        verbose = await client.audio.transcriptions.create(
            model="fake", file=wav, response_format="verbose_json"
        )
        assert verbose.text == "" and verbose.segments == []
        stream = await client.audio.transcriptions.create(model="fake", file=wav, stream=True)
        assert [event.type async for event in stream] == ["transcript.text.done"]
    assert live.engine.requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "srt", "stream": True}, "response_format"),
        ({"response_format": "verbose_json", "timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"timestamp_granularities": ["segment"]}, "timestamp_granularities"),
        ({"language": "klingon"}, "language"),
        ({"temperature": 3.0}, "temperature"),
        ({"include": ["logprobs"], "response_format": "verbose_json"}, "include"),
        ({"known_speaker_names": ["a"]}, "known_speaker_names"),
        ({"extra_body": {"max_completion_tokens": 0}}, "max_completion_tokens"),
        ({"extra_body": {"diarize": True}}, "diarize"),
    ],
)
async def test_refused_by_name(live: Live, fields: dict, param: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(openai.BadRequestError) as info:
        await live.openai().audio.transcriptions.create(**{"model": "fake", "file": SPEECH, **fields})
    assert info.value.param == param


async def test_unknown_model(live: Live) -> None:
    with pytest.raises(openai.NotFoundError):
        await live.openai().audio.transcriptions.create(model="whisper-9", file=SPEECH)
