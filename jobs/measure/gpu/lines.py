"""What reads of rows cost on the bus: a GPU takes host memory in lines of 128 bytes, whole ones.

Letters: R rows read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

LINE_BYTES = 128


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rows asked for, their bytes, and the lines that bring them. Traffic adds up."""

    rows: int = 0
    lines: int = 0
    asked_bytes: int = 0

    @property
    def line_bytes(self) -> int:
        """Bytes that cross the bus."""
        return self.lines * LINE_BYTES

    @property
    def use(self) -> float:
        """Share of the bytes on the bus that were asked for; 1 where nothing was read."""
        return self.asked_bytes / self.line_bytes if self.lines else 1.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.rows + other.rows, self.lines + other.lines, self.asked_bytes + other.asked_bytes)


def traffic(at_bytes_R: NDArray[np.integer], bytes_R: NDArray[np.integer]) -> Traffic:
    """What reading the spans in this order costs: row r takes `bytes_R[r]` bytes from `at_bytes_R[r]` on."""
    return Traffic(len(at_bytes_R), lines(at_bytes_R, bytes_R), int(bytes_R.sum()))


def lines(at_bytes_R: NDArray[np.integer], bytes_R: NDArray[np.integer], line: int = LINE_BYTES) -> int:
    """How many lines the spans touch; a line counts once for spans that follow each other (they are read together).

    For ascending spans this is the number of different lines. `at_bytes_R` are addresses, or distances from a line's start.
    """
    return int(_lines(at_bytes_R, bytes_R, line))


@numba.njit(cache=True)
def _lines(at_bytes_R, bytes_R, line):  # type: ignore[no-untyped-def]
    total = 0
    before_first, before_last = 0, -1  # the lines of the span before; none yet
    for r in range(len(at_bytes_R)):
        if bytes_R[r] > 0:
            at = np.int64(at_bytes_R[r])
            first, last = at // line, (at + np.int64(bytes_R[r]) - 1) // line
            shared = min(last, before_last) - max(first, before_first) + 1
            total += last - first + 1 - max(shared, 0)
            before_first, before_last = first, last
    return total
