"""Small slot tables and graphs with every edge case of a row, for the checks."""

from __future__ import annotations

import numpy as np
import torch

from gcnrec.cuda.propagate import Csr
from gcnrec.cuda.slots import Slots
from gcnrec.graph import Csr as HostCsr
from gcnrec.graph import csr_from_edges, transpose
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.slots import SlotTable, dense_rows
from jobs.measure.gpu.bed import Bed

ROWS, COLUMNS = 12, 700


def small_slots(rows: int, width: int, dtype: str) -> tuple[SlotTable, torch.Tensor]:
    """A table with rows of no value, of one and of the most, and the same rows dense."""
    draw = np.random.default_rng(width)
    most = min(width, SlotTable(1, width, 1, (0, 0), dtype).max_count)
    counts = draw.integers(0, most + 1, rows)
    counts[:3] = 0, 1, most
    columns = np.concatenate([np.sort(draw.permutation(width)[:count]) for count in counts]).astype(np.uint8)
    table = SlotTable(rows, width, len(columns), (0, 0), dtype)
    values = draw.standard_normal(len(columns)).astype(np.float32)
    state = np.zeros((0, len(columns)), np.float32), np.zeros((rows, 0), np.float32)
    with table.rebuild() as rebuild:
        rebuild.write(SlotBlock(0, counts, columns, values, *state))
    return table, dense_rows(table.tensors(), width)


def on_bed(bed: Bed, table: SlotTable) -> Slots:
    """The records in pinned memory, what finds them on the device."""
    own = table.slots
    places = (own.location_N.view(np.int32), own.count_N, own.capacity_K)
    location_N, count_N, capacity_K = (torch.from_numpy(part).to(bed.device) for part in places)
    arena = bed.host(torch.from_numpy(own.columns))
    dtype = torch.float32 if table.dtype == "float32" else torch.bfloat16
    return Slots(location_N, count_N, arena.view(dtype), arena, capacity_K)


def small_graph(bed: Bed) -> tuple[HostCsr, Csr, torch.Tensor]:
    """Row 0 has every column, row 1 none, the others some: for the CPU, for the device with edges in pinned memory, and dense."""
    draw = np.random.default_rng(0)
    degrees = np.r_[COLUMNS, 0, draw.integers(1, 200, ROWS - 2)]
    columns = np.concatenate([draw.permutation(COLUMNS)[:degree] for degree in degrees]).astype(np.int32)
    rows = np.repeat(np.arange(ROWS), degrees).astype(np.int32)
    csr = csr_from_edges(rows, columns, ROWS, COLUMNS)
    dense_RC = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    dense_RC[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()] = 1.0
    other = transpose(csr)
    by_columns = Csr(*_placed(bed, other), ROWS)
    return csr, Csr(*_placed(bed, csr), COLUMNS, by_columns), dense_RC


def _placed(bed: Bed, csr: HostCsr) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.array(csr.indptr)).to(bed.device), bed.host(torch.from_numpy(np.array(csr.indices)))
