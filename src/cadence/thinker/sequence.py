"""One request inside the stage: its ids, how far they are computed, and when it ends. No tensors."""

from __future__ import annotations

import random
from collections.abc import Collection

from cadence.thinker.prefix import PrefixKeys
from cadence.thinker.verbatim import VerbatimSpeech
from cadence.types import FinishReason, Prompt, SamplingParams, StepOutput, ThinkerRequest

__all__ = ["Sequence"]

Logprobs = tuple[float, tuple[tuple[int, float], ...]]


class Sequence:
    """Ids of prompt and answer; keys and values exist for the first `num_computed` of them.

    Attributes:
        arrival: rank in order of arrival; a smaller one has precedence.
        ids: prompt, then answer.
        row: index of its row in per-row tensors while it runs, else None.
        blocks: its KV blocks, in token order.
        num_prefill: ids there were at admission; up to here they are computed in chunks.
        num_admissions: how often it was admitted; more than once after a preemption.
        num_published: of its blocks, how many others may share.
        num_cached: ids of the prompt that were there already when it was first admitted.
        rng: this request's own random numbers, so that a seed gives the same answer in any batch.
        num_codes: speech codes of the answer so far; `speaking_since_s` is when the first was written.
        finish_reason: set once, by `commit` or `start`.
    """

    def __init__(
        self,
        request: ThinkerRequest,
        *,
        arrival: int,
        max_tokens: int,
        eos_ids: Collection[int],
        verbatim: VerbatimSpeech | None = None,
        prefix_keys: PrefixKeys | None = None,
    ) -> None:
        """Args: `prefix_keys` names its blocks; None = they are shared with nobody."""
        self.request_id = request.request_id
        self.prompt: Prompt = request.prompt
        self.sampling: SamplingParams = request.sampling
        self.verbatim = verbatim
        self.prefix_keys = prefix_keys
        self.arrival = arrival
        self.max_tokens = max_tokens
        self.ids = list(request.prompt.ids)
        self.num_prompt = len(self.ids)
        self.num_computed = 0
        self.num_prefill = self.num_prompt
        self.num_admissions = 0
        self.num_published = 0
        self.num_cached = 0
        self.row: int | None = None
        self.blocks: list[int] = []
        self.num_codes = 0
        self.speaking_since_s: float | None = None
        self.rng = random.Random(self.sampling.seed)
        self.finish_reason: FinishReason | None = None
        self.stop_match: int | None = None
        self._stop_ids = frozenset(self.sampling.stop_token_ids)
        self._eos_ids = frozenset() if self.sampling.ignore_eos else frozenset(eos_ids)
        self._unsent: list[int] = []
        self._unsent_logprobs: list[Logprobs] = []

    @property
    def num_output(self) -> int:
        """Ids of the answer so far."""
        return len(self.ids) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Ids not computed yet."""
        return len(self.ids) - self.num_computed

    @property
    def is_spoken(self) -> bool:
        """Whether the answer is speech: it must be, or has begun to be."""
        return self.verbatim is not None or self.num_codes > 0

    def count_code(self, now_s: float) -> None:
        """A speech code was written."""
        self.num_codes += 1
        if self.speaking_since_s is None:
            self.speaking_since_s = now_s

    @property
    def in_prefill(self) -> bool:
        """Whether ids that it was admitted with are still to be computed."""
        return self.num_computed < self.num_prefill

    @property
    def blocked_ids(self) -> tuple[int, ...]:
        """Ids that may not come next: all that would end an answer shorter than `min_tokens`."""
        if self.num_output >= self.sampling.min_tokens:
            return ()
        return tuple(self._stop_ids | self._eos_ids)

    def start(self) -> None:
        """Write the ids that the request itself decides before anything is sampled."""
        self._push_forced()

    def commit(self, sampled: int, logprobs: Logprobs | None = None) -> None:
        """Take a sampled id, and with it every id that must follow it."""
        self._push(self.verbatim.resolve(sampled) if self.verbatim else sampled)
        if logprobs is not None:
            self._unsent_logprobs.append(logprobs)
        self._push_forced()

    def take_output(self) -> StepOutput | None:
        """What the reader has not been sent yet; None when there is nothing."""
        if not self._unsent and self.finish_reason is None:
            return None
        ids, logprobs = tuple(self._unsent), tuple(self._unsent_logprobs)
        self._unsent.clear()
        self._unsent_logprobs.clear()
        return StepOutput(ids, self.finish_reason, self.stop_match, logprobs, self.num_cached)

    def _push_forced(self) -> None:
        while self.verbatim and self.finish_reason is None and (forced := self.verbatim.forced()) is not None:
            self._push(forced)

    def _push(self, token_id: int) -> None:
        self.ids.append(token_id)
        self._unsent.append(token_id)
        if self.verbatim:
            self.verbatim.push(token_id)
            ended = self.verbatim.ended or token_id in self._stop_ids
        else:
            ended = token_id in self._eos_ids or token_id in self._stop_ids
        if ended:
            self.finish_reason, self.stop_match = "stop", token_id
        elif self.num_output >= self.max_tokens or (self.verbatim and self.verbatim.exhausted):
            self.finish_reason = "length"
