"""Short lists of items with the scores that several models give them, and the best of each list under weights.

A weighted sum of parts that all rank an item low cannot rank it high: the best items of every part, far beyond the length of the
lists that are judged, hold the best of nearly every mixture, so that weights are searched without scoring all items again.

Letters: H users, P parts, S places of a short list, K list length.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def best_places(
    values_HSP: NDArray[np.float32], items_HS: NDArray[np.int32], weights_P: NDArray[np.float32], k: int
) -> NDArray[np.int32]:
    """The places of the `k` items of largest sum over p of weights_P[p] * values[h, s, p], int32 (H, k), -1 behind the last.

    Ties go to the earlier place, which holds the smaller item.
    """
    places_HK = np.full((len(items_HS), k), -1, np.int32)
    _best_places(values_HSP, items_HS, weights_P, places_HK)
    return places_HK


@numba.njit(cache=True, nogil=True)
def union(items_PBK, out_BS):  # type: ignore[no-untyped-def]
    """The items of a user's P lists, ascending and once each, -1 behind the last; `out_BS` int32 with S = P * K places."""
    parts, users, k = items_PBK.shape
    for b in range(users):
        together = np.empty(parts * k, np.int32)
        for part in range(parts):
            together[part * k : (part + 1) * k] = items_PBK[part, b]
        together.sort()
        count = 0
        for item in together:
            if item >= 0 and (count == 0 or out_BS[b, count - 1] != item):
                out_BS[b, count] = item
                count += 1
        out_BS[b, count:] = -1


@numba.njit(cache=True, nogil=True)
def gathered(scores_BI, items_BS, out_BS):  # type: ignore[no-untyped-def]
    """out_bs = scores[b, items[b, s]], float32; 0 where the item is -1."""
    for b in range(items_BS.shape[0]):
        for s in range(items_BS.shape[1]):
            item = items_BS[b, s]
            out_BS[b, s] = np.float32(0) if item < 0 else scores_BI[b, item]


@numba.njit(parallel=True, cache=True, nogil=True)
def _best_places(values_HSP, items_HS, weights_P, places_HK):  # type: ignore[no-untyped-def]
    k = places_HK.shape[1]
    for h in numba.prange(len(items_HS)):
        best_K = np.full(k, -np.inf, np.float32)
        for s in range(items_HS.shape[1]):
            if items_HS[h, s] < 0:
                break
            score = np.float32(0)
            for p in range(len(weights_P)):
                score += weights_P[p] * values_HSP[h, s, p]
            if not score > best_K[k - 1]:
                continue
            at = k - 1
            while at > 0 and best_K[at - 1] < score:
                best_K[at] = best_K[at - 1]
                places_HK[h, at] = places_HK[h, at - 1]
                at -= 1
            best_K[at] = score
            places_HK[h, at] = s
