"""When a trial ends early: the median rule, which gives up what is below half of the others so far (Golovin et al. 2017)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Curve = Sequence[tuple[int, float]]
"""Validated epochs, ascending, and the metric of each."""
LEAST_EPOCH = 3
"""No trial ends before this epoch has been validated."""
LEAST_TRIALS = 4
"""Complete earlier trials without which there is no median."""


def pruned_at(curve: Curve, earlier: Sequence[Curve]) -> int | None:
    """The first epoch at which the best value so far is below the median of `earlier` complete trials there; None without.

    It follows from the curves alone, not from when a process was asked: what a trial does beyond that epoch changes nothing.
    """
    for epoch, _ in curve:
        others = [best for other in earlier if (best := _best(other, epoch)) is not None]
        own = _best(curve, epoch)
        if epoch >= LEAST_EPOCH and len(others) >= LEAST_TRIALS and own is not None and own < statistics.median(others):
            return epoch
    return None


def _best(curve: Curve, epoch: int) -> float | None:
    return max((value for at, value in curve if at <= epoch), default=None)
