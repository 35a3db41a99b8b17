"""The stage without threads: sequences in, one step at a time, outputs and errors out."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cadence.errors import CadenceError, InvalidRequest, PromptTooLong, StageFailed
from cadence.models.device_graph import GraphBackend
from cadence.models.step_audio import StepAudio
from cadence.thinker.blocks import BlockPool
from cadence.thinker.pacing import PrefillBudget
from cadence.thinker.prefix import PrefixKeys, audio_digests
from cadence.thinker.runner import ThinkerRunner
from cadence.thinker.scheduler import Scheduler
from cadence.thinker.sequence import Sequence
from cadence.thinker.verbatim import VerbatimSpeech
from cadence.tokens import SpecialIds
from cadence.types import StepOutput, ThinkerRequest

__all__ = ["CoreLimits", "ThinkerCore"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreLimits:
    """`num_ids`: ids that stand for something. `eos_ids` end any answer. `tts_max_wait` as DESIGN has it:
    groups in a row that verbatim speech may wait before its next text id. `reuse_prefixes`: keep the KV
    memory of ended sequences for prompts that begin alike. `speech_ahead_s` and `prefill_stall_s`: see
    `thinker.pacing`."""

    num_ids: int
    eos_ids: tuple[int, ...]
    max_model_len: int
    kv_cache_tokens: int
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 512
    block_size: int = 16
    tts_max_wait: int = 0
    reuse_prefixes: bool = True
    speech_ahead_s: float = math.inf
    prefill_stall_s: float = math.inf


class ThinkerCore:
    """Scheduler, runner and the sequences between them. Not thread-safe: one thread calls everything
    but `check`."""

    def __init__(
        self,
        model: StepAudio,
        special: SpecialIds,
        limits: CoreLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        graphs: GraphBackend | None = None,
    ) -> None:
        """`graphs` captures decode steps (None: all run eagerly)."""
        self.limits = limits
        self._clock = clock
        self._special = special
        pool = BlockPool(limits.kv_cache_tokens // limits.block_size, limits.block_size)
        self.scheduler = Scheduler(
            pool,
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            speech_ahead_s=limits.speech_ahead_s,
        )
        self.runner = ThinkerRunner(
            model,
            special,
            num_ids=limits.num_ids,
            num_blocks=pool.num_blocks,
            block_size=pool.block_size,
            max_num_seqs=limits.max_num_seqs,
            graphs=graphs,
        )
        self._prefill = PrefillBudget(limits.prefill_stall_s)
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = itertools.count()

    # -------------------------------------------------------------- requests
    def check(self, request: ThinkerRequest) -> int:
        """Refuse what cannot run, before anything is held. Returns the number of ids the answer may have.

        Raises:
            InvalidRequest: ids, spans, mels or parameters that do not fit the model.
            PromptTooLong: prompt + max_tokens exceed the context or the KV memory.
        """
        _check_prompt(request, self.runner.model, self.limits.num_ids)
        _check_sampling(request, self.limits.num_ids)
        room = min(self.limits.max_model_len, self.scheduler.pool.tokens_total)
        num_prompt = len(request.prompt.ids)
        wanted = request.sampling.max_tokens
        if num_prompt + (wanted or 1) > room:
            raise PromptTooLong(
                f"The prompt has {num_prompt} tokens and the answer up to {wanted or 1}; together they must "
                f"not exceed {room}.",
                param="max_tokens",
            )
        return wanted or room - num_prompt

    def add(self, request: ThinkerRequest, max_tokens: int, digests: tuple[bytes, ...] | None = None) -> None:
        """Queue a request that `check` let pass; `digests` of its sound, when they are there already.

        Raises:
            InvalidRequest: its id is already in use.
        """
        if request.request_id in self._sequences:
            raise InvalidRequest(
                f"The request id {request.request_id!r} is already in use.", param="request_id"
            )
        eos_ids = self.limits.eos_ids
        verbatim = None
        if request.forced_text_ids is not None:
            eos_ids = (*eos_ids, self._special.tts_end)
            verbatim = VerbatimSpeech(
                request.forced_text_ids,
                tts_pad=self._special.tts_pad,
                end_ids=() if request.sampling.ignore_eos else eos_ids,
                max_wait=self.limits.tts_max_wait,
            )
        sequence = Sequence(
            _without_foreign_stops(request, self.limits.num_ids),
            arrival=next(self._arrivals),
            max_tokens=max_tokens,
            eos_ids=eos_ids,
            verbatim=verbatim,
            prefix_keys=self._prefix_keys(request, digests),
        )
        sequence.start()
        self._sequences[request.request_id] = sequence
        self.scheduler.add(sequence)

    def _prefix_keys(self, request: ThinkerRequest, digests: tuple[bytes, ...] | None) -> PrefixKeys | None:
        if not self.limits.reuse_prefixes:
            return None
        if digests is None:
            digests = audio_digests(request.prompt)
        return PrefixKeys(request.prompt.spans, digests, self.limits.block_size)

    def abort(self, request_id: str) -> bool:
        """Forget a sequence and free its memory; False when there is none of that id."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return False
        self._forget(sequence)
        return True

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return self.scheduler.has_work

    # -------------------------------------------------------------- steps
    def step(self) -> list[tuple[str, StepOutput | CadenceError]]:
        """Run one step. Each pair is a request's new output, or the error that ended it."""
        done = [
            self._finish(sequence) for sequence in list(self._sequences.values()) if sequence.finish_reason
        ]
        try:
            chunks = self.scheduler.schedule(self._clock(), self._prefill.tokens)
        except Exception as error:  # noqa: BLE001 - thread border: nothing that is held can go on
            return [*done, *self._fail(list(self._sequences.values()), error)]
        begin_s = self._clock()
        try:
            results = self.runner.step(chunks)
        except Exception as error:  # noqa: BLE001 - thread border: those of this step fail, the loop goes on
            return [*done, *self._fail([chunk.sequence for chunk in chunks], error)]
        self._prefill.observe(sum(chunk.count for chunk in chunks), self._clock() - begin_s)
        outputs: list[tuple[str, StepOutput | CadenceError]] = list(done)
        for result in results:
            sequence = result.chunk.sequence
            sequence.num_computed += result.chunk.count
            if result.error is not None:
                outputs.append((sequence.request_id, result.error))
                self._forget(sequence, scrub=True)
                continue
            if result.sampled is not None and result.sampled.token_id is not None:
                self.scheduler.publish(sequence)
                sequence.commit(result.sampled.token_id, result.sampled.logprobs)
                if self._special.is_code(result.sampled.token_id):
                    sequence.count_code(self._clock())
            if sequence.finish_reason:
                outputs.append(self._finish(sequence))
            elif output := sequence.take_output():
                outputs.append((sequence.request_id, output))
        return outputs

    def stats(self) -> dict[str, float]:
        """Gauges, named as `thinker.base` lists them."""
        pool = self.scheduler.pool
        return {
            "num_running": len(self.scheduler.running),
            "num_waiting": len(self.scheduler.waiting),
            "kv_tokens_used": pool.tokens_used,
            "kv_tokens_total": pool.tokens_total,
            "kv_tokens_kept": pool.tokens_kept,
            "num_preemptions": self.scheduler.num_preemptions,
            "num_evictions": pool.num_evictions,
        }

    def _finish(self, sequence: Sequence) -> tuple[str, StepOutput]:
        output = sequence.take_output()
        self._forget(sequence)
        return sequence.request_id, output or StepOutput((), sequence.finish_reason)

    def _fail(
        self, sequences: list[Sequence], error: Exception
    ) -> list[tuple[str, StepOutput | CadenceError]]:
        _log.error("a step failed, ending %d sequences", len(sequences), exc_info=error)
        failed: list[tuple[str, StepOutput | CadenceError]] = []
        for sequence in sequences:
            self._forget(sequence, scrub=True)
            failure = StageFailed("The language model failed while it held the request.")
            failure.__cause__ = error
            failed.append((sequence.request_id, failure))
        return failed

    def _forget(self, sequence: Sequence, *, scrub: bool = False) -> None:
        self.runner.release(sequence, scrub=scrub)
        self.scheduler.remove(sequence)
        self._sequences.pop(sequence.request_id, None)


def _check_prompt(request: ThinkerRequest, model: StepAudio, num_ids: int) -> None:
    prompt = request.prompt
    if not prompt.ids:
        raise InvalidRequest("The prompt is empty.", param="prompt")
    for ids, name in ((prompt.ids, "prompt"), (request.forced_text_ids or (), "forced_text_ids")):
        if ids and (min(ids) < 0 or max(ids) >= num_ids):
            raise InvalidRequest(
                f"Ids must be from 0 to {num_ids - 1}, found {min(ids)} to {max(ids)}.", param=name
            )
    if len(prompt.spans) != len(prompt.mels):
        raise InvalidRequest(
            f"The prompt has {len(prompt.spans)} audio spans, but {len(prompt.mels)} mels.", param="prompt"
        )
    config, end = model.audio_config, 0
    for span, mel in zip(prompt.spans, prompt.mels, strict=True):
        if mel.ndim != 2 or mel.shape[0] != config.n_mels or not 3 <= mel.shape[1] <= config.max_frames:
            raise InvalidRequest(
                f"A mel must be [{config.n_mels}, 3 to {config.max_frames}], found {list(mel.shape)}.",
                param="prompt",
            )
        if span.start < end or span.start + span.count > len(prompt.ids):
            raise InvalidRequest(
                "Audio spans must be in order, apart, and within the prompt.", param="prompt"
            )
        if span.count != model.num_patches(mel.shape[1]):
            raise InvalidRequest(
                f"A mel of {mel.shape[1]} frames takes {model.num_patches(mel.shape[1])} patches, "
                f"the prompt has {span.count}.",
                param="prompt",
            )
        end = span.start + span.count


def _without_foreign_stops(request: ThinkerRequest, num_ids: int) -> ThinkerRequest:
    """The request without stop ids that this vocabulary lacks: they can never come, and clients written
    for the public model name its ids."""
    stops = tuple(i for i in request.sampling.stop_token_ids if i < num_ids)
    if stops == request.sampling.stop_token_ids:
        return request
    return replace(request, sampling=replace(request.sampling, stop_token_ids=stops))


def _check_sampling(request: ThinkerRequest, num_ids: int) -> None:
    params = request.sampling
    rules = {
        "temperature": params.temperature >= 0,
        "top_p": 0 < params.top_p <= 1,
        "min_p": 0 <= params.min_p <= 1,
        "repetition_penalty": params.repetition_penalty > 0,
        "max_tokens": params.max_tokens is None or params.max_tokens >= 1,
        "min_tokens": params.min_tokens >= 0,
        "logprobs": params.logprobs is None or params.logprobs >= 0,
    }
    for name, holds in rules.items():
        if not holds:
            raise InvalidRequest(f"{name} is out of range: {getattr(params, name)}.", param=name)
    foreign = [i for i in params.logit_bias if not 0 <= i < num_ids]
    foreign += [i for i in params.stop_token_ids if i < 0]
    if foreign:
        raise InvalidRequest(f"Ids must be from 0 to {num_ids - 1}, found {foreign[0]}.", param="logit_bias")
    if params.logprobs is not None and request.forced_text_ids is not None:
        raise InvalidRequest("logprobs are not available for text that is given.", param="logprobs")
