"""vLLM's smaller protocol on the same path: sound in, its words out.

A client of it is known by its first event, a `session.update` with a bare `model`. It then appends 16-bit PCM
at 16 kHz, and commits: with `final` the words of all that was appended come back.
"""

from __future__ import annotations

from typing import Any

from cadence.errors import CadenceError, InvalidRequest
from cadence.server.context import Context
from cadence.server.errors import as_cadence_error
from cadence.server.fetch import decode_base64
from cadence.server.realtime.input_buffer import InputBuffer
from cadence.server.realtime.settings import AudioFormat, Transcription
from cadence.server.realtime.transcriber import transcription_request
from cadence.server.socket import Socket
from cadence.server.stream import closing
from cadence.types import Done, TextDelta

__all__ = ["MiniSession", "speaks_mini"]


def speaks_mini(data: Any) -> bool:
    """Whether an event is one that only this protocol knows."""
    return (
        isinstance(data, dict)
        and data.get("type") == "session.update"
        and "model" in data
        and "session" not in data
    )


class MiniSession:
    """The events of one client. Errors are strings here, as its clients read them."""

    def __init__(self, context: Context, socket: Socket) -> None:
        self._context = context
        self._socket = socket
        self._buffer = InputBuffer(context.config.max_turn_s)
        self._buffer.configure(AudioFormat(type="audio/pcm", rate=16000), None)

    async def take(self, data: Any) -> None:
        """Handle one event."""
        try:
            await self._take(data)
        except CadenceError as error:
            shown = as_cadence_error(error)
            await self._socket.send({"type": "error", "error": str(shown), "code": shown.code})

    async def _take(self, data: Any) -> None:
        kind = data.get("type") if isinstance(data, dict) else None
        if kind == "session.update":
            self._context.check_model(_text(data, "model"))
        elif kind == "input_audio_buffer.append":
            self._buffer.append(decode_base64(_text(data, "audio"), "audio"))
        elif kind == "input_audio_buffer.commit":
            if data.get("final") is True:
                await self._transcribe()
        else:
            raise InvalidRequest("Unknown event type.", param="type", code="unknown_event")

    async def _transcribe(self) -> None:
        request = transcription_request(
            self._context, self._buffer.commit(), Transcription.model_validate({})
        )
        text = ""
        async with closing(self._context.engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    text += event.text
                    await self._socket.send({"type": "transcription.delta", "delta": event.text})
                elif isinstance(event, Done):
                    used = event.usage
                    usage = {
                        "prompt_tokens": used.prompt_tokens,
                        "completion_tokens": used.completion_tokens,
                        "total_tokens": used.prompt_tokens + used.completion_tokens,
                    }
                    await self._socket.send({"type": "transcription.done", "text": text, "usage": usage})


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"'{name}' must be a string.", param=name, code="invalid_value")
    return value
