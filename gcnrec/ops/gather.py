"""Reads and writes rows by number.

Letters: P rows of a plane, R rows to read, D width.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.ops.lanes import request_line

_AHEAD = 16
"""Rows between the request for a row and its use."""
_LANES = 16
"""Floats of a vector: a cache line."""


def gather(plane_PD: torch.Tensor, index_R: NDArray[np.integer], out_RD: torch.Tensor | None = None) -> torch.Tensor:
    """out[r] = plane[index[r]], float32; a contiguous buffer given as `out_RD` is reused. Numbers are 0 .. P-1."""
    if out_RD is None:
        out_RD = torch.empty(len(index_R), plane_PD.shape[1])
    plane = padded(plane_PD)
    _gather(plane.reshape(-1), plane.shape[1], index_R, out_RD.view(-1).numpy(), out_RD.shape[1])
    return out_RD


def put(plane_PD: torch.Tensor, index_R: NDArray[np.integer], rows_RD: torch.Tensor) -> None:
    """plane[index[r]] = rows[r], float32, for rows that are all different. Numbers are 0 .. P-1.

    DataError where `rows_RD` has another shape than index and plane.
    """
    if rows_RD.shape != (len(index_R), plane_PD.shape[1]):
        raise DataError(
            f"rows must be {len(index_R)} x {plane_PD.shape[1]}, got {tuple(rows_RD.shape)}; allocate them by index and plane"
        )
    plane, rows = padded(plane_PD), padded(rows_RD)
    _put(plane.reshape(-1), plane.shape[1], index_R, rows.reshape(-1), rows.shape[1], rows_RD.shape[1])


def move(source_SD: torch.Tensor, from_R: NDArray[np.integer], target_TD: torch.Tensor, to_R: NDArray[np.integer]) -> None:
    """target[to[r]] = source[from[r]], float32, for rows of the target that are all different.

    DataError where both lists differ in length, or both planes in width.
    """
    if len(from_R) != len(to_R) or source_SD.shape[1] != target_TD.shape[1]:
        raise DataError(
            f"as many rows must be moved as there are places, in planes of one width, got {len(from_R)} rows of width "
            f"{source_SD.shape[1]} for {len(to_R)} places of width {target_TD.shape[1]}; match both"
        )
    source, target = padded(source_SD), padded(target_TD)
    _move(source.reshape(-1), source.shape[1], from_R, target.reshape(-1), target.shape[1], to_R, source_SD.shape[1])


def padded(plane_PD: torch.Tensor) -> NDArray[np.float32]:
    """The plane with the padding of its rows, as one C-contiguous array (P, pitch) that shares its memory.

    numba compiles rows of a plain strided array to gathers; of this one to vector loads.
    """
    pitch = plane_PD.stride(0)
    if plane_PD.is_contiguous() or len(plane_PD) == 0:
        return plane_PD.numpy()  # type: ignore[no-any-return]
    return plane_PD.as_strided((len(plane_PD), pitch), (pitch, 1)).numpy()  # type: ignore[no-any-return]


def _copy(vectors):  # type: ignore[no-untyped-def]
    """The intrinsic out[at : at+n] = source[begin : begin+n], n = vectors * _LANES: no check for overlap, no loop."""

    def gcnrec_copy(typing, source, begin, out, at):  # type: ignore[no-untyped-def]
        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            vector = ir.VectorType(ir.FloatType(), _LANES).as_pointer()
            bases = [context.make_array(signature.args[n])(context, builder, value=args[n]).data for n in (0, 2)]
            for first in range(0, vectors * _LANES, _LANES):
                starts = [builder.add(args[n], ir.IntType(64)(first)) for n in (1, 3)]
                source, target = (
                    builder.bitcast(builder.gep(base, [start]), vector) for base, start in zip(bases, starts, strict=True)
                )
                builder.store(builder.load(source, align=4), target, align=4)
            return context.get_dummy_value()

        return types.void(source, types.int64, out, types.int64), emit

    return intrinsic(gcnrec_copy)


_copy_64, _copy_16 = _copy(4), _copy(1)


@numba.njit(parallel=True, cache=True)
def _gather(plane, pitch, index_R, out, width):  # type: ignore[no-untyped-def]
    last = len(index_R) - 1
    wide, narrow = width // 64 * 64, width // 16 * 16
    for r in numba.prange(len(index_R)):
        later = np.int64(index_R[min(r + _AHEAD, last)]) * pitch
        for line in range(0, width, _LANES):
            request_line(plane, later + line)
        begin, at = np.int64(index_R[r]) * pitch, r * width
        for d in range(0, wide, 64):
            _copy_64(plane, begin + d, out, at + d)
        if wide < width:  # asked once: rows of 64 and 128 floats pay for no empty loops (measured: a fifth)
            for d in range(wide, narrow, 16):
                _copy_16(plane, begin + d, out, at + d)
            for d in range(narrow, width):
                out[at + d] = plane[begin + d]


@numba.njit(inline="always")
def _copy_row(source, begin, target, at, width):  # type: ignore[no-untyped-def]
    """target[at : at+width] = source[begin : begin+width]."""
    wide, narrow = width // 64 * 64, width // 16 * 16
    for d in range(0, wide, 64):
        _copy_64(source, begin + d, target, at + d)
    for d in range(wide, narrow, 16):
        _copy_16(source, begin + d, target, at + d)
    for d in range(narrow, width):
        target[at + d] = source[begin + d]


@numba.njit(parallel=True, cache=True)
def _put(plane, pitch, index_R, rows, rows_pitch, width):  # type: ignore[no-untyped-def]
    last = len(index_R) - 1
    for r in numba.prange(len(index_R)):
        later = np.int64(index_R[min(r + _AHEAD, last)]) * pitch
        for line in range(0, width, _LANES):
            request_line(plane, later + line)
        _copy_row(rows, r * rows_pitch, plane, np.int64(index_R[r]) * pitch, width)


@numba.njit(parallel=True, cache=True)
def _move(source, pitch, from_R, target, target_pitch, to_R, width):  # type: ignore[no-untyped-def]
    last = len(from_R) - 1
    for r in numba.prange(len(from_R)):
        ahead = min(r + _AHEAD, last)
        early, later = np.int64(from_R[ahead]) * pitch, np.int64(to_R[ahead]) * target_pitch
        for line in range(0, width, _LANES):
            request_line(source, early + line)
            request_line(target, later + line)
        _copy_row(source, np.int64(from_R[r]) * pitch, target, np.int64(to_R[r]) * target_pitch, width)
