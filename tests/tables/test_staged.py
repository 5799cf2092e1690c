"""What rows take by the host's count, against the places where a device finds them; and the ring that holds their copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.queues import Spans
from gcnrec.rows import RowNumbers
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dense import DenseTable, in_ram
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.ring import SLOTS, Ring
from gcnrec.tables.slots import SlotTable
from gcnrec.tables.staged import Extent

ROWS = 90


def slots_of(dtype, width, moments, scalars):
    """Rows of every count, some of them empty, after a rebuild that moved records."""
    draw = np.random.default_rng(width)
    most = min(width, SlotTable(1, width, 1, (0, 0), dtype).max_count)
    counts = draw.integers(0, most + 1, ROWS)
    columns = np.concatenate([np.sort(draw.permutation(width)[:count]) for count in counts]).astype(np.uint8)
    table, size = SlotTable(ROWS, width, len(columns), (moments, scalars), dtype), len(columns)
    state = np.zeros((moments, size), np.float32), np.zeros((ROWS, scalars), np.float32)
    with table.rebuild() as rebuild:
        rebuild.write(SlotBlock(0, counts, columns, draw.standard_normal(size).astype(np.float32), *state))
    with table.rebuild() as rebuild:
        for first in range(0, ROWS, 30):
            rebuild.write(rebuild.read(first, first + 30))
    return table


TABLES = {
    f"dense {width}, {state}": lambda width=width, state=state: DenseTable(torch.randn(ROWS, width), state)
    for width, state in ((1, 0), (3, 1), (16, 32), (20, 20), (33, 66), (64, 128), (100, 200))
} | {
    f"{dtype} {width}, {moments} + {scalars}": lambda *of, own=(dtype, width, moments, scalars): slots_of(*own)
    for dtype, width, moments, scalars in (
        ("float32", 64, 2, 0), ("float32", 70, 1, 1), ("bfloat16", 200, 0, 1), ("float32", 9, 0, 0),
    )
}  # fmt: skip


def lines(spans: Spans):
    """Byte by byte: the lines of 128 bytes that each piece touches, from the start of the memory."""
    return sum(
        len({4 * value // 128 for value in range(start, start + length)})
        for start, length in zip(spans.starts().tolist(), spans.lengths().tolist(), strict=True)
    )


@pytest.mark.parametrize("name", TABLES)
def test_the_host_counts_what_rows_take(name, fake_device):
    table = TABLES[name]()
    for rows_R in (np.arange(ROWS), np.arange(1, ROWS, 7), np.arange(0)):
        spans = table.located_on(fake_device.FakeDevice(0)).spans(torch.from_numpy(rows_R))
        stored = len(rows_R) * table.width if isinstance(table, DenseTable) else int(table.counts_N[rows_R].sum(dtype=int))
        sizes = [int(span.lengths().sum()) for span in spans]
        assert table.extent(rows_R) == Extent(*sizes, stored, sum(map(lines, spans)))
    assert table.extent(range(4, 70)) == table.extent(np.arange(4, 70))


@pytest.mark.parametrize("name", TABLES)
def test_shifted_places_are_those_of_shifted_rows(name, fake_device):
    located = TABLES[name]().located_on(fake_device.FakeDevice(0))
    for shifted, right in zip(located.spans(torch.arange(5), 30), located.spans(torch.arange(30, 35)), strict=True):
        assert torch.equal(shifted.starts(), right.starts()) and torch.equal(shifted.lengths(), right.lengths())


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), max_size=30))
def test_a_ring_gives_room_and_waits_in_the_queue(batches):
    """Every slot has room, is in one hand at a time, and comes with a wait for the marks that it went back with."""

    class Queue:
        def __init__(self):
            self.waited = []

        def after(self, mark):
            self.waited.append(mark)

    class Device:
        def empty(self, length, like):
            return torch.empty(length, dtype=like.dtype)

    queue, ring, held, marks = Queue(), Ring(Device()), [], {}
    for size, kept in batches:
        slot = ring.take(queue, (size, 2 * size), torch.empty(0))
        assert [len(buffer) >= wanted for buffer, wanted in zip(slot.buffers, (size, 2 * size), strict=True)] == [True, True]
        assert all(slot is not other for other in held) and queue.waited == marks.pop(id(slot), [])
        queue.waited.clear()
        held.append(slot)
        while len(held) > kept:
            back = held.pop(0)
            marks[id(back)] = [object(), object()]
            ring.give_back(back, *marks[id(back)])


@pytest.mark.parametrize("with_state", [False, True])
def test_dense_rows_say_which_nodes_they_are(with_state, fake_device):
    """In host memory and behind a device; a table's rows are all nodes unless it says otherwise."""
    rows_R = np.array([0, 2])
    for numbers, more in ((RowNumbers(4, 3), (in_ram, RowNumbers(4, 3))), (RowNumbers(1, 0), ())):
        host = DenseTable(torch.randn(3, 4), 8, *more)
        for table in (host, PipelinedTable(host, fake_device.LazyDevice(0))):
            assert table.read(table.prefetch(rows_R), with_state).numbers == numbers


def test_steps_ask_for_no_memory_once_they_have_some(fake_device):
    """Unless a batch is larger than any before it."""

    class Counting(fake_device.LazyDevice):
        asked = 0

        def empty(self, length, like):
            self.asked += 1
            return super().empty(length, like)

    device = Counting(0)
    table = PipelinedTable(DenseTable(torch.zeros(40, 2), 2), device)
    asked = []
    for step in range(4 * SLOTS):
        rows_R = np.arange(40 if step == 3 * SLOTS else 16 + step % 2)
        table.write(table.read(table.prefetch(rows_R), with_state=True))
        asked.append(device.asked)
    assert asked[SLOTS] == asked[3 * SLOTS - 1] == 2 * SLOTS and asked[3 * SLOTS] == 2 * SLOTS + 2 == asked[-1]
