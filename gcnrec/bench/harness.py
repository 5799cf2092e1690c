"""Times our code and its peers in one process, by one rule, on the same inputs.

    yield from measure("gather", variants, units=rows, agree=largest_difference, tolerance=1e-6)

A variant whose `setup` raises ImportError is absent, and voids the speedup. Variants run interleaved (A B C, A B C, ...), so
that a noisy neighbour slows all of them; the median counts. Before any timing, every result must agree with the first
variant's.
"""

from __future__ import annotations

import json
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.memory import Measured, measured
from gcnrec.system.machine import available_cores, machine

Row = dict[str, Any]
_REST_SECONDS = 0.02


@dataclass(frozen=True)
class Variant:
    """A contender; `run(setup())` is a repetition and returns what `agree` compares.

    `setup` runs once, untimed, and imports the peer inside itself. `reset`, if given, runs untimed before every
    repetition. Our own variants are named `gcnrec` or `gcnrec-...`.
    A `run` that returns `Measured` (from `in_subprocess`) brings its own seconds and bytes.
    """

    name: str
    setup: Callable[[], Any]
    run: Callable[[Any], Any]
    reset: Callable[[Any], None] | None = None


@dataclass
class _Lane:
    variant: Variant
    state: Any
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    difference: float = 0.0


def use_threads(threads: int | None) -> int:
    """Torch and numba on `threads` threads from now on, for None on every core; returns their number."""
    threads = threads or available_cores()
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    return threads


def variants_of(builds: Mapping[str, Callable[..., Callable[[], Any]]], *given: Any) -> list[Variant]:
    """A variant for each name: a repetition calls what `build(*given)` returns, after a rest."""
    return [Variant(name, partial(build, *given), lambda repeat: repeat(), rest) for name, build in builds.items()]


def measure(
    bench: str,
    variants: Sequence[Variant],
    units: float,
    agree: Callable[[Any, Any], float],
    tolerance: float,
    runs: int = 5,
    warmup: int = 2,
) -> Iterator[Row]:
    """A row for each present variant, then the summary row.

    `units` is the work of one repetition; `agree(expected, result)` returns how far a result is from the first
    variant's, which must not pass `tolerance`. `peak_bytes` is the largest rise of the process's resident memory over
    one repetition, measured apart from the timed ones (see `gcnrec.bench.memory`).
    Raises RuntimeError, with both names, when two variants disagree.
    """
    lanes: list[_Lane] = []
    absent = []
    for variant in variants:
        try:
            lanes.append(_Lane(variant, variant.setup()))
        except ImportError:
            absent.append(variant.name)
    expected: Any = None
    for round_number in range(max(warmup, 1)):
        for lane in lanes:
            outcome = _repeat(lane, measured)
            result = outcome.result
            lane.peak_bytes = outcome.peak_bytes  # of the last warm-up round: compilation is over by then
            if round_number == 0:
                expected = result if lane is lanes[0] else expected
                _check(bench, lanes[0], lane, agree(expected, result), tolerance)
    for _ in range(runs):
        for lane in lanes:
            lane.seconds.append(_repeat(lane, _timed).seconds)
    rows = [_row(bench, lane, units, tolerance) for lane in lanes]
    yield from rows
    yield summary(bench, rows, absent)


def summary(bench: str, rows: Iterable[Row], absent: list[str]) -> Row:
    """The closing row: the fastest of ours, the fastest peer, and the peer's seconds divided by ours.

    `speedup` is None when a variant is `absent`, or when there is no peer or nothing of ours.
    """
    by_speed = sorted(rows, key=lambda row: float(row["seconds"]))
    ours, peer = (
        next((row for row in by_speed if f"{row['variant']}-".startswith("gcnrec-") == own), None) for own in (True, False)
    )
    speedup = None if absent or ours is None or peer is None else peer["seconds"] / ours["seconds"]
    return {
        "bench": bench,
        "summary": True,
        "ours": ours and ours["variant"],
        "best_peer": peer and peer["variant"],
        "speedup": speedup,
        "absent": absent,
    }


def in_parts(bench: str, parts: Iterable[Iterable[Row]]) -> Iterator[Row]:
    """The rows of every part as they are measured, then the closing row of `bench`."""
    rows: list[Row] = []
    for part in parts:
        for row in part:
            rows.append(row)
            yield row
    yield overall(bench, rows)


def overall(bench: str, rows: Iterable[Row]) -> Row:
    """The closing row of a bench of several parts (forward and backward, several sizes): the worst part's speedup."""
    parts = [row for row in rows if row.get("summary")]
    absent = sorted({name for part in parts for name in part["absent"]})
    void = [part for part in parts if part["speedup"] is None]
    worst = void[0] if void else min(parts, key=lambda part: float(part["speedup"]))
    return {**worst, "bench": bench, "absent": absent, "worst_part": worst["bench"]}


def rest(_: Any) -> None:
    """A `reset` for libraries whose threads spin after their work: they would steal from the next variant."""
    time.sleep(_REST_SECONDS)


def largest_error(exact_ND: NDArray[np.float64], _: Any, result_ND: torch.Tensor) -> float:
    """The largest error against exact values: with its first argument bound, an `agree` that ignores the first variant."""
    return float(np.abs(result_ND.numpy() - exact_ND).max())


def command_of(module: str, arguments: Sequence[str]) -> str:
    """`python -m module` with `arguments`, as a shell reads it. Absolute paths, which are a machine's, keep their last name."""
    return shlex.join(["python", "-m", module, *(Path(each).name if each.startswith("/") else each for each in arguments)])


def write_record(path: Path, command: str, rows: Iterable[Row], **facts: Any) -> None:
    """Write a measured benchmark as a file of `jobs/records/`: the command, the day, the machine, `facts` and every row."""
    document = {"command": command, "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), **facts, "rows": list(rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _repeat(lane: _Lane, meter: Callable[..., Measured]) -> Measured:
    """A repetition under `meter`, or as it measured itself."""
    if lane.variant.reset:
        lane.variant.reset(lane.state)
    outcome = meter(lane.variant.run, lane.state)
    return outcome.result if isinstance(outcome.result, Measured) else outcome


def _timed(call: Callable[[Any], Any], state: Any) -> Measured:
    started = time.perf_counter()
    result = call(state)
    return Measured(result, time.perf_counter() - started, 0)


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
