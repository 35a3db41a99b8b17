"""A stage's threads share one CUDA stream of their own; elsewhere nothing happens."""

from __future__ import annotations

import pytest
import torch

from cadence.models.device_stream import StageStream


def test_every_thread_gets_the_one_stream_made_after_the_device_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(("wait", device)))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: events.append(("stream", device)) or "stream")
    monkeypatch.setattr(torch.cuda, "set_stream", events.append)
    device = torch.device("cuda", 1)
    stream = StageStream(device)
    assert events == [("wait", device), ("stream", device)]
    stream.enter()
    stream.enter()
    assert events[2:] == ["stream", "stream"]


def test_a_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: pytest.fail("there is no stream"))
    StageStream(torch.device("cpu")).enter()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no cuda")
def test_on_cuda_a_thread_leaves_the_default_stream() -> None:
    before = torch.cuda.current_stream()
    try:
        StageStream(torch.device("cuda")).enter()
        assert torch.cuda.current_stream() != before
    finally:
        torch.cuda.set_stream(before)
