"""Times our code and its peers in one process, by one rule, on the same inputs.

    yield from measure("gather", variants, units=rows, agree=largest_difference, tolerance=1e-6)

A variant whose `setup` raises ImportError is absent. Variants run interleaved (A B C, A B C, ...), so that a noisy
neighbour slows all of them; the median counts. Before any timing, every result must agree with the first variant's.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.memory import Measured, measured
from gcnrec.system.machine import machine

Row = dict[str, Any]
_REST_SECONDS = 0.02


@dataclass(frozen=True)
class Variant:
    """One contender. `run(setup())` is one repetition and returns what `agree` looks at.

    `setup` runs once, untimed, and imports the peer inside itself. `reset`, if given, runs untimed before every
    repetition. Our own variants are named `gcnrec` or `gcnrec-...`; an absent `required` peer voids the speedup.
    A `run` that returns `Measured` (from `in_subprocess`) brings its own seconds and bytes.
    """

    name: str
    setup: Callable[[], Any]
    run: Callable[[Any], Any]
    reset: Callable[[Any], None] | None = None
    required: bool = True

    @property
    def ours(self) -> bool:
        return self.name == "gcnrec" or self.name.startswith("gcnrec-")


@dataclass
class _Lane:
    variant: Variant
    state: Any
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    difference: float = 0.0


def measure(
    bench: str,
    variants: Sequence[Variant],
    units: float,
    agree: Callable[[Any, Any], float],
    tolerance: float,
    runs: int = 5,
    warmup: int = 2,
) -> Iterator[Row]:
    """One row per present variant, then the summary row.

    `units` is the work of one repetition; `agree(expected, result)` returns how far a result is from the first
    variant's, which must not pass `tolerance`. `peak_bytes` is the largest rise of the process's resident memory over
    one repetition, measured apart from the timed ones (see `gcnrec.bench.memory`).
    Raises RuntimeError, with both names, when two variants disagree.
    """
    lanes, absent = _set_up(variants)
    expected: Any = None
    for round_number in range(max(warmup, 1)):
        for lane in lanes:
            result = _repeat_for_memory(lane)
            if round_number == 0:
                expected = result if lane is lanes[0] else expected
                _check(bench, lanes[0], lane, agree(expected, result), tolerance)
    for _ in range(runs):
        for lane in lanes:
            lane.seconds.append(_repeat_for_time(lane))
    rows = [_row(bench, lane, units, tolerance) for lane in lanes]
    yield from rows
    required = {variant.name for variant in variants if variant.required}
    yield summary(bench, rows, absent, void=bool(required.intersection(absent)))


def summary(bench: str, rows: Iterable[Row], absent: list[str], void: bool) -> Row:
    """The closing row: the fastest of ours, the fastest peer, and the peer's seconds divided by ours.

    `speedup` is None when `void` (a required peer is absent) or when there is no peer or nothing of ours.
    """
    ours = min((row for row in rows if _is_ours(row)), key=_seconds, default=None)
    peer = min((row for row in rows if not _is_ours(row)), key=_seconds, default=None)
    speedup = None if void or ours is None or peer is None else peer["seconds"] / ours["seconds"]
    return {
        "bench": bench,
        "summary": True,
        "ours": ours and ours["variant"],
        "best_peer": peer and peer["variant"],
        "speedup": speedup,
        "absent": absent,
    }


def overall(bench: str, summaries: Iterable[Row]) -> Row:
    """One closing row for a bench of several parts (forward and backward, several sizes): the worst part's speedup."""
    parts = [row for row in summaries if row.get("summary")]
    absent = sorted({name for part in parts for name in part["absent"]})
    void = [part for part in parts if part["speedup"] is None]
    worst = void[0] if void else min(parts, key=lambda part: float(part["speedup"]))
    return {**worst, "bench": bench, "absent": absent, "worst_part": worst["bench"]}


def rest(_: Any) -> None:
    """A `reset` for libraries whose threads spin after their work: they would steal from the next variant."""
    time.sleep(_REST_SECONDS)


def largest_error(exact_ND: NDArray[np.float64], _: Any, result_ND: torch.Tensor) -> float:
    """With its first argument bound, an `agree` that holds every result against exact values, not against the first one's."""
    return float(np.abs(result_ND.numpy() - exact_ND).max())


def write_record(path: Path, command: str, rows: Iterable[Row]) -> None:
    """A measured benchmark as a file of `jobs/records/`: the command, the day, the machine and every row."""
    document = {"command": command, "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), "rows": list(rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _set_up(variants: Sequence[Variant]) -> tuple[list[_Lane], list[str]]:
    lanes, absent = [], []
    for variant in variants:
        try:
            lanes.append(_Lane(variant, variant.setup()))
        except ImportError:
            absent.append(variant.name)
    return lanes, absent


def _repeat_for_memory(lane: _Lane) -> Any:
    """One repetition under the memory meter. The last warm-up round counts: compilation is over by then."""
    if lane.variant.reset:
        lane.variant.reset(lane.state)
    outcome = measured(lane.variant.run, lane.state)
    if isinstance(outcome.result, Measured):
        outcome = outcome.result
    lane.peak_bytes = outcome.peak_bytes
    return outcome.result


def _repeat_for_time(lane: _Lane) -> float:
    if lane.variant.reset:
        lane.variant.reset(lane.state)
    started = time.perf_counter()
    result = lane.variant.run(lane.state)
    seconds = time.perf_counter() - started
    return result.seconds if isinstance(result, Measured) else seconds


def _check(bench: str, first: _Lane, lane: _Lane, difference: float, tolerance: float) -> None:
    lane.difference = float(difference)
    if not lane.difference <= tolerance:  # also when it is NaN
        raise RuntimeError(
            f"bench {bench}: {lane.variant.name!r} must agree with {first.variant.name!r} within {tolerance:g}, "
            f"differs by {lane.difference:g}"
        )


def _row(bench: str, lane: _Lane, units: float, tolerance: float) -> Row:
    seconds = statistics.median(lane.seconds)
    return {
        "bench": bench,
        "variant": lane.variant.name,
        "seconds": seconds,
        "runs": len(lane.seconds),
        "units": units,
        "rate": units / seconds if seconds else None,
        "peak_bytes": lane.peak_bytes,
        "difference": lane.difference,
        "tolerance": tolerance,
    }


def _is_ours(row: Row) -> bool:
    return str(row["variant"]) == "gcnrec" or str(row["variant"]).startswith("gcnrec-")


def _seconds(row: Row) -> float:
    return float(row["seconds"])
