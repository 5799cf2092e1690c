"""Ids by number: each number once, each id once, numbers by falling train degree, ties by id.

Letters: N nodes of a side, by number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.errors import DataError, shown
from gcnrec.ids.id_types import family, plain
from gcnrec.loaders.files.common_types import is_bytes, is_text
from gcnrec.loaders.files.id_columns import own_type
from gcnrec.loaders.ingest.build import described
from gcnrec.loaders.ingest.inputs import Input
from gcnrec.loaders.ingest.numbering import Ids, Numbering
from gcnrec.loaders.numbered.layout import AGAIN
from gcnrec.loaders.numbered.parts import Part, Places, integers
from gcnrec.loaders.schema import write_vocabulary
from gcnrec.system.scratch import Scratch, trim_heap


@dataclass(frozen=True, slots=True)
class Nodes:
    """One side, `users` or `items`: the id of number n is id `ranks_N[n]` of `ids`, which are in their own order."""

    side: str
    ids: Ids
    ranks_N: NDArray[np.int32]
    places: Places

    def __len__(self) -> int:
        return len(self.ranks_N)

    def check_order(self, degrees_N: NDArray[np.int64]) -> None:
        """DataError, naming the first number, unless numbers go by falling degree, ties by id."""
        number = int(_first_unordered(degrees_N, self.ranks_N))
        if number >= 0:
            degrees = f"degree {degrees_N[number]:,} follows degree {degrees_N[number - 1]:,}"
            same = degrees_N[number] == degrees_N[number - 1]
            ids = f" and id {self.shown(number)} follows {self.shown(number - 1)}" if same else ""
            raise DataError(
                f"{self.side} must be numbered by falling train degree, ties by id, {degrees}{ids} in {self.places.of(number)}; "
                f"a part of train is missing, or number again and {AGAIN}"
            )

    def check_met(self, degrees_N: NDArray[np.int64], held_out_N: NDArray[np.int64]) -> None:
        """DataError for a node that has no pair in train, valid and test. Nodes without train pairs are the last ones."""
        warm = int(np.count_nonzero(degrees_N))
        alone = np.flatnonzero(held_out_N[warm:] == 0)
        if len(alone):
            number = warm + int(alone[0])
            raise DataError(
                f"{self.side} must have pairs, number {number:,} (id {self.shown(number)}, {self.places.of(number)}) has none in "
                f"train, valid and test; leave it out, and {AGAIN}"
            )

    def shown(self, number: int) -> str:
        """The id of a number, as messages have it."""
        return shown(self.ids.take(self.ranks_N[number : number + 1].astype(np.int64))[0].as_py())

    def write(self, folder: Path, degrees_N: NDArray[np.int64], scratch: Scratch) -> None:
        """Write `users.parquet` or `items.parquet` into the dataset folder."""
        degrees_of_ranks = scratch.empty(len(self), np.int64)
        _place(degrees_N, self.ranks_N, degrees_of_ranks)
        order = scratch.empty(len(self), np.int64)
        order[:] = self.ranks_N
        write_vocabulary(folder / f"{self.side}.parquet", self.ids.kind, described(self.ids, degrees_of_ranks, order))


def read_nodes(source: Input, side: str, declared: str | None, most: int, scratch: Scratch) -> Nodes:
    """The ids of one side, `users` or `items`; they become ids of the type `declared`, which is the files' own without one.

    Raises DataError where numbers are not 0, 1, 2 ..., where an id comes twice or has more than `most` bytes, and for ids that
    are none of the type.
    """
    kind = _kind(source, declared)
    columns = {"number": integers(source, "number", "numbers"), "id": source.expression("id").cast(plain(kind))}
    part, count = Part(source, columns, 1, scratch.limit), source.rows
    numbering, codes_N, bounds, stretches = Numbering(kind, scratch), scratch.empty(count, np.int32), [0], [0]
    waiting: list[pa.Array] = []
    held = 0
    for first, batch in part.batches():
        _check_numbers(batch.column(0).to_numpy(), first, side, part.places)
        _check_lengths(batch.column(1), most, first, part.places)
        waiting.append(batch.column(1))
        held, last = held + batch.column(1).nbytes, first + len(batch)
        if held >= scratch.limit // 64 or last == count:
            codes_N[stretches[-1] : last] = numbering.codes(pa.concat_arrays(waiting))
            bounds.append(len(numbering))
            stretches.append(last)
            waiting, held = [], 0
            trim_heap()
    ids, numbers_E = numbering.numbered(np.array(bounds, np.int64))
    for first, last, bound in zip(stretches[:-1], stretches[1:], bounds[:-1], strict=True):
        _renumber(codes_N[first:last], numbers_E[bound:])
    nodes = Nodes(side, ids, codes_N, part.places)
    if len(ids) < count:
        twice = int(_first_repeated(codes_N, scratch.full(len(ids), np.bool_, 0)))
        raise DataError(f"{side} must hold each id once, {nodes.shown(twice)} comes again in {part.places.of(twice)}; {AGAIN}")
    return nodes


def _kind(source: Input, declared: str | None) -> pa.DataType:
    """The type of the dataset's ids. DataError where ids of the files are no such ids."""
    own = own_type(source, "id")
    kind = own if declared is None else pa.type_for_alias(declared)
    if family(kind) != family(own):
        raise DataError(f"{source.text}: column 'id' must hold {kind} ids by numbered.json, it holds {own}; {AGAIN}")
    return kind


def _check_numbers(numbers: NDArray[np.int64], first: int, side: str, places: Places) -> None:
    wrong = np.flatnonzero(numbers != np.arange(first, first + len(numbers)))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"numbers of {side} must be 0, 1, 2 ... in this order, without gap or repetition: {places.of(first + row)} must have "
            f"number {first + row:,}, has {numbers[row]:,}; {AGAIN}"
        )


def _check_lengths(ids: pa.Array, most: int, first: int, places: Places) -> None:
    if not (is_text(ids.type) or is_bytes(ids.type)):
        return
    lengths = pc.binary_length(ids).to_numpy()
    long = np.flatnonzero(lengths > most)
    if len(long):
        row = int(long[0])
        raise DataError(
            f"an id may have {most:,} bytes, {places.of(first + row)} has one of {lengths[row]:,}; shorten it, or set "
            f"--max-id-bytes {lengths[row]}"
        )


@numba.njit(cache=True, nogil=True)
def _renumber(codes, numbers):  # type: ignore[no-untyped-def]
    """Codes of a stretch become ranks, in place."""
    for row in range(len(codes)):
        codes[row] = numbers[codes[row]]


@numba.njit(cache=True, nogil=True)
def _first_repeated(ranks, seen):  # type: ignore[no-untyped-def]
    """The first number whose id an earlier number has, too; -1 where there is none."""
    for number in range(len(ranks)):
        if seen[ranks[number]]:
            return number
        seen[ranks[number]] = True
    return -1


@numba.njit(cache=True, nogil=True)
def _first_unordered(degrees, ranks):  # type: ignore[no-untyped-def]
    """The first number of a higher degree than the one before, or of the same degree and an earlier id; -1 without any."""
    for number in range(1, len(degrees)):
        if degrees[number] > degrees[number - 1]:
            return number
        if degrees[number] == degrees[number - 1] and ranks[number] < ranks[number - 1]:
            return number
    return -1


@numba.njit(cache=True, nogil=True)
def _place(values, places, out):  # type: ignore[no-untyped-def]
    """`out[places[n]]` becomes `values[n]`."""
    for number in range(len(values)):
        out[places[number]] = values[number]
