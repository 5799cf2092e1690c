"""Ingests drawn cases and compares each dataset folder with the oracle's, row by row.

    python -m jobs.measure.fuzz.rows --out RECORD.json [--cases 10000] [--first 0] [--jobs 2]

A case fails where the folder differs, where gcnrec refuses what the oracle has no reason to refuse, and where it ingests what
must be refused. The record counts outcomes and the words of refusals. The exit code is 1 when a case failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.bench.harness import write_record
from gcnrec.errors import GcnrecError
from jobs.measure.fuzz.ingestions import TICKS, Column, File, Ingestion, ingestion
from jobs.measure.fuzz.oracle import answer

MEMORY = Path("/dev/shm")
"""Where cases work, if it is there: nothing has to reach a disk."""
INGESTED, REFUSED = "ingested", "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`word`: ingested or refused; `fault` is None where the oracle agrees."""

    number: int
    word: str
    reason: str = ""
    fault: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    begun, numbers = time.perf_counter(), range(given.first, given.first + given.cases)
    os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")  # of the processes that cases run in
    with ProcessPoolExecutor(given.jobs) as pool:
        outcomes = list(pool.map(judged, numbers, chunksize=50))
    rows = [*tally(outcomes), summary(outcomes, given.first, time.perf_counter() - begun)]
    print(json.dumps(rows, indent=1))
    chosen = ["--out", given.out.name, "--cases", str(given.cases), "--first", str(given.first)]
    write_record(given.out, shlex.join(["python", "-m", "jobs.measure.fuzz.rows", *chosen]), rows)
    sys.exit(1 if rows[-1]["failures"] else 0)


def judged(number: int) -> Outcome:
    """The outcome of `compared`; a traceback is a fault, too."""
    try:
        return compared(number)
    except Exception as problem:
        return Outcome(number, "traceback", "", f"{type(problem).__name__}: {problem}"[:300])


def compared(number: int) -> Outcome:
    """Ingest the case `number` and compare."""
    case = ingestion(number)
    why, expected = answer(case)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        home, zone = Path(folder), os.environ.get("TZ")
        write(case, home)
        try:
            set_zone(case.zone)
            refusal = ingest(case, home)
        finally:
            set_zone(zone)
        if refusal is not None:
            word = next((word for word in sorted(why) if word in refusal), None)
            return Outcome(number, REFUSED, word or "", None if word else f"refused: {refusal[:300]}; reasons {sorted(why)}")
        if why:
            return Outcome(number, INGESTED, "", f"ingested in spite of {sorted(why)}")
        found = content(home / "out")
    wrong = [f"{key}: {shown(found[key], value)}" for key, value in expected.items() if not same(found[key], value)]
    return Outcome(number, INGESTED, "", "; ".join(wrong)[:600] or None)


def set_zone(zone: str | None) -> None:
    """The time zone of this process, that of the machine for None."""
    if zone is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = zone
    time.tzset()


def ingest(case: Ingestion, home: Path) -> str | None:
    """The refusal; None where the folder `out` is made."""
    from gcnrec.loaders.on_demand import ingest_flags
    from gcnrec.system.observer import SILENT

    try:
        ingest_flags(None, case.data, home / "out", data_root=home, force=False, observer=SILENT)
    except GcnrecError as problem:
        return str(problem)
    return None


def write(case: Ingestion, home: Path) -> None:
    """The files of the case as Parquet; _SUCCESS is none."""
    for source in case.inputs.values():
        for file in source.files:
            path = home / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".parquet":
                pq.write_table(table(file), path)
            else:
                path.write_text("none")


def table(file: File) -> pa.Table:
    """The columns, nested ones as fields of structs."""
    names, arrays, fields = [], [], dict[str, list[Column]]()
    for column in file.columns:
        if column.nested:
            fields.setdefault(column.name.partition(".")[0], []).append(column)
        else:
            names.append(column.name)
            arrays.append(array(column.kind, column.values))
    for name, inner in fields.items():
        names.append(name)
        inside = [array(column.kind, column.values) for column in inner]
        arrays.append(pa.StructArray.from_arrays(inside, [column.name.partition(".")[2] for column in inner]))
    return pa.Table.from_arrays(arrays, names)


def array(kind: str, values: list[Any]) -> pa.Array:
    """Plain values in the Arrow type `kind`."""
    if kind.startswith("timestamp"):
        unit, _, zone = kind[10:-1].partition(", tz=")
        ticks = [None if value is None else int(value * TICKS[unit]) for value in values]
        return pa.array(ticks, pa.int64()).cast(pa.timestamp(unit, zone or None))
    if kind == "date32" and any(isinstance(value, Fraction) for value in values):
        return pa.array([None if value is None else int(value / 86_400) for value in values], pa.int32()).cast(pa.date32())
    if kind == "uuid":
        storage = pa.array([None if value is None else value.bytes for value in values], pa.binary(16))
        return pa.ExtensionArray.from_storage(pa.uuid(), storage)
    if kind == "dictionary":
        return pa.array(values, pa.string()).dictionary_encode()
    if kind == "float16":
        return pa.array([None if value is None else np.float16(value) for value in values], pa.float16())
    types = {"fixed": pa.binary(4), "decimal": pa.decimal128(9, 0), "decimal2": pa.decimal128(6, 2)}
    return pa.array(values, types.get(kind) or getattr(pa, kind)())


def content(folder: Path) -> dict[str, Any]:
    """A dataset folder in the oracle's terms, read by pyarrow and NumPy."""
    info = json.loads((folder / "dataset.json").read_text())
    sides = {side: pq.read_table(folder / f"{side}.parquet") for side in ("users", "items")}
    ids = {side: rows.column("id").to_pylist() for side, rows in sides.items()}
    starts, items_E = np.load(folder / "user_items.indptr.npy"), np.load(folder / "user_items.indices.npy")
    users_E = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    train = {"user": users_E.tolist(), "item": items_E.tolist()}
    for name in ("time", "weight"):
        if (folder / f"{name}s.npy").is_file():
            train[name] = np.load(folder / f"{name}s.npy").tolist()
    parts = {name: pq.read_table(folder / f"{name}.parquet").to_pydict() for name in ("valid", "test")}
    found = {name: pairs(part, ids) for name, part in {"train": train, **parts}.items()}
    numbered = {side: list(zip(ids[side], rows.column("degree").to_pylist(), strict=True)) for side, rows in sides.items()}
    return {**found, **numbered, "report": info["report"]}


def pairs(part: dict[str, list[Any]], ids: dict[str, list[Any]]) -> dict[tuple[Any, Any], tuple[Any, Any]]:
    """{(user, item): (seconds, weight)} by original ids."""
    nothing = [None] * len(part["user"])
    keys = [(ids["users"][user], ids["items"][item]) for user, item in zip(part["user"], part["item"], strict=True)]
    found = dict(zip(keys, zip(part.get("time", nothing), part.get("weight", nothing), strict=True), strict=True))
    assert len(found) == len(keys), "a pair comes twice"
    return found


def same(found: Any, expected: Any) -> bool:
    """Equal; of a report, the counts that the oracle knows."""
    if isinstance(expected, dict) and "rows_train" in expected:
        return all(found.get(key, 0) == value for key, value in expected.items())
    return bool(found == expected)


def shown(found: Any, expected: Any) -> str:
    """What differs."""
    if isinstance(expected, list):
        return f"{found} instead of {expected}"
    keys = [key for key in expected if found.get(key) != expected[key]]
    more = [key for key in found if key not in expected] if "rows_train" not in expected else []
    return f"{ {key: (found.get(key), expected[key]) for key in keys[:3]} } and more {more[:3]}"


def tally(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Counts of outcomes and of the words of refusals."""
    counted = Counter((outcome.word, outcome.reason) for outcome in outcomes)
    return [{"outcome": word, "reason": reason, "cases": count} for (word, reason), count in sorted(counted.items())]


def summary(outcomes: list[Outcome], first: int, seconds: float) -> dict[str, Any]:
    """Totals, and the first faults."""
    faults = [outcome for outcome in outcomes if outcome.fault]
    ingested = sum(outcome.word == INGESTED for outcome in outcomes) / max(len(outcomes), 1)
    return {
        "summary": True, "first": first, "cases": len(outcomes), "ingested": round(ingested, 3), "failures": len(faults),
        "faults": {outcome.number: outcome.fault for outcome in faults[:20]}, "seconds": round(seconds, 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
