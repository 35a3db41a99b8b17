"""POST /v1/chat/completions: messages in, text or speech out."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from cadence.audio.encode import ENCODERS
from cadence.errors import InvalidRequest
from cadence.prompt import strip_tts_start
from cadence.server.body import read_json
from cadence.server.chat_answer import ChatAnswer, ChatShape
from cadence.server.chat_stream import stream_chat
from cadence.server.context import Context, new_id
from cadence.server.fanout import generate_all
from cadence.server.messages import check_length, read_messages
from cadence.server.openapi import CHAT_ROUTE
from cadence.server.sampling import audio_seed, chat_sampling, wants_logprobs, with_seed_offset
from cadence.server.schema import parse
from cadence.server.schema_chat import ChatBody
from cadence.server.stream import Answer, Sender, closing
from cadence.server.voice import choose_voice
from cadence.types import Event, Message, Request

__all__ = ["chat_router"]

_FORMATS = {**{name: name for name in ENCODERS}, "pcm16": "pcm"}


def chat_router(context: Context) -> APIRouter:
    """The route, bound to a server's context."""
    router = APIRouter()

    @router.post("/v1/chat/completions", **CHAT_ROUTE)
    async def create_chat_completion(request: HttpRequest) -> Response:
        """Answer messages, in text or in speech."""
        config = context.config
        data = await read_json(request, max_bytes=config.max_body_bytes, stall_s=config.body_stall_s)
        job = _ChatJob(context, parse(ChatBody, data))
        return Answer(job.work, stall_s=config.send_stall_s)

    return router


class _ChatJob:
    """One chat request, checked as far as possible before its audio is read.

    Raises:
        InvalidRequest, NotFound: what the schema cannot check.
    """

    def __init__(self, context: Context, body: ChatBody) -> None:
        self._context = context
        self._body = body
        self._model = context.check_model(body.model)
        check_length(body.messages, context.config.max_input_chars)
        self._voice = choose_voice(
            context.engine.info,
            audio__voice=body.audio.voice if body.audio else None,
            voice=body.voice,
            speaker=body.speaker,
        )
        self._format = _audio_format(body)
        for defaults in context.engine.default_sampling.values():
            chat_sampling(body, defaults)  # refuses contradictions before audio is fetched
        if _asks_for_speech(body) and not context.engine.info.can_speak:
            raise InvalidRequest("This server answers in text only.", param="modalities", code="no_speech")

    async def work(self, sender: Sender) -> None:
        """Read the audio, ask the engine, answer."""
        body = self._body
        messages, marked = strip_tts_start(await read_messages(body.messages, self._context))
        if not messages:
            raise InvalidRequest("There is nothing to answer.", param="messages")
        chat_id = f"chatcmpl-{new_id()}"
        speech = _asks_for_speech(body) or (marked and body.modalities is None)
        shape = ChatShape(
            chat_id=chat_id,
            model=self._model,
            audio_format=self._format if speech else None,
            # Clients that name modalities know OpenAI's shape: what is spoken is in the transcript.
            # Others, written for vLLM-Omni, look for it in the content.
            text_in_content=not speech or body.modalities is None,
            with_logprobs=wants_logprobs(body),
            with_usage=bool(body.stream_options and body.stream_options.include_usage),
        )
        requests = self._requests(chat_id, messages, speech)
        async with closing(self._events(requests)) as events:
            if body.stream:
                await stream_chat(sender, events, shape, len(requests))
            else:
                answers = [ChatAnswer(shape, i) for i in range(len(requests))]
                async for index, event in events:
                    answers[index].add(event)
                completion = await asyncio.to_thread(
                    shape.completion, answers
                )  # minutes of sound take a while
                await sender.whole(completion, {"Content-Type": "application/json"})

    def _events(self, requests: list[Request]) -> AsyncIterator[tuple[int, Event]]:
        return generate_all(self._context.engine, requests)

    def _requests(self, chat_id: str, messages: tuple[Message, ...], speech: bool) -> list[Request]:
        """`n` requests for the engine, alike but for id and seed."""
        body = self._body
        sampling = chat_sampling(body, self._context.engine.default_sampling["speech" if speech else "text"])
        base = Request(
            request_id=chat_id,
            messages=messages,
            output="speech" if speech else "text",
            voice=self._voice,
            sampling=sampling,
            audio_seed=audio_seed(body),
        )
        num_answers = body.n or 1
        if num_answers == 1:
            return [base]
        return [
            dataclasses.replace(base, request_id=f"{chat_id}-{i}", sampling=with_seed_offset(sampling, i))
            for i in range(num_answers)
        ]


def _asks_for_speech(body: ChatBody) -> bool:
    """Whether a field asks for speech; a literal `<tts_start>` is looked for later, in the messages."""
    if body.modalities is None:
        return body.audio is not None
    if "audio" not in body.modalities and body.audio is not None:
        raise InvalidRequest(
            "'audio' needs \"audio\" among the modalities.", param="audio", code="conflicting_fields"
        )
    return "audio" in body.modalities


def _audio_format(body: ChatBody) -> str:
    """The encoder's name for how spoken answers are written."""
    asked = (body.audio.format if body.audio else None) or ("pcm16" if body.stream else "wav")
    if asked not in _FORMATS:
        raise InvalidRequest(
            f"Audio format {asked[:40]!r} is not supported; use one of: {', '.join(sorted(_FORMATS))}.",
            param="audio.format",
            code="unsupported_format",
        )
    return _FORMATS[asked]
