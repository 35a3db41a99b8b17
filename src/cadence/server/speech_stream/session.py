"""One client's stream: its messages, and what each does."""

from __future__ import annotations

import logging
from typing import Any

from cadence.errors import CadenceError, InvalidRequest, PayloadTooLarge
from cadence.server.body import parse_json
from cadence.server.context import Context
from cadence.server.errors import as_cadence_error
from cadence.server.middleware import where_of
from cadence.server.socket import GOING_AWAY, POLICY, Socket, SocketGone
from cadence.server.speech_job import SpeechJob
from cadence.server.speech_stream.schema import (
    InputCancel,
    InputDone,
    InputText,
    StreamConfig,
    parse_config,
    parse_message,
)
from cadence.server.speech_stream.speaker import Sentence, Speaker, UtteranceEnd, error_message
from cadence.server.speech_stream.splitter import TextSplitter

__all__ = ["CONFIG_WAIT_S", "SpeechStream"]

CONFIG_WAIT_S = 10.0
MAX_CONFIG_BYTES = 4 << 20
MAX_TEXT_BYTES = 128 << 10

logger = logging.getLogger("cadence.server")


class SpeechStream:
    """Works on a socket: utterances one after the other, each of one or more sentences.

    Messages are handled at once, also while sound is being made: that is what makes `input.cancel` quick.
    """

    def __init__(self, socket: Socket, context: Context) -> None:
        self._socket = socket
        self._context = context
        self._speaker = Speaker(context, socket)
        self._config: StreamConfig | None = None
        self._splitter = TextSplitter("none")
        self._utterance = 0  # the one being written
        self._num_sentences = 0  # of it, so far
        self._open = False  # some of its text is there

    async def run(self) -> None:
        """Serve until the client leaves; see `Worker.run`."""
        try:
            while True:
                message = await self._receive()
                if message is None or not await self._take(message):
                    return
        finally:
            await self._speaker.aclose()

    async def settle(self) -> None:
        """Wait until all is read; see `Worker.settle`."""
        await self._speaker.settle()

    async def _receive(self) -> str | bytes | None:
        """The next message; None = silence for too long, of which the client has been told."""
        while True:
            wait_s = CONFIG_WAIT_S if self._config is None else self._context.config.socket_idle_s
            try:
                return await self._socket.receive(wait_s)
            except TimeoutError:
                if self._speaker.busy:
                    continue  # it listens
                awaited = "No session.config came" if self._config is None else "No message came"
                error = InvalidRequest(f"{awaited} for {wait_s:g} seconds.", code="idle_timeout")
                await self._socket.send(error_message(error))
                await self._socket.close(GOING_AWAY, "idle")
                return None

    async def _take(self, message: str | bytes) -> bool:
        """Handle one message; False ends the stream."""
        try:
            return await self._handle(_parse(message))
        except SocketGone:
            raise
        except Exception as error:  # noqa: BLE001 - the border of one message
            if not isinstance(error, CadenceError):
                logger.error("bug in a speech stream: %s", where_of(error))
            await self._socket.send(error_message(as_cadence_error(error)))
            if self._config is None:
                await self._socket.close(POLICY, "session.config expected")
            return self._config is not None

    async def _handle(self, data: dict[str, Any]) -> bool:
        if data.get("type") == "session.config":
            await self._configure(data)
            return True
        if self._config is None:
            raise InvalidRequest("The first message must be a session.config.", param="type")
        message = parse_message(data)
        if isinstance(message, InputText):
            self._write(message.text, self._config)
        elif isinstance(message, InputDone):
            self._finish(self._config)
        elif isinstance(message, InputCancel):
            await self._cancel()
        else:
            await self._speaker.settle()
            return False
        return True

    async def _configure(self, data: dict[str, Any]) -> None:
        if self._open:
            raise InvalidRequest(
                "An utterance is being written; finish or cancel it first.", code="utterance_in_progress"
            )
        config = parse_config(data)
        job = SpeechJob(self._context, config.speech("."), "check")  # raises what only the server knows
        config.sample = await job.read_sample()
        self._config = config
        self._splitter = TextSplitter(config.granularity)

    def _write(self, text: str, config: StreamConfig) -> None:
        self._speaker.check_room(self._splitter.num_held + len(text))
        self._open = self._open or bool(text)
        self._speak(self._splitter.feed(text), config)

    def _finish(self, config: StreamConfig) -> None:
        self._speak(self._splitter.flush(), config)
        self._speaker.put(UtteranceEnd(self._utterance))
        self._next()

    async def _cancel(self) -> None:
        """Nothing of what was sent so far is heard any more; the answer says so, and where it stopped."""
        stopped = self._utterance if self._open else self._utterance - 1 if self._speaker.busy else None
        events = self._speaker.stop()
        self._splitter.flush()
        if self._open:
            self._next()
        await self._socket.send(*events, {"type": "input.cancelled", "utterance_index": stopped})

    def _speak(self, units: list[str], config: StreamConfig) -> None:
        for unit in units:
            self._speaker.put(Sentence(self._utterance, self._num_sentences, unit, config))
            self._num_sentences += 1

    def _next(self) -> None:
        self._utterance += 1
        self._num_sentences, self._open = 0, False


def _parse(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        raise InvalidRequest("Messages are JSON texts, not binary.", code="invalid_json")
    raw = message.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_CONFIG_BYTES:
        raise PayloadTooLarge(f"A message has {MAX_CONFIG_BYTES} bytes at most.")
    data = parse_json(raw)
    if not isinstance(data, dict):
        raise InvalidRequest("A message is a JSON object.", code="invalid_json")
    if len(raw) > MAX_TEXT_BYTES and data.get("type") != "session.config":
        raise PayloadTooLarge(f"A message of this type has {MAX_TEXT_BYTES} bytes at most.")
    return data
