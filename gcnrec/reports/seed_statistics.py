"""Means over seeds with Student's t intervals, and runs compared seed by seed: at equal epochs and at equal seconds.

The t interval of n values is mean +- t(0.975, n - 1) * s / sqrt(n), s with n - 1 below the fraction (Student 1908). It speaks
about seeds, so about training again on the same data, not about other users.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gcnrec.reports.trials import Trial
from gcnrec.runs.events import Epoch


@dataclass(frozen=True)
class Estimate:
    """A mean of `count` values and its 95 % t interval; low and high are nan for fewer than two values."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Contrast:
    """A variant and the base, both read off their validation curves at `limit` (its mean over the seeds)."""

    variant: str
    base: str
    budget: float
    limit: float
    value: Estimate
    base_value: Estimate
    difference: Estimate


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % t interval; nan for no values."""
    from scipy.special import stdtrit

    count = len(values)
    if count < 2:
        return Estimate(values[0] if values else math.nan, math.nan, math.nan, count)
    mean = statistics.fmean(values)
    half = float(stdtrit(count - 1, 0.975)) * statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)


def paired(values: Mapping[int, float], base: Mapping[int, float]) -> Estimate:
    """`values` less `base` by seed, over the seeds that both have."""
    return estimate([values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())])


def last_until(validations: Sequence[Epoch], metric: str, by: Literal["epoch", "seconds"], limit: float) -> float | None:
    """`metric` at the last validation at or before `limit`; None when there was none."""
    return next((epoch.valid[metric] for epoch in reversed(validations) if getattr(epoch, by) <= limit), None)


def contrast(
    trials: Sequence[Trial], base_trials: Sequence[Trial], metric: str, by: Literal["epoch", "seconds"]
) -> Contrast | None:
    """Two variants of one budget where the shorter run of each pair of seeds ends; None when no pair can be compared.

    The limit of a pair is the smaller of its two total epochs, or training seconds. The last validation at or before the limit
    counts.
    """
    limits: dict[int, float] = {}
    values: dict[int, float] = {}
    base_values: dict[int, float] = {}
    others = {trial.seed: trial for trial in base_trials}
    for pair in ((trial, others[trial.seed]) for trial in trials if trial.seed in others):
        curves = [each.contents.validations(metric) for each in pair]
        if all(curves):
            limit = min(float(getattr(each.last("fit"), by)) for each in pair)
            value, base_value = (last_until(curve, metric, by, limit) for curve in curves)
            if value is not None and base_value is not None:
                limits[pair[0].seed], values[pair[0].seed], base_values[pair[0].seed] = limit, value, base_value
    if not limits:
        return None
    return Contrast(
        trials[0].variant,
        base_trials[0].variant,
        trials[0].budget,
        statistics.fmean(limits.values()),
        estimate(list(values.values())),
        estimate(list(base_values.values())),
        paired(values, base_values),
    )


def contrasts(trials: Sequence[Trial], compare: str, metric: str, by: Literal["epoch", "seconds"]) -> list[Contrast]:
    """Every other variant and `compare`, budget by budget."""
    groups = grouped(trials)
    found = []
    for (variant, budget), group in groups.items():
        base = groups.get((compare, budget), [])
        if variant != compare and base:
            found.append(contrast(group, base, metric, by))
    return [one for one in found if one is not None]


def grouped(trials: Sequence[Trial]) -> dict[tuple[str, float], list[Trial]]:
    """Trials that differ in nothing but the seed, by (variant, budget): variants in order, the largest budget first."""
    groups: dict[tuple[str, float], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.variant, trial.budget), []).append(trial)
    variants = list(dict.fromkeys(trial.variant for trial in trials))
    return dict(sorted(groups.items(), key=lambda entry: (-entry[0][1], variants.index(entry[0][0]))))
