"""Rows of ids become pairs of provisional numbers, dealt into one file for each range of users."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.loaders.buckets.distinct import Distinct, Places, place_of
from gcnrec.loaders.buckets.work import Work
from gcnrec.loaders.ingest.heldout import Report
from gcnrec.loaders.ingest.numbering import number_keys, refuse_too_many
from gcnrec.loaders.ingest.rows import packed
from gcnrec.system.scratch import Scratch, trim_heap

_STEP = "dealt"
_NOTED_SHARE = 64
"""Bytes of the limit for each row after which it is noted how many are dealt: a killed process loses at most as many rows."""
MOST_BUCKETS = 256
"""Files that are open at a time."""


@dataclass(frozen=True, slots=True)
class Source:
    """An input: `batches` reads its `rows`, columns user and item, in the same order each time."""

    role: str
    rows: int
    batches: Callable[[], Iterator[pa.RecordBatch]]


def stretches(batches: Iterable[pa.RecordBatch], nbytes: int) -> Iterator[tuple[pa.Array, pa.Array]]:
    """The columns of as many batches as take `nbytes`, and of what is left at the end."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        waiting.append(batch)
        held += batch.nbytes
        if held >= nbytes:
            yield _joined(waiting)
            waiting, held = [], 0
            trim_heap()
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> tuple[pa.Array, pa.Array]:
    users, items = (pa.concat_arrays([batch.column(side) for batch in batches]) for side in (0, 1))
    return users, items


class Numbers:
    """The ids of both sides, and the pairs of any rows in provisional numbers: the order of the ids."""

    def __init__(
        self, kinds: tuple[pa.DataType, pa.DataType], keys: tuple[NDArray[np.uint64], NDArray[np.uint64]], scratch: Scratch
    ) -> None:
        self._kinds, self.keys = kinds, keys
        self._users, self._items = (Places.of(each, scratch) for each in keys)

    def pairs(self, users: pa.Array, items: pa.Array, out_E: NDArray[np.uint64]) -> None:
        """`user << 32 | item` of the rows. DataError for an id that was not there when the ids were read."""
        user_keys, item_keys = (number_keys(ids, kind) for ids, kind in zip((users, items), self._kinds, strict=True))
        u, i = self._users, self._items
        if _pack(user_keys, item_keys, u.keys_N, u.firsts_C, u.shift, i.keys_N, i.firsts_C, i.shift, out_E):
            raise changed()


def changed() -> DataError:
    """What a source is that brings other rows than before."""
    return DataError(
        "the input must stay as it is while it is read, it has other rows now; ingest again when nothing writes there"
    )


def read_ids(
    sources: Iterable[Source], kinds: tuple[pa.DataType, pa.DataType], scratch: Scratch, report: Report
) -> tuple[tuple[NDArray[np.uint64], NDArray[np.uint64]], NDArray[np.uint64]]:
    """The distinct ids of users and of items as sorted keys, and a sample of the users of train, whose source is the first.

    Raises DataError where int32 cannot number them.
    """
    users, items = (Distinct(kind, scratch) for kind in kinds)
    sample = None
    with ThreadPoolExecutor(2) as pool:
        for source in sources:
            batches = report.counted(source.batches(), source.role, source.rows)
            for stretch in stretches(batches, scratch.limit // 64):
                list(pool.map(lambda side, ids: side.add(ids), (users, items), stretch))
            sample = users.sample() if sample is None else sample
        keys = tuple(pool.map(lambda side: side.keys(), (users, items)))
    for found, side in zip(keys, ("users", "items"), strict=True):
        refuse_too_many(len(found), side)
    assert sample is not None
    return (keys[0], keys[1]), sample


def bounds_of(sample: NDArray[np.uint64], users: NDArray[np.uint64], rows: int, most: int) -> NDArray[np.int64]:
    """The first user of each bucket, and behind them how many there are: about `most` of `rows` rows a bucket, by a sample."""
    wanted = min(-(-rows // most), MOST_BUCKETS, max(len(sample), 1))
    cuts = sample[np.arange(1, wanted) * len(sample) // wanted]
    inner = np.searchsorted(users, cuts)
    return np.concatenate([[0], np.unique(inner[inner > 0]), [len(users)]]).astype(np.int64)


def deal(source: Source, numbers: Numbers, bounds: NDArray[np.int64], work: Work, scratch: Scratch, report: Report) -> None:
    """Write the pairs of `source` into the file `dealt_path` of their user's bucket; goes on from what is noted."""
    count = len(bounds) - 1
    begun = work.done(_STEP) or {"rows": 0, "lengths": [0] * count}
    done = noted = int(begun["rows"])
    if done == source.rows:
        return
    files = [_opened(dealt_path(work.folder, bucket), length) for bucket, length in enumerate(begun["lengths"])]
    try:
        for users, items in stretches(_after(source.batches(), done), scratch.limit // 64):
            pairs_E, dealt_E = np.empty(len(users), np.uint64), np.empty(len(users), np.uint64)
            numbers.pairs(users, items, pairs_E)
            ends = _deal(pairs_E, bounds, dealt_E)
            for file, part in zip(files, np.split(dealt_E, ends[:-1]), strict=True):
                file.write(part.data)
            done += len(users)
            report.work("dealing rows to buckets", done, source.rows)
            if done - noted >= scratch.limit // _NOTED_SHARE or done == source.rows:
                lengths = [file.tell() for file in files]  # of what is flushed after this, no byte more counts
                for file in files:
                    file.flush()
                work.note(_STEP, {"rows": done, "lengths": lengths})
                noted = done
    finally:
        for file in files:
            file.close()
    if done != source.rows:
        raise changed()


def dealt_path(folder: Path, bucket: int) -> Path:
    """The pairs of a bucket in the order of the input, uint64."""
    return folder / f"{bucket:05d}.dealt"


def _opened(path: Path, length: int) -> BinaryIO:
    """The file, cut to `length` bytes, at its end."""
    file = path.open("r+b" if path.exists() else "x+b")
    file.truncate(length)
    file.seek(length)
    return file


def _after(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The batches without their first `rows` rows."""
    for batch in batches:
        skipped = min(rows, len(batch))
        rows -= skipped
        if skipped < len(batch):
            yield batch.slice(skipped)


@numba.njit(parallel=True, cache=True)
def _pack(users, items, user_keys, user_firsts, user_shift, item_keys, item_firsts, item_shift, out):  # type: ignore[no-untyped-def]
    """Pairs of provisional numbers; returns the rows that have an id which is none."""
    unknown = np.int64(0)
    for row in numba.prange(len(out)):
        user = place_of(users[row], user_keys, user_firsts, user_shift)
        item = place_of(items[row], item_keys, item_firsts, item_shift)
        unknown += np.int64(user < 0 or item < 0)
        out[row] = packed(user, item)
    return unknown


@numba.njit(cache=True)
def _deal(pairs, bounds, out):  # type: ignore[no-untyped-def]
    """The pairs by bucket, in their order; returns where each bucket ends."""
    starts = np.zeros(len(bounds), np.int64)
    buckets = np.empty(len(pairs), np.int16)
    for row in range(len(pairs)):
        bucket = np.searchsorted(bounds, np.int64(pairs[row] >> np.uint64(32)), "right") - 1
        buckets[row] = bucket
        starts[bucket + 1] += 1
    for after in range(1, len(bounds)):
        starts[after] += starts[after - 1]
    ends = starts[:-1].copy()
    for row in range(len(pairs)):
        out[ends[buckets[row]]] = pairs[row]
        ends[buckets[row]] += 1
    return ends
