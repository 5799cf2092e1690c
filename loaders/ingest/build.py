"""From staged rows to the files of a dataset folder: split, merge, k-core, held-out rules, numbering, two CSRs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.buckets.csr import write_indptr, write_transpose
from gcnrec.loaders.ingest import behaviours, pairs, splits
from gcnrec.loaders.ingest.columns import parse_time
from gcnrec.loaders.ingest.heldout import Parts, Report, drop_cold, drop_repeats, write_held_out
from gcnrec.loaders.ingest.leakage import TrainTimes, report_leakage
from gcnrec.loaders.ingest.negatives import Negatives
from gcnrec.loaders.ingest.numbering import Ids
from gcnrec.loaders.ingest.rows import Rows, count_codes, count_high, count_low, sort_rows
from gcnrec.loaders.schema import NEGATIVES, behaviour_prefix, write_vocabulary
from gcnrec.system.scratch import Scratch, new_npy

_TIMES_CHUNK = 2**17
_DAY_SECONDS = 86_400
_LEAST_POWER = -60.0
"""Of two: by how much age lowers a weight at most. Without it, float32 makes 0 of old rows, which then are no interactions."""
_IDS_CHUNK = 2**16
_IDS_BYTES = 2**23
"""Of ids that are written at a time, where fewer than a chunk take as many."""


@dataclass(slots=True)
class Staged:
    """Rows in provisional numbers (the order of the sorted ids), as they were read, and the ids in that order.

    `files` maps `train` (and `valid`, `test`) to its rows, `others` the behaviours that are not predicted to their train rows.
    `build` takes them out, so that none outlives its use. `negatives`: pairs rated low, None where these are not asked for.
    """

    files: dict[str, Rows]
    others: dict[str, Rows]
    user_ids: Ids
    item_ids: Ids
    ticks: int | None
    negatives: Negatives | None = None

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    def sorted_pairs(self, rows: Rows, scratch: Scratch) -> splits.SortedPairs:
        return splits.SortedPairs(rows.pairs_E, self.num_users, self.num_items, scratch)


@dataclass(frozen=True, slots=True)
class _Core:
    """Marks of the users and items in a k-core, and of nodes that held-out pairs may name: they lost no rows to the core."""

    users: NDArray[np.bool_]
    items: NDArray[np.bool_]
    may_users: NDArray[np.bool_]
    may_items: NDArray[np.bool_]

    def held_out(self, name: str, rows: Rows, scratch: Scratch, report: Report) -> Rows:
        """The `rows` of "valid" or "test" that name no lost node. What a pair of such a node repeats, train does not know."""
        codes = scratch.codes(len(rows))
        pairs.mark_alive(rows.pairs_E, self.may_users, self.may_items, codes)
        words = "validation" if name == "valid" else name
        line = f"{{}} {words} pairs dropped: the k-core dropped their user or item"
        report.count(f"k_core_{name}", count_codes(codes, 0), line)
        return rows.keep(codes, 1, scratch)


def split_of(data: Data) -> str:
    """The split that applies: `given` with a test file, else `temporal` with a time column, else `random`."""
    return data.split or ("given" if data.test else "temporal" if data.time else "random")


def build(staged: Staged, data: Data, folder: Path, scratch: Scratch, report: Report) -> dict[str, Any]:
    """Write every file of the dataset folder but dataset.json; returns what that file says about the data."""
    split = split_of(data)
    moments = behaviours.Moments.none(staged.num_users, scratch)
    parts, core = _split(staged, data, split, moments, scratch, report)
    parts = _without_repeats(parts, data.repeats, scratch, report)
    negatives = staged.negatives
    if negatives is not None and data.repeats == "drop":
        parts = negatives.judged(parts, scratch, report)
    carves = split in ("given", "random") and not data.valid and data.valid_size > 0
    if carves:
        codes = splits.carve(staged.sorted_pairs(parts.train, scratch), data.valid_size, data.seed)
        valid = parts.train.keep(codes, splits.VALID, scratch)
        parts = Parts(parts.train.keep(codes, splits.TRAIN, scratch), valid, parts.test)
    sizes = staged.num_users, staged.num_items
    cut = behaviours.cut_of(data, split, carves, parts, moments, staged.num_items, scratch)
    others = behaviours.cut(staged.others, cut, data.duplicates, sizes, scratch, report)
    del moments, cut
    degrees = degrees_of(parts.train, sizes, scratch)
    if core is not None:
        others = others.within(core.users, core.items, scratch, report)
    warm = alive(degrees, others.train.values(), scratch)
    may_be_cold = (data.keep_cold, data.keep_cold or split == "cold_items")
    valid, *in_valid = drop_cold("valid", parts.valid, warm, may_be_cold, scratch, report)
    test, *in_test = drop_cold("test", parts.test, warm, may_be_cold, scratch, report)
    parts = Parts(parts.train, valid, test)
    report_leakage(TrainTimes(parts.train.times_E, degrees[0]), {"valid": valid, "test": test}, split, scratch, report)
    if data.behaviour:
        behaviours.report_met(parts, others, scratch, report)
    for kept, valid_ones, test_ones in zip(warm, in_valid, in_test, strict=True):
        kept |= valid_ones  # in place: `warm` has been used
        kept |= test_ones
    orders = [pairs.falling(degree, kept, scratch) for degree, kept in zip(degrees, warm, strict=True)]
    others = others.later_within(*warm, scratch)  # later rows may name nodes that nothing else does
    if negatives is not None:
        negatives.within(alive(degrees, (), scratch), warm, scratch, report)
    del warm, in_valid, in_test
    if data.weight_log:
        _take_logarithms((parts.train, parts.valid, parts.test, *others.train.values(), *others.later.values()))
    info: dict[str, Any] = {"num_users": len(orders[0]), "num_items": len(orders[1])}
    info |= {"num_train": len(parts.train), "num_valid": len(parts.valid), "num_test": len(parts.test), "split": split}
    if data.behaviour:
        report.entries |= others.counts()
        edges = [{"name": name, "edges": len(rows)} for name, rows in others.train.items()]
        info["behaviours"] = {"target": ", ".join(data.target or ()), "others": edges}
    _write(staged, parts, others, degrees, orders, folder, scratch)
    return info


def _without_repeats(parts: Parts, repeats: str, scratch: Scratch, report: Report) -> Parts:
    def mark_train(some_E: NDArray[np.uint64], codes_E: NDArray[np.int8]) -> None:
        pairs.mark_contained(some_E, parts.train.pairs_E, codes_E)

    return Parts(parts.train, *drop_repeats(parts.valid, parts.test, mark_train, repeats, scratch, report))


def degrees_of(rows: Rows, sizes: tuple[int, int], scratch: Scratch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of each user and each item."""
    return count_high(rows.pairs_E, sizes[0], scratch), count_low(rows.pairs_E, sizes[1], scratch)


def alive(
    degrees: tuple[NDArray[np.int64], NDArray[np.int64]], more: Iterable[Rows], scratch: Scratch
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Users and items with a degree above 0, or that some of the rows name."""
    users, items = (np.greater(each, 0, out=scratch.empty(len(each), np.bool_)) for each in degrees)
    for rows in more:
        for marks, counts in zip((users, items), degrees_of(rows, (len(users), len(items)), scratch), strict=True):
            marks |= counts > 0
    return users, items


def _split(
    staged: Staged, data: Data, split: str, moments: behaviours.Moments, scratch: Scratch, report: Report
) -> tuple[Parts, _Core | None]:
    """Cut the rows into parts, reduce to the k-core (before a drawn split, after a given one), merge repeats.

    `moments` gets the times of the first held-out rows of each user. Also returns the core, if one is asked for.
    """
    after, negatives, core = split in ("given", "temporal"), staged.negatives, None
    rows = sort_rows(staged.files.pop("train"), staged.num_users, staged.num_items, scratch)
    if negatives is not None and split not in behaviours.BY_TIME:
        rows = negatives.settle(rows, scratch, report)
    if data.k_core > 1 and not after:
        rows, core = _k_core(rows, staged, data.k_core, scratch, report)
    codes = _codes(rows, staged, data, split, scratch, report)
    merged = {}
    for name, code in (("train", splits.TRAIN), ("valid", splits.VALID), ("test", splits.TEST)):
        part = rows.keep(codes, code, scratch)
        if name in staged.files:
            part = sort_rows(staged.files.pop(name), staged.num_users, staged.num_items, scratch)
        moments.lower(name, part)
        if name == "train" and data.decay_days:
            _decay(part, tuple(staged.others.values()), data.decay_days, staged.ticks)
        merged[name] = pairs.merge(part, data.duplicates, scratch)
        repeated = len(part) - len(merged[name])
        report.count(f"duplicates_{name}", repeated, f"{{}} repeated pairs merged in {name}")
    if split == "temporal":
        moments.share()
    if negatives is not None and split in behaviours.BY_TIME:
        negatives.cut(moments, _last_tick(data, staged.ticks), scratch)
        negatives.settle_valid(merged["valid"], scratch, report)
        merged["train"] = negatives.settle(merged["train"], scratch, report)
    if not len(merged["train"]):
        remedy = (
            "change the split or its sizes" if data.test_from is None else f"choose a later test_from than {data.test_from!r}"
        )
        raise DataError(f"split = '{split}' leaves no train interaction of {len(rows):,}; {remedy}")
    if data.k_core > 1 and after:
        merged["train"], core = _k_core(merged["train"], staged, data.k_core, scratch, report)
    if core is not None and data.behaviour:
        merged |= {name: core.held_out(name, merged[name], scratch, report) for name in ("valid", "test")}
    return Parts(merged["train"], merged["valid"], merged["test"]), core


def _decay(rows: Rows, others: tuple[Rows, ...], days: float, ticks: int | None) -> None:
    """Halve weights, in place, for each `days` that a row is older than the newest of `rows`; rows of `others` likewise.

    Later rows keep their weight. No weight is multiplied by less than 2^`_LEAST_POWER`.
    """
    if rows.times_E is None or not len(rows):
        return
    span = days * _DAY_SECONDS * (ticks or 1)
    newest = rows.times_E.max()
    for part in (rows, *others):
        if part.times_E is None or part.weights_E is None:
            continue
        for first in range(0, len(part), _TIMES_CHUNK):
            chunk = slice(first, first + _TIMES_CHUNK)
            # Two times of int64 may lie further apart than int64 reaches: uint64 holds the difference.
            ages = np.subtract(newest, np.minimum(part.times_E[chunk], newest)).view(np.uint64)
            part.weights_E[chunk] *= np.exp2(np.maximum(-(ages / span), _LEAST_POWER)).astype(np.float32)


def _take_logarithms(parts: Iterable[Rows]) -> None:
    """Each weight w becomes log(1 + w), in place: merged rows differ less, and a weight of 0 stays 0."""
    for rows in parts:
        if rows.weights_E is not None:
            np.log1p(rows.weights_E, out=rows.weights_E)


def _codes(rows: Rows, staged: Staged, data: Data, split: str, scratch: Scratch, report: Report) -> NDArray[np.int8]:
    """The part of every row, by the split of the data."""
    valid_size, sorted_pairs = 0.0 if data.valid else data.valid_size, staged.sorted_pairs(rows, scratch)
    if split == "random":
        return splits.random_test(sorted_pairs, data.test_size, data.seed)
    if split == "cold_items":
        return splits.cold_items(sorted_pairs, data.test_size, valid_size, data.warm_size, data.seed)
    if split == "given":
        return sorted_pairs.codes()
    if rows.times_E is None or staged.ticks is None:
        raise DataError(f"split = '{split}' needs time, the column that orders interactions")
    if split == "leave_last":
        return splits.leave_last(sorted_pairs, rows.times_E, valid_size > 0)
    test_from = (
        splits.time_at(rows.times_E, data.test_size)
        if data.test_from is None
        else parse_time(data.test_from, data.time_unit, staged.ticks)
    )
    test_until = _last_tick(data, staged.ticks)
    if test_until < test_from:
        raise UsageError(f"test_until must be later than test_from, got {data.test_until!r} and {data.test_from!r}")
    valid_from = splits.time_at(rows.times_E, valid_size, test_from) if valid_size else test_from
    report.entries.update(valid_from_s=valid_from / staged.ticks, test_from_s=test_from / staged.ticks)
    codes = sorted_pairs.codes()
    splits.temporal(rows.times_E, valid_from, test_from, test_until, codes)
    if data.test_until is not None:
        left_out = count_codes(codes, splits.LATER)
        report.count("after_test", left_out, f"{{}} rows from {data.test_until} on left out")
    return codes


def _last_tick(data: Data, ticks: int | None) -> int:
    """The last tick of test."""
    return np.iinfo(np.int64).max if data.test_until is None else parse_time(data.test_until, data.time_unit, ticks or 1) - 1


def _k_core(rows: Rows, staged: Staged, k: int, scratch: Scratch, report: Report) -> tuple[Rows, _Core]:
    """The rows of the k-core, and its marks; DataError where it is empty."""
    users, items, rounds = pairs.k_core(rows.pairs_E, staged.num_users, staged.num_items, k, scratch)
    may_users, may_items = alive(degrees_of(rows, (staged.num_users, staged.num_items), scratch), (), scratch)
    np.less_equal(may_users, users, out=may_users)  # without rows before, or in the core
    np.less_equal(may_items, items, out=may_items)
    codes = scratch.codes(len(rows))
    pairs.mark_alive(rows.pairs_E, users, items, codes)
    kept = rows.keep(codes, 1, scratch)
    if not len(kept):
        raise DataError(f"k_core = {k} removes all {len(rows):,} interactions; choose a smaller k")
    report.entries["k_core_rounds"] = rounds
    report.count("k_core_interactions", len(rows) - len(kept), f"{{}} interactions outside the {k}-core dropped")
    report.count("k_core_users", len(users) - np.count_nonzero(may_users), f"{{}} users outside the {k}-core dropped")
    report.count("k_core_items", len(items) - np.count_nonzero(may_items), f"{{}} items outside the {k}-core dropped")
    return kept, _Core(users, items, may_users, may_items)


def _write(
    staged: Staged,
    parts: Parts,
    others: behaviours.Others,
    degrees: tuple[NDArray[np.int64], NDArray[np.int64]],
    orders: list[NDArray[np.int64]],
    folder: Path,
    scratch: Scratch,
) -> None:
    """Vocabularies, held-out pairs and the CSRs of each behaviour in final numbers; the rows are used up."""
    write_nodes(folder, (staged.user_ids, staged.item_ids), degrees, orders)
    numbers = [pairs.inverse(order, len(degree), scratch) for order, degree in zip(orders, degrees, strict=True)]
    num_users, num_items = len(orders[0]), len(orders[1])
    for name, rows in (("valid", parts.valid), ("test", parts.test)):
        pairs.renumber(rows.pairs_E, *numbers)
        write_held_out(folder / f"{name}.parquet", sort_rows(rows, num_users, num_items, scratch), staged.ticks)
    if staged.negatives is not None:
        rows = staged.negatives.write(folder, numbers, (num_users, num_items), staged.ticks, scratch)
        _write_csr(folder, NEGATIVES, rows.pairs_E, count_high(rows.pairs_E, num_users, scratch))
    for number, rows in enumerate((parts.train, *others.train.values())):
        pairs.renumber(rows.pairs_E, *numbers)
        _write_graph(folder, behaviour_prefix(number), rows, (num_users, num_items), staged.ticks, scratch)
    for number, rows in enumerate(others.later.values(), start=1):
        if len(rows):
            pairs.renumber(rows.pairs_E, *numbers)
            path = folder / f"{behaviour_prefix(number)}later.parquet"
            write_held_out(path, sort_rows(rows, num_users, num_items, scratch), staged.ticks)


def _write_graph(folder: Path, prefix: str, rows: Rows, sizes: tuple[int, int], ticks: int | None, scratch: Scratch) -> None:
    """Both CSRs of `rows` in final numbers, with times and weights where known; `rows` is used up. `ticks` in a second."""
    degrees, rows = degrees_of(rows, sizes, scratch), sort_rows(rows, *sizes, scratch)
    of_users = _write_csr(folder, f"{prefix}user_items", rows.pairs_E, degrees[0])
    if rows.times_E is not None:
        seconds = new_npy(folder / f"{prefix}times.npy", len(rows), np.int64)
        for first in range(0, len(rows), _TIMES_CHUNK):
            seconds[first : first + _TIMES_CHUNK] = rows.times_E[first : first + _TIMES_CHUNK] // (ticks or 1)
    if rows.weights_E is not None:
        new_npy(folder / f"{prefix}weights.npy", len(rows), np.float32)[:] = rows.weights_E
    indptr = write_indptr(folder, f"{prefix}item_users", degrees[1])
    for _ in write_transpose(folder / f"{prefix}item_users.indices.npy", indptr, of_users, 0, scratch):
        pass


def write_nodes(
    folder: Path, ids: tuple[Ids, Ids], degrees: Iterable[NDArray[np.int64]], orders: Iterable[NDArray[np.int64]]
) -> None:
    """`users.parquet` and `items.parquet`: the ids whose numbers are in `orders`, in this order, with their train degrees."""
    for name, own, degree, order in zip(("users", "items"), ids, degrees, orders, strict=True):
        write_vocabulary(folder / f"{name}.parquet", own.kind, described(own, degree, order))


def described(ids: Ids, degrees: NDArray[np.int64], order: NDArray[np.int64]) -> Iterator[tuple[pa.Array, NDArray[np.int64]]]:
    """Ids and degrees in their final order, some at a time."""
    for first in range(0, len(order), _IDS_CHUNK):
        for part in ids.cut(order[first : first + _IDS_CHUNK], _IDS_BYTES):
            yield ids.take(part), degrees[part]


def _write_csr(
    folder: Path, name: str, sorted_pairs: NDArray[np.uint64], degrees: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """A CSR of sorted pairs; returns its indptr and its indices, mapped."""
    indptr = write_indptr(folder, name, degrees)
    indices = new_npy(folder / f"{name}.indices.npy", len(sorted_pairs), np.int32)
    pairs.low_numbers(sorted_pairs, indices)
    return indptr, indices
