"""Fixtures shared by every test: one small random-weight checkpoint per session."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny tensors: more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint in the public layout: two small layers of everything, random weights."""
    from cadence.models.sample import write_sample_checkpoint

    out = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_sample_checkpoint(out, preset="tiny", seed=0)
    return out


@pytest.fixture(params=["cpu", "cuda", "mps"])
def device(request: pytest.FixtureRequest) -> str:
    """Each kind of device that this machine has; the CPU always."""
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[request.param]:
        pytest.skip(f"this machine has no {request.param}")
    return str(request.param)
