"""Items by segment of the users, such as what a shop has in each country: `recommend --items FILE --segment COLUMN --users FILE`.

Letters: E rows of a file, A distinct users of a file, R users asked for, S segments, I items, B rows of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.errors import DataError, shown
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.ops.topk import ItemLists
from gcnrec.results.given.dropped import FileCounts
from gcnrec.results.given.id_files import IdColumn, IdTable
from gcnrec.results.given.labels import as_texts, refuse_absent


@dataclass(frozen=True, slots=True)
class Labelled:
    """A file of ids with a segment in each row: `ids_E` and `labels_E`, texts without null."""

    path: Path
    segment: str
    ids_E: pa.Array
    labels_E: pa.Array

    def by_id(self) -> pa.Array:
        """The segment of each distinct id, in the order of their first rows. DataError for an id with several segments."""
        codes = self.ids_E.dictionary_encode()
        codes_E = codes.indices.to_numpy(zero_copy_only=False)
        _, first_A = np.unique(codes_E, return_index=True)
        labels_A = self.labels_E.take(pa.array(first_A))
        wrong_E = pc.not_equal(self.labels_E, labels_A.take(codes.indices)).to_numpy(zero_copy_only=False)
        if wrong_E.any():
            raise DataError(
                f"{self.path} must give each id one {self.segment!r}, row {wrong_E.argmax() + 1} gives another than a row "
                "before; keep one row of each"
            )
        return labels_A


@dataclass(frozen=True, slots=True)
class Availability:
    """The items that each user may get: row r of a request is in segment `segments_R[r]` int32, a row of `by_segment` (S, I)."""

    segments_R: NDArray[np.int32]
    by_segment: Csr

    def listed(self, rows_B: NDArray[np.int32]) -> ItemLists:
        """What each of these rows may get."""
        return ItemLists(self.by_segment, self.segments_R[rows_B])


def read_labelled(table: IdTable, column: IdColumn, segment: str) -> Labelled:
    """The ids of `column`, and the segment of each row as text. DataError where the column is absent or a row has no value."""
    refuse_absent(table, column, segment, "--segment")
    ids, given = table.labelled(column, segment)
    try:
        labels = as_texts(given)
    except pa.ArrowException:
        raise DataError(
            f"--segment needs a column of texts or numbers, {segment!r} is of type {given.type}; name another"
        ) from None
    absent_E = pc.or_kleene(pc.is_null(labels), pc.equal(labels, "")).to_numpy(zero_copy_only=False)
    if absent_E.any():
        raise DataError(
            f"{table.path}: column {segment!r} must have a value in each row, {absent_E.sum():,} of {len(labels):,} have none, "
            f"first row {absent_E.argmax() + 1}; fill them in, or drop them"
        )
    return Labelled(table.path, segment, ids.combine_chunks(), labels)


def availability(
    labels_R: pa.Array, stock: Labelled, numbers_E: NDArray[np.int32], allowed_I: NDArray[np.bool_]
) -> tuple[Availability, FileCounts]:
    """What users of the segments `labels_R` may get of the `stock`, and its rows without effect.

    `numbers_E`: the items of the stock's rows, -1 for unknown ones; items outside `allowed_I` are left out for everybody.
    Raises DataError for a segment of users that has no known item.
    """
    segments = pc.unique(labels_R)
    segments_R = pc.index_in(labels_R, segments).to_numpy(zero_copy_only=False).astype(np.int32)
    codes_E = pc.fill_null(pc.index_in(stock.labels_E, segments), -1).to_numpy(zero_copy_only=False).astype(np.int32)
    known_E = numbers_E >= 0
    asked_E = known_E & (codes_E >= 0)
    items_S = np.bincount(codes_E[asked_E], minlength=len(segments))
    if not items_S.all():
        empty = int(items_S.argmin())
        users = int((segments_R == empty).sum())
        raise DataError(
            f"{stock.path} must name items for each {stock.segment!r} of the users, none of its known items is for "
            f"{shown(segments[empty].as_py())}, which {users:,} users have; add items, or leave these users out"
        )
    whole = csr_from_edges(codes_E[asked_E], numbers_E[asked_E], len(segments), len(allowed_I))
    keep_E = asked_E & allowed_I[numbers_E]
    kept = csr_from_edges(codes_E[keep_E], numbers_E[keep_E], len(segments), len(allowed_I))
    dropped = {
        "unknown_item": int((~known_E).sum()), "not_asked": int((known_E & (codes_E < 0)).sum()),
        "repeated": int(asked_E.sum()) - whole.num_edges,
    }  # fmt: skip
    return Availability(segments_R, kept), FileCounts("--items", len(numbers_E), dropped)
