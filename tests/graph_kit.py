"""A `GraphBackend` for the CPU that keeps a CUDA graph's rules.

It records every operator with the very tensors and numbers it was given, and replays that record: what
Python would compute anew is frozen, as on a GPU. Operators that would bring a value to the host fail the
capture. After a replay the tensors that lived within the step are overwritten, so whoever keeps one reads
rubbish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What waits for the device, or whose result's shape depends on values.
FORBIDDEN = {
    "_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "unique_dim", "_unique2",
    "equal", "repeat_interleave", "lift_fresh",
}  # fmt: skip


@dataclass(slots=True)
class _Call:
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    fresh: list[tuple[int, Tensor]]  # outputs with memory of their own, by place


def _address(tensor: Tensor) -> int | None:
    return None if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        indices = tree_leaves(args[1]) if name.startswith("index") and len(args) > 1 else []
        by_mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
        if name in FORBIDDEN or by_mask:
            raise RuntimeError(f"{name} is not possible while a stream is captured")
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        fresh = [
            (place, leaf)
            for place, leaf in enumerate(tree_leaves(result))
            if isinstance(leaf, Tensor) and leaf.numel() and _address(leaf) not in given
        ]
        self.calls.append(_Call(func, args, kwargs, fresh))
        return result


class FakeGraphs:
    """Implements `GraphBackend`; `fails` makes every capture fail."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.num_captures = self.num_replays = 0

    def capture(self, run: Callable[[], object]) -> Callable[[], None]:
        self.num_captures += 1
        recorder = _Recorder()
        with recorder:
            run()
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        calls = recorder.calls
        _poison(calls)  # a capture computes nothing that may be used

        def replay() -> None:
            self.num_replays += 1
            for call in calls:
                results = tree_leaves(call.function(*call.args, **call.kwargs))
                for place, tensor in call.fresh:
                    tensor.copy_(results[place])
            _poison(calls)

        return replay


def _poison(calls: list[_Call]) -> None:
    for call in calls:
        for _, tensor in call.fresh:
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
