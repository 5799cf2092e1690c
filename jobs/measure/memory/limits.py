"""Ingest, evaluate and recommend on made-up data of ten times their memory limit, where the system refuses any more memory.

    python -m jobs.measure.memory.limits --out RECORD.json [--limit 64MB] [--times 10] [--cases NAME,...]

Every case runs in a fresh process. It does the same on a tiny input first: modules are then loaded, kernels compiled, threads
started. From then on RLIMIT_DATA is what the process has plus the limit. RLIMIT_DATA counts private writable memory, touched or
not: heaps, stacks, buffers; unlike RLIMIT_AS it does not count files that are mapped, as the graph, the embeddings and scratch
are: the system takes their pages back as it needs. Arrow must use the system's allocator, as its own reserves a GiB of
addresses that nothing uses, and threads to reserve less than 8 MiB for stacks of which they use a few KiB.
Peaks are of a thread that looks every few milliseconds; no peak of VmData can pass what RLIMIT_DATA allows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnrec.api.lists import recommend
from gcnrec.bench.harness import write_record
from gcnrec.bench.memory import Sampler, counters
from gcnrec.config import Data
from gcnrec.loaders.parquet import ingest
from gcnrec.results.evaluate import evaluate_run
from gcnrec.runs.folder import open_run
from gcnrec.system.limits import parse_bytes
from jobs.measure.memory import inputs

ASKED_USERS = 500
TINY = 4_000_000
"""Bytes of the inputs that a process is warmed up with."""
STACK_KIB = 1024
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}


@dataclass(frozen=True)
class Case:
    """`call(folder, limit)` must keep to the limit on the input of that name in `INPUTS`."""

    given: str
    call: Callable[[Path, str], None]


def _ingest_edges(folder: Path, limit: str) -> None:
    columns = {"user": "user", "item": "item", "time": "time", "time_unit": "s", "weight": "weight"}
    data = Data(train=str(folder / "edges.parquet"), **columns, split="random", memory_limit=limit)
    ingest(data, folder / "out", data_root=None, name="edges")


def _ingest_features(folder: Path, limit: str) -> None:
    files = {"train": str(folder / "edges.parquet"), "item_features": str(folder / "features.parquet")}
    ingest(Data(**files, user="user", item="item", memory_limit=limit), folder / "out", data_root=None, name="features")


def _evaluate(folder: Path, limit: str) -> None:
    evaluate_run(open_run(folder / "run"), memory_limit=limit)


def _recommend(folder: Path, limit: str) -> None:
    recommend(open_run(folder / "run"), 20, folder / "recs.parquet", users=folder / "test.parquet", memory_limit=limit)


INPUTS: dict[str, Callable[[Path, int], None]] = {
    "edges": lambda folder, size: inputs.edges(folder / "edges.parquet", size),
    "wide-features": inputs.wide_features,
    "many-words": inputs.many_words,
    "run": lambda folder, size: inputs.run_folder(folder, size, ASKED_USERS if size > TINY else 50),
}
"""Name -> what writes `size` bytes of it into a folder."""
CASES = {
    "ingest-edges": Case("edges", _ingest_edges),
    "ingest-wide-features": Case("wide-features", _ingest_features),
    "ingest-many-words": Case("many-words", _ingest_features),
    "evaluate": Case("run", _evaluate),
    "recommend": Case("run", _recommend),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit", default="64MB")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--cases", default=",".join(CASES), help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="where inputs and results lie; default a temporary folder")
    parser.add_argument("--step", choices=("make", "call"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step == "make":
        make(INPUTS[given.cases], given.folder, given.times * parse_bytes(given.limit))
    elif given.step == "call":
        print(json.dumps(limited(CASES[given.cases], given.folder, given.limit)))
    else:
        rows = list(measured(given.cases.split(","), given.folder, given.limit, given.times))
        if given.out:
            write_record(given.out, shlex.join(["python", "-m", "jobs.measure.memory.limits", *sys.argv[1:]]), rows)
        failed = [row["case"] for row in rows if row["exit_code"]]
        if failed:
            sys.exit(f"did not keep to the limit: {', '.join(failed)}")


def measured(names: Sequence[str], folder: Path | None, limit: str, times: int) -> Iterator[dict[str, Any]]:
    """A row of the record for each case, also printed; cases of one input share it."""
    for given in dict.fromkeys(CASES[name].given for name in names):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            arguments = ["--folder", work, "--limit", limit, "--times", str(times)]
            made = _step("make", given, arguments)
            for name in (name for name in names if CASES[name].given == given):
                done = made if made.returncode else _step("call", name, arguments)
                row = {"case": name, "limit_bytes": parse_bytes(limit), "input_bytes": times * parse_bytes(limit)}
                row |= {"exit_code": done.returncode}
                row |= {"error": done.stderr[-2000:]} if done.returncode else json.loads(done.stdout.splitlines()[-1])
                print(json.dumps(row), flush=True)
                yield row


def _step(which: str, name: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """This file in a process of its own, whose threads reserve little for their stacks."""
    command = [sys.executable, "-m", "jobs.measure.memory.limits", "--step", which, "--cases", name, *arguments]
    shell = ["bash", "-c", f"ulimit -s {STACK_KIB} && exec {shlex.join(command)}"]
    return subprocess.run(shell, env={**os.environ, **_ENVIRONMENT}, capture_output=True, text=True, check=False)


def make(write: Callable[[Path, int], None], folder: Path, size: int) -> None:
    """Write the input, and a tiny one into the folder `tiny`."""
    (folder / "tiny").mkdir()
    write(folder / "tiny", TINY)
    write(folder, size)


def limited(case: Case, folder: Path, limit: str) -> dict[str, Any]:
    """Memory of `case` beyond that of the warm process: RssAnon, which no file backs, and VmData, which RLIMIT_DATA limits."""
    case.call(folder / "tiny", limit)
    before = counters()
    allowed = before["VmData"] + parse_bytes(limit)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    sampler, begun = Sampler(counters), time.perf_counter()
    case.call(folder, limit)
    seconds, peaks = time.perf_counter() - begun, sampler()
    rises = {f"{name.lower()}_rise_bytes": peaks[name] - before[name] for name in ("RssAnon", "VmData")}
    fixed = {"fixed_rssanon_bytes": before["RssAnon"], "fixed_vmdata_bytes": before["VmData"]}
    return {"seconds": seconds, **rises, "vmpeak_bytes": peaks["VmPeak"], **fixed}


if __name__ == "__main__":
    main()
