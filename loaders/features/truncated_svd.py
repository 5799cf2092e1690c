"""The leading right singular vectors of a tall sparse matrix that is read row by row, perhaps from disk.

Letters: R rows, W columns of the matrix (words), S vectors iterated, F vectors wanted.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.random import Stage, normal

_LANES = 16
"""Vectors that a thread takes through the matrix at a time: 64 bytes of each word."""
_ITERATIONS = 8
_NOISE = float(np.finfo(np.float32).eps) ** 2
"""Squared length of what rounding leaves of a vector, relative to its own, for each vector that was subtracted."""


def iterated(wanted: int) -> int:
    """S, the vectors iterated to get `wanted`: some more, as the last ones converge slowly, and a multiple of the lanes."""
    return -(-(wanted + _LANES) // _LANES) * _LANES


def right_vectors(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[np.float32], width: int, wanted: int, seed: int
) -> NDArray[np.float32]:
    """Right singular vectors float32 (W, F) of the matrix with `width` = W columns, by falling singular value.

    Subspace iteration on A'A with a Rayleigh-Ritz step at the end (Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.3).
    Only vectors of W entries are held, about 8 S of them in all; the matrix is read once per iteration and never copied.
    The entry of largest magnitude of a vector is positive; vectors beyond the rank are zero. Equal run to run on one machine;
    torch may round otherwise with another number of threads.
    """
    basis_WS = normal(seed, Stage.SPECTRAL, 0, (width, iterated(wanted)))
    for _ in range(_ITERATIONS):
        basis_WS = _orthonormal(_squared(indptr, indices, values, basis_WS))
    projected_SS = _product(basis_WS.T, _squared(indptr, indices, values, basis_WS))
    squares, turn = torch.linalg.eigh(torch.from_numpy((projected_SS + projected_SS.T) / 2))
    squares_S, turn_SS = squares.numpy(), turn.numpy()
    squares_F, turn_SF = squares_S[::-1][:wanted], turn_SS[:, ::-1][:, :wanted]
    floor = max(float(squares_S[-1]), 0.0) * len(squares_S) * np.finfo(np.float32).eps
    vectors_WF = _product(basis_WS, np.where(squares_F > floor, turn_SF, 0.0)).astype(np.float32)
    largest_F = np.take_along_axis(vectors_WF, np.abs(vectors_WF).argmax(axis=0, keepdims=True), axis=0)
    signed: NDArray[np.float32] = vectors_WF * np.where(largest_F < 0, np.float32(-1), np.float32(1))
    return signed


def _squared(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[np.float32], vectors_WS: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A'A times the vectors, which go through it in blocks of lanes that lie together."""
    blocks_KWL = np.ascontiguousarray(vectors_WS.reshape(len(vectors_WS), -1, _LANES).swapaxes(0, 1))  # copy: lanes together
    out_KWL = np.zeros_like(blocks_KWL)
    _square_blocks(indptr, indices, values, blocks_KWL, out_KWL)
    return out_KWL.swapaxes(0, 1).reshape(vectors_WS.shape)


def _orthonormal(vectors_WS: NDArray[np.float32]) -> NDArray[np.float32]:
    """An orthonormal basis of the span; a vector that adds nothing beyond rounding noise to the previous ones becomes zero.

    By the Gram matrix in float64, exact enough for vectors in float32: two products, where a QR of so tall a matrix is many
    small steps between which threads wait for each other.
    """
    return _product(vectors_WS, _orthonormal_turn(_product(vectors_WS.T, vectors_WS))).astype(np.float32)


def _product(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """left @ right in float64, by torch: NumPy's own threads wait spinning, and on a busy machine for seconds."""
    product: NDArray[np.float64] = (torch.from_numpy(left).double() @ torch.from_numpy(right).double()).numpy()
    return product


@numba.njit(cache=True, nogil=True)
def _orthonormal_turn(gram):  # type: ignore[no-untyped-def]
    """T upper triangular with T' gram T = 1: Gram-Schmidt on the unit vectors, in the metric of `gram`."""
    size = len(gram)
    turn_rows = np.zeros((size, size))  # row k is column k of T
    for column in range(size):
        square = gram[column, column]
        own = np.zeros(size)
        own[column] = 1.0
        for before in range(column):
            overlap = 0.0
            for at in range(before + 1):
                overlap += turn_rows[before, at] * gram[column, at]
            square -= overlap * overlap
            for at in range(before + 1):
                own[at] -= overlap * turn_rows[before, at]
        if square > size * _NOISE * gram[column, column]:
            turn_rows[column] = own / np.sqrt(square)
    return turn_rows.T


@numba.njit(parallel=True, cache=True, nogil=True)
def _square_blocks(indptr, indices, values, vectors, out):  # type: ignore[no-untyped-def]
    """Every thread takes a block through all rows in order: sums do not depend on the number of threads."""
    lanes = vectors.shape[2]  # not the constant: loops of so few known steps are unrolled and then not vectorised
    for block in numba.prange(len(vectors)):
        row_sum = np.empty(lanes, np.float32)
        for row in range(len(indptr) - 1):
            row_sum[:] = 0
            for at in range(indptr[row], indptr[row + 1]):
                word = np.uint64(indices[at])
                for lane in range(lanes):
                    row_sum[lane] += values[at] * vectors[block, word, lane]
            for at in range(indptr[row], indptr[row + 1]):
                word = np.uint64(indices[at])
                for lane in range(lanes):
                    out[block, word, lane] += values[at] * row_sum[lane]
