"""POST /v1/audio/speech/batch: up to 32 texts in one request, each with its own result or error."""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any

from cadence.errors import CadenceError, InvalidRequest
from cadence.server.context import Context, new_id
from cadence.server.errors import as_cadence_error, error_object
from cadence.server.middleware import where_of
from cadence.server.schema import parse
from cadence.server.schema_answers import ErrorDetail, SpeechBatch, SpeechBatchResult
from cadence.server.schema_speech import SpeechBatchBody, SpeechBody
from cadence.server.speech_job import SpeechJob
from cadence.server.stream import Sender
from cadence.server.usage import speech_usage

__all__ = ["BatchJob"]

_AT_ONCE = 8  # of one batch: others want their turn too

logger = logging.getLogger("cadence.server")


class BatchJob:
    """One batch. What is wrong with it as a whole is refused, what is wrong with an item is that item's.

    Raises:
        InvalidRequest, NotFound: the list or a shared default is not valid.
    """

    def __init__(self, context: Context, data: Any) -> None:
        body = parse(SpeechBatchBody, data)
        context.check_model(body.model)
        self._defaults = {name: value for name, value in data.items() if name != "items"}
        if body.stream or body.stream_format == "sse":
            raise InvalidRequest(
                "A batch is answered as a whole.",
                param="stream" if body.stream else "stream_format",
                code="unsupported_field",
            )
        texts = (item.get("input") for item in body.items)
        num_chars = sum(len(text) for text in texts if isinstance(text, str))
        limit = context.config.max_input_chars
        if num_chars > limit:
            raise InvalidRequest(
                f"The texts have {num_chars} characters together, the limit is {limit}.",
                param="items",
                code="input_too_long",
            )
        self._context, self._items = context, body.items
        self._id = f"speech-batch-{new_id()}"
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def work(self, sender: Sender) -> None:
        """Read every text, answer with all results in order."""
        async with asyncio.TaskGroup() as group:  # leaves no item behind when the client goes
            tasks = [group.create_task(self._result(i, item)) for i, item in enumerate(self._items)]
        results = [task.result() for task in tasks]
        succeeded = sum(result.status == "success" for result in results)
        answer = SpeechBatch(
            id=self._id,
            results=results,
            total=len(results),
            succeeded=succeeded,
            failed=len(results) - succeeded,
        )
        body = await asyncio.to_thread(lambda: answer.model_dump_json().encode())
        await sender.whole(body, {"Content-Type": "application/json"})

    async def _result(self, index: int, item: dict[str, Any]) -> SpeechBatchResult:
        async with self._places:
            try:
                return await self._speak(index, item)
            except Exception as error:  # noqa: BLE001 - the border of one item
                if not isinstance(error, CadenceError):
                    logger.error("bug in an item of a batch: %s", where_of(error))
                detail = ErrorDetail(**error_object(as_cadence_error(error)))
                return SpeechBatchResult(index=index, status="error", error=detail)

    async def _speak(self, index: int, item: dict[str, Any]) -> SpeechBatchResult:
        body = parse(SpeechBody, {**self._defaults, **item})
        if body.stream:
            raise InvalidRequest("A batch is answered as a whole.", param="stream", code="unsupported_field")
        job = SpeechJob(self._context, body.model_copy(update={"stream": False}), f"{self._id}-{index}")
        data, done = await job.file()
        return SpeechBatchResult(
            index=index,
            status="success",
            audio_data=await asyncio.to_thread(lambda: base64.b64encode(data).decode()),
            media_type=job.shape.media_type,
            finish_reason=done.finish_reason,
            usage=speech_usage(done.usage),
        )
