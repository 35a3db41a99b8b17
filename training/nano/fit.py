"""The training loop of every stage: schedule by steps, logs, checkpoints that continue exactly, clean stops.

A stage gives a `Task`; `fit` runs it up to `num_steps`. SIGTERM and SIGINT finish the step, save and leave.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.nano import settings

Stats = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained and how. `loss` draws its batch from the generator it is given."""

    name: str
    module: nn.Module
    loss: Callable[[np.random.Generator], tuple[Tensor, Stats]]
    num_steps: int
    learning_rate: float
    validate: Callable[[], Stats] | None = None
    warmup_steps: int = 200
    final_rate: float = 0.03
    decay_part: float = 0.25
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    max_norm: float = 1.0
    average: float = 0.0
    validate_every: int = 500
    sizes: Mapping[str, Any] = field(default_factory=dict)


class _Run:
    """A training in progress: everything that a checkpoint must hold."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.folder = stage_dir(task.name)
        self.rng = np.random.default_rng(settings.SEED)
        torch.manual_seed(settings.SEED)
        self.parameters = [p for p in task.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=task.learning_rate,
            betas=task.betas,
            weight_decay=task.weight_decay,
            fused=True,
        )
        self.step, self.seconds = 0, 0.0
        self.mean: dict[str, float] = {}
        self.average = {k: v.clone() for k, v in task.module.state_dict().items()} if task.average else {}
        self.stopped = False

    def load(self) -> None:
        """Continue from the last checkpoint if there is one, else from given weights if there are any."""
        file = self.folder / "last.pt"
        if not file.exists():
            self._begin()
            return
        state = torch.load(file, weights_only=False)  # our own file: holds the generators' states
        self.task.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])
        self.step, self.seconds, self.mean = state["step"], state["seconds"], state["mean"]
        self.average = state["average"]

    def _begin(self) -> None:
        """Take the weights of `start.pt`; what it does not hold, heads for training alone, stays fresh."""
        file = self.folder / "start.pt"
        if not file.exists():
            return
        missing, unexpected = self.task.module.load_state_dict(torch.load(file), strict=False)
        if unexpected:
            raise ValueError(f"{file} holds unknown weights: {unexpected[:3]}")
        print(f"{self.task.name}: begins with the weights of {file}; fresh: {missing}", flush=True)
        if self.average:
            self.average = {k: v.clone() for k, v in self.task.module.state_dict().items()}

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "module": self.task.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "numpy": self.rng.bit_generator.state,
            "torch": torch.get_rng_state(),
            "step": self.step,
            "seconds": self.seconds,
            "mean": self.mean,
            "average": self.average,
            "sizes": dict(self.task.sizes),
        }
        file = self.folder / "last.pt"
        torch.save(state, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)

    def advance(self) -> None:
        """One step of the optimiser."""
        task = self.task
        for group in self.optimizer.param_groups:
            group["lr"] = task.learning_rate * rate(self.step, task)
        loss, stats = task.loss(self.rng)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{task.name}: the loss is {loss.item()} at step {self.step}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, task.max_norm)
        self.optimizer.step()
        self.step += 1
        for name, value in {"loss": loss.item(), **stats}.items():
            self.mean[name] = 0.98 * self.mean.get(name, value) + 0.02 * value
        if self.average:
            decay = min(task.average, (self.step + 1) / (self.step + 10))
            self._follow(1 - decay)

    @torch.no_grad()
    def _follow(self, weight: float) -> None:
        """Move the averaged weights towards the trained ones; counters and statistics are copied."""
        named = dict(self.task.module.named_parameters())
        torch._foreach_lerp_([self.average[name] for name in named], list(named.values()), weight)
        for name, value in self.task.module.state_dict().items():
            if name not in named:
                self.average[name].copy_(value)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the trained ones, if there are any."""
        if not self.average:
            yield
            return
        own = {k: v.clone() for k, v in self.task.module.state_dict().items()}
        self.task.module.load_state_dict(self.average)
        yield
        self.task.module.load_state_dict(own)

    def report(self, **more: float) -> None:
        """A line for people and a line for machines."""
        line = {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            **{k: round(v, 4) for k, v in {**self.mean, **more}.items()},
        }
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(self.task.name, json.dumps(line), flush=True)


def rate(step: int, task: Task) -> float:
    """Warm-up, then level (so a run can be made longer), at last a line down to `final_rate`."""
    left = (task.num_steps - step) / max(1.0, task.decay_part * task.num_steps)
    return min(1.0, (step + 1) / task.warmup_steps) * (
        task.final_rate + (1 - task.final_rate) * min(1.0, left)
    )


def stage_dir(name: str) -> Path:
    """Where a trained stage keeps its checkpoint and log."""
    folder = settings.work_dir() / "stages" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_start(name: str, state: Mapping[str, Tensor]) -> None:
    """Give a stage weights to begin with; a checkpoint of its own goes first."""
    torch.save(dict(state), stage_dir(name) / "start.pt")


def trained(name: str, *, averaged: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state dict, sizes) of a stage's last checkpoint."""
    state = torch.load(stage_dir(name) / "last.pt", weights_only=False)
    return (state["average"] if averaged and state["average"] else state["module"]), state["sizes"]


@contextmanager
def _stop_cleanly(run: _Run) -> Iterator[None]:
    def stop(*_: object) -> None:
        run.stopped = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(task: Task) -> dict[str, float]:
    """Train up to `num_steps`, from the last checkpoint on; the last running means and validation."""
    torch.set_num_threads(1)
    run = _Run(task)
    run.load()
    checked: dict[str, float] = {}
    saved = time.monotonic()
    task.module.train()
    with _stop_cleanly(run):
        while run.step < task.num_steps and not run.stopped:
            begun = time.monotonic()
            run.advance()
            run.seconds += time.monotonic() - begun
            last = run.step == task.num_steps
            if run.step % settings.LOG_EVERY == 0:
                run.report()
            if task.validate and (last or run.step % task.validate_every == 0):
                task.module.eval()
                with torch.no_grad(), run.averaged():
                    checked = {f"val_{k}": v for k, v in task.validate().items()}
                task.module.train()
                run.report(**checked)
            if time.monotonic() - saved > settings.CHECKPOINT_EVERY_S or last:
                run.save()
                saved = time.monotonic()
    run.save()
    if run.step < task.num_steps:
        raise SystemExit(
            f"{task.name}: stopped at step {run.step} of {task.num_steps}; run it again to go on"
        )
    return {
        "step": run.step,
        "train_seconds": round(run.seconds, 1),
        **{k: round(v, 4) for k, v in {**run.mean, **checked}.items()},
    }
