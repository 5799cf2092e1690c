"""Numbered pairs against plain ingestion of the same rows: equal digests, seconds and memory.

    python -m jobs.measure.numbered --out RECORD.json [--rows 1000000] [--repeats 3] [--memory-limit 2GB]
        [--engine 'NAME=COMMAND']...

Rows are drawn by Zipf's law from a seed, with integers and with text as ids; a tenth as many are the test file. NumPy numbers
them (`writer.py`), and so does each COMMAND, which gets --train, --test and --out as programs of `jobs/examples` take them. A row
of the record is one ingestion: of the files, or of what a writer made. Each runs in a process of its own, after a tiny one that
loads modules and kernels, in turns with the others. Figures are medians; `cpu_seconds` is of all threads, `private_bytes` the
largest rise of private memory (RssAnon), without mapped files.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.bench.memory import Sampler, counters
from jobs.measure.numbered.writer import write_numbered

KINDS = ("integers", "text")
PRIMES = 1_000_003, 7919, 104_729
"""Ids are multiples of the last two, modulo the first: their order is not the one of their degrees."""


def main() -> int:
    from gcnrec.bench.harness import write_record  # not at the top: a measured step has no use for torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="RECORD.json")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-limit", default="2GB", metavar="SIZE")
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--step", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(step(given.step[0], Path(given.step[1]), given.out, given.memory_limit)))
        return 0
    engines = dict(each.split("=", 1) for each in given.engine)
    rows = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            rows += compared(Path(name), kind, engines, given)
    command = f"python -m jobs.measure.numbered --out {given.out.name} --rows {given.rows} --repeats {given.repeats}"
    command += "".join(f" --engine '{name}=...'" for name in engines)
    write_record(given.out, f"{command} --memory-limit {given.memory_limit}", rows)
    for row in rows:
        print(json.dumps(row))
    return int(len({(row["ids"], row["digest"]) for row in rows}) != len(KINDS))


def compared(folder: Path, kind: str, engines: dict[str, str], given: argparse.Namespace) -> list[dict[str, Any]]:
    """One kind of ids: the rows of the record."""
    train, test = drawn(kind, given.rows, 0), drawn(kind, given.rows // 10, 1)
    pq.write_table(train, folder / "train.parquet")
    pq.write_table(test, folder / "test.parquet")
    begun = time.perf_counter()
    write_numbered(folder / "numpy", train, test, files=4)
    took = {"numpy": time.perf_counter() - begun}
    for name, command in engines.items():
        begun = time.perf_counter()
        options = ["--train", folder / "train.parquet", "--test", folder / "test.parquet", "--out", folder / name]
        subprocess.run([*shlex.split(command), *map(str, options)], check=True, capture_output=True)
        took[name] = time.perf_counter() - begun
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("plain", *took)}
    for _ in range(given.repeats):  # in turns, as other work on the machine comes and goes
        for name, runs in found.items():
            runs.append(_apart(name, folder, given))
    rows = [{"ids": kind, "what": "plain", **medians(found["plain"])}]
    for name, seconds in took.items():
        rows.append({"ids": kind, "what": "numbered", "by": name, **medians(found[name]), "writer_seconds": seconds})
    return rows


def drawn(kind: str, rows: int, seed: int) -> pa.Table:
    """Users, items and times; a few users and items have most rows."""
    draw = np.random.default_rng(seed)
    modulus, *factors = PRIMES
    places = [(draw.zipf(1.2, rows) % most).astype(np.int64) for most in (200_000, 50_000)]
    users, items = (each * factor % modulus for each, factor in zip(places, factors, strict=True))
    ids = (users, items) if kind == "integers" else (np.char.add("user-", users.astype(str)), np.char.add("é", items.astype(str)))
    return pa.table({"user": ids[0], "item": ids[1], "time": draw.integers(1_500_000_000, 1_700_000_000, rows)})


def medians(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Of equal ingestions, in processes of their own."""
    middle = {key: statistics.median(each[key] for each in found) for key in ("seconds", "cpu_seconds", "private_bytes")}
    return {"runs": len(found), **middle, "digest": found[0]["digest"]}


def _apart(what: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        options = ["--out", f"{name}/data", "--memory-limit", given.memory_limit, "--step", what, str(folder)]
        command = [sys.executable, "-m", "jobs.measure.numbered", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return row


def step(what: str, folder: Path, out: Path, limit: str) -> dict[str, Any]:
    """One ingestion in this process, after one of a few rows that loads modules and kernels."""
    tiny = out.parent / "tiny"
    tiny.mkdir()
    table = drawn("text", 100, 0)
    pq.write_table(table, tiny / "train.parquet")
    pq.write_table(drawn("text", 50, 1), tiny / "test.parquet")
    write_numbered(tiny / "numbered", table, drawn("text", 50, 1))
    _ingest("plain" if what == "plain" else "numbered", tiny, tiny / "out", limit)
    before, sampler, begun, worked = counters()["RssAnon"], Sampler(counters), time.perf_counter(), time.process_time()
    digest = _ingest(what, folder, out, limit)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - worked
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "private_bytes": sampler()["RssAnon"] - before, "digest": digest}


def _ingest(what: str, folder: Path, out: Path, limit: str) -> str:
    """The digest of what ingestion makes of the files in `folder`, or of the numbered pairs that `what` wrote there."""
    from gcnrec.config import Data
    from gcnrec.loaders.numbered.folder import ingest_numbered
    from gcnrec.loaders.numbered.layout import settings_of
    from gcnrec.loaders.parquet import ingest
    from gcnrec.system.observer import SILENT

    if what != "plain":
        data = settings_of({"memory_limit": limit})
        return ingest_numbered(str(folder / what), data, out, data_root=None, force=False, observer=SILENT).digest
    files = {role: str(folder / f"{role}.parquet") for role in ("train", "test")}
    data = Data(**files, user="user", item="item", time="time", valid_size=0.0, memory_limit=limit)
    return ingest(data, out, data_root=None, name="plain").digest


if __name__ == "__main__":
    sys.exit(main())
