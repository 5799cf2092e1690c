"""Which of many ranges, one after another, a number is in.

Letters: R ranges, X numbers.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.ops.arrays import frozen

_AT_ONCE = 64
"""Searches that go on together: a step of one reads memory while others wait for theirs."""


def ranges_of(ends_R: NDArray[np.integer], numbers_X: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many of the ascending `ends_R` are at or below each number, int64 (X): its range, where range r ends before ends_R[r].

    Equal to `np.searchsorted(ends_R, numbers_X, side="right")`, whose steps wait for one another.
    """
    out_X = np.empty(len(numbers_X), np.int64)
    _ranges_of(frozen(ends_R), frozen(numbers_X), out_X)
    return out_X


@numba.njit(cache=True, nogil=True)
def _ranges_of(ends_R, numbers_X, out_X):  # type: ignore[no-untyped-def]
    first = np.empty(_AT_ONCE, np.int64)
    for begin in range(0, len(numbers_X), _AT_ONCE):
        count, left = min(_AT_ONCE, len(numbers_X) - begin), len(ends_R)
        first[:count] = 0
        while left > 0:
            half = (left + 1) >> 1
            for x in range(count):
                first[x] += half * np.int64(ends_R[first[x] + half - 1] <= numbers_X[begin + x])  # a factor: no branch is guessed
            left -= half
        out_X[begin : begin + count] = first[:count]
