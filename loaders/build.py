"""From staged rows to the files of a dataset folder: split, merge, k-core, held-out rules, numbering, two CSRs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gcnrec.config import Data
from gcnrec.errors import DataError
from gcnrec.loaders import pairs, splits
from gcnrec.loaders.columns import parse_time
from gcnrec.loaders.schema import write_vocabulary
from gcnrec.loaders.scratch import Rows, Scratch, count_high, count_low, new_npy, sort_rows


@dataclass(frozen=True, slots=True)
class Report:
    """Everything dropped, counted: `entries` go into dataset.json, every line to `progress`."""

    progress: Callable[[str], None] | None
    entries: dict[str, Any] = field(default_factory=dict)

    def say(self, line: str) -> None:
        self.entries.setdefault("lines", []).append(line)
        if self.progress:
            self.progress(line)

    def count(self, key: str, value: int | np.integer, line: str) -> None:
        """Store a count; say the line unless nothing was counted."""
        self.entries[key] = int(value)
        if value:
            self.say(line.format(f"{value:,}"))


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows in provisional numbers (the order of the sorted ids), as DuckDB streamed them, and the ids in that order."""

    train: Rows
    valid: Rows | None
    test: Rows | None
    user_ids: pa.ChunkedArray
    item_ids: pa.ChunkedArray
    ticks: int | None


@dataclass(frozen=True, slots=True)
class Parts:
    """Merged rows of the three parts, sorted by pair."""

    train: Rows
    valid: Rows
    test: Rows


def split_of(data: Data) -> str:
    """The split that applies: `given` with a test file, else `temporal` with a time column, else `random`."""
    return data.split or ("given" if data.test else "temporal" if data.time else "random")


def build(staged: Staged, data: Data, folder: Path, scratch: Scratch, report: Report) -> dict[str, Any]:
    """Write every file of the dataset folder but dataset.json; returns what that file says about the data."""
    num_users, num_items = len(staged.user_ids), len(staged.item_ids)
    split = split_of(data)
    parts = _split(staged, data, split, scratch, report)
    parts = _drop_repeats(parts, data.repeats, scratch, report)
    if split in ("given", "random") and not data.valid and data.valid_size:
        taken = splits.carve(parts.train.pairs_E, num_users, num_items, data.valid_size, data.seed)
        parts = Parts(parts.train.keep(~taken, scratch), parts.train.keep(taken, scratch), parts.test)
    if not len(parts.train):
        raise DataError(f"split = '{split}' leaves no train interaction; change the split or its sizes")
    users = count_high(parts.train.pairs_E, num_users)
    items = count_low(parts.train.pairs_E, num_items)
    parts, kept_users, kept_items = _drop_cold(parts, users > 0, items > 0, data.keep_cold, split, scratch, report)
    _leakage(parts, staged.ticks, split, num_users, report)
    user_order, item_order = pairs.falling(users, kept_users), pairs.falling(items, kept_items)
    write_vocabulary(folder / "users.parquet", staged.user_ids.take(pa.array(user_order)), users[user_order])
    write_vocabulary(folder / "items.parquet", staged.item_ids.take(pa.array(item_order)), items[item_order])
    numbers = _inverse(user_order, num_users), _inverse(item_order, num_items)
    for name, rows in (("valid", parts.valid), ("test", parts.test)):
        _write_held_out(folder / f"{name}.parquet", rows, *numbers, len(user_order), staged.ticks, scratch)
    counts = {"num_train": len(parts.train), "num_valid": len(parts.valid), "num_test": len(parts.test)}
    _write_graph(folder, parts.train, *numbers, users[user_order], items[item_order], staged.ticks, scratch)
    return {"num_users": len(user_order), "num_items": len(item_order), **counts, "split": split}


def _split(staged: Staged, data: Data, split: str, scratch: Scratch, report: Report) -> Parts:
    """Cut the rows into parts, reduce to the k-core where the split asks for it, and merge repeats."""
    num_users, num_items = len(staged.user_ids), len(staged.item_ids)
    rows = sort_rows(staged.train, num_users, scratch)
    if data.k_core > 1 and split not in ("given", "temporal"):
        rows = _k_core(rows, num_users, num_items, data.k_core, scratch, report)
    part_E = _parts(rows, staged, data, split, report)
    if part_E is None:
        none = Rows.empty(0, rows, scratch)
        cut = [rows, none, none]
    else:
        cut = [rows.keep(part_E == part, scratch) for part in (splits.TRAIN, splits.VALID, splits.TEST)]
    given = (None, staged.valid, staged.test)
    merged = []
    for name, part, file in zip(("train", "valid", "test"), cut, given, strict=True):
        part = part if file is None else sort_rows(file, num_users, scratch)
        single = pairs.merge(part, data.duplicates, scratch)
        report.count(f"duplicates_{name}", len(part) - len(single), f"{{}} repeated pairs merged in {name}")
        merged.append(single)
    train = merged[0]
    if not len(train):
        raise DataError(f"split = '{split}' leaves no train interaction; change the split or its sizes")
    if data.k_core > 1 and split in ("given", "temporal"):
        train = _k_core(train, num_users, num_items, data.k_core, scratch, report)
    return Parts(train, merged[1], merged[2])


def _parts(rows: Rows, staged: Staged, data: Data, split: str, report: Report) -> NDArray[np.int8] | None:
    """The part of every row, or None when all of them are train."""
    num_users, num_items = len(staged.user_ids), len(staged.item_ids)
    valid_size = 0.0 if data.valid else data.valid_size
    if split == "given":
        return None
    if split == "random":
        return splits.random_test(rows.pairs_E, num_users, data.test_size, data.seed)
    if split == "cold_items":
        return splits.cold_items(rows.pairs_E, num_items, data.test_size, valid_size, data.seed)
    if rows.times_E is None or staged.ticks is None:
        raise DataError(f"split = '{split}' needs time, the column that orders interactions")
    if split == "leave_last":
        return splits.leave_last(rows.pairs_E, rows.times_E, num_users, valid_size > 0)
    if data.test_from is not None:
        test_from = parse_time(data.test_from, data.time_unit, staged.ticks)
    else:
        test_from = splits.time_at(rows.times_E, data.test_size)
    valid_from = splits.time_at(rows.times_E, valid_size, test_from) if valid_size else test_from
    report.entries["valid_from_s"], report.entries["test_from_s"] = valid_from / staged.ticks, test_from / staged.ticks
    return splits.temporal(rows.times_E, valid_from, test_from)


def _k_core(rows: Rows, num_users: int, num_items: int, k: int, scratch: Scratch, report: Report) -> Rows:
    users, items, rounds = pairs.k_core(rows.pairs_E, num_users, num_items, k)
    before_users = np.count_nonzero(count_high(rows.pairs_E, num_users))
    before_items = np.count_nonzero(count_low(rows.pairs_E, num_items))
    kept = rows.keep(pairs.alive(rows.pairs_E, users, items), scratch)
    if not len(kept):
        raise DataError(f"k_core = {k} removes all {len(rows):,} interactions; choose a smaller k")
    lost = before_users - np.count_nonzero(users), before_items - np.count_nonzero(items)
    report.entries["k_core_rounds"] = rounds
    report.count("k_core_interactions", len(rows) - len(kept), f"{{}} interactions outside the {k}-core dropped")
    report.count("k_core_users", lost[0], f"{{}} users outside the {k}-core dropped")
    report.count("k_core_items", lost[1], f"{{}} items outside the {k}-core dropped")
    return kept


def _drop_repeats(parts: Parts, repeats: str, scratch: Scratch, report: Report) -> Parts:
    """Held-out pairs that training has seen: valid against train, test against train and valid."""
    train, valid, test = parts.train.pairs_E, parts.valid.pairs_E, parts.test.pairs_E
    seen_valid = pairs.contained(valid, train)
    seen_test = pairs.contained(test, train) | pairs.contained(test, valid)
    what = "kept and ranked" if repeats == "keep" else "dropped"
    report.count("repeats_valid", np.count_nonzero(seen_valid), f"{{}} validation pairs also in train {what}")
    report.count("repeats_test", np.count_nonzero(seen_test), f"{{}} test pairs also in train or validation {what}")
    if repeats == "keep":
        return parts
    return Parts(parts.train, parts.valid.keep(~seen_valid, scratch), parts.test.keep(~seen_test, scratch))


def _drop_cold(
    parts: Parts,
    users: NDArray[np.bool_],
    items: NDArray[np.bool_],
    keep_cold: bool,
    split: str,
    scratch: Scratch,
    report: Report,
) -> tuple[Parts, NDArray[np.bool_], NDArray[np.bool_]]:
    """Drop held-out pairs of nodes without train edges, or keep those nodes; returns the nodes that get a number."""
    kept_users, kept_items = users.copy(), items.copy()
    held_out = []
    for name, rows in (("valid", parts.valid), ("test", parts.test)):
        user_numbers, item_numbers = pairs.unpack(rows.pairs_E)
        cold_users, cold_items = ~users[user_numbers], ~items[item_numbers]
        report.count(f"cold_users_{name}", len(np.unique(user_numbers[cold_users])), f"{{}} users of {name} have no train edge")
        report.count(f"cold_items_{name}", len(np.unique(item_numbers[cold_items])), f"{{}} items of {name} have no train edge")
        dropped = np.zeros(len(rows), np.bool_) if keep_cold else cold_users | (cold_items & (split != "cold_items"))
        report.count(f"cold_{name}", np.count_nonzero(dropped), f"{{}} {name} pairs of such users or items dropped")
        kept_users[user_numbers[~dropped]] = True
        kept_items[item_numbers[~dropped]] = True
        held_out.append(rows.keep(~dropped, scratch))
    return Parts(parts.train, *held_out), kept_users, kept_items


def _leakage(parts: Parts, ticks: int | None, split: str, num_users: int, report: Report) -> None:
    """How much of train lies after test: zero by construction for a temporal split, a share to know for the others."""
    train, test = parts.train, parts.test
    if ticks is None or train.times_E is None or test.times_E is None or not len(test):
        return
    first_test = int(test.times_E.min())
    later = int(np.count_nonzero(train.times_E > first_test))
    report.entries["leakage_train_after_first_test"] = later
    if split == "temporal":
        report.say(f"leakage: {later:,} train interactions are later than the first test interaction")
        return
    latest_U = np.full(num_users, np.iinfo(np.int64).min)
    np.maximum.at(latest_U, pairs.unpack(train.pairs_E)[0], train.times_E)
    own = float((test.times_E < latest_U[pairs.unpack(test.pairs_E)[0]]).mean())
    world = float((test.times_E < train.times_E.max()).mean())
    report.entries["leakage_test_before_own_train"], report.entries["leakage_test_before_any_train"] = own, world
    report.say(
        f"leakage: {own:.1%} of the test interactions are earlier than their user's last train interaction, "
        f"{world:.1%} than the last one of all; only split = 'temporal' has none"
    )


def _inverse(order: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    numbers = np.full(size, -1, np.int64)
    numbers[order] = np.arange(len(order))
    return numbers


def _seconds(times_E: NDArray[np.int64], ticks: int | None) -> NDArray[np.int64]:
    return times_E // (ticks or 1)


def _write_held_out(
    path: Path,
    rows: Rows,
    user_numbers: NDArray[np.int64],
    item_numbers: NDArray[np.int64],
    num_users: int,
    ticks: int | None,
    scratch: Scratch,
) -> None:
    pairs.renumber(rows.pairs_E, user_numbers, item_numbers, rows.pairs_E)
    rows = sort_rows(rows, num_users, scratch)
    users_E, items_E = pairs.unpack(rows.pairs_E)
    columns: dict[str, Any] = {"user": users_E, "item": items_E}
    if rows.times_E is not None:
        columns["time"] = _seconds(rows.times_E, ticks)
    if rows.weights_E is not None:
        columns["weight"] = rows.weights_E
    pq.write_table(pa.table(columns), path, compression="zstd")


def _write_graph(
    folder: Path,
    train: Rows,
    user_numbers: NDArray[np.int64],
    item_numbers: NDArray[np.int64],
    user_degrees: NDArray[np.int64],
    item_degrees: NDArray[np.int64],
    ticks: int | None,
    scratch: Scratch,
) -> None:
    """Both CSRs by sorting packed pairs; times and weights follow the order of `user_items`."""
    pairs.renumber(train.pairs_E, user_numbers, item_numbers, train.pairs_E)
    train = sort_rows(train, len(user_degrees), scratch)
    _write_csr(folder, "user_items", train.pairs_E, user_degrees)
    if train.times_E is not None:
        new_npy(folder / "times.npy", len(train), np.int64)[:] = _seconds(train.times_E, ticks)
    if train.weights_E is not None:
        new_npy(folder / "weights.npy", len(train), np.float32)[:] = train.weights_E
    pairs.swap(train.pairs_E, train.pairs_E)
    swapped = sort_rows(Rows(train.pairs_E, None, None), len(item_degrees), scratch)
    _write_csr(folder, "item_users", swapped.pairs_E, item_degrees)


def _write_csr(folder: Path, name: str, sorted_pairs: NDArray[np.uint64], degrees: NDArray[np.int64]) -> None:
    np.save(folder / f"{name}.indptr.npy", np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64))
    pairs.low_numbers(sorted_pairs, new_npy(folder / f"{name}.indices.npy", len(sorted_pairs), np.int32))
