"""Numbered pairs as an engine would write them, by NumPy and pyarrow alone, in memory: what engines are compared with.

Letters: E rows, N nodes of a side in the order of their ids.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

SIDES = ("user", "item")
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Merged:
    """One row a pair, in the order of pairs: places of its user and item among the sorted ids, and of the row in its table."""

    users_E: Numbers
    items_E: Numbers
    rows_E: Numbers

    def keep(self, kept_E: NDArray[np.bool_]) -> Merged:
        return Merged(self.users_E[kept_E], self.items_E[kept_E], self.rows_E[kept_E])

    def keys(self, num_items: int) -> Numbers:
        return self.users_E * num_items + self.items_E


def write_numbered(folder: Path, train: pa.Table, test: pa.Table, *, files: int = 1, keep_cold: bool = False) -> None:
    """Write `folder` from tables with the columns user and item, and perhaps time (seconds) and weight.

    As ingestion does by default, the latest row of a pair stays, and a test pair goes that train has. So does a
    test pair of a user or an item without a row in train, unless `keep_cold` is set.
    """
    ids = {side: _sorted_ids(train[side], test[side]) for side in SIDES}
    num_users, num_items = len(ids["user"]), len(ids["item"])
    known, asked = _merged(train, ids), _merged(test, ids)
    degrees = [np.bincount(known.users_E, minlength=num_users), np.bincount(known.items_E, minlength=num_items)]
    asked = asked.keep(~np.isin(asked.keys(num_items), known.keys(num_items)))
    if not keep_cold:
        asked = asked.keep((degrees[0][asked.users_E] > 0) & (degrees[1][asked.items_E] > 0))
    numbers = []
    for side, degrees_N, held_out in zip(SIDES, degrees, (asked.users_E, asked.items_E), strict=True):
        kept = (degrees_N > 0) | (np.bincount(held_out, minlength=len(degrees_N)) > 0)
        order = np.lexsort((np.arange(len(degrees_N)), -degrees_N))  # the last key counts first
        order = order[kept[order]]
        numbers.append(np.full(len(degrees_N), -1))
        numbers[-1][order] = np.arange(len(order))
        table = pa.table({"number": np.arange(len(order)), "id": ids[side].take(pa.array(order))})
        write_files(folder / f"{side}s", table, files)
    for name, pairs, table in (("train", known, train), ("test", asked, test)):
        if len(pairs.rows_E):
            write_files(folder / name, _by_number(pairs, numbers, table), files)
    counts = {"users": int((numbers[0] >= 0).sum()), "items": int((numbers[1] >= 0).sum())}
    counts |= {"train": len(known.rows_E), "test": len(asked.rows_E)}
    (folder / "numbered.json").write_text(json.dumps({"format": 1, **counts}), encoding="utf-8")


def write_files(folder: Path, table: pa.Table, files: int) -> None:
    """The table in its order as Parquet files, whose names have another order than their content."""
    folder.mkdir(parents=True)
    bounds = np.linspace(0, len(table), files + 1).astype(int)
    for number in range(files):
        part = table.slice(bounds[number], bounds[number + 1] - bounds[number])
        pq.write_table(part, folder / f"part-{files - number:05d}.parquet")


def _sorted_ids(*columns: pa.ChunkedArray) -> pa.Array:
    together = pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)
    ids = pc.unique(together)
    return ids.take(pc.sort_indices(ids))


def _merged(table: pa.Table, ids: dict[str, pa.Array]) -> Merged:
    """The latest row of each pair: of the largest time, then of the largest weight."""
    users_E, items_E = (
        pc.index_in(table[side], value_set=ids[side]).combine_chunks().to_numpy().astype(np.int64) for side in SIDES
    )
    more: list[NDArray[Any]] = [table[name].to_numpy() for name in ("weight", "time") if name in table.column_names]
    order = np.lexsort((*more, items_E, users_E))
    users_E, items_E = users_E[order], items_E[order]
    last = np.append((np.diff(users_E) != 0) | (np.diff(items_E) != 0), True)[: len(order)]
    return Merged(users_E[last], items_E[last], order[last])


def _by_number(pairs: Merged, numbers: list[Numbers], table: pa.Table) -> pa.Table:
    users_E, items_E = numbers[0][pairs.users_E], numbers[1][pairs.items_E]
    order = np.lexsort((items_E, users_E))
    rows = table.take(pa.array(pairs.rows_E[order]))
    more = {name: rows[name] for name in ("time", "weight") if name in table.column_names}
    return pa.table({"user": users_E[order], "item": items_E[order], **more})
