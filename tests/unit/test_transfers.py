"""Copies between host and device keep values and order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cadence.models.transfers import Upload, index_on, to_device, to_host


def test_on_a_cpu_nothing_is_copied() -> None:
    x = torch.arange(3.0)
    assert to_device(x, torch.device("cpu")).data_ptr() == x.data_ptr()
    [same] = to_host(x)
    assert same.data_ptr() == x.data_ptr()
    assert to_host() == []


def test_values_arrive_on_any_device_and_come_back_together(device: str) -> None:
    there = torch.device(device)
    x, n = torch.randn(4, 3), torch.tensor([2, 0])
    placed = to_device(x, there), to_device(n, there), index_on(there, [1, 2])
    assert all(tensor.device.type == there.type for tensor in placed)
    back = to_host(*placed)
    assert [tensor.device.type for tensor in back] == ["cpu"] * 3
    assert torch.equal(back[0], x) and torch.equal(back[1], n) and back[2].tolist() == [1, 2]


def test_an_upload_changes_its_target_when_sent(device: str) -> None:
    target = torch.zeros(3, dtype=torch.int64, device=device)
    upload = Upload(target)
    address = target.data_ptr()
    for numbers in ([1, 2, 3], [9, 8, 7]):
        before = target.tolist()
        upload.wait()
        upload.array[:] = np.array(numbers)
        assert target.tolist() == before
        upload.send()
        assert target.tolist() == numbers
    assert target.data_ptr() == address


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no cuda")
def test_copies_from_cuda_land_in_page_locked_memory() -> None:
    [back] = to_host(torch.ones(2, device="cuda"))
    assert back.is_pinned()
