"""Host memory that can be pinned: adopted without a copy, or allocated on huge-page boundaries and touched."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
import torch

from gcnrec.cuda import hostmemory
from gcnrec.cuda.hostmemory import HUGE_BYTES, adopt, allocate, touch
from gcnrec.errors import DeviceError
from gcnrec.system.limits import Limits

PAGE = mmap.PAGESIZE


def test_adoption_shares_memory_and_takes_the_padding_of_rows():
    padded = torch.zeros(10, 32)
    rows_RD = padded[2:5, :20]
    memory = adopt(rows_RD)
    assert memory.address == rows_RD.data_ptr() and memory.nbytes == 3 * 32 * 4
    memory.content[:4] = np.array([7], np.float32).view(np.uint8)
    assert padded[2, 0] == 7
    assert adopt(padded.view(-1)[:300].view(10, 30)).nbytes == 1200
    assert adopt(torch.as_strided(torch.zeros(92), (3, 28), (32, 1))).nbytes == 92 * 4, "no further than the storage"
    assert adopt(torch.zeros(7, dtype=torch.bfloat16)).nbytes == 14
    array = np.arange(12, dtype=np.int64).reshape(3, 4)
    assert np.shares_memory(adopt(array).content, array) and adopt(array).nbytes == 96


@pytest.mark.parametrize(
    "memory",
    [np.zeros((4, 4))[:, :2], torch.zeros(4, 4).T, torch.zeros(4, 1).expand(4, 4), torch.zeros(1, 4).expand(4, 4),
     torch.zeros(8)[::2], torch.zeros(2, 2, device="meta")],
)  # fmt: skip
def test_adoption_refuses_memory_that_is_not_rows_in_order(memory):
    with pytest.raises(DeviceError, match="memory to pin must be"):
        adopt(memory)


def test_allocations_are_zero_aligned_and_limited(monkeypatch):
    for nbytes in (0, 1, PAGE, 3 * HUGE_BYTES + 5):
        memory = allocate(nbytes)
        assert memory.nbytes == nbytes and not memory.content.any()
        assert nbytes == 0 or memory.address % HUGE_BYTES == 0
    monkeypatch.setattr(hostmemory, "read_limits", lambda: Limits(available=999, lockable=None))
    with pytest.raises(DeviceError, match=r"1,000 bytes .* 999 are available .* lower table.budget .* \"disk\""):
        allocate(1000)


@pytest.mark.parametrize(("nbytes", "cores"), [(0, 4), (1, 4), (3 * PAGE + 1, 1), (7 * PAGE - 1, 7), (64 * PAGE, 4)])
def test_touching_writes_every_page_once(monkeypatch, nbytes, cores):
    monkeypatch.setattr(hostmemory, "available_cores", lambda: cores)
    monkeypatch.setattr(hostmemory, "TOUCH_BYTES", PAGE)
    content = np.ones(nbytes, np.uint8)
    touch(content)
    assert np.flatnonzero(content == 0).tolist() == list(range(0, nbytes, PAGE))
