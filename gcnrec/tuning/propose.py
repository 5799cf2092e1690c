"""Settings of the next trials, out of those that have ended. Equal trials give equal proposals, whenever they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcnrec.config.tuning import Params, Range, Search, Space
from gcnrec.errors import UsageError, install
from gcnrec.tuning.study import Record

_SEEDS = 2**32
_STRIDE = 1_000_003
"""Between the seeds of two searches, more than any has trials."""


def total(search: Search) -> int:
    """How many trials the search has."""
    return len(search.space.combinations()) if search.settings.sampler == "grid" else search.settings.trials


def proposed(search: Search, earlier: Sequence[Record], first: int, count: int) -> list[Params]:
    """Settings of trials `first` to `first` + `count` - 1. `earlier`: all trials before, by number."""
    sampler, seed = search.settings.sampler, search.settings.seed
    if sampler == "grid":
        return search.space.combinations()[first : first + count]
    if sampler == "random":
        return [_drawn(search.space, np.random.default_rng([seed, number])) for number in range(first, first + count)]
    return _by_parzen_estimators(search.space, earlier, (seed * _STRIDE + first) % _SEEDS, count)


def require_sampler(sampler: str) -> None:
    """UsageError where `sampler` needs a package that is missing."""
    if sampler != "tpe":
        return
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UsageError(f"tune.sampler = 'tpe' needs Optuna, which is missing; {install('tune')}, or --sampler random") from None


def _drawn(space: Space, random: np.random.Generator) -> Params:
    return {key: _value(dimension, float(random.uniform())) for key, dimension in space.dimensions.items()}


def _value(dimension: list[Any] | Range, share: float) -> Any:
    """The value at a `share`, 0 to below 1, of a dimension."""
    if not isinstance(dimension, Range):
        return dimension[int(share * len(dimension))]
    low, high = float(dimension.low), float(dimension.high) + dimension.is_whole
    value = low * (high / low) ** share if dimension.log else low + share * (high - low)
    return min(int(value), int(dimension.high)) if dimension.is_whole else min(max(value, low), high)


def _by_parzen_estimators(space: Space, earlier: Sequence[Record], seed: int, count: int) -> list[Params]:
    """Optuna's TPE (Bergstra et al. 2011). Values of lists are categories, by their places."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(dimension) for key, dimension in space.dimensions.items()}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    for record in earlier:
        params = {key: _place(space.dimensions[key], value) for key, value in record.params.items()}
        value = record.best[1] if record.best and record.state != "failed" else None
        known = create_trial(
            state=states[record.state], value=value, params=params, distributions=distributions,
            intermediate_values=dict(record.curve),
        )  # fmt: skip
        study.add_trial(known)
    asked = [study.ask(distributions).params for _ in range(count)]
    return [{key: _read(space.dimensions[key], value) for key, value in params.items()} for params in asked]


def _distribution(dimension: list[Any] | Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(dimension, Range):
        return CategoricalDistribution(list(range(len(dimension))))
    if dimension.is_whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log)


def _place(dimension: list[Any] | Range, value: Any) -> Any:
    return value if isinstance(dimension, Range) else dimension.index(value)


def _read(dimension: list[Any] | Range, value: Any) -> Any:
    return value if isinstance(dimension, Range) else dimension[value]
