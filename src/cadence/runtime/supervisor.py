"""Keeps a stage's process alive: start, watch, restart with back-off, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cadence
from cadence.errors import CadenceError, NotReady, StageFailed
from cadence.runtime.link import StageLink
from cadence.runtime.stages import Progress, StageSpec
from cadence.runtime.status import StageState, StageStatus

__all__ = ["Supervisor", "SupervisorPolicy", "backoff_s"]

_log = logging.getLogger("cadence.runtime")
_TITLES = {"thinker": "language-model", "token2wav": "vocoder"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorPolicy:
    """Times in seconds.

    A process that says nothing is reported unresponsive after `silent_s`, killed after `frozen_s`
    (`loading_frozen_s` while it loads: reading weights can hold the interpreter for a while), and killed
    when one step of its computation takes `hung_s` (a long utterance in one go takes minutes). One that
    lived for `stable_s` starts the back-off anew; `max_crashes` short lives in a row count as failed,
    though starting it goes on.
    """

    tick_s: float = 0.25
    silent_s: float = 4.0
    frozen_s: float = 15.0
    loading_frozen_s: float = 180.0
    hung_s: float = 300.0
    first_backoff_s: float = 0.25
    max_backoff_s: float = 30.0
    stable_s: float = 60.0
    max_crashes: int = 5
    stop_s: float = 5.0


def backoff_s(num_crashes: int, policy: SupervisorPolicy) -> float:
    """Pause before the next start, after so many short lives in a row (1 = the first)."""
    return float(min(policy.max_backoff_s, policy.first_backoff_s * 2 ** min(num_crashes - 1, 16)))


class Supervisor:
    """Owns one stage's process across its lives.

    Args:
        spec: what to load.
        progress: called while it loads.
        policy: times.
    """

    def __init__(
        self, spec: StageSpec, *, progress: Progress | None = None, policy: SupervisorPolicy | None = None
    ) -> None:
        self._spec = spec
        self._progress = progress or (lambda text, fraction: None)
        self._policy = policy or SupervisorPolicy()
        self._state: StageState = "starting"
        self._retry_after_s = 2.0
        self._loading_s = 0.0  # how long the last start took: a hint when to come back
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._num_crashes = 0
        self.link: StageLink | None = None
        """The socket to the present process, ready or not."""
        self.voices: tuple[str, ...] = ()
        self.num_restarts = 0

    @property
    def pid(self) -> int | None:
        """Of the present process."""
        return self._process.pid if self._process is not None else None

    def status(self) -> StageStatus:
        """State now."""
        title = _TITLES[self._spec.name]
        if self._state == "ready" and self.link is not None:
            if self.link.num_silent_ticks * self._policy.tick_s >= self._policy.silent_s:
                return StageStatus("unresponsive", f"the {title} process does not answer")
            return StageStatus("ready")
        return StageStatus(self._state, f"the {title} process is {self._state}", self._retry_after_s)

    def ready_link(self) -> StageLink:
        """The socket to use now; NotReady while the process is down."""
        if self._state != "ready" or self.link is None:
            after = max(1, round(self._retry_after_s))
            raise NotReady("A part of the server is restarting.", retry_after_s=after)
        return self.link

    async def start(self) -> None:
        """Start the process and wait until its stage is loaded and warm.

        Raises:
            CadenceError: what loading raised, or StageFailed when the process died; nothing is left running.
        """
        try:
            life = await self._begin()
        except BaseException:
            await self._kill()
            self._state = "failed"
            raise
        self._task = asyncio.create_task(self._keep(life), name=f"supervise {self._spec.name}")

    async def aclose(self) -> None:
        """Stop the process: politely, then by force. Held requests end with StageFailed."""
        running = self._state == "ready"
        self._state = "stopped"
        if self.link is not None:
            self.link.end_streams(StageFailed(f"The {_TITLES[self._spec.name]} stage was stopped."))
            self.link.send({"t": "stop"})
        if self._task is not None:
            if running:
                await asyncio.wait({self._task}, timeout=self._policy.stop_s)
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._kill()

    # ------------------------------------------------------------------ one life after another
    async def _keep(self, life: asyncio.Task[str]) -> None:
        """Watch the running process; replace it whenever it ends."""
        born = time.monotonic()
        try:
            while True:
                why = await life
                if self._state == "stopped":
                    return
                stable = time.monotonic() - born >= self._policy.stable_s
                self._num_crashes = 1 if stable else self._num_crashes + 1
                _log.error("the %s process %s; restarting it", _TITLES[self._spec.name], why)
                life = await self._restart()
                born = time.monotonic()
        finally:
            life.cancel()
            await asyncio.wait({life})

    async def _restart(self) -> asyncio.Task[str]:
        """Start anew, as often as it takes, with growing pauses."""
        while True:
            self._state = "failed" if self._num_crashes >= self._policy.max_crashes else "restarting"
            pause_s = backoff_s(self._num_crashes, self._policy)
            self._retry_after_s = pause_s + self._loading_s
            await asyncio.sleep(pause_s)
            self.num_restarts += 1
            try:
                return await self._begin()
            except (CadenceError, OSError) as error:
                self._num_crashes += 1
                _log.error("the %s process did not start: %s", _TITLES[self._spec.name], error)
                await self._kill()

    async def _begin(self) -> asyncio.Task[str]:
        """One life, from the start of the process to ready; the task ends with it and says why."""
        began = time.monotonic()
        link = await self._spawn()
        life = asyncio.create_task(self._watch(link), name=f"watch {self._spec.name}")
        try:
            self.voices = await link.ready
        except BaseException:
            life.cancel()
            await asyncio.wait({life})
            raise
        self._state, self._loading_s = "ready", time.monotonic() - began
        return life

    async def _spawn(self) -> StageLink:
        """Start a process and tell it what to load."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "cadence.runtime.worker", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env=_environment(),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        link = self.link = StageLink(self._spec.name, reader, writer, self._progress)
        link.send(
            {"t": "load", "kind": self._spec.kind, "root": self._spec.root, "config": self._spec.config}
        )
        return link

    async def _watch(self, link: StageLink) -> str:
        """Serve the socket until the process is gone or frozen; end its requests; say what happened."""
        pump = asyncio.create_task(link.pump())
        title = _TITLES[self._spec.name]
        why = "ended unexpectedly"
        try:
            while True:
                # Ticks, not clock time: when our own loop was held up, the process is not to blame.
                done, _ = await asyncio.wait({pump}, timeout=self._policy.tick_s)
                if done:
                    if pump.exception() is not None:
                        why = "sent something broken"
                    return why
                link.num_silent_ticks += 1
                limit_s = self._policy.frozen_s if link.ready.done() else self._policy.loading_frozen_s
                if link.num_silent_ticks * self._policy.tick_s >= limit_s:
                    why = "stopped answering"
                    return why
                if link.stats.get("step_s", 0.0) >= self._policy.hung_s:
                    why = "hung in its computation"
                    return why
        finally:
            if self._state == "ready":
                self._state = "restarting"
            if link.ready.done():
                link.close(StageFailed(f"The {title} process {why} while it held this request."))
            else:
                link.close(StageFailed(f"The {title} process {why} while it loaded; its log says more."))
            pump.cancel()
            await asyncio.wait({pump})
            await self._kill()

    async def _kill(self) -> None:
        """End the process, if there is one, for certain."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


def _environment() -> dict[str, str]:
    """Ours, with this very package first on the path."""
    home = str(Path(cadence.__file__).parent.parent)
    rest = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((home, rest)) if rest else home}
