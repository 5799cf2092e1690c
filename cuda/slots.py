"""Slot rows on the GPU: the kernels of `gcnrec.ops.slots` that training needs, over an arena on the device or in pinned memory.

Letters: N rows of the table, R rows read, D width, X stored values of the rows, K counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gcnrec.cuda import module
from gcnrec.cuda.arguments import BLOCK, address, blocks_for, rows_address
from gcnrec.errors import DataError

UNIT = 8
"""Bytes that a location counts in."""
RECORD_LANES = 16
"""Threads that share a record, as slots.cu has it."""
STORED = (torch.float32, torch.bfloat16, torch.uint16)


class Slots(NamedTuple):
    """The places of slots: `values` (float32, or bfloat16, which may be called uint16) and `columns` (uint8) are two views of one
    arena. `location_N` uint32 and `count_N` uint8 are best kept on the device; `capacity_K` int64 must be there."""

    location_N: torch.Tensor
    count_N: torch.Tensor
    values: torch.Tensor
    columns: torch.Tensor
    capacity_K: torch.Tensor


def decode(slots: Slots, rows_R: torch.Tensor, out_RD: torch.Tensor, max_blocks: int | None = None) -> None:
    """out[r] = row rows_R[r], zero where it has no slot. `max_blocks` caps the grid of a prefetch."""
    _decode(slots, address("rows_R", rows_R, torch.int64), len(rows_R), 0, out_RD, max_blocks)


def decode_columns(slots: Slots, first: int, last: int, out_NC: torch.Tensor) -> None:
    """out = columns first .. last-1 of every row, zero where there is no slot."""
    _check_width(last - first, out_NC)
    _decode(slots, np.uint64(0), len(slots.count_N), first, out_NC, None)


def pick(slots: Slots, rows_R: torch.Tensor, tile_RD: torch.Tensor, at_R: torch.Tensor, out_X: torch.Tensor) -> None:
    """out[at[r] + j] = tile[r, column of slot j]: a dense gradient at the slots only."""
    rows = (address("rows_R", rows_R, torch.int64), np.int64(len(rows_R)))
    out = (address("at_R", at_R, torch.int64), address("out_X", out_X, torch.float32))
    arguments = (*arena(slots), value_bytes(slots), *rows, *rows_address("tile_RD", tile_RD), *out)
    _launch("gcnrec_pick", len(rows_R) * RECORD_LANES, arguments, slots)


def add_at_rows(slots: Slots, rows_R: torch.Tensor, tile_RD: torch.Tensor, at_N: torch.Tensor, out_X: torch.Tensor) -> None:
    """out[at[row] + j] += tile[r, column of slot j] for rows that are all different."""
    _add(slots, address("rows_R", rows_R, torch.int64), len(rows_R), 0, tile_RD, at_N, out_X)


def add_columns(slots: Slots, first: int, last: int, plane_NC: torch.Tensor, at_N: torch.Tensor, out_X: torch.Tensor) -> None:
    """out[at[n] + j] += plane[n, column of slot j - first] for slots in columns first .. last-1 of every row."""
    _check_width(last - first, plane_NC)
    _add(slots, np.uint64(0), len(slots.count_N), first, plane_NC, at_N, out_X)


def arena(slots: Slots) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """The first four arguments of every kernel that reads records."""
    return (
        address("location_N", slots.location_N, torch.uint32, torch.int32), address("count_N", slots.count_N, torch.uint8),
        address("columns", slots.columns, torch.uint8), address("capacity_K", slots.capacity_K, torch.int64),
    )  # fmt: skip


def value_bytes(slots: Slots) -> np.int32:
    """Bytes of a stored value, as the kernels take it: 4 for float32, 2 for bfloat16."""
    return np.int32(slots.values.element_size())


def value_name(slots: Slots) -> str:
    """Ends the names of kernels that are compiled for one type of stored values."""
    return "float32" if slots.values.dtype == torch.float32 else "bfloat16"


def _decode(slots: Slots, rows: np.uint64, count: int, first: int, out_RD: torch.Tensor, max_blocks: int | None) -> None:
    columns = (np.int32(first), np.int32(first + out_RD.shape[1]))
    arguments = (*arena(slots), rows, np.int64(count), *columns, *rows_address("out_RD", out_RD))
    _launch(f"gcnrec_decode_{value_name(slots)}", count * RECORD_LANES, arguments, slots, max_blocks)


def _add(
    slots: Slots, rows: np.uint64, count: int, first: int, tile_RD: torch.Tensor, at_N: torch.Tensor, out_X: torch.Tensor
) -> None:
    columns = (np.int32(first), np.int32(first + tile_RD.shape[1]))
    out = (address("at_N", at_N, torch.int64), address("out_X", out_X, torch.float32))
    arguments = (*arena(slots), value_bytes(slots), rows, np.int64(count), *columns, *rows_address("tile_RD", tile_RD), *out)
    _launch("gcnrec_add_slots", count * RECORD_LANES, arguments, slots)


def _check_width(width: int, tile: torch.Tensor) -> None:
    if tile.shape[1] != width:
        raise DataError(f"{width} columns need a tile {width} wide, got {tuple(tile.shape)}; allocate it for them")


def _launch(kernel: str, threads: int, arguments: tuple[np.generic, ...], slots: Slots, max_blocks: int | None = None) -> None:
    if threads:
        module.launch("slots.cu", kernel, blocks_for(threads, BLOCK, max_blocks), BLOCK, arguments, slots.capacity_K.device)
