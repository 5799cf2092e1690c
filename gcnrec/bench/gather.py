"""Bench `gather`: the rows of a batch, read by number from a table into a dense tile, dense rows and slots.

Dense rows and slots hold the same values: a quarter of each row's columns, the same number in every row, zero elsewhere, so
that every variant must give the same bits. Rows are drawn evenly, different and ascending, as batches have them; tiles and
buffers are reused. With a GPU a second part ends on it: pinned rows read by its own threads, against gathers by the CPU
and a copy.
Letters: N rows of the table, R rows read, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.harness import Row, Variant, in_parts, measure, use_threads, variants_of
from gcnrec.device import gpu, ops_for, pipeline_of
from gcnrec.errors import DeviceError
from gcnrec.ops.gather import gather
from gcnrec.ops.slots import decode
from gcnrec.random import Stage, generator
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dense import aligned
from gcnrec.tables.slots import SlotTable

WIDTHS = (64, 128)
SHARE = 4
"""Columns for each stored column."""


@dataclass(frozen=True)
class Task:
    """The table in both forms, and the rows to read."""

    dense_ND: torch.Tensor
    slots: SlotTable
    rows_R: NDArray[np.int64]

    @property
    def width(self) -> int:
        return self.dense_ND.shape[1]

    def tile(self) -> torch.Tensor:
        return torch.zeros(len(self.rows_R), self.width)


def run(threads: int | None = None, runs: int = 15, num_rows: int = 1_000_000, batch: int = 1 << 17) -> Iterator[Row]:
    """Rows for every width and place of the tile, and one closing row, the smallest speedup; units are rows read."""
    use_threads(threads)
    device = device_or_none()

    def parts() -> Iterator[Iterator[Row]]:
        for width in WIDTHS:
            task = task_of(num_rows, width, batch)
            yield measure(f"gather-{width}", on_host(task), batch, difference, 0.0, runs=runs)
            if device is not None:
                yield measure(f"gather-to-device-{width}", to_device(task, device), batch, difference, 0.0, runs=runs)

    yield from in_parts("gather", parts())


def device_or_none() -> torch.device | None:
    """The GPU, where one can be used."""
    try:
        return gpu()
    except DeviceError:
        return None


def task_of(num_rows: int, width: int, batch: int) -> Task:
    """`width / SHARE` columns of every row hold random values: one of each group of `SHARE` neighbours, drawn by row."""
    draws = generator(0, Stage.INIT)
    count = width // SHARE
    columns_NC = np.arange(0, width, SHARE) + draws.integers(0, SHARE, (num_rows, count))
    values_NC = draws.standard_normal((num_rows, count), np.float32)
    dense_ND = aligned(num_rows, width)
    dense_ND.zero_().scatter_(1, torch.from_numpy(columns_NC), torch.from_numpy(values_NC))
    table = SlotTable(num_rows, width, values_NC.size, (0, 0))
    nothing = np.empty((0, values_NC.size), np.float32), np.empty((num_rows, 0), np.float32)
    counts_N, columns_X = np.full(num_rows, count), columns_NC.astype(np.uint8).reshape(-1)
    with table.rebuild() as rebuild:
        rebuild.write(SlotBlock(0, counts_N, columns_X, values_NC.reshape(-1), *nothing))
    return Task(dense_ND, table, np.sort(draws.choice(num_rows, min(batch, num_rows), replace=False)))


def on_host(task: Task) -> list[Variant]:
    """The tile stays in the memory of the CPU."""
    index_R = torch.from_numpy(task.rows_R)
    builds: dict[str, Callable[[], Callable[[], torch.Tensor]]] = {
        "gcnrec": lambda: partial(gather, task.dense_ND, task.rows_R, task.tile()),
        "gcnrec-slots": lambda: partial(_decode, task, task.tile()),
        "torch-index-select": lambda: partial(torch.index_select, task.dense_ND, 0, index_R, out=task.tile()),
        "torch-index": lambda: partial(task.dense_ND.__getitem__, index_R),
        "numpy-take": lambda: partial(_take, task, task.tile()),
    }
    return variants_of(builds)


def to_device(task: Task, device: torch.device) -> list[Variant]:
    """The tile is wanted on `device`. For a CPU, which a test may name, nothing is pinned and copies are plain."""
    index_R = torch.from_numpy(task.rows_R)
    builds: dict[str, Callable[..., Callable[[], torch.Tensor]]] = {
        "gcnrec-zero-copy": _ZeroCopy,
        "torch-index-to-device": lambda task, device: lambda: _finished(task.dense_ND[index_R].to(device)),
        "torch-index-select-pinned": _index_select_to_device,
    }
    return variants_of(builds, task, device)


def difference(expected_RD: torch.Tensor, found_RD: torch.Tensor) -> float:
    """The largest difference of a value, wherever the tiles lie."""
    return float((found_RD.cpu() - expected_RD.cpu()).abs().max())


def _decode(task: Task, tile_RD: torch.Tensor) -> torch.Tensor:
    decode(task.slots.slots, task.rows_R, tile_RD.numpy())
    return tile_RD


def _take(task: Task, tile_RD: torch.Tensor) -> torch.Tensor:
    # mode "raise" would gather into a buffer first
    np.take(task.dense_ND.numpy(), task.rows_R, axis=0, out=tile_RD.numpy(), mode="clip")
    return tile_RD


class _ZeroCopy:
    """The device's own threads read the table in host memory, which stays pinned as long as this object lives."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self._table_ND, self._rows_R = task.dense_ND, torch.from_numpy(task.rows_R).to(device)
        self._ops, self._pinned = ops_for(device), None
        if device.type == "cuda":
            self._pinned = pipeline_of(device)
            self._pinned.adopt(task.dense_ND.view(-1), task.dense_ND.numel())

    def __call__(self) -> torch.Tensor:
        return _finished(self._ops.gather(self._table_ND, self._rows_R))


def _index_select_to_device(task: Task, device: torch.device) -> Callable[[], torch.Tensor]:
    rows_R, tile_RD = torch.from_numpy(task.rows_R), task.tile()
    buffer_RD = tile_RD.pin_memory() if device.type == "cuda" else tile_RD

    def read() -> torch.Tensor:
        torch.index_select(task.dense_ND, 0, rows_R, out=buffer_RD)
        return _finished(buffer_RD.to(device, non_blocking=True))

    return read


def _finished(tile_RD: torch.Tensor) -> torch.Tensor:
    if tile_RD.is_cuda:
        torch.cuda.synchronize(tile_RD.device)  # synchronize: the rows must be there when the clock stops
    return tile_RD
