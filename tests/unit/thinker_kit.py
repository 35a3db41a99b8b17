"""A small Thinker and requests for it, shared by the engine tests."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cadence.errors import CadenceError
from cadence.models.device_graph import GraphBackend
from cadence.models.step_audio import StepAudio, load_step_audio
from cadence.text import Tokenizer
from cadence.thinker.core import CoreLimits, ThinkerCore
from cadence.types import AudioSpan, FinishReason, Prompt, SamplingParams, StepOutput, ThinkerRequest

Answer = tuple[tuple[int, ...], FinishReason | None]


class Kit:
    """The model of one checkpoint on one device; makes cores that share its weights."""

    def __init__(self, root: Path, device: str) -> None:
        torch.set_num_threads(1)
        self.tokenizer = Tokenizer.open(root)
        self.special = self.tokenizer.special
        self.model: StepAudio = load_step_audio(root, device=torch.device(device), dtype="float32")
        self.model.prepare()
        self._alone: dict[str, Answer] = {}

    def alone(self) -> dict[str, Answer]:
        """Each request of the variety run by itself, whole prompt in one eager step."""
        if not self._alone:
            core = self.core()
            for request in self.variety():
                self._alone.update(run_all(core, [request]))
        return self._alone

    def core(self, graphs: GraphBackend | None = None, **limits: Any) -> ThinkerCore:
        """An engine with room for everything, unless `limits` say otherwise; eager without `graphs`."""
        settings = {"max_model_len": 2048, "kv_cache_tokens": 4096, **limits}
        return ThinkerCore(
            self.model,
            self.special,
            CoreLimits(num_ids=self.tokenizer.num_ids, eos_ids=self.special.stop_ids, **settings),
            graphs=graphs,
        )

    def request(
        self,
        name: str,
        *,
        num_ids: int = 20,
        frames: tuple[int, ...] = (),
        say: str | None = None,
        **sampling: object,
    ) -> ThinkerRequest:
        """A prompt of text and, for each of `frames`, a piece of sound; the same for the same name."""
        rng = random.Random(name)
        ids = [rng.randrange(256) for _ in range(num_ids)]
        spans, mels = [], []
        for index, count in enumerate(frames):
            patches = self.model.num_patches(count)
            spans.append(AudioSpan(len(ids) + 1, patches))
            ids += [
                self.special.audio_start,
                *[self.special.audio_patch] * patches,
                self.special.audio_end,
                65,
            ]
            noise = np.random.default_rng(index + len(name)).standard_normal((128, count))
            mels.append(noise.astype(np.float32))
        return ThinkerRequest(
            request_id=name,
            prompt=Prompt(ids=tuple(ids), spans=tuple(spans), mels=tuple(mels)),
            sampling=SamplingParams(**{"max_tokens": 16, "ignore_eos": True, **sampling}),  # type: ignore[arg-type]
            forced_text_ids=None if say is None else tuple(self.tokenizer.encode(say)),
        )

    def variety(self) -> list[ThinkerRequest]:
        """Requests that differ in everything a batch may mix."""
        usual = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.05}
        return [
            self.request("greedy", temperature=0),
            self.request("usual", num_ids=45, seed=1, **usual),
            self.request("heard", num_ids=5, frames=(302, 99), seed=2, **usual),
            self.request("heard greedy", num_ids=3, frames=(150,), temperature=0, max_tokens=9),
            self.request("said", say="Good morning", seed=3, max_tokens=40, **usual),
            self.request("plain", num_ids=1, seed=4, temperature=1.3),
            self.request("counted", seed=5, frequency_penalty=0.5, presence_penalty=0.5, top_k=40),
        ]


@cache
def kit_of(root: Path, device: str) -> Kit:
    """One kit for all tests of a checkpoint on a device: loading is most of their time."""
    return Kit(root, device)


def add(core: ThinkerCore, request: ThinkerRequest) -> None:
    """Check and queue, as the thread does."""
    core.add(request, core.check(request))


def collect(core: ThinkerCore, answers: dict[str, StepOutput | CadenceError]) -> None:
    """Run one step and join each request's outputs."""
    for request_id, item in core.step():
        before = answers.get(request_id)
        if isinstance(item, StepOutput) and isinstance(before, StepOutput):
            item = StepOutput(
                before.ids + item.ids, item.finish_reason, item.stop_match, before.logprobs + item.logprobs
            )
        answers[request_id] = item


def run_all(core: ThinkerCore, requests: list[ThinkerRequest]) -> dict[str, Answer]:
    """Run requests to their ends, all at once; an error is raised."""
    answers: dict[str, StepOutput | CadenceError] = {}
    for request in requests:
        add(core, request)
    while core.has_work:
        collect(core, answers)
    finished: dict[str, Answer] = {}
    for name, item in answers.items():
        if isinstance(item, CadenceError):
            raise item
        finished[name] = (item.ids, item.finish_reason)
    return finished


def idle(core: ThinkerCore) -> bool:
    """Whether nothing at all is held."""
    stats = core.stats()
    return (
        not any(stats[name] for name in ("num_running", "num_waiting", "kv_tokens_used"))
        and not core.runner._audio
    )
