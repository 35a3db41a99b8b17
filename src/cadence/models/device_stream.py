"""A stage's own CUDA stream, so that two stages in one process do not wait for each other's work."""

from __future__ import annotations

import torch

__all__ = ["StageStream"]


class StageStream:
    """The stream that all threads of one stage queue their work on: what one of them has computed is there
    for the next, in order. On any device but CUDA it does nothing."""

    def __init__(self, device: torch.device) -> None:
        """Make it when the weights are loaded: what was queued on the device before is waited for here."""
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def enter(self) -> None:
        """Called once by each thread of the stage, before its first work."""
        if self._stream is not None:
            torch.cuda.set_stream(self._stream)  # and the stream's device with it
