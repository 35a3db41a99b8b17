"""Between host and device: through page-locked memory, so that no copy makes the host wait.

On any device but CUDA these are plain copies, or none where the tensor is already there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Upload", "index_on", "to_device", "to_host"]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on `device`. The host goes on at once; work queued behind sees the values."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def index_on(device: torch.device, numbers: Sequence[int]) -> Tensor:
    """Numbers as an index there; a list would be copied by a transfer that waits."""
    return to_device(torch.tensor(numbers, dtype=torch.int64), device)


def to_host(*tensors: Tensor) -> list[Tensor]:
    """Tensors of one device on the host: one wait for all of them together."""
    if not tensors or not tensors[0].is_cuda:
        return [tensor.cpu() for tensor in tensors]
    copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    # Waiting for an event ends with the last copy; waiting for the device would include the other stage.
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(tensors[0].device))
    arrived.synchronize()
    return copies


class Upload:
    """A fixed device tensor that is filled from the host again and again: write `array`, then `send`."""

    def __init__(self, target: Tensor) -> None:
        self._target = target
        self._host = torch.zeros(target.shape, dtype=target.dtype, pin_memory=target.is_cuda)
        self._sent = torch.cuda.Event() if target.is_cuda else None  # type: ignore[no-untyped-call]
        self.array = self._host.numpy()

    def wait(self) -> None:
        """Before `array` is written: the last `send` has read it."""
        if self._sent is not None:
            self._sent.synchronize()

    def send(self) -> None:
        """Queue the copy."""
        self._target.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record(torch.cuda.current_stream(self._target.device))
