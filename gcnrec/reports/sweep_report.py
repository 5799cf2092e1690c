"""`sweep.html`: one self-contained page about a sweep, and the two tables of its runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from gcnrec.reports import charts
from gcnrec.reports.figures import plain
from gcnrec.reports.page import write_page
from gcnrec.reports.seed_statistics import Contrast, Estimate, contrasts, estimate, grouped, paired
from gcnrec.reports.trials import Sweep, Trial, curves, read_sweep, results
from gcnrec.storage.files import atomic_file

Groups = dict[tuple[str, float], list[Trial]]


def summarise(folder: Path) -> Path | None:
    """Write `sweep.parquet`, `curves.parquet` and `sweep.html` of a swept folder from its runs so far; returns the page.

    None, and nothing written, while no run has begun.
    """
    sweep = read_sweep(folder)
    if not any(trial.job for trial in sweep.trials):
        return None
    for name, table in (("sweep", results(sweep)), ("curves", curves(sweep))):
        with atomic_file(folder / f"{name}.parquet") as path:
            pq.write_table(table, path, compression="zstd")
    return write_sweep_page(sweep, folder / "sweep.html")


def write_sweep_page(sweep: Sweep, path: Path) -> Path:
    """Write the page about `sweep` to `path`, replacing an earlier one. Only finished runs are plotted and compared."""
    return write_page("sweep.html.j2", _content(sweep, path.parent.name), path)


def _content(sweep: Sweep, name: str) -> dict[str, Any]:
    metric, groups = sweep.metric, grouped(sweep.done)
    return {
        "name": name,
        "metric": metric,
        "compare": sweep.compare,
        "runs": len(sweep.trials),
        "done": len(sweep.done),
        "failed": [trial for trial in sweep.trials if trial.failure],
        "charts": [*_differences(groups, sweep.compare, metric), *_plots(groups, metric), *_by_seconds(groups, metric)],
        "means": [_mean_row(groups, key, sweep.compare, metric) for key in groups],
        "equal_epochs": [_contrast_row(one, "epochs") for one in contrasts(sweep.done, sweep.compare, metric, "epoch")],
        "equal_seconds": [_contrast_row(one, "s") for one in contrasts(sweep.done, sweep.compare, metric, "seconds")],
        "trials": [_trial_row(trial, metric) for trial in sweep.trials],
    }


def _differences(groups: Groups, compare: str, metric: str) -> list[dict[str, str]]:
    """A forest plot of the differences on test that `_mean_row` gives as text."""
    found = {key: _difference(groups, key, compare, metric) for key in groups}
    rows = {f"{variant}, {budget:g}": one for (variant, budget), one in found.items() if one is not None}
    if not rows:
        return []
    svg = charts.forest(list(rows), [charts.Spans(metric, list(rows.values()))], f"difference in test {metric}", 0.0)
    said = "; ".join(f"{name} {_text(one, '{:+.4f}')}" for name, one in rows.items())
    return [{"title": f"Test {metric} less that of {compare}, by variant and budget", "svg": svg, "alt": said}]


def _difference(groups: Groups, key: tuple[str, float], compare: str, metric: str) -> Estimate | None:
    """The paired difference on test of a variant, only where it trained for as many epochs as the base; None without pairs."""
    trials, base = groups[key], groups.get((compare, key[1]), [])
    if trials is base or {_epochs(trial) for trial in trials} != {_epochs(trial) for trial in base}:
        return None
    difference = paired(_by_seed(trials, metric), _by_seed(base, metric))
    return difference if difference.count else None


def _plots(groups: Groups, metric: str) -> list[dict[str, str]]:
    """The metric on test and on validation against what it costs: a point per budget, a line per variant."""
    drawn = []
    splits: dict[str, Callable[[Trial], float | None]] = {
        f"test {metric}": lambda trial: trial.test.get(metric),
        f"validation {metric}": lambda trial: _best(trial, metric),
    }
    costs: dict[str, Callable[[Trial], float | None]] = {
        "stored values": lambda trial: trial.contents.memory.get("values"),
        "served bytes": lambda trial: trial.contents.memory.get("served_bytes"),
        "training seconds": _seconds,
    }
    for y_label, height in splits.items():
        for x_label, cost in costs.items():
            series = _lines(groups, cost, height)
            if series:
                drawn.append({"title": f"{y_label} against {x_label}", "svg": charts.means(series, x_label, y_label)})
    return drawn


def _lines(groups: Groups, cost: Callable[[Trial], float | None], height: Callable[[Trial], float | None]) -> list[charts.Means]:
    points: dict[str, list[tuple[float, Estimate]]] = {}
    for (variant, _), trials in groups.items():
        xs, ys = _known(map(cost, trials)), _known(map(height, trials))
        if xs and ys:
            points.setdefault(variant, []).append((statistics.fmean(xs), estimate(ys)))
    return [charts.Means(variant, line) for variant, line in points.items()]


def _by_seconds(groups: Groups, metric: str) -> list[dict[str, str]]:
    """Validation curves over training seconds, a chart per budget: at every epoch the means over the seeds that measured it."""
    drawn = []
    for budget in dict.fromkeys(budget for _, budget in groups):
        series = []
        for (variant, its_budget), trials in groups.items():
            if its_budget != budget:
                continue
            measured: dict[int, list[tuple[float, float]]] = {}
            for trial in trials:
                for epoch in trial.contents.validations(metric):
                    measured.setdefault(epoch.epoch, []).append((epoch.seconds, epoch.valid[metric]))
            # An epoch that some seeds did not reach would bend the curve where the mean loses them.
            whole = [rows for _, rows in sorted(measured.items()) if len(rows) == len(trials)]
            line = [(statistics.fmean(row[0] for row in rows), estimate([row[1] for row in rows])) for rows in whole]
            if line:
                series.append(charts.Means(variant, line))
        if series:
            svg = charts.means(series, "training seconds", f"validation {metric}", as_bands=True)
            drawn.append({"title": f"budget {budget:g}: validation {metric} over training seconds", "svg": svg})
    return drawn


def _mean_row(groups: Groups, key: tuple[str, float], compare: str, metric: str) -> dict[str, str]:
    """A variant at a budget."""
    trials = groups[key]
    epochs = sorted({_epochs(trial) for trial in trials})
    values = _known(trial.contents.memory.get("values") for trial in trials)
    difference = _difference(groups, key, compare, metric)
    return {
        "variant": key[0],
        "budget": f"{key[1]:g}",
        "seeds": str(len(trials)),
        "epochs": " to ".join(str(count) for count in dict.fromkeys((epochs[0], epochs[-1]))),
        "seconds": _text(estimate(_known(map(_seconds, trials))), "{:,.0f}"),
        "values": f"{statistics.fmean(values):,.0f}" if values else "",
        "valid": _text(estimate(_known(_best(trial, metric) for trial in trials))),
        "test": _text(estimate(_known(trial.test.get(metric) for trial in trials))),
        "difference": _text(difference, "{:+.4f}") if difference else "",
    }


def _contrast_row(one: Contrast, unit: Literal["epochs", "s"]) -> dict[str, str]:
    return {
        "variant": one.variant,
        "budget": f"{one.budget:g}",
        "seeds": str(one.difference.count),
        "limit": f"{one.limit:,.0f} {unit}" if one.limit >= 10 or unit == "epochs" else f"{one.limit:.2g} {unit}",
        "value": _text(one.value),
        "base": _text(one.base_value),
        "difference": _text(one.difference, "{:+.4f}"),
    }


def _trial_row(trial: Trial, metric: str) -> dict[str, Any]:
    counts = (trial.contents.memory.get(name) for name in ("values", "peak_table_bytes", "served_bytes"))
    cells = (trial.test.get(metric), _best(trial, metric), _epochs(trial), _seconds(trial), *counts)
    return {"name": trial.name, "status": trial.status, "cells": [plain(cell, absent="", precise=10.0) for cell in cells]}


def _text(one: Estimate, form: str = "{:.4f}") -> str:
    """Mean and half the interval; the half has no sign of its own."""
    if math.isnan(one.mean):
        return ""
    mean, half = form.format(one.mean), form.replace("+", "").format(one.high - one.mean)
    return mean if math.isnan(one.low) else f"{mean} \u00b1 {half}"


def _best(trial: Trial, metric: str) -> float | None:
    return max((epoch.valid[metric] for epoch in trial.contents.validations(metric)), default=None)


def _by_seed(trials: Sequence[Trial], metric: str) -> dict[int, float]:
    return {trial.seed: trial.test[metric] for trial in trials if metric in trial.test}


def _seconds(trial: Trial) -> float | None:
    last = trial.last("fit")
    return last.seconds if last else None


def _epochs(trial: Trial) -> int:
    last = trial.last("fit")
    return last.epoch if last else 0


def _known(values: Any) -> list[float]:
    return [float(value) for value in values if value is not None]
