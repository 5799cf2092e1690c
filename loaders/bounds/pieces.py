"""Batches cut so that what their values become stays small; a row that is large by itself is refused.

A batch whose values are numbers of a dictionary is small until they become texts: it is cut before.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from gcnrec.loaders.bounds.allowed import Allowed


def pieces(batch: pa.RecordBatch, most: float, path: str, first: int, allowed: Allowed) -> Iterator[pa.RecordBatch]:
    """The rows of `batch`, those of `first` and later numbers in `path`, cut in halves until each takes at most `most` bytes.

    Raises DeviceError, naming the row, where one takes more than is allowed.
    """
    size = decoded_bytes(batch)
    if size > allowed.row:
        _check_rows(batch, size, path, first, allowed)
    if size <= most or len(batch) < 2:
        yield batch
        return
    half = len(batch) // 2
    yield from pieces(batch.slice(0, half), most, path, first, allowed)
    yield from pieces(batch.slice(half), most, path, first + half, allowed)


def decoded_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of the columns, values in place of numbers of a dictionary."""
    return sum(_decoded(column) for column in batch.columns)


def has_dictionary(kind: pa.DataType) -> bool:
    """Whether values of a type are numbers of a dictionary's, also inside lists and structs."""
    if pa.types.is_dictionary(kind):
        return True
    return any(has_dictionary(kind.field(number).type) for number in range(kind.num_fields))


def _check_rows(batch: pa.RecordBatch, size: int, path: str, first: int, allowed: Allowed) -> None:
    if size <= allowed.row:
        return
    if len(batch) == 1:
        sizes = [_decoded(column) for column in batch.columns]
        allowed.check_row(f"row {first} of {path}", batch.schema.names[sizes.index(max(sizes))], size)
    half = len(batch) // 2
    for at, part in ((0, batch.slice(0, half)), (half, batch.slice(half))):
        _check_rows(part, decoded_bytes(part), path, first + at, allowed)


def _decoded(column: pa.Array) -> int:
    kind = column.type
    if not has_dictionary(kind):
        return int(column.nbytes)
    if pa.types.is_struct(kind):
        return sum(map(_decoded, column.flatten()))
    if not pa.types.is_dictionary(kind):
        return 8 * len(column) + _decoded(column.flatten())
    values, size = column.dictionary, 8 * len(column)
    if not (pa.types.is_string(values.type) or pa.types.is_binary(values.type)):
        return size if pa.types.is_primitive(values.type) else size + int(values.nbytes)
    lengths = pc.binary_length(values).cast(pa.int64()).take(column.indices)
    return size + int(pc.sum(lengths).as_py() or 0)
