"""Time leakage: how much of what is held out lies before what training sees, so that a model knows the future of its test.

Only a split by time has none. The counts go into dataset.json, a sentence for each part to whoever ingests and to reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.loaders.ingest.heldout import Report
from gcnrec.loaders.ingest.rows import Rows, count_until, high_of
from gcnrec.system.scratch import Scratch

PREFIX = "leakage_"
_NAMES = {"valid": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class TrainTimes:
    """When train's rows were, in the unit of held-out times; None where that is not known. User u has `degrees_U[u]` of them, in
    the order of the users."""

    times_E: NDArray[np.int64] | None
    degrees_U: NDArray[np.int64]


def report_leakage(train: TrainTimes, held_out: Mapping[str, Rows], split: str, scratch: Scratch, report: Report) -> None:
    """Count for validation and test what lies before train, where times are known, and say what was found.

    `leakage_train_after_first_<part>`: train interactions later than the first of the part. For splits that are not by time,
    `leakage_<part>_before_own_train` and `leakage_<part>_before_any_train`: shares of the part earlier than the last train
    interaction of the same user, and of all.
    """
    if train.times_E is None:
        return
    found: dict[str, Any] = {}
    for name, part in held_out.items():
        if part.times_E is None or not len(part):
            continue
        found[f"{PREFIX}train_after_first_{name}"] = len(train.times_E) - int(count_until(train.times_E, int(part.times_E.min())))
        if split != "temporal":
            found |= {f"{PREFIX}{name}_{key}": share for key, share in _shares(train, part, scratch).items()}
    report.entries.update(found)
    for sentence in sentences(found):
        report.say(f"leakage: {sentence}")


def sentences(counts: Mapping[str, Any]) -> list[str]:
    """What the `leakage_` entries of a dataset's report mean, a sentence per part; others are ignored."""
    said = []
    for name, words in _NAMES.items():
        own, world = (counts.get(f"{PREFIX}{name}_before_{whose}_train") for whose in ("own", "any"))
        later = counts.get(f"{PREFIX}train_after_first_{name}")
        if own is not None and world is not None:
            said.append(
                f"{own:.1%} of the {words} interactions are earlier than their user's last train interaction, "
                f"{world:.1%} than the last one of all; only split = 'temporal' has none"
            )
        elif later is not None:
            said.append(f"{later:,} train interactions are later than the first {words} interaction")
    return said


def leaks(counts: Mapping[str, Any]) -> bool:
    """Whether any `leakage_` entry is above zero."""
    return any(value > 0 for key, value in counts.items() if key.startswith(PREFIX))


def _shares(train: TrainTimes, part: Rows, scratch: Scratch) -> dict[str, float]:
    latest_U = scratch.full(len(train.degrees_U), np.int64, np.iinfo(np.int64).min)
    own = int(_count_before_own(train.degrees_U, train.times_E, part.pairs_E, part.times_E, latest_U))
    last = int(train.times_E.max())  # type: ignore[union-attr]
    return {
        "before_own_train": own / len(part),
        "before_any_train": 1.0 - (len(part) - int(count_until(part.times_E, last - 1))) / len(part),
    }


@numba.njit(cache=True)
def _count_before_own(degrees, train_times, part_pairs, part_times, latest):  # type: ignore[no-untyped-def]
    row = 0
    for user in range(len(degrees)):
        for _ in range(degrees[user]):
            latest[user] = max(latest[user], train_times[row])
            row += 1
    count = 0
    for row in range(len(part_pairs)):
        count += part_times[row] < latest[high_of(part_pairs[row])]
    return count
