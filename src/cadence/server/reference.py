"""`ref_audio`: a recording that a request brings along, to be spoken with in place of a voice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cadence.errors import InvalidRequest
from cadence.server.context import Context
from cadence.server.fetch import decode_base64, read_url
from cadence.server.schema import conflict
from cadence.server.schema_speech import SpeechBody
from cadence.server.voice import DEFAULT
from cadence.types import VoiceSample
from cadence.voices.sample import make_sample

__all__ = ["Reference", "read_reference", "speech_reference"]


@dataclass(frozen=True, slots=True)
class Reference:
    """Where the recording is (a URL, or base64) and what it says, with the fields' names for errors."""

    audio: str
    text: str | None = None
    audio_param: str = "ref_audio"
    text_param: str = "ref_text"


def speech_reference(body: SpeechBody, voice: str) -> Reference | None:
    """The recording that a speech request brings; None when it brings none.

    Args:
        voice: the engine's name of the voice that the request also names.

    Raises:
        InvalidRequest: the fields contradict each other.
    """
    found: Reference | None = None
    if body.ref_audio is not None:
        audio = body.ref_audio if isinstance(body.ref_audio, str) else body.ref_audio[0]
        found = Reference(audio, body.ref_text)
    elif body.ref_text is not None:
        raise InvalidRequest("'ref_text' needs 'ref_audio'.", param="ref_text", code="conflicting_fields")
    if body.references:
        if found is not None:
            raise conflict(["references", "ref_audio"])
        item = body.references[0]
        where = "references.0."
        found = Reference(item.audio_path, item.text, f"{where}audio_path", f"{where}text")
    _check_task(body.task_type, found)
    if found is not None and voice != DEFAULT:
        raise InvalidRequest(
            f"{found.audio_param!r} brings a voice of its own; with it, 'voice' must be \"default\".",
            param="voice",
            code="conflicting_fields",
        )
    return found


def _check_task(task: str | None, found: Reference | None) -> None:
    """Refuse a `task_type` that says something else than the other fields."""
    if task == "VoiceDesign":
        raise InvalidRequest(
            "Voices cannot be made from descriptions here.", param="task_type", code="unsupported_field"
        )
    if task is not None and (task == "Base") != (found is not None):
        needs = "needs 'ref_audio'" if task == "Base" else "names a voice and brings no recording"
        raise InvalidRequest(f"{task!r} {needs}.", param="task_type", code="conflicting_fields")


async def read_reference(reference: Reference, context: Context) -> VoiceSample:
    """Fetch or decode the recording and check it, off the event loop.

    Raises:
        InvalidRequest, Forbidden: it cannot or may not be read.
        InvalidAudio, PayloadTooLarge: no sound, shorter than 1 s, silent, or longer than 30 s.
    """
    param = reference.audio_param
    if ":" in reference.audio[:32]:  # which base64 never has
        data = await read_url(reference.audio, context.config, param)
    else:
        data = await asyncio.to_thread(decode_base64, reference.audio, param)
    async with context.decoders:
        return await asyncio.to_thread(
            make_sample, data, text=reference.text, param=param, text_param=reference.text_param
        )
