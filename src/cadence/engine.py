"""The engine: requests in, events out. The one place that joins the stages."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from cadence.answers.admission import Admission
from cadence.answers.answer import Answer, Workshop
from cadence.answers.plan import num_audio_s
from cadence.config import EngineConfig, ServeConfig
from cadence.errors import CadenceError, InvalidRequest, NotReady, RequestAborted, StageFailed
from cadence.metrics import EngineMetrics
from cadence.prompt import PromptBuilder
from cadence.runtime.status import StageStatus
from cadence.text import Tokenizer
from cadence.thinker.base import Thinker
from cadence.token2wav.base import Token2Wav
from cadence.types import Done, EngineHealth, Event, ModelInfo, Request, SamplingParams, VoiceSample

__all__ = ["Engine", "start_engine"]

_STATS_WAIT_S = 1.0
_CLOSE_WAIT_S = 10.0
_MAX_FAILURES = 5  # a stage in this process cannot be started anew: after so many, the process should be

Monitor = Callable[[], StageStatus]


class Engine:
    """Implements `EngineClient` over a Thinker and, unless the server only writes, a Token2Wav.

    Args:
        thinker: the language-model stage, loaded.
        token2wav: the vocoder stage, loaded; None = text answers only.
        tokenizer: of the checkpoint.
        prompt_builder: for the checkpoint's variant.
        info: what is served.
        config: limits.
        default_sampling: defaults by output kind ("text", "speech").
        monitors: a stage's name to a function that tells its state; for stages that may be down.
        single_sentences: the model reads one sentence at a time.
    """

    def __init__(
        self,
        thinker: Thinker,
        token2wav: Token2Wav | None,
        *,
        tokenizer: Tokenizer,
        prompt_builder: PromptBuilder,
        info: ModelInfo,
        config: EngineConfig,
        default_sampling: Mapping[str, SamplingParams],
        monitors: Mapping[str, Monitor] | None = None,
        single_sentences: bool = False,
    ) -> None:
        self._info = info
        self._default_sampling = dict(default_sampling)
        self._monitors = dict(monitors or {})
        self._shop = Workshop(
            thinker=thinker,
            token2wav=token2wav,
            tokenizer=tokenizer,
            prompt_builder=prompt_builder,
            config=config,
            metrics=EngineMetrics(info.model_id),
            admission=Admission(
                config.max_running, config.max_waiting, config.max_queue_s, config.max_waiting_audio_s
            ),
            max_model_len=info.max_model_len,
            default_max_tokens={kind: sampling.max_tokens for kind, sampling in default_sampling.items()},
            single_sentences=single_sentences,
        )
        self._answers: dict[str, Answer] = {}
        self._numbers = itertools.count(1)
        self._num_failures = 0  # of stages, in a row
        self._draining = False
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        """The model being served."""
        return self._info

    @property
    def default_sampling(self) -> Mapping[str, SamplingParams]:
        """Defaults by output kind; the edges lay a request's own fields over them."""
        return self._default_sampling

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""
        return self._shop.tokenizer

    def tokenize(self, text: str) -> list[tuple[int, str]]:
        """Ids of literal text, each with the text it stands for."""
        tokenizer = self.tokenizer
        return [(token, tokenizer.token_text(token)) for token in tokenizer.encode(text)]

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens by name; ids that stand for nothing give nothing."""
        return self.tokenizer.decode(ids, skip_special=False)

    async def generate(self, request: Request) -> AsyncIterator[Event]:
        """Answer one request; see `EngineClient.generate`."""
        try:
            self._check(request)
        except CadenceError as error:
            self._shop.metrics.failed(error)
            raise
        request_id = request.request_id
        # Stages know an answer by a name of its own: the caller may use an id again at once.
        stage_id = f"{request_id}.{next(self._numbers)}"
        answer = Answer(request, self._shop, stage_id=stage_id)
        answer.task.add_done_callback(lambda _: self._forget(request_id, answer))
        self._answers[request_id] = answer
        try:
            while True:
                event = await answer.mailbox.get()
                if isinstance(event, CadenceError):
                    self._num_failures += isinstance(event, StageFailed)
                    raise event
                yield event
                if isinstance(event, Done):
                    self._num_failures = 0
                    return
        finally:
            await answer.leave()
            if answer.task.done():
                self._forget(request_id, answer)

    async def abort(self, request_id: str) -> None:
        """End a request; its reader gets RequestAborted. Unknown ids are ignored."""
        answer = self._answers.get(request_id)
        if answer is not None:
            answer.end(RequestAborted("The request was aborted."))

    async def prepare_voice(self, sample: VoiceSample) -> None:
        """Do the work that a recording's first answer would wait for; see `EngineClient`."""
        if self._shop.token2wav is not None:
            await self._shop.token2wav.prepare_voice(sample)

    async def forget_voice(self, key: str) -> None:
        """Free what is kept for a recording; a stage that is down keeps nothing."""
        if self._shop.token2wav is not None:
            with contextlib.suppress(NotReady, StageFailed):
                await self._shop.token2wav.forget_voice(key)

    def health(self) -> EngineHealth:
        """State now; never blocks."""
        stages = {name: monitor() for name, monitor in self._monitors.items()}
        troubles = [
            f"{name}: {status.detail or status.state}" for name, status in stages.items() if status.down
        ]
        broken = not self._monitors and self._num_failures >= _MAX_FAILURES
        if broken:
            troubles.append("a stage in this process does nothing but fail")
        if self._draining or self._closed:
            troubles.insert(0, "The server is shutting down.")
        return EngineHealth(
            ready=not troubles,
            alive=not (broken or self._closed or any(s.state == "failed" for s in stages.values())),
            detail="; ".join(troubles),
            num_running=self._shop.admission.num_running,
            num_waiting=self._shop.admission.num_waiting,
            stages={name: status.state for name, status in stages.items()},
        )

    async def stats(self) -> Mapping[str, float]:
        """Gauges now; those of a stage that does not answer within a second are left out."""
        found = {
            "num_running": float(self._shop.admission.num_running),
            "num_waiting": float(self._shop.admission.num_waiting),
            "num_answers": float(len(self._answers)),
        }
        for name, stage in self._stages().items():
            with contextlib.suppress(CadenceError, TimeoutError):
                gauges = await asyncio.wait_for(stage.stats(), _STATS_WAIT_S)
                found |= {f"{name}_{key}": value for key, value in gauges.items()}
        return found

    async def render_metrics(self) -> bytes:
        """All metrics in the Prometheus text format."""
        stats = await self.stats()
        stages = {key: value for key, value in stats.items() if key.startswith(("thinker_", "token2wav_"))}
        admission = self._shop.admission
        self._shop.metrics.set_gauges(admission.num_running, admission.num_waiting, stages)
        return self._shop.metrics.render()

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for the running ones; True when all ended in time."""
        self._draining = True
        return await self._wait_for_answers(timeout_s)

    async def aclose(self) -> None:
        """Stop both stages; what still runs ends with NotReady."""
        if self._closed:
            return
        self._draining = self._closed = True
        for answer in list(self._answers.values()):
            answer.end(NotReady("The server is shutting down."))
        await self._wait_for_answers(_CLOSE_WAIT_S)
        await asyncio.gather(*(stage.aclose() for stage in self._stages().values()))

    # ------------------------------------------------------------------ inside
    def _stages(self) -> dict[str, Thinker | Token2Wav]:
        stages: dict[str, Thinker | Token2Wav] = {"thinker": self._shop.thinker}
        if self._shop.token2wav is not None:
            stages["token2wav"] = self._shop.token2wav
        return stages

    def _check(self, request: Request) -> None:
        """Refuse at once what need not wait in the queue."""
        if self._draining:
            raise NotReady("The server is shutting down.", retry_after_s=5)
        if request.request_id in self._answers:
            raise InvalidRequest("A request with this id is running already.", param="request_id")
        needed = ["thinker"]
        if request.output == "speech":
            self._check_voice(request)
            needed.append("token2wav")
        elif request.verbatim is not None:
            raise InvalidRequest("Only a spoken answer can be verbatim.", param="verbatim")
        for name in needed:
            monitor = self._monitors.get(name)
            status = monitor() if monitor is not None else None
            if status is not None and status.down:
                raise NotReady(
                    "A part of the server is restarting.", retry_after_s=max(1, round(status.retry_after_s))
                )
        self._shop.admission.check(num_audio_s(request))

    def _check_voice(self, request: Request) -> None:
        if self._shop.token2wav is None or not self._info.can_speak:
            raise InvalidRequest(
                "This server answers in text only.",
                param="modalities",
                code="no_speech",
                hint="Ask for text, or start the server without thinker_only.",
            )
        voice = request.voice
        if request.voice_sample is None and voice not in ("default", *self._info.voices):
            known = ", ".join(self._info.voices)
            raise InvalidRequest(
                f"There is no voice {voice[:64]!r}; this server has: {known}.",
                param="voice",
                code="voice_not_found",
            )

    async def _wait_for_answers(self, timeout_s: float) -> bool:
        tasks = {answer.task for answer in self._answers.values()}
        if not tasks:
            return True
        _, left = await asyncio.wait(tasks, timeout=timeout_s)
        return not left

    def _forget(self, request_id: str, answer: Answer) -> None:
        if self._answers.get(request_id) is answer:
            del self._answers[request_id]


async def start_engine(
    config: ServeConfig, *, progress: Callable[[str, float], None] | None = None
) -> Engine:
    """Load a checkpoint and start both stages; returns when they are loaded and warm.

    Args:
        config: what to serve and how.
        progress: called with a sentence and a fraction 0..1 while things load.

    Raises:
        ConfigError: the configuration or the checkpoint cannot be served.
        StageFailed: a stage's process died while it loaded.
    """
    from cadence.runtime.launch import launch

    parts = await launch(config, progress or (lambda text, fraction: None))
    return Engine(
        parts.thinker,
        parts.token2wav,
        tokenizer=parts.tokenizer,
        prompt_builder=parts.prompt_builder,
        info=parts.info,
        config=config.engine,
        default_sampling=parts.default_sampling,
        monitors=parts.monitors,
        single_sentences=parts.single_sentences,
    )
