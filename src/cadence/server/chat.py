"""POST /v1/chat/completions: messages in, text or speech out."""

from __future__ import annotations

import asyncio
import dataclasses

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from cadence.errors import InvalidRequest
from cadence.prompt import strip_tts_start
from cadence.server.body import read_json
from cadence.server.chat_answer import ChatAnswer, ChatShape
from cadence.server.chat_plan import (
    asks_for_speech,
    audio_format,
    chosen_call,
    schemas_text,
    tools_in_use,
    turn_of,
    with_tools,
)
from cadence.server.chat_stream import stream_chat
from cadence.server.context import Context, new_id
from cadence.server.fanout import generate_all
from cadence.server.messages import check_length, read_messages
from cadence.server.openapi import CHAT_ROUTE
from cadence.server.reply import ReplyPlan
from cadence.server.sampling import audio_seed, chat_sampling, wants_logprobs, with_seed_offset
from cadence.server.schema import conflict, parse
from cadence.server.schema_chat import ChatBody
from cadence.server.stream import Answer, Sender, closing
from cadence.server.voice import choose_voice
from cadence.tokens import TEXT_MARKERS
from cadence.types import Message, Request

__all__ = ["chat_router"]


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
        self._tools = tools_in_use(body)
        self._call = chosen_call(body)
        self._turn = turn_of(body)
        num_more = len(schemas_text(self._tools)) if self._tools else 0
        check_length(body.messages, context.config.max_input_chars, num_more)
        self._voice = choose_voice(
            context.engine.info,
            audio__voice=body.audio.voice if body.audio else None,
            voice=body.voice,
            speaker=body.speaker,
        )
        self._format = audio_format(body)
        self._speaks = asks_for_speech(body)
        for defaults in context.engine.default_sampling.values():
            chat_sampling(body, defaults)  # refuses contradictions before audio is fetched
        if self._speaks and not context.engine.info.can_speak:
            raise InvalidRequest("This server answers in text only.", param="modalities", code="no_speech")
        if self._call is not None and self._turn != "new":
            raise conflict(("tool_choice", "continue_final_message"))
        if self._speaks and self._turn == "none":
            raise conflict(("add_generation_prompt", "modalities"))

    async def work(self, sender: Sender) -> None:
        """Read the audio, ask the engine, answer."""
        body = self._body
        messages, marked = strip_tts_start(await read_messages(body.messages, self._context))
        if not messages:
            raise InvalidRequest("There is nothing to answer.", param="messages")
        if self._turn == "continue" and messages[-1].role != "assistant":
            self._turn = "new"  # the open message held the marker alone
        speech = self._speaks or (marked and body.modalities is None and body.tts_output is None)
        speech = speech and self._call is None  # a call is written, not spoken
        shape = self._shape(speech)
        requests = self._requests(shape.chat_id, with_tools(messages, self._tools), speech)
        async with closing(generate_all(self._context.engine, requests)) as events:
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

    def _shape(self, speech: bool) -> ChatShape:
        """What the answer is to look like."""
        body, info = self._body, self._context.engine.info
        thinks = info.thinks and not speech and self._turn == "new" and self._call is None
        return ChatShape(
            chat_id=f"chatcmpl-{new_id()}",
            model=self._model,
            audio_format=self._format if speech else None,
            # Clients that name modalities know OpenAI's shape: what is spoken is in the transcript.
            # Others, written for vLLM-Omni, look for it in the content.
            text_in_content=not speech or body.modalities is None,
            with_logprobs=wants_logprobs(body),
            with_usage=bool(body.stream_options and body.stream_options.include_usage),
            reply=ReplyPlan(
                thinks=thinks and body.separate_reasoning is not False,
                tools=bool(self._tools),
                call=self._call,
            ),
            spoken=self._context.spoken,
        )

    def _requests(self, chat_id: str, messages: tuple[Message, ...], speech: bool) -> list[Request]:
        """`n` requests for the engine, alike but for id and seed."""
        body = self._body
        sampling = chat_sampling(body, self._context.engine.default_sampling["speech" if speech else "text"])
        if self._tools and body.parallel_tool_calls is False:
            sampling = dataclasses.replace(sampling, stop=(*sampling.stop, TEXT_MARKERS["tool_call_end"]))
        base = Request(
            request_id=chat_id,
            messages=messages,
            output="speech" if speech else "text",
            voice=self._voice,
            sampling=sampling,
            audio_seed=audio_seed(body),
            turn=self._turn,
            call=self._call,
            with_codes=speech,
        )
        num_answers = body.n or 1
        if num_answers == 1:
            return [base]
        return [
            dataclasses.replace(base, request_id=f"{chat_id}-{i}", sampling=with_seed_offset(sampling, i))
            for i in range(num_answers)
        ]
