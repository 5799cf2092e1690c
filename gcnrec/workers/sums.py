"""Sums over the parts of a batch in one fixed order, and rows grouped by the worker that owns them.

A batch consists of S = 2^k parts, and W workers, W a divisor of S, hold the parts p with p % W == w each. Floats are added by
one binary tree: parts p and p + S/2 first, then p and p + S/4, ... The parts of a worker form a whole subtree, so the sums of
the workers, added by the same tree, have the same bits for each W.

Letters: P pieces, R rows of a piece or of a list, U rows of their union, D width, W workers, C ranges of rows.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-untyped"
# (llvmlite and numba's decorators carry no types)

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError
from gcnrec.ops.gather import gather

_RANGES = 4
"""Ranges of rows for each thread: the last to end keeps the others waiting for a quarter of its work at most."""
_SAMPLED = 64
"""Rows looked at for each range, to cut all rows into ranges of about equal work."""
_NO_ROW = np.int64(2**63 - 1)


class Piece(NamedTuple):
    """Rows of a sum, `rows_R` int64, ascending and unique, and their values in a float32 tile on the CPU: row r at `place_R[r]`
    of the tile (P, D), or row after row (R, D) where there is no `place_R`, int64. R may be 0."""

    rows_R: NDArray[np.int64]
    tile_PD: torch.Tensor
    place_R: NDArray[np.int64] | None = None


def tree(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of 2^k tensors of one shape and dtype: pieces p and p + P/2 first, then p and p + P/4, ...

    The pieces stay as they are; a single piece is returned itself. UsageError for another number of pieces.
    """
    half = _halved(len(pieces))
    sums = [pieces[p] + pieces[p + half] for p in range(half)] or [pieces[0]]
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [sums[p].add_(sums[p + half]) for p in range(half)]
    return sums[0]


def tree_rows(pieces: Sequence[Piece], width: int) -> tuple[NDArray[np.int64], torch.Tensor]:
    """The union of the rows of 2^k pieces, ascending int64 (U), and the sum of each row, float32 (U, D = `width`).

    A row is summed by the order of `tree` over the pieces that have it: an absent piece is skipped, as no zero is added. The
    pieces stay as they are; a single piece without places is returned itself. Threads do not change the result.
    UsageError for another number of pieces, DataError for a tile of another shape or dtype, or places outside of it.
    """
    leaves = [pieces[p] for p in _leaves(len(pieces))]
    tiles = [_checked(*piece, width) for piece in leaves]
    if len(pieces) == 1:
        place_R = pieces[0].place_R
        return pieces[0].rows_R, tiles[0] if place_R is None else gather(tiles[0], place_R)
    rows = np.concatenate([piece.rows_R for piece in leaves])  # copy: 8 bytes a row, a thirtieth of a tile 64 wide
    place = np.concatenate([np.arange(len(rows_R)) if at is None else at for rows_R, _, at in leaves])  # copy: as many
    start_P = np.cumsum([0, *(len(piece.rows_R) for piece in leaves)])
    at_CP = _ranges(rows, start_P, _cuts(rows, _RANGES * numba.get_num_threads()))
    first_C = np.cumsum(_count(rows, at_CP))
    rows_U, out_UD = np.empty(first_C[-1], np.int64), torch.empty(int(first_C[-1]), width)
    address_P = np.array([tile_PD.data_ptr() for tile_PD in tiles])
    _sum(rows, place, at_CP, first_C, address_P, rows_U, out_UD.numpy())
    return rows_U, out_UD


def by_owner(rows_R: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows grouped by their owner, worker row % size: `order_R` and `counts_W`, int64.

    `order_R[k]` is the place in `rows_R` of the k-th row of all groups. A group keeps the order of `rows_R`, and worker w's
    has `counts_W[w]` rows. Rows are 0 or more.
    """
    return _by_owner(rows_R, size)  # type: ignore[no-any-return]


def _halved(pieces: int) -> int:
    """Half the number of pieces. UsageError where it is no power of two."""
    if pieces < 1 or pieces & (pieces - 1):
        raise UsageError(
            f"a sum by a tree needs 1, 2, 4, 8, ... pieces, got {pieces}; cut the batch into a power of two of parts"
        )
    return pieces // 2


def _checked(rows_R: NDArray[np.int64], tile_PD: torch.Tensor, place_R: NDArray[np.int64] | None, width: int) -> torch.Tensor:
    """The tile, its rows one after the other in memory: the kernel reads it by address."""
    right = tile_PD.dtype == torch.float32 and tile_PD.device.type == "cpu" and rows_R.dtype == np.int64
    if not right or tile_PD.ndim != 2 or tile_PD.shape[1] != width or (place_R is None and len(tile_PD) != len(rows_R)):
        raise DataError(
            f"a piece must have int64 rows and a float32 tile of {len(rows_R)} x {width} on the CPU, got {rows_R.dtype} rows and "
            f"{tile_PD.dtype} of {tuple(tile_PD.shape)} on {tile_PD.device}; give tree_rows the width of all tiles"
        )
    if place_R is not None and (
        place_R.shape != rows_R.shape or place_R.min(initial=0) < 0 or place_R.max(initial=-1) >= len(tile_PD)
    ):
        raise DataError(
            f"a piece of {len(rows_R)} rows must have as many places in its tile of {len(tile_PD)} rows, got {len(place_R)} "
            f"places up to {place_R.max(initial=-1)}; give the places of the rows"
        )
    return tile_PD.contiguous()  # copy: only of a tile that is a view with gaps


def _leaves(pieces: int) -> list[int]:
    """The pieces from the left to the right of the tree: bits reversed, since pieces that differ by P/2 are neighbours."""
    _halved(pieces)
    order = [0]
    while len(order) < pieces:
        order = [*(2 * p for p in order), *(2 * p + 1 for p in order)]
    return order


def _cuts(rows: NDArray[np.int64], ranges: int) -> NDArray[np.int64]:
    """Ascending rows (C - 1) between which about equally many of all pieces' rows lie: quantiles of a sample."""
    sample = np.sort(rows[:: max(1, len(rows) // (_SAMPLED * ranges))])
    return sample[len(sample) * np.arange(1, ranges) // ranges] if len(sample) else sample


def _ranges(rows: NDArray[np.int64], start_P: NDArray[np.int64], cuts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in `rows` each piece's rows of each range begin, and at the end where they end: int64 (C + 1, P)."""
    at_CP = np.empty((len(cuts) + 2, len(start_P) - 1), np.int64)
    at_CP[0], at_CP[-1] = start_P[:-1], start_P[1:]
    for p, (first, last) in enumerate(pairwise(start_P)):
        at_CP[1:-1, p] = first + np.searchsorted(rows[first:last], cuts)
    return at_CP


@intrinsic
def _floats_at(typing, address):
    """The float32 values in memory from an address on."""

    def emit(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(address), emit  # type: ignore[attr-defined]


@numba.njit(inline="always")
def _next(rows, at, end):
    """The row at a place of a piece, or `_NO_ROW` after its last."""
    return rows[at] if at < end else _NO_ROW


@numba.njit(inline="always")
def _least(head_P):
    """The smallest row that a piece has not given yet."""
    least = _NO_ROW
    for p in range(len(head_P)):
        least = min(least, head_P[p])
    return least


@numba.njit(parallel=True, cache=True, nogil=True)
def _count(rows, at_CP):
    """Different rows of each range (C), after a leading 0."""
    count = np.zeros(len(at_CP), np.int64)
    for c in numba.prange(len(at_CP) - 1):
        at, end, found = at_CP[c].copy(), at_CP[c + 1], 0
        head = np.array([_next(rows, at[p], end[p]) for p in range(len(at))])
        row = _least(head)
        while row != _NO_ROW:
            found += 1
            for p in range(len(at)):
                if head[p] == row:
                    at[p] += 1
                    head[p] = _next(rows, at[p], end[p])
            row = _least(head)
        count[c + 1] = found
    return count


@numba.njit(parallel=True, cache=True, nogil=True)
def _sum(rows, place, at_CP, first_C, address_P, rows_U, out_UD):
    """Merge the pieces' lists of rows, a range at a time, and sum each row where it is met. Pieces are leaves in order."""
    width, pieces = out_UD.shape[1], len(address_P)
    for c in numba.prange(len(at_CP) - 1):
        at, end = at_CP[c].copy(), at_CP[c + 1]
        head = np.array([_next(rows, at[p], end[p]) for p in range(pieces)])
        source, leaf = np.empty(pieces, np.int64), np.empty(pieces, np.int64)
        spare = np.empty((2 * pieces, width), np.float32)
        for u in range(first_C[c], first_C[c + 1]):
            row, found = _least(head), 0
            for p in range(pieces):
                if head[p] == row:
                    source[found], leaf[found] = address_P[p] + 4 * width * place[at[p]], p
                    found += 1
                    at[p] += 1
                    head[p] = _next(rows, at[p], end[p])
            rows_U[u] = row
            _sum_of(source, leaf, found, spare, out_UD[u])


@numba.njit(inline="always")
def _sum_of(source, leaf, found, spare, out):
    """out = the sum of the rows at the addresses source[: found], which are the leaves leaf[: found] of the tree, ascending.

    The stack of sums that wait for their neighbours lies at the beginning of `source` and `leaf`. Two leaves meet the higher
    in the tree, the higher the highest bit in which their numbers differ.
    """
    width, top = len(out), 0
    if found == 1:
        out[:] = carray(_floats_at(source[0]), width)
    for k in range(1, found + 1):
        while top > 0 and (k == found or leaf[top - 1] ^ leaf[top] < leaf[top] ^ leaf[k]):
            a, b = carray(_floats_at(source[top - 1]), width), carray(_floats_at(source[top]), width)
            top -= 1
            if top == 0 and k == found:
                for d in range(width):
                    out[d] = a[d] + b[d]
            else:
                to = spare[2 * top]
                if source[top] == to.ctypes.data:  # memory that is also read would be added without vectors
                    to = spare[2 * top + 1]
                for d in range(width):
                    to[d] = a[d] + b[d]
                source[top] = to.ctypes.data
        if k < found:
            top += 1
            source[top], leaf[top] = source[k], leaf[k]


@numba.njit(cache=True, nogil=True)
def _by_owner(rows_R, size):
    owner_R = np.empty(len(rows_R), np.int32)
    counts_W = np.zeros(size, np.int64)
    mask = size - 1 if size & (size - 1) == 0 else 0  # workers are a power of two, and a division takes longer than the rest
    for r in range(len(rows_R)):
        owner = rows_R[r] & mask if mask else rows_R[r] % size
        owner_R[r] = owner
        counts_W[owner] += 1
    place_W = np.cumsum(counts_W) - counts_W
    order_R = np.empty(len(rows_R), np.int64)
    for r in range(len(rows_R)):
        order_R[place_W[owner_R[r]]] = r
        place_W[owner_R[r]] += 1
    return order_R, counts_W
