"""Rows of all inputs on their way from ids to numbers, in bounded memory: every stretch of rows is coded as soon as it is read.

Letters: E rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.loaders.ingest.columns import TIME, WEIGHT
from gcnrec.loaders.ingest.numbering import Ids, Numbering, refuse_too_many
from gcnrec.loaders.ingest.pairs import renumber
from gcnrec.loaders.ingest.rows import Rows, packed
from gcnrec.system.scratch import Scratch, trim_heap


class Staging:
    """Takes rows as they are read; `settle` then gives the pairs of all of them provisional numbers: the order of the ids."""

    def __init__(self, user_type: pa.DataType, item_type: pa.DataType, scratch: Scratch) -> None:
        self._scratch = scratch
        self._sides = Numbering(user_type, scratch), Numbering(item_type, scratch)
        self._bounds: tuple[list[int], list[int]] = ([0], [0])
        self._stretches: list[NDArray[np.uint64]] = []
        self._pool = ThreadPoolExecutor(2)

    def read(self, batches: Iterable[pa.RecordBatch], most: int, extra: list[str]) -> Rows:
        """The rows of `batches` (user, item, then the columns `extra`), at most `most`; their pairs are filled by `settle`."""
        room = Rows(
            self._scratch.empty(most, np.uint64),
            self._scratch.empty(most, np.int64) if TIME in extra else None,
            self._scratch.empty(most, np.float32) if WEIGHT in extra else None,
        )
        waiting: list[pa.RecordBatch] = []
        first = done = held = 0
        for batch in batches:
            last = done + len(batch)
            for target, column in zip(room.columns()[1:], batch.columns[2:], strict=True):
                target[done:last] = column.to_numpy(zero_copy_only=False)
            waiting.append(batch.select([0, 1]))
            held, done = held + waiting[-1].nbytes, last
            if held >= self._scratch.limit // 64:
                self._code(waiting, room.pairs_E[first:done])
                waiting, first, held = [], done, 0
        self._code(waiting, room.pairs_E[first:done])
        return room.slice(0, done)

    def settle(self) -> tuple[Ids, Ids]:
        """Fill the pairs of all rows; returns the ids of users and items. DataError where int32 cannot number them."""

        def numbered(side: int) -> tuple[Ids, NDArray[np.int32]]:
            return self._sides[side].numbered(np.array(self._bounds[side], np.int64))

        with self._pool:
            (users, user_numbers), (items, item_numbers) = self._pool.map(numbered, (0, 1))
        for ids, side in ((users, "users"), (items, "items")):
            refuse_too_many(len(ids), side)
        for number, pairs_E in enumerate(self._stretches):
            renumber(pairs_E, user_numbers[self._bounds[0][number] :], item_numbers[self._bounds[1][number] :])
        return users, items

    def _code(self, waiting: list[pa.RecordBatch], pairs_E: NDArray[np.uint64]) -> None:
        if not waiting:
            return

        def coded(side: int) -> NDArray[np.int32]:
            return self._sides[side].codes(pa.concat_arrays([batch.column(side) for batch in waiting]))

        _pack(*self._pool.map(coded, (0, 1)), pairs_E)
        for bounds, numbering in zip(self._bounds, self._sides, strict=True):
            bounds.append(len(numbering))
        self._stretches.append(pairs_E)
        trim_heap()  # measured: threads else keep up to two thirds of the limit more of what they freed


@numba.njit(parallel=True, cache=True)
def _pack(users, items, pairs):  # type: ignore[no-untyped-def]
    for row in numba.prange(len(pairs)):
        pairs[row] = packed(users[row], items[row])
