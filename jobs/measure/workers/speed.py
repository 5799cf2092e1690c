"""CPU seconds of a training step, by one worker and by two: of each worker, of both, and by phase.

    python -m jobs.measure.workers.speed DATASET --out RECORD.json [--steps 10] [--rounds 3] [--batch 8192]

LightGCN with two hops of ten drawn neighbours, softmax in the batch, Adam, one thread a worker. One worker trains batches of
one part, two workers the same number of pairs in two parts. One worker is measured twice: while the other core rests, which the
verdict takes, and while another process trains the same there. Cores that work at the same time share caches and memory, so that
a step takes more CPU seconds of each; the second comparison leaves that out. Rounds of all alternate, and medians over rounds
count. Wall seconds mean something only where each worker has a core to itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gcnrec.bench.contenders.scale_task import Cost, Lane, led_cost
from gcnrec.bench.harness import command_of, write_record
from gcnrec.workers.launch import inherited, led
from gcnrec.workers.metered import Metered
from jobs.measure.workers.phases import PHASES, Clock, phases_watched, shared

FOLLOWER = "jobs.measure.workers.phases"
LEAST_GAIN, MOST_TOTAL = 1.7, 1.15
"""Of the seconds of one worker: by what a worker of two is to have fewer, and what both together may have."""


@contextmanager
def busy(lane: Lane) -> Iterator[None]:
    """While another process trains the lane too."""
    command = [sys.executable, "-m", "jobs.measure.workers.busy", str(os.getpid()), json.dumps(asdict(lane))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=inherited()) as process:
        try:
            if process.stdout is None or not process.stdout.readline():
                raise SystemExit("the process on the other core ended before it trained")
            yield
        finally:
            process.kill()


def measured(lane: Lane) -> tuple[Cost, list[list[float]]]:
    """The cost of a lane, and the seconds of a step in each phase, of each worker."""
    clock = Clock()
    with led(lane.workers, module=FOLLOWER) as given, phases_watched(clock):
        world = Metered(given)
        cost = led_cost(lane, world)
        world.publish({"do": "phases"})
        return cost, [[each / lane.steps for each in row] for row in shared(world, clock)]


def row_of(lane: Lane, found: list[tuple[Cost, list[list[float]]]]) -> dict[str, Any]:
    """Medians over rounds, in milliseconds a step; lists are by worker."""
    costs = [cost for cost, _ in found]

    def medians(rows: list[list[float]], scale: float = 1e3) -> list[float]:
        return [round(scale * statistics.median(each), 2) for each in zip(*rows, strict=True)]

    phases = {name: medians([[row[place] for row in rows] for _, rows in found]) for place, name in enumerate(PHASES)}
    return {
        "workers": lane.workers,
        "parts": lane.parts,
        "wall_ms": round(1e3 * statistics.median(cost.seconds for cost in costs), 1),
        "cpu_ms": medians([cost.cpu_W for cost in costs]),
        "bytes_sent": medians([cost.bytes_W for cost in costs], 1.0),
        "phases_ms": phases,
        "last_loss": costs[-1].losses[-1],
    }


def compared(one: dict[str, Any], two: dict[str, Any]) -> tuple[float, float]:
    """How many times fewer CPU seconds a worker of two has than one worker, and how many times more both together."""
    alone, both = one["cpu_ms"][0], two["cpu_ms"]
    return alone / max(both), sum(both) / alone


def verdict(busy: dict[str, Any], resting: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """How two workers compare with one worker, whose other core rests, or trains too."""
    gain, total = compared(resting, two)
    gain_busy, total_busy = compared(busy, two)
    return {
        "gain_a_worker": round(gain, 2),
        "total": round(total, 2),
        "holds": gain >= LEAST_GAIN and total <= MOST_TOTAL,
        "gain_while_the_other_core_trains": round(gain_busy, 2),
        "total_while_the_other_core_trains": round(total_busy, 2),
    }


def main() -> None:
    """Write the record; the exit code is 1 where two workers cost more than they should."""
    parser = argparse.ArgumentParser(prog="python -m jobs.measure.workers.speed")
    parser.add_argument("data", type=Path, metavar="DATASET")
    parser.add_argument("--out", type=Path, required=True, metavar="RECORD.json")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8192)
    given = parser.parse_args()
    one = Lane(1, 1, given.batch, given.steps, 64, 1, str(given.data.resolve()), (0, 0, 0))
    lanes = {"trains too": one, "rests": one, "is the second worker's": replace(one, workers=2, parts=2)}
    found: dict[str, list[tuple[Cost, list[list[float]]]]] = {other: [] for other in lanes}
    for _ in range(given.rounds):
        for other, lane in lanes.items():
            with busy(lane) if other == "trains too" else nullcontext():
                found[other].append(measured(lane))
    rows = [{"other_core": other} | row_of(lane, found[other]) for other, lane in lanes.items()]
    said = verdict(*rows)
    arguments = [
        str(given.data.resolve()),
        "--steps",
        str(given.steps),
        "--rounds",
        str(given.rounds),
        "--batch",
        str(given.batch),
    ]
    write_record(given.out, command_of("jobs.measure.workers.speed", arguments), rows, verdict=said)
    print(json.dumps({"rows": rows, "verdict": said}, indent=1))
    raise SystemExit(not said["holds"])


if __name__ == "__main__":
    main()
