"""From sources of plain pairs to the files of a dataset folder by buckets of users: ids, dealt rows, lists, numbers, two CSRs.

Rows are pairs of numeric ids alone, and a file holds the test pairs. At its peak, the work takes 8 bytes of disk a row, and 8 a
node; the lists that follow take 4 a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.config import Data
from gcnrec.loaders.buckets.csr import write_indptr, write_transpose, write_user_items
from gcnrec.loaders.buckets.deal import Numbers, Source, bounds_of, deal, read_ids, stretches
from gcnrec.loaders.buckets.lists import Lists, merge_buckets
from gcnrec.loaders.buckets.work import Work
from gcnrec.loaders.ingest import pairs
from gcnrec.loaders.ingest.build import alive, write_nodes
from gcnrec.loaders.ingest.heldout import Report, drop_cold, drop_repeats, write_held_out
from gcnrec.loaders.ingest.numbering import Ids
from gcnrec.loaders.ingest.rows import Rows, sort_rows
from gcnrec.system.scratch import Scratch

_ROW_SHARE = 64
"""Bytes of the limit for each row of a bucket: its pair, its item, and what its user takes."""
_IDS = "ids"


def build_by_buckets(
    sources: Mapping[str, Source],
    kinds: tuple[pa.DataType, pa.DataType],
    data: Data,
    work: Work,
    scratch: Scratch,
    report: Report,
) -> dict[str, Any]:
    """Write every file of the dataset folder around `work` but dataset.json; returns what that file says about the data.

    `sources` by role: `train`, first, and `valid` and `test` as far as there are such files. `kinds`: the types of the ids.
    The files equal what `gcnrec.loaders.ingest.build.build` writes. What `work` says is done is not done again.
    """
    numbers, bounds = _numbered(sources, kinds, work, scratch, report)
    deal(sources["train"], numbers, bounds, work, scratch, report)
    held_out = {role: _held_out(sources.get(role), numbers, scratch) for role in ("valid", "test")}
    ids = tuple(Ids(kind, keys, None, None) for kind, keys in zip(kinds, numbers.keys, strict=True))
    del numbers
    lists = merge_buckets(work.folder, bounds, scratch, report)
    report.count("duplicates_train", sources["train"].rows - len(lists), "{} repeated pairs merged in train")
    for role, rows in held_out.items():
        merged = pairs.merge(rows, data.duplicates, scratch)
        report.count(f"duplicates_{role}", len(rows) - len(merged), f"{{}} repeated pairs merged in {role}")
        held_out[role] = merged
    valid, test = drop_repeats(held_out["valid"], held_out["test"], lists.mark_contained, data.repeats, scratch, report)
    del held_out
    report.work("numbering", 0, 0)
    degrees = lists.degrees_P, lists.item_degrees(len(ids[1]), scratch)
    warm = alive(degrees, (), scratch)
    may_be_cold = data.keep_cold, data.keep_cold
    valid, *in_valid = drop_cold("valid", valid, warm, may_be_cold, scratch, report)
    test, *in_test = drop_cold("test", test, warm, may_be_cold, scratch, report)
    for kept, valid_ones, test_ones in zip(warm, in_valid, in_test, strict=True):
        kept |= valid_ones  # in place: `warm` has been used
        kept |= test_ones
    orders = [pairs.falling(degree, kept, scratch) for degree, kept in zip(degrees, warm, strict=True)]
    write_nodes(work.folder.parent, (ids[0], ids[1]), degrees, orders)
    final = [pairs.inverse(order, len(degree), scratch) for order, degree in zip(orders, degrees, strict=True)]
    for role, rows in (("valid", valid), ("test", test)):
        pairs.renumber(rows.pairs_E, *final)
        write_held_out(work.folder.parent / f"{role}.parquet", sort_rows(rows, len(orders[0]), len(orders[1]), scratch), None)
    in_order = [_in_order(degree, order, scratch) for degree, order in zip(degrees, orders, strict=True)]
    info = {"num_users": len(orders[0]), "num_items": len(orders[1])}
    del degrees, orders, warm, in_valid, in_test, ids
    _write_graph(lists, final, in_order, work, scratch, report)
    return {**info, "num_train": len(lists), "num_valid": len(valid), "num_test": len(test), "split": "given"}


def _numbered(
    sources: Mapping[str, Source], kinds: tuple[pa.DataType, pa.DataType], work: Work, scratch: Scratch, report: Report
) -> tuple[Numbers, NDArray[np.int64]]:
    """The numbers of all ids, and the first user of each bucket, from the sources or from files of the work."""
    paths = [work.folder / f"{side}.ids.npy" for side in ("users", "items")]
    if work.done(_IDS) is None:
        keys, sample = read_ids(sources.values(), kinds, scratch, report)
        for path, own in zip(paths, keys, strict=True):
            np.save(path, own)
        bounds = bounds_of(sample, keys[0], sources["train"].rows, max(scratch.limit // _ROW_SHARE, 1))
        del keys
        work.note(_IDS, bounds.tolist())
    users, items = (np.load(path, mmap_mode="r") for path in paths)
    return Numbers(kinds, (users, items), scratch), np.array(work.done(_IDS), np.int64)


def _held_out(source: Source | None, numbers: Numbers, scratch: Scratch) -> Rows:
    """The pairs of a held-out file, sorted; none without a file."""
    rows = Rows(scratch.empty(source.rows if source else 0, np.uint64), None, None)
    done = 0
    for users, items in stretches(source.batches(), scratch.limit // 64) if source else ():
        numbers.pairs(users, items, rows.pairs_E[done : done + len(users)])
        done += len(users)
    users_N, items_N = numbers.keys
    return sort_rows(rows, len(users_N), len(items_N), scratch)


def _in_order(degrees: NDArray[np.int64], order: NDArray[np.int64], scratch: Scratch) -> NDArray[np.int64]:
    out: NDArray[np.int64] = np.take(degrees, order, out=scratch.empty(len(order), np.int64))
    return out


def _write_graph(
    lists: Lists,
    final: list[NDArray[np.int32]],
    degrees: list[NDArray[np.int64]],
    work: Work,
    scratch: Scratch,
    report: Report,
) -> None:
    """Both CSRs of the `lists` in `final` numbers, pass by pass; passes of an earlier process stay."""
    folder, total = work.folder.parent, len(lists)
    of_users, of_items = (write_indptr(folder, name, each) for name, each in zip(_SIDES, degrees, strict=True))
    indices = [folder / f"{name}.indices.npy" for name in _SIDES]
    begun = [work.done(name) or 0 for name in _SIDES]
    for pairs_written in write_user_items(indices[0], of_users, lists, final, begun[0], scratch):
        _note(_SIDES[0], pairs_written, total, work, report)
    of = of_users, np.load(indices[0], mmap_mode="r")
    for pairs_written in write_transpose(indices[1], of_items, of, begun[1], scratch):
        _note(_SIDES[1], pairs_written, total, work, report)


_SIDES = ("user_items", "item_users")


def _note(name: str, written: int, total: int, work: Work, report: Report) -> None:
    work.note(name, written)
    report.work(f"writing {name}", written, total)
