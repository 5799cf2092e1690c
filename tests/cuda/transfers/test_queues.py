"""The GPU's device without a GPU: a made-up driver and streams, memory of the host, and the kernels' own code for copies."""

from __future__ import annotations

import gc
import mmap
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gcnrec.cuda import module, pinned
from gcnrec.cuda.hostmemory import adopt
from gcnrec.cuda.pinned import PinnedMemory
from gcnrec.cuda.registrar import Registrar
from gcnrec.errors import DeviceError
from gcnrec.queues import Spans
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.slots import SlotTable

PAGE = mmap.PAGESIZE


def slot_table(rows):
    table = SlotTable(rows, 8, 8 * rows, (2, 0))
    counts, columns = np.full(rows, 8), np.tile(np.arange(8, dtype=np.uint8), rows)
    with table.rebuild() as rebuild:
        values = np.arange(8 * rows, dtype=np.float32)
        rebuild.write(SlotBlock(0, counts, columns, values, np.zeros((2, 8 * rows), np.float32), np.zeros((rows, 0), np.float32)))
    return table


def test_tables_are_pinned_page_by_page_and_released(device_of, driver_of):
    """Small ones too, whose planes a plain allocation would put on one page."""
    driver = driver_of()
    device, warnings = device_of(driver)
    tables = [DenseTable(torch.randn(20, 16), 32), DenseTable(torch.randn(3, 5), 0), slot_table(10), slot_table(3000)]
    for _ in range(2):  # asked again, nothing more is pinned
        for table in tables:
            for memory, length in table.memories():
                device.adopt(memory, length)
        assert driver.calls == 7
    for table in tables:
        for memory, length in table.memories():
            assert not length or memory.data_ptr() in driver.pages
    assert warnings == []
    device.close()
    assert driver.pages == {}


def test_what_is_added_is_pinned_from_the_next_page_on(device_of, driver_of):
    driver = driver_of()
    device, warnings = device_of(driver)
    memory = torch.zeros(4 * PAGE)[17:]
    for length in (1, 100, PAGE, PAGE + 1, len(memory)):
        device.adopt(memory, length)
        end = memory.data_ptr() + 4 * length
        assert -(-end // PAGE) - 1 in set().union(*driver.pages.values())
    pages = sorted(page for own in driver.pages.values() for page in own)
    assert pages == list(range(memory.data_ptr() // PAGE, -(-(memory.data_ptr() + 4 * len(memory)) // PAGE))) and warnings == []


def test_a_refusal_is_told_once_and_the_rows_are_copied(device_of, driver_of, host_launcher):
    device, warnings = device_of(driver_of(refused={1}))
    home, other = torch.arange(1000.0), torch.arange(1000.0)
    for _ in range(2):
        device.adopt(home, 1000)
        device.adopt(other, 1000)
    assert len(warnings) == 1 and "4,000 bytes should have been pinned" in warnings[0] and "error 1" in warnings[0]
    at_R, to_R, length_R = torch.tensor([990, 0, 500]), torch.tensor([40, 10, 20]), torch.tensor([10, 3, 7])
    for memory in (home, other):
        there = Spans(torch.zeros(60), to_R, length_R)
        device.copy(device.reads, [(Spans(memory, at_R, length_R), there)])
        for at, to, length in zip(at_R.tolist(), to_R.tolist(), length_R.tolist(), strict=True):
            assert there.memory[to : to + length].tolist() == list(range(at, at + length))
        assert there.memory.count_nonzero() == 10 + 2 + 7
        there.memory.neg_()
        device.copy(device.writes, [(there, Spans(memory, at_R, length_R))])
        changed = [*range(990, 1000), *range(3), *range(500, 507)]
        expected = torch.arange(1000.0)
        expected[changed] *= -1
        assert torch.equal(memory, expected)
    grids = [grid for _, grid, _ in host_launcher.launches]
    assert len(grids) == 4 and max(grids) <= 3


def test_a_refusal_of_what_is_added_stages_all_of_it(device_of, driver_of):
    driver = driver_of(refused={2})
    device, warnings = device_of(driver)
    memory = torch.arange(4.0 * PAGE)
    device.adopt(memory, PAGE)
    device.adopt(memory, 4 * PAGE)
    assert len(warnings) == 1 and len(driver.pages) == 1
    at_R, length_R = torch.tensor([0, 3 * PAGE]), torch.tensor([2, 2])
    packed = Spans(torch.zeros(4), torch.tensor([0, 2]), length_R)
    device.copy(device.reads, [(Spans(memory, at_R, length_R), packed)])
    assert packed.memory.tolist() == [0, 1, 3 * PAGE, 3 * PAGE + 1]
    device.close()
    assert driver.pages == {}


def test_whole_lines_are_those_of_the_host(device_of, monkeypatch):
    """Of the source where rows are read, of the target where they come back."""
    device, _ = device_of()
    by_target = []
    monkeypatch.setattr(module, "launch", lambda *given, **_: by_target.append(int(given[4][-1])))
    here, there = (Spans(torch.zeros(8), torch.arange(2), 4, pitch=4) for _ in range(2))
    device.copy(device.reads, [(here, there)])
    device.copy(device.writes, [(there, here)])
    assert by_target == [0, 1]


def test_transfers_come_before_a_long_grid_of_training(device_of, monkeypatch):
    """A read waits for a write, so neither may wait for a place on a multiprocessor."""
    priorities = []

    class Stream:
        def __init__(self, device, priority=0):
            priorities.append(priority)

    device_of()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    device_of()
    assert priorities == [-1, -1]


@pytest.mark.parametrize("refused", [(), (1,)], ids=["pinned", "staged"])
def test_a_table_and_its_pinned_memory_end_with_the_last_reference(refused, device_of, driver_of):
    """A refit's table needs the memory of the fit's. No collector is waited for, which looks at old objects seldom."""
    driver, rows = driver_of(refused=refused), [np.array([1, 4]), np.array([4, 7]), np.array([0, 4])]
    device, _ = device_of(driver)
    host = DenseTable(torch.randn(20, 16), 32)
    table = PipelinedTable(host, device, Prefixes(10, 2, 1))
    for rows_R in rows:
        read = table.read(table.prefetch(rows_R), with_state=True)
        table.decode(read)
        table.write(read)
    table.prefetch(rows[0])
    ends = [weakref.ref(each) for each in (device, table, host)]
    assert driver.pages
    gc.disable()
    try:
        del device, table, host, read
        assert [end() for end in ends] == [None] * 3 and driver.pages == {}
    finally:
        gc.enable()


def test_mapped_files_are_pinned_only_where_they_fit(device_of, driver_of, monkeypatch):
    monkeypatch.setattr(pinned, "read_limits", lambda: SimpleNamespace(available=PAGE, lockable=None))
    memory = torch.zeros(PAGE)
    device, warnings = device_of(driver_of(), on_file=True)
    device.adopt(memory, PAGE)
    assert len(warnings) == 1 and "bytes of a file" in warnings[0]
    device, warnings = device_of(driver_of())
    device.adopt(memory, PAGE)
    assert warnings == [], "what is in memory already stays there"
    device.close()


def test_tables_that_live_at_once_share_no_page(driver_of):
    """A refit's table is made while that of the fit is still there. Plain allocations of this size do share pages."""
    registrar = Registrar(driver_of())
    tables = [DenseTable(torch.randn(4, 4), 4) for _ in range(20)]
    kept = [PinnedMemory(adopt(memory[:length]), registrar) for table in tables for memory, length in table.memories()]
    for each in kept:
        each.close()
    others = [DenseTable(torch.randn(4, 4), 4, torch.empty) for _ in range(20)]
    with pytest.raises(DeviceError, match="pinned already"):
        kept = [PinnedMemory(adopt(memory[:length]), registrar) for table in others for memory, length in table.memories()]
