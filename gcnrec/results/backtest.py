"""`gcnrec backtest`: the job trained and judged at several moments, each time on what was known by then.

    20240108T000000-7d/{data,run}    the dataset and the run of a window: where its test begins, and its length
    backtest.json                    the figures

The last window of test ends with the newest interaction, and windows follow each other without a gap. One window may be lucky:
several show what holds. The same command continues what was stopped, and one with more windows
adds earlier ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcnrec.config import Data
from gcnrec.config.toml import validated
from gcnrec.errors import DataError, UsageError, shown
from gcnrec.loaders.on_demand import DataRequest, open_or_ingest
from gcnrec.storage.files import atomic_file
from gcnrec.system.observer import Observer

_EVERYTHING = "all"
"""The folder of the dataset of all rows."""
_LEAST, _MOST = (int(datetime(year, 1, 2, tzinfo=UTC).timestamp()) for year in (1, 9999))
_SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}
_OWN = ("test", "valid", "test_from", "test_until", "test_size", "split", "folder", "digest")
"""Keys of `[data]` that a backtest decides itself."""
_FEW_USERS = 30
"""Fewer users than these have a mean that is mostly chance."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What a run says of the test window from `test_from` to before `test_until`, ISO times in UTC.

    `train`: interactions before it, without validation. `value` with its 95 % interval `low` to `high`; None without one.
    """

    test_from: str
    test_until: str
    train: int
    users: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Backtest:
    """The cuts in the order of their times, and the mean of their values of `metric`."""

    metric: str
    mean: float
    cuts: tuple[Cut, ...]


def seconds_of(every: str) -> int:
    """Seconds of a span such as 7d, 12h or 2w; UsageError for another text."""
    if not re.fullmatch(r"[1-9][0-9]{0,5}[hdw]", every):
        raise UsageError(f"--every expects a number and h, d or w, such as 7d, got {shown(every)}")
    return int(every[:-1]) * _SECONDS[every[-1]]


@dataclass(frozen=True, slots=True)
class Windows:
    """`count` windows of test, each `seconds` long."""

    count: int
    seconds: int


Judge = Callable[[Data, Path], dict[str, Any]]
"""Trains on data into a run folder and gives the metrics of test, with `users` and, as `train`, the interactions of train."""


def backtest(request: DataRequest, windows: Windows, out: Path, judge: Judge, metric: str, observer: Observer) -> Backtest:
    """Judge a job on its data at several moments, in the folder `out`; writes `backtest.json`.

    Raises UsageError for `[data]` that has no time or fixes the split, and what ingestion and `judge` raise.
    """
    given, every = request.data.model_dump(exclude_unset=True), windows.seconds
    fixed = next((key for key in _OWN if key in given and given[key] != "temporal"), None)
    if fixed is not None:
        raise UsageError(f"a backtest splits by time at moments of its own, {request.job_path} sets data.{fixed}; leave it out")
    _refuse_foreign(out)
    times_E, made = _times(request, out, observer), []
    starts = [int(times_E.max()) + 1 - (windows.count - number) * every for number in range(windows.count)]
    for first in starts:
        _refuse_empty(times_E, first, every)
    for number, first in enumerate(starts, start=1):
        place = out / f"{datetime.fromtimestamp(first, UTC):%Y%m%dT%H%M%S}-{_span(every)}"
        data = _data(given, place / "data", test_from=_iso(first), test_until=_iso(first + every))
        window = f"window {number} of {windows.count}, test from {data.test_from} to {data.test_until}"
        observer.note(window)
        metrics = _judged(judge, data, place / "run", window)
        if metrics["users"] < _FEW_USERS:
            observer.warn(f"{window}: a mean over so few users ({metrics['users']}) says little; choose a longer --every")
        low, high = metrics.get("intervals", {}).get(metric, (None, None))
        cut = Cut(str(data.test_from), str(data.test_until), metrics["train"], metrics["users"], metrics[metric], low, high)
        made.append(cut)
    found = Backtest(metric, sum(cut.value for cut in made) / len(made), tuple(made))
    with atomic_file(out / "backtest.json") as path:
        path.write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
    return found


def _judged(judge: Judge, data: Data, run: Path, window: str) -> dict[str, Any]:
    """What `judge` gives; its refusals name the window, with the remedy of a backtest."""
    begun = run.exists()
    try:
        return judge(data, run)
    except DataError as problem:
        raise DataError(f"{window}: {problem}; a backtest has other windows with other --cuts or --every") from None
    except UsageError as problem:
        if not begun:
            raise
        raise UsageError(f"{window}: {str(problem).rpartition('; ')[0] or problem}; choose another --out") from None


def _refuse_foreign(out: Path) -> None:
    """UsageError for a folder that holds something else than a backtest."""
    if (out.is_dir() and any(out.iterdir()) and not (out / _EVERYTHING / "dataset.json").is_file()) or out.is_file():
        raise UsageError(f"{out} holds something else than a backtest; choose another --out")


def _times(request: DataRequest, out: Path, observer: Observer) -> NDArray[np.int64]:
    """The times of all interactions, in seconds, by a dataset of all rows.

    UsageError where the data has no times, or times outside the years 1 to 9999; DataError where the folder has other rows.
    """
    begun = (out / _EVERYTHING).exists()
    everything = _data(request.data.model_dump(exclude_unset=True), out / _EVERYTHING, test_size=0.0, valid_size=0.0)
    try:
        dataset = open_or_ingest(DataRequest(everything, request.job_path, None, request.data_root), observer)
    except DataError as problem:
        raise DataError(f"{out} was begun with other data ({problem}); choose another --out") if begun else problem from None
    if dataset.times_E is None:
        raise UsageError(f"a backtest needs times, {request.job_path} names no column of them; set data.time")
    if not _LEAST <= int(dataset.times_E.min()) <= int(dataset.times_E.max()) <= _MOST:
        raise UsageError(
            f"times of {request.job_path} lie outside the years 1 to 9999 when read as {everything.time_unit}; set data.time_unit"
        )
    return dataset.times_E


def _refuse_empty(times_E: NDArray[np.int64], first: int, every: int) -> None:
    """UsageError for a window that has no interaction, or none before it."""
    if first <= int(times_E.min()):
        raise UsageError("a window would begin before the first interaction; choose fewer --cuts, or a shorter --every")
    if not ((times_E >= first) & (times_E < first + every)).any():
        raise UsageError(f"no interaction lies from {_iso(first)} to {_iso(first + every)}; choose a longer --every")


def _data(given: dict[str, Any], folder: Path, **keys: Any) -> Data:
    return validated(Data, {**given, "split": "temporal", "folder": str(folder.resolve()), **keys}, "backtest")


def _span(seconds: int) -> str:
    """The largest unit that gives a whole number."""
    unit = next(unit for unit in "wdh" if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
