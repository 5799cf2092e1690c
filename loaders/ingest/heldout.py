"""What becomes of held-out pairs: repeats of train, nodes without train edges, the files; and the report of an ingestion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gcnrec.loaders.ingest import pairs
from gcnrec.loaders.ingest.rows import Rows, count_codes, high_of, low_of
from gcnrec.system.observer import SILENT
from gcnrec.system.scratch import Scratch

_GROUP_ROWS = 2**17


@dataclass(slots=True)
class Report:
    """Counts of everything dropped: `entries` for dataset.json, lines for `note`; `work` gets the rows read.

    `named` gives a line the names that people know, where the input is a table in memory.
    """

    note: Callable[[str], None] = SILENT.note
    work: Callable[[str, int, int], None] = SILENT.work
    named: Callable[[str], str] = str
    entries: dict[str, Any] = field(default_factory=dict)

    def say(self, line: str) -> None:
        line = self.named(line)
        self.entries.setdefault("lines", []).append(line)
        self.note(line)

    def count(self, key: str, value: int | np.integer, line: str) -> None:
        """Store a count; say the line, with the count in place of its first {}, unless nothing was counted."""
        self.entries[key] = int(value)
        if value:
            self.say(line.replace("{}", f"{value:,}", 1))

    def counted(self, batches: Iterable[pa.RecordBatch], what: str, total: int) -> Iterator[pa.RecordBatch]:
        """The same batches; reports their rows as they are read."""
        done = 0
        for batch in batches:
            yield batch
            done += len(batch)
            self.work(what, done, total)


@dataclass(frozen=True, slots=True)
class Parts:
    """Merged rows of the three parts, sorted by pair."""

    train: Rows
    valid: Rows
    test: Rows


def drop_repeats(
    valid: Rows,
    test: Rows,
    mark_train: Callable[[NDArray[np.uint64], NDArray[np.int8]], object],
    repeats: str,
    scratch: Scratch,
    report: Report,
) -> tuple[Rows, Rows]:
    """Held-out pairs that training has seen: valid against train, test against train and valid.

    `mark_train` gives code 1 to each of sorted pairs that train has.
    """
    seen_valid, seen_test = scratch.codes(len(valid)), scratch.codes(len(test))
    mark_train(valid.pairs_E, seen_valid)
    mark_train(test.pairs_E, seen_test)
    pairs.mark_contained(test.pairs_E, valid.pairs_E, seen_test)
    what = "kept and ranked" if repeats == "keep" else "dropped"
    report.count("repeats_valid", count_codes(seen_valid, 1), f"{{}} validation pairs also in train {what}")
    report.count("repeats_test", count_codes(seen_test, 1), f"{{}} test pairs also in train or validation {what}")
    if repeats == "keep":
        return valid, test
    return valid.keep(seen_valid, 0, scratch), test.keep(seen_test, 0, scratch)


def drop_cold(
    name: str,
    rows: Rows,
    warm: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    may_be_cold: tuple[bool, bool],
    scratch: Scratch,
    report: Report,
) -> tuple[Rows, NDArray[np.bool_], NDArray[np.bool_]]:
    """Drop pairs of users or items without train edges unless these may be cold.

    `warm` and `may_be_cold` are for users and items. Returns the rows and the users and items that still occur in them.
    """
    cold_users, cold_items = (scratch.full(len(side), np.bool_, 0) for side in warm)
    codes = scratch.codes(len(rows))
    _mark_cold(rows.pairs_E, *warm, *may_be_cold, cold_users, cold_items, codes)
    report.count(f"cold_users_{name}", cold_users.sum(), f"{{}} users of {name} have no train edge")
    report.count(f"cold_items_{name}", cold_items.sum(), f"{{}} items of {name} have no train edge")
    report.count(f"cold_{name}", count_codes(codes, 1), f"{{}} {name} pairs of such users or items dropped")
    kept = rows.keep(codes, 0, scratch)
    seen_users, seen_items = (scratch.full(len(side), np.bool_, 0) for side in warm)
    _mark_seen(kept.pairs_E, seen_users, seen_items)
    return kept, seen_users, seen_items


def write_held_out(path: Path, rows: Rows, ticks: int | None) -> None:
    """`valid.parquet` or `test.parquet`: user, item int32, and time (int64 seconds) and weight where known."""
    fields = [("user", pa.int32()), ("item", pa.int32())]
    fields += [("time", pa.int64())] if rows.times_E is not None else []
    fields += [("weight", pa.float32())] if rows.weights_E is not None else []
    with pq.ParquetWriter(path, pa.schema(fields), compression="zstd") as writer:
        for first in range(0, max(len(rows), 1), _GROUP_ROWS):
            part = rows.slice(first, first + _GROUP_ROWS)
            columns: list[NDArray[Any]] = [np.empty(len(part), np.int32), np.empty(len(part), np.int32)]
            np.right_shift(part.pairs_E, np.uint64(32), out=columns[0], casting="unsafe")
            pairs.low_numbers(part.pairs_E, columns[1])
            columns += [] if part.times_E is None else [part.times_E // (ticks or 1)]
            columns += [] if part.weights_E is None else [part.weights_E]
            writer.write_table(pa.table(columns, schema=writer.schema))


@numba.njit(cache=True)
def _mark_cold(pairs, users, items, users_may, items_may, cold_users, cold_items, codes):  # type: ignore[no-untyped-def]
    for row in range(len(pairs)):
        user, item = high_of(pairs[row]), low_of(pairs[row])
        cold_users[user] |= not users[user]
        cold_items[item] |= not items[item]
        if not (users[user] or users_may) or not (items[item] or items_may):
            codes[row] = 1


@numba.njit(cache=True)
def _mark_seen(pairs, users, items):  # type: ignore[no-untyped-def]
    for row in range(len(pairs)):
        users[high_of(pairs[row])] = True
        items[low_of(pairs[row])] = True
