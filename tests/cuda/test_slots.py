"""Slot kernels against the CPU's on real slot tables: equal integers and, where nothing is summed, equal floats."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import slots as cuda
from gcnrec.cuda.spans import copy_spans
from gcnrec.errors import DataError
from gcnrec.ops import slots as ops
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.slots import SlotTable

DTYPES = ["float32", "bfloat16"]
WIDTHS = [1, 5, 64, 256]


def table_of(rows, width, dtype, seed=0, moments=2, scalars=1):
    """Rows of every count, none and the most included, with random values."""
    draw = np.random.default_rng(seed)
    most = min(width, SlotTable(1, width, 1, (0, 0), dtype).max_count)
    counts = draw.integers(0, most + 1, rows)
    counts[:3] = [0, most, 0][:rows]
    columns = np.concatenate([np.sort(draw.permutation(width)[:count]) for count in counts]).astype(np.uint8)
    table = SlotTable(rows, width, max(1, len(columns)), (moments, scalars), dtype)
    values = draw.standard_normal(len(columns)).astype(np.float32)
    state = np.zeros((moments, len(columns)), np.float32), np.zeros((rows, scalars), np.float32)
    with table.rebuild() as rebuild:
        rebuild.write(SlotBlock(0, counts, columns, values, *state))
    return table


def on_device(table):
    """The table's arrays as tensors that share their memory."""
    own = table.slots
    return cuda.Slots(*(torch.from_numpy(part) for part in own))


def starts(table):
    counts = table.counts_N.astype(np.int64)
    return np.cumsum(counts) - counts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_decode(host, width, dtype):
    table = table_of(40, width, dtype)
    rows = np.array([39, 0, 1, 1, 2, 17])
    expected, out = np.empty((6, width), np.float32), torch.full((6, width + 3), torch.nan)[:, :width]
    ops.decode(table.slots, rows, expected)
    cuda.decode(on_device(table), torch.from_numpy(rows), out, max_blocks=1)
    assert np.array_equal(out.numpy(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("first", "last"), [(0, 64), (16, 32), (63, 64)])
def test_columns(host, first, last, dtype):
    table, at = table_of(40, 64, dtype), starts(table_of(40, 64, dtype))
    expected, out = np.empty((40, last - first), np.float32), torch.full((40, last - first), torch.nan)
    ops.decode_columns(table.slots, first, last, expected)
    cuda.decode_columns(on_device(table), first, last, out)
    assert np.array_equal(out.numpy(), expected)
    grads = np.ones(table.num_values, np.float32), torch.ones(table.num_values)
    ops.add_columns(table.slots, first, last, expected, at, grads[0])
    cuda.add_columns(on_device(table), first, last, out, torch.from_numpy(at), grads[1])
    assert np.array_equal(grads[1].numpy(), grads[0])
    with pytest.raises(DataError, match="need a tile"):
        cuda.decode_columns(on_device(table), first, last + 1, out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_pick_and_add(host, width, dtype):
    table, rows = table_of(40, width, dtype), np.array([3, 39, 1, 0])
    tile = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    counts = table.counts_N[rows].astype(np.int64)
    at_R, at_N = np.cumsum(counts) - counts, starts(table)
    expected, out = np.empty(counts.sum(), np.float32), torch.empty(int(counts.sum()))
    ops.pick(table.slots, rows, tile.numpy(), at_R, expected)
    cuda.pick(on_device(table), torch.from_numpy(rows), tile, torch.from_numpy(at_R), out)
    assert np.array_equal(out.numpy(), expected)
    added = np.ones(table.num_values, np.float32), torch.ones(table.num_values)
    ops.add_at_rows(table.slots, rows, tile.numpy(), at_N, added[0])
    cuda.add_at_rows(on_device(table), torch.from_numpy(rows), tile, torch.from_numpy(at_N), added[1])
    assert np.array_equal(added[1].numpy(), added[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_staged_records_are_the_same_rows(host, dtype):
    """Records copied as spans into another arena, from which they are decoded as rows 0, 1, ..."""
    table, rows = table_of(200, 64, dtype), torch.arange(0, 200, 2)
    own = on_device(table)
    sizes = torch.from_numpy(table.arena.layout.sizes.record_K[table.counts_N[rows.numpy()]])
    at = sizes.cumsum(0) - sizes
    buffer = torch.zeros(int(sizes.sum()) + 136, dtype=torch.uint8)
    arena = buffer[-buffer.data_ptr() % 128 :]
    copy_spans(own.columns, torch.from_numpy(table.slots.location_N[rows].astype(np.int64) * cuda.UNIT), arena, at, sizes)
    values = arena[: len(arena) // 8 * 8].view(own.values.dtype)
    staged = cuda.Slots((at // cuda.UNIT).to(torch.int32), own.count_N[rows], values, arena, own.capacity_K)
    tiles = torch.empty(2, 100, 64)
    cuda.decode(own, rows, tiles[0])
    cuda.decode(staged, torch.arange(100), tiles[1])
    assert torch.equal(*tiles) and not arena[int(sizes.sum()) :].any()


def test_no_rows_launch_nothing(host):
    table, none = table_of(5, 8, "float32"), torch.empty(0, dtype=torch.int64)
    cuda.decode(on_device(table), none, torch.empty(0, 8))
    cuda.pick(on_device(table), none, torch.empty(0, 8), none, torch.empty(0))
    assert host.launches == []


def test_both_views_must_be_of_the_arena(host):
    own = on_device(table_of(5, 8, "float32"))
    with pytest.raises(DataError, match=r"columns must be torch\.uint8"):
        cuda.decode(own._replace(columns=own.values), torch.zeros(1, dtype=torch.int64), torch.empty(1, 8))
