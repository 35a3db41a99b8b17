"""Prepared voices: the flow's state after each voice's prompt, computed once and bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from cadence.models.flow_sampler import FlowSampler
from cadence.models.flow_stream import VoiceState
from cadence.token2wav.voices import VoicePrompt, VoiceStore

__all__ = ["VoiceCache", "prompt_tensors"]


class VoiceCache:
    """Least recently used voices go first; the newest always stays, whatever its size.

    Preparing runs in one thread of its own, so that streams go on meanwhile; a voice that several ask
    for at once is prepared once.
    """

    def __init__(
        self, store: VoiceStore, sampler: FlowSampler, *, max_bytes: int, start_thread: Callable[[], None]
    ) -> None:
        """`start_thread` runs first in the preparing thread (thread counts)."""
        self._store, self._sampler, self._max_bytes = store, sampler, max_bytes
        self._lock = threading.Lock()
        self._ready: OrderedDict[str, VoiceState] = OrderedDict()  # by the prompt's key
        self._keys: dict[str, str] = {}  # names, several of which may mean one prompt
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="voices", initializer=start_thread)

    def state(self, name: str) -> Future[VoiceState]:
        """The prepared voice, at once if it is cached.

        The future raises what the store raises for an unknown or unreadable voice.
        """
        with self._lock:
            state = self._ready.get(self._keys.get(name, ""))
            if state is None:
                return self._pool.submit(self._prepare, name)
            self._ready.move_to_end(self._keys[name])
        done: Future[VoiceState] = Future()
        done.set_result(state)
        return done

    def prompt(self, name: str) -> Future[VoicePrompt]:
        """The voice's prompt alone, which is all that a whole utterance needs."""
        return self._pool.submit(self._store.prompt, name)

    def _prepare(self, name: str) -> VoiceState:
        prompt = self._store.prompt(name)
        with self._lock:
            state = self._ready.get(prompt.key)
        if state is None:
            state = self._sampler.prepare(*prompt_tensors(prompt))
        with self._lock:
            self._keys[name] = prompt.key
            self._ready[prompt.key] = state
            self._ready.move_to_end(prompt.key)
            while len(self._ready) > 1 and self._bytes() > self._max_bytes:
                key, _ = self._ready.popitem(last=False)
                self._keys = {known: of for known, of in self._keys.items() if of != key}
        return state

    def _bytes(self) -> int:
        return sum(state.num_bytes for state in self._ready.values())

    @property
    def num_bytes(self) -> int:
        """Memory of the cached voices."""
        with self._lock:
            return self._bytes()

    def close(self) -> None:
        """Stop preparing; what is under way ends first."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def prompt_tensors(prompt: VoicePrompt) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [P], mel [2P, 80] and embedding [192] of a prompt."""
    return (
        torch.as_tensor(prompt.codes).long(),
        torch.as_tensor(prompt.mel),
        torch.as_tensor(prompt.embedding),
    )
