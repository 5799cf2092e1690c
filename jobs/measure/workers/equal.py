"""Trains jobs with each number of workers, and compares all files of the run folders.

    python -m jobs.measure.workers.equal [--out RECORD.json] [--workers 1,2,4] [--scale 1] [--only NAME,...] [--work DIR]

Jobs are those of `cases.py`: their batches have four parts. Workers of one number live through all jobs, and start once. Files
are equal when tensors, columns and events are, to the bit, times left out (`jobs.measure.kill.digests`). The exit code is 1 when
a job ends in other files, or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from gcnrec.bench.harness import command_of, write_record
from gcnrec.errors import GcnrecError, PeerLostError
from gcnrec.loaders.schema import Dataset
from gcnrec.training.train import train
from gcnrec.workers.launch import led
from gcnrec.workers.world import World
from jobs.measure.kill.digests import differences, digests
from jobs.measure.workers.cases import CASES, Case
from jobs.measure.workers.data import made

FOLLOWER = "gcnrec.commands.workers"
Row = dict[str, Any]


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--scale", type=int, default=1, help="of the datasets")
    parser.add_argument("--only", type=lambda text: text.split(";"), default=list(CASES), help="names of jobs, with ; between")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    if unknown := set(given.only) - set(CASES):
        parser.error(f"--only has {', '.join(sorted(unknown))}; names are {'; '.join(CASES)}")
    return given


def main() -> None:
    given = arguments()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work, cases = (given.work or Path(folder)).resolve(), [CASES[name] for name in given.only]
        work.mkdir(parents=True, exist_ok=True)
        datasets = {kind: made(kind, work / kind, given.scale) for kind in sorted({case.data for case in cases})}
        found = {size: dict(_by_workers(size, cases, datasets, work)) for size in given.workers}
    rows = [_compared(case.name, {size: found[size][case.name] for size in given.workers}) for case in cases]
    equal = sum(row["equal"] for row in rows)
    summary = {"summary": True, "jobs": len(rows), "equal": equal, "seconds": round(time.perf_counter() - begun, 1)}
    print(json.dumps(summary))
    if given.out:
        write_record(given.out, command_of("jobs.measure.workers.equal", recorded(sys.argv[1:])), [*rows, summary])
    if equal < len(rows):
        sys.exit(1)


def recorded(arguments: list[str]) -> list[str]:
    """What a record says of the command: without a folder of this machine."""
    kept = list(arguments)
    if "--work" in kept:
        del kept[kept.index("--work") : kept.index("--work") + 2]
    return kept


def _by_workers(size: int, cases: list[Case], datasets: dict[str, Dataset], work: Path) -> Iterator[tuple[str, Row]]:
    """What each job leaves, trained by so many workers; others start after a job that ends them."""
    left, lives = list(cases), True
    while left:
        with suppress(PeerLostError), led(size, 5.0, FOLLOWER) as world:
            while left and lives:
                case, begun = left.pop(0), time.perf_counter()
                found = trained(case, datasets[case.data], work / f"{size}" / case.folder, world)
                row = {"digests": found, "seconds": round(time.perf_counter() - begun, 2)}
                print(f"{size} workers, {case.name}: {row['seconds']} s", file=sys.stderr, flush=True)
                yield case.name, row
                lives = "lost" not in found
        lives = True


def trained(case: Case, dataset: Dataset, folder: Path, world: World) -> dict[str, str]:
    """The digests of the files of a run; what it says where it ends with an error, under "lost" where its workers end too."""
    try:
        train(case.job(), dataset, folder, world=world)
    except GcnrecError as problem:
        return {"lost" if isinstance(problem, PeerLostError) else "error": str(problem)}
    return digests(folder)


def _compared(name: str, found: dict[int, Row]) -> Row:
    """A job's row: the digests of the first number of workers, and what differs for others."""
    sizes = list(found)
    first = found[sizes[0]]["digests"]
    different = {f"{size} workers": differences(first, found[size]["digests"]) for size in sizes[1:]}
    differs = {key: names for key, names in different.items() if names}
    row = {"job": name, "workers": sizes, "equal": not differs and not {"error", "lost"} & first.keys(), "digests": first}
    row |= {"different": differs} if differs else {}
    seconds = [found[size]["seconds"] for size in sizes]
    print(f"{name}: {'equal' if row['equal'] else f'NOT equal {differs or first}'}", file=sys.stderr, flush=True)
    return row | {"seconds": seconds}


if __name__ == "__main__":
    main()
