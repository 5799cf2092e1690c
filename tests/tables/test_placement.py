"""Where tables lie: memory that a GPU's driver pins fast, and what is given back when a table's time is over."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gcnrec.cuda.hostmemory import HUGE_BYTES
from gcnrec.errors import DeviceError
from gcnrec.system.limits import Limits
from gcnrec.tables import placement
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dense import DenseTable, in_ram
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.placement import Placement, aside_bytes, released, set_aside
from gcnrec.tables.slots import SlotTable, dense_rows
from gcnrec.testing import checkerboard
from gcnrec.workers.world import Alone


def flags_at(address):
    """The kernel's flags of the mapping that holds an address."""
    ranges = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags: ([^\n]*)", Path("/proc/self/smaps").read_text(), re.M | re.S)
    return next(flags.split() for first, last, flags in ranges if int(first, 16) <= address < int(last, 16))


def test_a_gpu_trains_in_the_memory_that_benches_measure(tmp_path):
    """Huge pages from their boundary on, kept from child processes: a fork could move pages away from what a GPU reads."""
    memory = Placement(on_gpu=True).memory(tmp_path)(3 * HUGE_BYTES)
    assert memory.data_ptr() % HUGE_BYTES == 0 and len(memory) == 3 * HUGE_BYTES and memory.dtype == torch.float32
    if hasattr(mmap, "MADV_DONTFORK"):
        assert "dc" in flags_at(memory.data_ptr())
    table = DenseTable(torch.randn(5000, 20), 40, Placement(on_gpu=True).memory(tmp_path))
    for plane, _ in table.memories():
        assert "dc" in flags_at(plane.data_ptr())
    assert not table.tensors()["state"].any()


def test_without_a_gpu_memory_is_as_it_was(tmp_path):
    assert Placement(on_gpu=False).memory(tmp_path) is in_ram
    for on_gpu in (False, True):
        rows = Placement(on_gpu, "disk").memory(tmp_path)(100)
        assert rows.shape == (100,) and list(tmp_path.iterdir()) == []


def test_a_table_on_disk_meets_a_gpu_through_a_window(tmp_path, fake_device, monkeypatch):
    """Of a quarter of the memory that there is; the file itself is not pinned."""
    adopted = []

    class Adopting(fake_device.FakeDevice):
        def adopt(self, memory, length):
            adopted.append(memory.data_ptr())

    given = Placement(True, "disk")
    monkeypatch.setattr(placement, "gpu", lambda: "a GPU")
    monkeypatch.setattr(placement, "pipeline_of", lambda *_: Adopting(0))
    monkeypatch.setattr(placement, "read_limits", lambda: Limits(4 * 6 * (4 * (32 + 64) + 17), None))
    graph = checkerboard().graph
    host = DenseTable(torch.randn(graph.num_nodes, 20), 40, given.memory(tmp_path))
    table, rows_R = placement.placed(given, graph, host), np.array([1, 5, 30])
    files = {plane.data_ptr() for plane, _ in host.memories()}
    assert len(adopted) == 2 and not files & set(adopted) and "dc" in flags_at(adopted[0])
    assert torch.equal(table.decode(table.read(table.prefetch(rows_R), with_state=True)), host.columns(0, 20)[rows_R])
    with pytest.raises(DeviceError, match="more than the 6 places"):
        table.prefetch(np.arange(7))


def test_what_a_gpu_keeps_in_ram(monkeypatch):
    monkeypatch.setattr(placement, "read_limits", lambda: Limits(4000, None))
    kept = {kind: Placement(True, kind).pinned_bytes(2000) for kind in ("host", "device", "disk")}
    assert kept == {"host": 2000, "device": 2000, "disk": 1000} and Placement(True, "disk").pinned_bytes(900) == 900
    assert Placement(False).pinned_bytes(2000) == Placement(False, "disk").pinned_bytes(2000) == 0


@pytest.fixture
def behind(fake_device):
    """A table behind a device, and how often that was closed."""

    class Closing(fake_device.FakeDevice):
        closed = 0

        def close(self):
            self.closed += 1
            if self.lost:
                raise RuntimeError("the device is lost")

    def make(lost=False):
        device = Closing(0)
        device.lost = lost
        return PipelinedTable(DenseTable(torch.zeros(4, 2), 2), device), device

    return make


def test_a_table_is_released_when_its_block_ends(behind):
    table, device = behind()
    with released(table) as same:
        assert same is table and device.closed == 0
    assert device.closed == 1
    with released(DenseTable(torch.zeros(4, 2), 2)):
        """A table in RAM holds nothing."""


@pytest.mark.parametrize("lost", [False, True])
def test_an_error_in_the_block_is_the_one_that_is_raised(lost, behind):
    """Though a lost device makes its end fail too."""
    table, device = behind(lost)
    with pytest.raises(ZeroDivisionError), released(table):
        raise ZeroDivisionError
    assert device.closed == 1


def test_an_end_that_fails_is_not_hidden(behind):
    table, _ = behind(lost=True)
    with pytest.raises(RuntimeError, match="the device is lost"), released(table):
        table.read(table.prefetch(np.array([1])), with_state=True)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not bind threads")
def test_a_worker_takes_the_gpu_of_its_place_and_runs_on_the_cores_near_it(monkeypatch):
    """A process alone keeps what it has, as does a worker on CPUs."""
    every, taken = os.sched_getaffinity(0), []
    near = frozenset({min(every)})
    monkeypatch.setattr(placement, "take_gpu", lambda place, workers: taken.append((place, workers)))
    monkeypatch.setattr(placement, "cores_of", lambda device: near)

    def cores(on_gpu, world):
        with Placement(on_gpu).taken(world):
            return os.sched_getaffinity(0)

    worker = SimpleNamespace(size=8, local_rank=3, local_size=4)
    assert cores(True, worker) == near and taken == [(3, 4)]
    assert cores(False, worker) == cores(True, Alone()) == every == os.sched_getaffinity(0) and taken == [(3, 4)]


def a_trained_table(state, dtype):
    """1,000 rows of width 32 with 0 to 8 values, which a second pass has moved."""
    table, random = SlotTable(1000, 32, 8000, state, dtype), np.random.default_rng(2)
    for _ in range(2):
        with table.rebuild() as rebuild:
            for first in range(0, 1000, 100):
                rebuild.read(first, first + 100)
                counts_R = random.integers(0, 9, 100)
                columns_X = np.concatenate([np.sort(random.permutation(32)[:count]) for count in counts_R]).astype(np.uint8)
                moments_MX = random.random((state[0], len(columns_X)), np.float32)
                scalars_RC = random.random((100, state[1]), np.float32)
                values_X = random.random(len(columns_X), np.float32)
                rebuild.write(SlotBlock(first, counts_R, columns_X, values_X, moments_MX, scalars_RC))
    return table


@pytest.mark.parametrize(("state", "dtype"), [((0, 1), "bfloat16"), ((2, 1), "float32"), ((0, 0), "float32")])
def test_a_large_trained_table_is_read_from_scratch(state, dtype, tmp_path, monkeypatch):
    table = a_trained_table(state, dtype)
    size = table.value_bytes + table.index_bytes + table.state_bytes
    before, columns_NC, figures = table.tensors(), table.columns(3, 9, slice(100, 900)), (size, table.peak_bytes)
    monkeypatch.setattr(placement, "read_limits", lambda: Limits(8 * size, None))
    set_aside(Placement(on_gpu=False), table, tmp_path)
    assert not mapped(tmp_path)  # an eighth and no more
    monkeypatch.setattr(placement, "read_limits", lambda: Limits(8 * size - 8, None))
    for kept in (Placement(on_gpu=True), Placement(False, "disk")):
        set_aside(kept, table, tmp_path)
    assert not mapped(tmp_path) and aside_bytes(Placement(on_gpu=False), table) == size
    assert aside_bytes(Placement(on_gpu=False), DenseTable(torch.zeros(4000, 32), 0)) == 0
    set_aside(Placement(on_gpu=False), table, tmp_path)
    assert mapped(tmp_path) and list(tmp_path.iterdir()) == []
    assert all(torch.equal(one, other) for one, other in zip(before.values(), table.tensors().values(), strict=True))
    assert torch.equal(columns_NC, table.columns(3, 9, slice(100, 900)))
    assert (table.value_bytes + table.index_bytes + table.state_bytes, table.peak_bytes) == figures
    assert torch.equal(dense_rows(before, 32), table.columns(0, 32))


def mapped(folder):
    """Bytes of nameless files of a folder that this process maps."""
    spans = re.findall(rf"^([0-9a-f]+)-([0-9a-f]+) .* {re.escape(str(folder))}/", Path("/proc/self/maps").read_text(), re.M)
    return sum(int(last, 16) - int(first, 16) for first, last in spans)


def test_a_full_disk_leaves_a_table_in_ram(tmp_path, monkeypatch):
    table = a_trained_table((0, 1), "bfloat16")
    before = table.tensors()
    monkeypatch.setattr(placement, "read_limits", lambda: Limits(0, None))
    set_aside(Placement(on_gpu=False), table, tmp_path / "absent")
    assert all(torch.equal(one, other) for one, other in zip(before.values(), table.tensors().values(), strict=True))
