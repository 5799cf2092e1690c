"""The leading right singular vectors of a tall sparse matrix that is read row by row, perhaps from disk.

Letters: R rows, W columns of the matrix (words), S vectors iterated, F vectors wanted.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.random import Stage, normal

_LANES = 16
"""Vectors that a thread takes through the matrix at a time: a line of 64 bytes in each word's row."""
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
    Only vectors of W entries are held, about 4 S of them; the matrix is read once per iteration and never copied.
    The entry of largest magnitude of a vector is positive; vectors beyond the rank are zero. Equal run to run on one machine;
    its linear algebra library may round otherwise with another number of threads.
    """
    basis_WS = normal(seed, Stage.SPECTRAL, 0, (width, iterated(wanted)))
    for _ in range(_ITERATIONS):
        basis_WS = _orthonormal(_squared(indptr, indices, values, basis_WS))
    projected_SS = basis_WS.T.astype(np.float64) @ _squared(indptr, indices, values, basis_WS)
    squares_S, turn_SS = np.linalg.eigh((projected_SS + projected_SS.T) / 2)
    squares_F, turn_SF = squares_S[::-1][:wanted], turn_SS[:, ::-1][:, :wanted]
    floor = max(float(squares_S[-1]), 0.0) * len(squares_S) * np.finfo(np.float32).eps
    vectors_WF = basis_WS @ np.where(squares_F > floor, turn_SF, 0.0).astype(np.float32)
    largest_F = np.take_along_axis(vectors_WF, np.abs(vectors_WF).argmax(axis=0, keepdims=True), axis=0)
    signed: NDArray[np.float32] = vectors_WF * np.where(largest_F < 0, np.float32(-1), np.float32(1))
    return signed


def _squared(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[np.float32], vectors_WS: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A'A times the vectors."""
    out_WS = np.zeros_like(vectors_WS)
    _square_lanes(indptr, indices, values, vectors_WS, out_WS)
    return out_WS


def _orthonormal(vectors_WS: NDArray[np.float32]) -> NDArray[np.float32]:
    """An orthonormal basis of the span; a vector that adds nothing beyond rounding noise to those before it becomes zero.

    By the Gram matrix in float64, exact enough for vectors in float32: two products, where a QR of so tall a matrix is many
    small steps between which threads wait for each other.
    """
    wide_WS = vectors_WS.astype(np.float64)
    basis_WS: NDArray[np.float32] = (wide_WS @ _orthonormal_turn(wide_WS.T @ wide_WS)).astype(np.float32)
    return basis_WS


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
def _square_lanes(indptr, indices, values, vectors, out):  # type: ignore[no-untyped-def]
    """Every thread takes its lanes through all rows in order: sums do not depend on the number of threads."""
    for block in numba.prange(vectors.shape[1] // _LANES):
        first = block * _LANES
        row_sum = np.empty(_LANES, np.float32)
        for row in range(len(indptr) - 1):
            row_sum[:] = 0
            for at in range(indptr[row], indptr[row + 1]):
                for lane in range(_LANES):
                    row_sum[lane] += values[at] * vectors[indices[at], first + lane]
            for at in range(indptr[row], indptr[row + 1]):
                for lane in range(_LANES):
                    out[indices[at], first + lane] += values[at] * row_sum[lane]


@numba.njit(parallel=True, cache=True, nogil=True)
def project(indptr, indices, values, vectors, out):  # type: ignore[no-untyped-def]
    """`out` float32 (R, F) = the sparse rows (CSR) times `vectors` float32 (W, F)."""
    for row in numba.prange(len(indptr) - 1):
        out[row] = 0
        for at in range(indptr[row], indptr[row + 1]):
            for column in range(vectors.shape[1]):
                out[row, column] += values[at] * vectors[indices[at], column]
