"""Prepared voices: the flow's state after each voice's prompt, computed once and bounded in bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from cadence.models.flow_sampler import FlowSampler
from cadence.models.flow_stream import VoiceState
from cadence.token2wav.byte_lru import ByteLru
from cadence.token2wav.voices import DEFAULT_VOICE, VoicePrompt, VoiceStore
from cadence.types import SpeechRequest, VoiceSample

__all__ = ["VoiceCache", "prompt_tensors"]

_MAX_PROMPT_BYTES = 64 << 20  # of recordings brought along: half a megabyte each at most

T = TypeVar("T")


class VoiceCache:
    """Least recently used voices go first; the default and the newest always stay, whatever their size.

    A voice is known by the digest of its recording, never by its name: the same recording under another
    name is prepared already, and another recording under the same name is another voice.

    Preparing runs in one thread of its own, so that streams go on meanwhile; a voice that several ask
    for at once is prepared once.
    """

    def __init__(
        self, store: VoiceStore, sampler: FlowSampler, *, max_bytes: int, start_thread: Callable[[], None]
    ) -> None:
        """`start_thread` runs first in the preparing thread (thread counts)."""
        self._store, self._sampler = store, sampler
        self._lock = threading.Lock()
        self._states: ByteLru[VoiceState] = ByteLru(max_bytes)
        self._prompts: ByteLru[VoicePrompt] = ByteLru(min(max_bytes, _MAX_PROMPT_BYTES))
        self._keys: dict[str, str] = {}  # of the checkpoint's own voices, by name
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="voices", initializer=start_thread)
        self.num_encoded = self.num_prepared = 0

    def state(self, request: SpeechRequest) -> Future[VoiceState]:
        """The prepared voice of a request, at once if it is cached; cancel the future when it is no
        longer wanted.

        It raises what the store raises for an unknown or unreadable voice, or InvalidAudio for a
        recording that the request brought.
        """
        return self.prepare(request.voice, request.voice_sample)

    def prepare(self, name: str, sample: VoiceSample | None = None) -> Future[VoiceState]:
        """The same, without a request."""
        with self._lock:
            key = self._keys.get(name) if sample is None else sample.key
            state = None if key is None else self._states.get(key)
        return self._pool.submit(self._prepare, name, sample) if state is None else _done(state)

    def prompt(self, request: SpeechRequest) -> Future[VoicePrompt]:
        """The voice's prompt alone, which is all that a whole utterance needs."""
        sample = request.voice_sample
        with self._lock:
            prompt = None if sample is None else self._prompts.get(sample.key)
        return self._pool.submit(self._prompt, request.voice, sample) if prompt is None else _done(prompt)

    def forget(self, key: str) -> None:
        """Let go of a recording's state; streams that speak with it keep it until they end."""
        self._drop(key)
        self._pool.submit(self._drop, key)  # and what is being prepared just now

    @property
    def num_bytes(self) -> int:
        """Memory of the cached voices."""
        with self._lock:
            return self._states.num_bytes + self._prompts.num_bytes

    def close(self) -> None:
        """Stop preparing; what is under way ends first."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._store.close()

    # ------------------------------------------------------------------ in the preparing thread
    def _prepare(self, name: str, sample: VoiceSample | None) -> VoiceState:
        prompt = self._prompt(name, sample)
        with self._lock:
            state = self._states.get(prompt.key)
        if state is None:
            state = self._sampler.prepare(*prompt_tensors(prompt))
            self.num_prepared += 1
        with self._lock:
            if sample is None:
                self._keys[name] = prompt.key
            self._states.put(prompt.key, state, keep=sample is None and name == DEFAULT_VOICE)
        return state

    def _prompt(self, name: str, sample: VoiceSample | None) -> VoicePrompt:
        if sample is None:
            return self._store.prompt(name)
        with self._lock:
            prompt = self._prompts.get(sample.key)
        if prompt is None:
            prompt = self._store.encode(sample)
            self.num_encoded += 1
            with self._lock:
                self._prompts.put(sample.key, prompt)
        return prompt

    def _drop(self, key: str) -> None:
        with self._lock:
            self._prompts.drop(key)
            if key not in self._keys.values():  # an upload of the checkpoint's own recording
                self._states.drop(key)


def _done(value: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(value)
    return future


def prompt_tensors(prompt: VoicePrompt) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [P], mel [2P, 80] and embedding [192] of a prompt."""
    return (
        torch.as_tensor(prompt.codes).long(),
        torch.as_tensor(prompt.mel),
        torch.as_tensor(prompt.embedding),
    )
