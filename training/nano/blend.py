"""Average what a stage began with and what it has become.

    python -m training.nano.blend hearing --share 0.5

A stage that goes on from a shipped checkpoint with less data than that was made from gains in one place and
forgets in another. Both sets of weights lie in one basin, so their mean keeps most of the gains of either.
The result replaces the stage's averaged weights, which `export` and `evaluate` take.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch
from torch import Tensor

from training.nano.fit import stage_dir


def blended(begun: Mapping[str, Tensor], became: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - share) · begun + share · became; what did not exist at the beginning stays as it became."""
    return {
        name: torch.lerp(begun[name], value, share) if name in begun else value
        for name, value in became.items()
    }


def run(stage: str, share: float) -> None:
    """Rewrite the averaged weights of a stage's last checkpoint.

    Raises:
        FileNotFoundError: the stage has no `start.pt` or no `last.pt`.
        ValueError: they were blended before.
    """
    file = stage_dir(stage) / "last.pt"
    state = torch.load(file, weights_only=False)  # our own file: holds the generators' states
    if state.get("blended"):
        raise ValueError(f"{file} is a blend already")
    begun = torch.load(stage_dir(stage) / "start.pt")
    state["average"] = blended(begun, state["average"] or state["module"], share)
    state["blended"] = share
    torch.save(state, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").replace(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage")
    parser.add_argument("--share", type=float, default=0.5, help="of what it has become")
    options = parser.parse_args()
    run(options.stage, options.share)
