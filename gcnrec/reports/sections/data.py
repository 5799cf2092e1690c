"""What the data of a run is: facts, the rows that ingestion dropped, and how interactions spread over users, items and time.

Letters: E interactions, X users or items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.loaders.schema import Dataset, read_info
from gcnrec.reports import charts
from gcnrec.reports.run_charts import Chart
from gcnrec.reports.sections.titles import shown_text
from gcnrec.reports.sections.waterfall import waterfall
from gcnrec.runs.contents import RunContents

_BINS = 30
_MOST_TIMES = 2**22
"""Interactions whose times are looked at, evenly spaced."""
_DAY = 86_400
_SPLITS = {
    "given": "test was given as a file",
    "random": "test was drawn at random",
    "leave_last": "the last interaction of each user is test, the one before it validation",
    "temporal": "test is what came last",
    "cold_items": "test are interactions of items that train does not know",
}


def data_section(contents: RunContents, dataset: Dataset | None) -> dict[str, Any]:
    """`facts`, `steps` of the waterfall, `charts`, and a sentence `absent` where something is missing; empty for no data at all.

    `dataset`: the run's, for what only its arrays say.
    """
    source = contents.lineage.data
    if not source.folder:
        return {}
    try:
        info = dict(dataset.info) if dataset is not None else read_info(Path(source.folder))
    except DataError:
        info = {}
    if info.get("digest") != source.digest:
        return {"facts": [], "steps": [], "charts": [], "absent": _gone(source.folder)}
    steps = waterfall(info)
    return {
        "facts": list(_facts(info, dataset)),
        "steps": steps,
        "charts": [] if dataset is None else list(_spread(dataset)),
        "absent": "" if steps else "What ingestion dropped is not shown: this data set does not count all rows that were read.",
    }


def _gone(folder: str) -> str:
    return f"The data is not described: {folder} is gone, damaged, or holds other data than the run was trained on."


def _facts(info: Mapping[str, Any], dataset: Dataset | None) -> Iterator[tuple[str, str]]:
    """Names and values of what the data is; what is not known is left out."""
    users, items, train = (int(info.get(key, 0)) for key in ("num_users", "num_items", "num_train"))
    yield "data set", shown_text(info.get("name", ""))
    yield "nodes", f"{users:,} users, {items:,} items"
    parts = [f"{train:,} train", f"{info.get('num_valid', 0):,} validation", f"{info.get('num_test', 0):,} test"]
    yield "interactions", ", ".join(parts)
    if users and items:
        yield "density", f"{train / (users * items):.3%} of all pairs of a user and an item are in train"
    yield "split", "; ".join(_split(info))
    if dataset is not None:
        yield from _of_arrays(dataset)
    others = (info.get("behaviours") or {}).get("others", [])
    if others:
        target = shown_text(info["behaviours"].get("target", ""))
        rest = ", ".join(f"{shown_text(other['name'])} ({other['edges']:,} pairs)" for other in others)
        yield "behaviours", f"{target} is predicted; {rest}"
    if info.get("report", {}).get("num_negative"):
        yield "low ratings", f"{info['report']['num_negative']:,} pairs of train's time, and none of them is recommended"
    for side in ("user", "item"):
        columns = info.get(f"{side}_features", {}).get("columns", [])
        if columns:
            names = ", ".join(shown_text(column.get("column", ""), 30) for column in columns)
            yield f"{side} features", f"{names}; as {info[f'{side}_features'].get('width', 0):,} numbers"


def _split(info: Mapping[str, Any]) -> Iterator[str]:
    """How test and validation were held out, in words."""
    split, report = info.get("split", ""), info.get("report", {})
    yield _SPLITS.get(split, split)
    for key, name in (("valid_from_s", "validation"), ("test_from_s", "test")):
        if key in report and (key == "test_from_s" or report.get("test_from_s") != report[key]):
            yield f"{name} from {_time(report[key])}"


def _of_arrays(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Median and maximum of the interactions of a user and of an item; first and last time."""
    for side, csr in (("user", dataset.graph.user_items), ("item", dataset.graph.item_users)):
        if csr.rows:
            middle, most = np.median(csr.degrees), csr.degrees.max()
            yield (
                f"a {side} of train" if side == "user" else "an item of train",
                f"{middle:,.0f} interactions in the median, at most {most:,}",
            )
    times = [part for part in (dataset.times_E, dataset.valid.times_E, dataset.test.times_E) if part is not None and len(part)]
    if times:
        yield "period", f"{_time(float(min(map(np.min, times))))} to {_time(float(max(map(np.max, times))))}"


def _spread(dataset: Dataset) -> Iterator[Chart]:
    """How many users and items have how many interactions of train; interactions over time."""
    for side, csr in (("user", dataset.graph.user_items), ("item", dataset.graph.item_users)):
        names, counts = binned(csr.degrees)
        svg = charts.columns(names, counts, f"train interactions of a{'n' * (side == 'item')} {side}, from", f"{side}s")
        yield {"title": f"Interactions per {side}", "svg": svg}
    parts = {"train": dataset.times_E, "validation": dataset.valid.times_E, "test": dataset.test.times_E}
    known = {name: times_E for name, times_E in parts.items() if times_E is not None and len(times_E)}
    if "train" not in known:
        return
    first, last = (int(how(list(map(how, known.values())))) for how in (np.min, np.max))
    days = (last - first) / _DAY
    if not 0.0 < days < 1e6:
        return
    edges = np.linspace(0.0, days, _BINS + 1)
    curves = [_curve(name, times_E, first, edges) for name, times_E in known.items()]
    svg = charts.lines(curves, f"days since {_time(first)[:10]}", f"in {days / _BINS:.2g} days", "count")
    yield {"title": "Interactions over time", "svg": svg}


def _curve(name: str, times_E: NDArray[np.int64], first: int, edges: NDArray[np.float64]) -> charts.Curve:
    """Interactions per bin of `edges`, days since `first`, from the first with some to the last; of many, about as many."""
    every = len(times_E) // _MOST_TIMES + 1
    counts, _ = np.histogram((times_E[::every] - first) / _DAY, edges)
    some = np.flatnonzero(counts)
    inside = slice(int(some[0]), int(some[-1]) + 1)
    middles = (edges[:-1] + edges[1:])[inside] / 2
    return charts.Curve(name, middles.tolist(), [float(count * every) for count in counts[inside]])


def binned(degrees_X: NDArray[np.int64]) -> tuple[list[str], list[int]]:
    """Lower bounds and counts of bins that double: 0, 1, 2 to 3, 4 to 7 and so on, without empty ones at both ends."""
    powers_X = np.zeros(len(degrees_X), np.int64)
    np.floor(np.log2(degrees_X, where=degrees_X > 0, out=np.full(len(degrees_X), -1.0)), out=powers_X, casting="unsafe")
    counts = np.bincount(powers_X + 1)
    first = int(np.argmax(counts > 0)) if len(counts) else 0
    names = ["0", *(_bound(2**power) for power in range(max(len(counts) - 1, 0)))]
    return names[first : len(counts)], [int(count) for count in counts[first:]]


def _bound(number: int) -> str:
    return f"{number // 1024}Ki" if number >= 10_240 else str(number)


def _time(seconds: float) -> str:
    """Seconds since 1970 as a time in UTC; as a number where no date has it."""
    try:
        return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:,.0f} s"
