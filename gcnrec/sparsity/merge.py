"""Putting grown cells between the stored ones of their rows, columns ascending.

Letters: R rows, D width, X stored values, G grown cells, Y both.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# (numba's decorators carry no types)

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def merged_places(starts_R, columns_X, grown_RD, place_X, place_G, rows_G, columns_Y):
    """Where in the merged order stored value x and grown cell g go, the cells' rows, and all columns.

    Marks of `grown_RD` at stored columns do not count; returns the number of grown cells, at most len(place_G).
    """
    at = g = 0
    for r in range(len(grown_RD)):
        x, end = starts_R[r], starts_R[r + 1]
        for d in range(grown_RD.shape[1]):
            if x < end and columns_X[x] == d:
                place_X[x] = at
                x += 1
            elif grown_RD[r, d]:
                place_G[g], rows_G[g] = at, r
                g += 1
            else:
                continue
            columns_Y[at] = np.uint8(d)
            at += 1
    return g
