"""The cost of reads of rows on the bus: a GPU fetches host memory in whole lines of 128 bytes.

Letters: R rows read.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

LINE_BYTES = 128


def lines(at_bytes_R: NDArray[np.integer], bytes_R: NDArray[np.integer], line: int = LINE_BYTES) -> int:
    """Lines that the spans touch; a line counts once for spans that follow each other, which are read together.

    Row r takes `bytes_R[r]` bytes from `at_bytes_R[r]` on: an address, or a distance from a line's start. For ascending spans
    this is the number of different lines.
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
