"""Small files that expand, under memory limits: each must be refused by name or done, with little more memory than the limit.

    python -m jobs.measure.memory.bombs --out RECORD.json [--cases 100] [--only KIND,...]

As in `jobs.measure.memory.limits`, a case has a process of its own, which does the same on a harmless input first; what it then
takes beyond that is private memory (RssAnon), and RLIMIT_DATA refuses more than 1.15 times the limit. A refusal counts where
gcnrec says what is too large; where memory ran out, or the system ended the process, the case has failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gcnrec.api.lists import recommend
from gcnrec.bench.harness import command_of, write_record
from gcnrec.bench.memory import Sampler, counters
from gcnrec.config import Data
from gcnrec.errors import GcnrecError
from gcnrec.loaders.parquet import ingest
from gcnrec.results.evaluate import evaluate_run
from gcnrec.runs.folder import open_run
from gcnrec.system.limits import parse_bytes
from gcnrec.system.scratch import trim_heap
from jobs.measure.memory import bomb_inputs as bombs
from jobs.measure.memory import inputs
from jobs.measure.memory.limits import STACK_KIB

LIMITS = ("64MB", "128MB", "256MB")
MOST_GROWTH = 1.15
SECONDS = 600
"""After which a case is ended, and has failed."""
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
_KILO, _MEGA = 10**3, 10**6


@dataclass(frozen=True)
class Kind:
    """`make(folder, size)` writes a bomb of one of `sizes`, or a harmless input of size `tiny`; `call` reads it under a limit."""

    make: Callable[[Path, int], None]
    call: Callable[[Path, str], None]
    tiny: int
    sizes: tuple[int, ...]


def _ingest(folder: Path, limit: str, **settings: Any) -> None:
    data = Data(**{"train": str(folder / "edges.parquet"), "user": "user", "item": "item", "memory_limit": limit} | settings)
    ingest(data, folder / "out", data_root=None, name="bomb", force=True)


def _ingest_files(folder: Path, limit: str) -> None:
    _ingest(folder, limit, train=str(folder / "edges"))


def _ingest_where(folder: Path, limit: str) -> None:
    _ingest(folder, limit, where="length(text) > 3")


def _ingest_test(folder: Path, limit: str) -> None:
    _ingest(folder, limit, train=str(folder / "train.parquet"), test=str(folder / "edges.parquet"))


def _ingest_features(folder: Path, limit: str) -> None:
    _ingest(folder, limit, item_features=str(folder / "features.parquet"))


def _evaluate(folder: Path, limit: str) -> None:
    evaluate_run(open_run(folder / "run"), segments=folder / "edges.parquet", memory_limit=limit)


def _recommend(folder: Path, limit: str, **files: str) -> None:
    given = {option: folder / name for option, name in files.items()}
    recommend(open_run(folder / "run"), 5, folder / f"{time.time_ns()}.parquet", memory_limit=limit, **given)


def _edges(make: Callable[..., None], **options: Any) -> Callable[[Path, int], None]:
    """The same maker for a folder, in which it writes `edges.parquet`."""
    return lambda folder, size: make(folder / "edges.parquet", size, **options)


def _with_train(make: Callable[..., None], **options: Any) -> Callable[[Path, int], None]:
    def made(folder: Path, size: int) -> None:
        bombs.repeated(folder / "train.parquet", 10)
        make(folder / "edges.parquet", size, **options)

    return made


def _with_run(make: Callable[..., None], name: str = "edges.parquet", **options: Any) -> Callable[[Path, int], None]:
    """The same maker for a folder with a run, for which the file `name` is a request."""

    def made(folder: Path, size: int) -> None:
        inputs.run_folder(folder, _MEGA, 50)
        make(folder / name, size, **options)

    return made


_TEXTS = (300 * _KILO, 3 * _MEGA, 30 * _MEGA, 150 * _MEGA)
_DICTIONARIES = (5 * _MEGA, 20 * _MEGA, 60 * _MEGA, 200 * _MEGA)
KINDS = {
    "long-ids": Kind(_edges(bombs.long_ids), _ingest, 10, _TEXTS),
    "long-ids-lz4": Kind(_edges(bombs.long_ids, codec="lz4"), _ingest, 10, (3 * _MEGA, 150 * _MEGA)),
    "repeated-id": Kind(_edges(bombs.repeated), _ingest, 10, (3 * _KILO, *_TEXTS)),
    "repeated-id-typed": Kind(_edges(bombs.repeated, as_dictionary=True), _ingest, 10, (3 * _KILO, *_TEXTS)),
    "dictionary": Kind(_edges(bombs.large_dictionary, as_dictionary=False), _ingest, 10, _DICTIONARIES),
    "dictionary-typed": Kind(_edges(bombs.large_dictionary), _ingest, 10, _DICTIONARIES),
    "shared-prefixes": Kind(_edges(bombs.shared_prefixes), _ingest, 10_000, (100 * _KILO, 3 * _MEGA)),
    "columns": Kind(_edges(bombs.many_columns), _ingest, 10, (2000, 10_000, 50_000)),
    "row-groups": Kind(_edges(bombs.many_groups), _ingest, 20, (2000, 20_000)),
    "deep": Kind(_edges(bombs.deep), _ingest, 2, (30, 200)),
    "metadata": Kind(_edges(bombs.large_metadata), _ingest, 10, (_MEGA, 10 * _MEGA, 200 * _MEGA)),
    "wide-binary": Kind(_edges(bombs.wide_binary), _ingest, 10, (_MEGA, 50 * _MEGA)),
    "runs": Kind(_edges(bombs.runs), _ingest, 100, (3 * _MEGA, 10 * _MEGA)),
    "runs-of-nulls": Kind(_edges(bombs.runs, value=None), _ingest, 100, (10 * _MEGA, 100 * _MEGA)),
    "pages-gzip": Kind(_edges(bombs.large_pages), _ingest, 80_000, (8 * _MEGA, 24 * _MEGA, 80 * _MEGA)),
    "pages-brotli": Kind(_edges(bombs.large_pages, codec="brotli"), _ingest, 80_000, (24 * _MEGA, 80 * _MEGA)),
    "lying-page": Kind(_edges(bombs.lying_page), _ingest, 2**27, (2**28,)),
    "where": Kind(_edges(bombs.repeated, column="text"), _ingest_where, 10, (3 * _KILO, *_TEXTS)),
    "test": Kind(_with_train(bombs.repeated), _ingest_test, 10, (3 * _KILO, 3 * _MEGA)),
    "files": Kind(bombs.many_files, _ingest_files, 2, (100, 300)),
    "feature-texts": Kind(bombs.long_texts, _ingest_features, 10, _TEXTS[:3]),
    "feature-repeated": Kind(bombs.repeated_texts, _ingest_features, 10, _TEXTS),
    "feature-list": Kind(bombs.long_list, _ingest_features, 10, (100 * _KILO, 10 * _MEGA, 100 * _MEGA)),
    "feature-words": Kind(bombs.repeated_words, _ingest_features, 10, _TEXTS[:3]),
    "feature-vectors": Kind(bombs.wide_vectors, _ingest_features, 10, (10 * _KILO, 400 * _KILO, 10 * _MEGA)),
    "feature-columns": Kind(bombs.many_features, _ingest_features, 3, (500, 3000, 20_000)),
    "feature-decimals": Kind(bombs.decimals, _ingest_features, 2000, (_MEGA,)),
    "segments": Kind(_with_run(bombs.repeated, column="segment"), _evaluate, 10, _TEXTS),
    "users": Kind(_with_run(bombs.repeated), partial(_recommend, users="edges.parquet"), 10, _TEXTS),
    "candidates": Kind(_with_run(bombs.runs), partial(_recommend, candidates="edges.parquet"), 100, (3 * _MEGA, 30 * _MEGA)),
    "exclude": Kind(
        _with_run(bombs.large_dictionary, as_dictionary=False), partial(_recommend, exclude="edges.parquet"), 10, _DICTIONARIES
    ),
    "csv-line": Kind(_with_run(bombs.lines, name="users.csv"), partial(_recommend, users="users.csv"), 1, (100 * _MEGA, 10**9)),
    "dataset": Kind(bombs.dataset, _recommend, 10, (3_000, 30_000, 300_000)),
}
"""The kinds of bombs by their names; sizes are bytes, or counts of what the name says."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cases", type=int, default=100, help="cases, spread over all kinds, sizes and limits (default: 100)")
    parser.add_argument("--only", help="names of kinds; default all of them")
    parser.add_argument("--folder", type=Path, help="where inputs and results lie; default a temporary folder")
    parser.add_argument("--step", nargs=3, action="append", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        for row in limited([(name, int(size), limit) for name, size, limit in given.step], given.folder):
            print(json.dumps(row), flush=True)
        return
    rows = [measured(*case, given.folder) for case in chosen(given.cases, given.only.split(",") if given.only else list(KINDS))]
    if given.out:
        write_record(given.out, command_of("jobs.measure.memory.bombs", sys.argv[1:]), rows)
    failed = [f"{row['kind']} {row['size']} {row['limit']}" for row in rows if not row["held"]]
    if failed:
        sys.exit(f"{len(failed)} of {len(rows)} cases did not keep to the limit: {', '.join(failed)}")


def chosen(count: int, names: list[str]) -> Iterator[tuple[str, int, str]]:
    """`count` cases of kind, size and limit, evenly spread; the first of each kind comes before the second of any."""
    each = [[(name, size, limit) for size in KINDS[name].sizes for limit in LIMITS] for name in names]
    for cases in each:
        random.Random(0).shuffle(cases)
    turns = itertools.zip_longest(*each)
    yield from itertools.islice((case for turn in turns for case in turn if case is not None), count)


def measured(name: str, size: int, limit: str, folder: Path | None) -> dict[str, Any]:
    """A row of the record, also printed."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        begun = time.perf_counter()
        row: dict[str, Any] = {"kind": name, "size": size, "limit": limit}
        try:
            done = step([(name, size, limit)], work)
            failed = done.returncode or not done.stdout.strip()
            row |= {"outcome": f"exit code {done.returncode}", "error": done.stderr[-2000:]} if failed else {}
            row |= {} if failed else json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            row |= {"outcome": "no end"}
        row["seconds_in_all"] = time.perf_counter() - begun
    row["held"] = row["outcome"] in ("done", "refused") and row["growth"] <= MOST_GROWTH
    print(json.dumps(row), flush=True)
    return row


def step(cases: Sequence[tuple[str, int, str]], work: str) -> subprocess.CompletedProcess[str]:
    """This file in a process of its own, whose threads reserve little for their stacks: a line of JSON for each case."""
    given = [text for name, size, limit in cases for text in ("--step", name, str(size), limit)]
    command = [sys.executable, "-m", "jobs.measure.memory.bombs", "--folder", work, *given]
    shell = ["bash", "-c", f"ulimit -s {STACK_KIB} && exec {shlex.join(command)}"]
    environment = {**os.environ, **_ENVIRONMENT}
    return subprocess.run(shell, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)


def limited(cases: Sequence[tuple[str, int, str]], folder: Path) -> Iterator[dict[str, Any]]:
    """What reading each bomb takes beyond a process that has read a harmless input, and how it ends."""
    folders = [folder / f"{number}-{name}" for number, (name, *_) in enumerate(cases)]
    for (name, size, _), place in zip(cases, folders, strict=True):
        for part, made in (("tiny", KINDS[name].tiny), ("bomb", size)):
            (place / part).mkdir(parents=True)
            _apart(KINDS[name].make, place / part, made)
    for (name, _, limit), place in zip(cases, folders, strict=True):
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        _outcome(KINDS[name], place / "tiny", limit)
        trim_heap()
        yield _limited(KINDS[name], place / "bomb", limit)


def _limited(kind: Kind, folder: Path, limit: str) -> dict[str, Any]:
    before = counters()
    allowed = before["VmData"] + int(MOST_GROWTH * parse_bytes(limit))
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, resource.RLIM_INFINITY))
    sampler, begun = Sampler(counters), time.perf_counter()
    outcome, message = _outcome(kind, folder, limit)
    seconds, peaks = time.perf_counter() - begun, sampler()
    rises = {f"{name.lower()}_rise_bytes": peaks[name] - before[name] for name in ("RssAnon", "VmData")}
    growth = rises["rssanon_rise_bytes"] / parse_bytes(limit)
    files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "out" not in path.parts)
    return {"outcome": outcome, "message": message, "seconds": seconds, "growth": growth, "input_bytes": files, **rises}


def _apart(make: Callable[[Path, int], None], folder: Path, size: int) -> None:
    """Write an input in a child process, so that its memory is not this one's."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            make(folder, size)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        sys.exit("the input cannot be made")


def _outcome(kind: Kind, folder: Path, limit: str) -> tuple[str, str]:
    try:
        kind.call(folder, limit)
    except GcnrecError as problem:
        text = str(problem).replace(str(folder), "FOLDER")
        return "ran out" if "memory ran out" in text or "too small for" in text else "refused", text
    return "done", ""


if __name__ == "__main__":
    main()
