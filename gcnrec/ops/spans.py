"""Copies of pieces of flat memory, and of the pieces of rows that two batches share; places of a window that are free.

Letters: E rows of an earlier batch, L rows of a later one, H rows of both, W places of a window, M rows that need one.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-untyped"

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.ops.slots import copy_spans
from gcnrec.queues import Pair, Spans


def copy_pairs(pairs: Sequence[Pair]) -> None:
    """Copy every source to its target; all memories are the host's."""
    for source, target in pairs:
        starts = source.starts().numpy(), target.starts().numpy()
        copy_spans(source.memory.numpy(), starts[0], target.memory.numpy(), starts[1], target.lengths().numpy())


def patch(earlier_E: torch.Tensor, later_L: torch.Tensor, pairs: Sequence[Pair]) -> None:
    """Copy piece e of each source to piece l of its target wherever earlier[e] == later[l]; rows ascend and are unique."""
    here_H, there_H = (torch.from_numpy(places) for places in common(earlier_E.numpy(), later_L.numpy()))
    copy_pairs([(picked(source, here_H), picked(target, there_H)) for source, target in pairs])


def picked(spans: Spans, places: torch.Tensor) -> Spans:
    """The pieces at `places`."""
    return Spans(spans.memory, spans.starts()[places], spans.lengths()[places])


def common(earlier_E: NDArray[np.int64], later_L: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the values of both stand in either, in rising order; each array ascends without repeats."""
    here_H, there_H = (np.empty(min(len(earlier_E), len(later_L)), np.int64) for _ in range(2))
    count = _common(earlier_E, later_L, here_H, there_H)
    return here_H[:count], there_H[:count]


@numba.njit(cache=True, nogil=True)
def _common(earlier_E, later_L, here_H, there_H):
    at, to, count = np.int64(0), np.int64(0), np.int64(0)
    while at < len(earlier_E) and to < len(later_L):
        earlier, later = earlier_E[at], later_L[to]
        if earlier == later:
            here_H[count], there_H[count] = at, to
            count += 1
        at += np.int64(earlier <= later)
        to += np.int64(later <= earlier)
    return count


@numba.njit(cache=True, nogil=True)
def free_places(stay_W, oldest, hand, out_M):
    """The next places from `hand` on that no stay since `oldest` uses, into `out`; how many, and the hand behind them."""
    found = 0
    for step in range(len(stay_W)):
        if found == len(out_M):
            return found, (hand + step) % len(stay_W)
        place = (hand + step) % len(stay_W)
        if stay_W[place] < oldest:
            out_M[found] = place
            found += 1
    return found, hand
