"""Which node each row of a feature file belongs to, in bounded memory: ids of the file and of the data set are numbered together.

Letters: R rows of the file, N nodes, E sorted ids of all stretches, K stretches.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.interactions import Vocabulary
from gcnrec.loaders.ingest.inputs import Input, Most
from gcnrec.loaders.ingest.numbering import Numbering
from gcnrec.loaders.ingest.pairs import invert
from gcnrec.system.scratch import Scratch

_ROW_BYTES = 16.0


def node_numbers(source: Input, column: str, ids: Vocabulary, scratch: Scratch) -> NDArray[np.int32]:
    """Node numbers of all rows, int32 (R), -1 where the id is unknown or null. DataError for an id that comes twice."""
    numbering, bounds = Numbering(ids.type, scratch), [0]
    nodes_N, rows_R = scratch.empty(len(ids), np.int32), scratch.empty(source.rows, np.int32)
    most = scratch.limit / 200
    size = int(min(max(most / max(source.mean_row_bytes([column]), _ROW_BYTES), 1), 2**20))
    stretches: list[NDArray[np.int32]] = []
    for codes, chunks in ((nodes_N, ids.chunks(size)), (rows_R, _ids(source, column, ids, Most(size, most)))):
        done = 0
        for chunk in chunks:
            part = codes[done : done + len(chunk)]
            known = chunk.is_valid().to_numpy(zero_copy_only=False)
            part[:] = -1
            part[known] = numbering.codes(chunk.drop_null())
            done += len(chunk)
            bounds.append(len(numbering))
            stretches.append(part)
    found, numbers_E = numbering.numbered(np.array(bounds, np.int64))
    for number, part in enumerate(stretches):
        _decode(part, numbers_E[bounds[number] :])
    node_of = scratch.full(len(found), np.int32, -1)
    invert(nodes_N, node_of)
    _decode(rows_R, node_of)
    times_N = scratch.full(len(nodes_N), np.int32, 0)
    _count(rows_R, times_N)
    if times_N.max(initial=0) > 1:
        twice = ids.picked(np.array([times_N.argmax()]))[0].as_py()
        raise DataError(
            f"{source.text}: column {column!r} must hold every id once, {twice!r} comes {times_N.max()} times; "
            f"keep one row of each id, as DuckDB does by SELECT DISTINCT ON ({_quoted(source, column)}) * FROM the file"
        )
    return rows_R


def _quoted(source: Input, column: str) -> str:
    """A column, or a field of a struct, as SQL names it."""
    parts = [column] if column in source.dataset.schema.names else column.split(".")
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def _ids(source: Input, column: str, ids: Vocabulary, most: Most) -> Iterator[pa.Array]:
    for batch in source.batches({"id": source.expression(column)}, [column], most.rows, most.nbytes):
        try:
            yield ids.cast(batch.column(0))
        except DataError as problem:
            raise DataError(f"{source.text}: column {column!r}: {problem}") from None


@numba.njit(cache=True)
def _decode(codes, numbers):  # type: ignore[no-untyped-def]
    """Numbers for codes, in place; -1 stays."""
    for row in range(len(codes)):
        if codes[row] >= 0:
            codes[row] = numbers[codes[row]]


@numba.njit(cache=True)
def _count(rows, times):  # type: ignore[no-untyped-def]
    for row in range(len(rows)):
        if rows[row] >= 0:
            times[rows[row]] += 1
