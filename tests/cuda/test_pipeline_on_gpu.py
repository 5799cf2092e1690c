"""Steps on a table in host memory behind a GPU's queues: as on the CPU, and the same bits whatever overlaps, is cached or staged.

Where there is a GPU these run on it. Everywhere they run on made-up streams that do their work at once, with the GPU's kernels
for transfers, so that the tests themselves are known to be right. They need no job files (no pydantic).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import queues
from gcnrec.cuda.pinned import StagedMemory
from gcnrec.device import ops_for
from gcnrec.ops.slots import copy_spans
from gcnrec.rows import AdamSettings, Ticket
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.slots import SlotTable

USERS, ROWS, WIDTH, BATCH, STEPS = 250, 400, 24, 90, 12
RATE, ADAM = 0.05, AdamSettings(0.9, 0.999, 1e-8)
KINDS = ["dense", "float32", "bfloat16"]


def table_of(kind):
    """Normal values with two moments each; slots of 0 to 24 values a row."""
    draw = np.random.default_rng(0)
    if kind == "dense":
        return DenseTable(torch.from_numpy(draw.standard_normal((ROWS, WIDTH), np.float32)), 2 * WIDTH)
    counts = draw.integers(0, WIDTH + 1, ROWS)
    columns = np.concatenate([np.sort(draw.permutation(WIDTH)[:count]) for count in counts]).astype(np.uint8)
    table = SlotTable(ROWS, WIDTH, len(columns), (2, 0), kind)
    values = draw.standard_normal(len(columns)).astype(np.float32)
    with table.rebuild() as rebuild:
        state = np.zeros((2, len(columns)), np.float32), np.zeros((ROWS, 0), np.float32)
        rebuild.write(SlotBlock(0, counts, columns, values, *state))
    return table


def batches():
    """Ascending rows; of the most popular every batch has many."""
    draw = np.random.default_rng(1)
    popular = 1.0 / (1 + np.concatenate([np.arange(USERS), np.arange(ROWS - USERS)]))
    return [np.sort(draw.choice(ROWS, BATCH, replace=False, p=popular / popular.sum())) for _ in range(STEPS)]


def trained(table, ahead=True):
    """The table's tensors after some steps of Adam on a loss with half the squared values and their sum. No step waits."""
    all_rows, announce = batches(), table.prefetch if ahead else Ticket
    later, sums = Ticket(all_rows[0]), []
    for step in range(1, STEPS + 1):
        ticket = later
        if step < STEPS:
            later = announce(all_rows[step])
        rows = table.read(ticket, with_state=True)
        tile_RD = table.decode(rows)
        sums.append(tile_RD.sum())
        grad = table.stored(ticket, tile_RD + 1.0)
        ops_for(tile_RD.device).rules.adam(rows, grad, step, RATE, ADAM)
        table.write(rows)
        if step == STEPS // 2:
            table.drained()
    assert torch.stack(sums).isfinite().all()
    return {name: torch.as_tensor(tensor).clone() for name, tensor in table.drained().tensors().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def on_a_gpu():
    device = torch.device("cuda", torch.cuda.current_device())
    warnings = []
    return queues.CudaDevice(device, copy_spans, 4, False, warnings.append), warnings


NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(params=["made-up", pytest.param("gpu", marks=NEEDS_GPU)])
def new_device(request):
    return on_a_gpu if request.param == "gpu" else request.getfixturevalue("device_of")


@pytest.mark.parametrize("kind", KINDS)
def test_as_the_cpu_does(kind, new_device):
    expected, start = trained(table_of(kind)), table_of(kind).tensors()
    device, warnings = new_device()
    found = trained(PipelinedTable(table_of(kind), device))
    device.close()
    assert warnings == [] and not same(start, expected) and found.keys() == expected.keys()
    table, other = table_of(kind), table_of(kind)
    table.restore(expected)
    other.restore(found)
    rows_ND, others_ND = (each.columns(0, WIDTH) for each in (table, other))
    # bfloat16 rounds at random, by numbers that are equal: a last bit before it can turn a rounding of one in 256.
    assert torch.allclose(others_ND, rows_ND, rtol=1e-4 if kind != "bfloat16" else 2e-2, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_with_and_without_overlap_cache_and_pinned_memory(kind, new_device, monkeypatch):
    device, _ = new_device()
    expected = trained(PipelinedTable(table_of(kind), device))
    device.close()
    for hot in (None, Prefixes(USERS, 30, 20), Prefixes(USERS, USERS, ROWS - USERS)):
        for ahead in (True, False):
            device, warnings = new_device()
            assert same(trained(PipelinedTable(table_of(kind), device, hot), ahead), expected), (hot, ahead)
            device.close()
            assert warnings == []
    monkeypatch.setattr(queues, "pin_or_stage", lambda memory: StagedMemory(memory, "refused"))
    for hot in (None, Prefixes(USERS, 30, 20)):
        device, warnings = new_device()
        assert same(trained(PipelinedTable(table_of(kind), device, hot)), expected), hot
        assert warnings == ["refused", "refused"]
        device.close()


def test_the_cache_takes_traffic_off_the_bus(new_device):
    traffic = []
    for hot in (None, Prefixes(USERS, 30, 20)):
        device, _ = new_device()
        table = PipelinedTable(table_of("dense"), device, hot)
        trained(table)
        traffic.append(table.traffic())
        device.close()
    plain, cached = traffic
    assert plain.cached_rows == 0 < cached.cached_rows < cached.rows and cached.bytes < plain.bytes and cached.lines < plain.lines
