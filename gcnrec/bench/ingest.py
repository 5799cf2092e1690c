"""Bench `ingest`: synthetic rows end to end: repeats merged, 5-core, ids numbered by falling degree, both orders of edges.

Ours against DuckDB alone in SQL (`ingest.sql`), both under one memory limit. Every repetition is a fresh process, so
`peak_bytes` is all the resident memory of that process. The mapped edges and the ids must be equal to the bit.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from gcnrec.bench.harness import Row, Variant, measure
from gcnrec.bench.memory import Measured, high_water, in_subprocess
from gcnrec.config import Data
from gcnrec.loaders.parquet import connect, ingest
from gcnrec.loaders.synthetic import World, write_rows
from gcnrec.system.limits import parse_bytes

_SQL = Path(__file__).with_name("ingest.sql")
_CORE = 5


def run(
    rows: int = 20_000_000,
    users: int = 2_000_000,
    items: int = 500_000,
    memory_limit: str = "1GB",
    runs: int = 3,
    folder: Path | None = None,
) -> Iterator[Row]:
    """Rows of the bench; the input and every result lie in a temporary folder below `folder`."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        source = Path(work) / "rows.parquet"
        world = World(users=users, items=items, edges=rows, blocks=max(1, items // 500), seed=1)
        write_rows(world, 0, rows, source)
        variants = [
            Variant("gcnrec", lambda: source, partial(_repeat, _ours, _digest_of_ours, memory_limit)),
            Variant("duckdb-sql", lambda: source, partial(_repeat, _duckdb, _digest_of_duckdb, memory_limit)),
        ]
        for row in measure("ingest", variants, rows, lambda expected, found: float(expected != found), 0.0, runs=runs, warmup=1):
            yield row if row.get("summary") else {**row, "memory_limit": memory_limit}


def _repeat(call: Callable[[Path, Path, str], int], digest: Callable[[Path], str], memory_limit: str, source: Path) -> Measured:
    """`call` in a fresh process; its result is read, outside the clock, into a digest and thrown away."""
    out = source.with_name("out")
    try:
        measured = in_subprocess(call, source, out, memory_limit)
        return Measured(digest(out), measured.seconds, measured.result)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _ours(source: Path, out: Path, memory_limit: str) -> int:
    columns = {"train": str(source), "user": "user", "item": "item"}
    data = Data(**columns, split="random", test_size=0.0, valid_size=0.0, k_core=_CORE, memory_limit=memory_limit)
    ingest(data, out, data_root=None, name="bench")
    return high_water()


def _duckdb(source: Path, out: Path, memory_limit: str) -> int:
    first, repeated, until, last = _statements(source, out)
    out.mkdir()
    with connect(out, parse_bytes(memory_limit), [source.parent]) as connection:
        connection.execute(first).fetchall()
        while True:
            connection.execute(repeated).fetchall()
            fallen = connection.execute(until).fetchall()
            connection.execute("DROP TABLE fallen").fetchall()
            if fallen == [(0,)]:
                break
        connection.execute(last).fetchall()
    return high_water()


def _statements(source: Path, out: Path) -> tuple[str, str, str, str]:
    """The SQL before the loop, the loop, its question, and the rest."""
    rows, folder = (str(path).replace("'", "''") for path in (source, out))
    text = _SQL.read_text(encoding="utf-8").format(rows=rows, out=folder, k=_CORE)
    first, _, text = text.partition("-- repeat\n")
    repeated, _, text = text.partition("-- until\n")
    until, _, last = text.partition(";")
    return first, repeated, until, last


def _digest_of_ours(out: Path) -> str:
    edges = [np.load(out / f"{name}.indices.npy") for name in ("user_items", "item_users")]
    return _digest([*edges, *(pq.read_table(out / f"{name}.parquet", columns=["id"]) for name in ("users", "items"))])


def _digest_of_duckdb(out: Path) -> str:
    return _digest([pq.read_table(out / f"{name}.parquet") for name in ("user_items", "item_users", "users", "items")])


def _digest(parts: list[Any]) -> str:
    """Of arrays, and of the first columns of tables."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update((part if isinstance(part, np.ndarray) else part.column(0).to_numpy()).tobytes())
    return digest.hexdigest()
