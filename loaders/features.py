"""Feature files: one Parquet row per user or item, its numeric columns side by side as float32.

Letters: R nodes that have a number, F feature columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.interactions import Vocabulary
from gcnrec.loaders.heldout import Report
from gcnrec.loaders.inputs import Input, first_line, open_input
from gcnrec.loaders.scratch import reserve


def write_features(path: Path, text: str, base: Path | None, column: str, ids: Vocabulary, report: Report) -> None:
    """Write `path`, a float32 `.npy` of shape (R, F) in the order of `ids`, from the Parquet input `text`.

    `column` holds the ids; every other column must hold numbers or lists of one length. Nodes without a row and
    absent values are zero; both are counted, and so are rows of ids that the data set does not have.
    Raises DataError for text, lists of changing length, an id given twice, or no feature at all.
    """
    source = open_input(text, base)
    source.field(column)
    names = [name for name in source.dataset.schema.names if name != column.split(".")[0]]
    if not names:
        raise DataError(f"{text} holds no feature column beside {column!r}")
    try:
        numbers_R = ids.numbers(source.dataset.to_table(columns={"id": source.expression(column)}).column("id"))
        known = numbers_R >= 0
        _check_unique(numbers_R[known], ids, text, column)
        _fill(path, source, names, numbers_R, len(ids))
    except (pa.ArrowException, OSError) as problem:
        if isinstance(problem, OSError) and problem.errno:
            raise
        raise DataError(f"{text} cannot be read ({first_line(problem)})") from None
    side = path.stem
    report.count(
        f"{side}_missing", len(ids) - known.sum(), f"{{}} of {len(ids):,} rows of {side} are zero: {text} has no such id"
    )
    report.count(f"{side}_unknown", len(known) - known.sum(), f"{{}} rows of {text} belong to ids that have no interaction")


def _fill(path: Path, source: Input, names: list[str], numbers_R: NDArray[np.int32], rows: int) -> None:
    """Batch by batch into the memory-mapped file, which is made when the first batch has told its width."""
    out: NDArray[np.float32] | None = None
    first = 0
    for batch in source.reader({name: ds.field(name) for name in names}):
        values_RF = np.concatenate([_matrix(batch.column(name), name, source.text) for name in names], axis=1)
        if out is None:
            out = np.lib.format.open_memmap(path, "w+", np.dtype(np.float32), (rows, values_RF.shape[1]))
            with path.open("r+b") as file:
                reserve(file.fileno(), path.stat().st_size)
        if values_RF.shape[1] != out.shape[1]:
            raise DataError(f"{source.text}: lists must have one length throughout; pad them or split them into columns")
        numbers = numbers_R[first : first + len(batch)]
        out[numbers[numbers >= 0]] = values_RF[numbers >= 0]
        first += len(batch)


def _matrix(column: pa.Array, name: str, text: str) -> NDArray[np.float32]:
    """A column as float32 (R, width), nulls and NaN as zero."""
    kind, width = column.type, 1
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = pc.unique(pc.list_value_length(column))
        if column.null_count or len(lengths) != 1:
            raise DataError(
                f"{text}: lists in column {name!r} must have one length throughout; pad them or split them into columns"
            )
        width, column = lengths[0].as_py(), column.flatten()
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise DataError(f"{text}: feature column {name!r} must hold numbers or lists of numbers, it holds {kind}; leave it out")
    values = pc.fill_null(column.cast(pa.float32(), safe=False), 0.0).to_numpy(zero_copy_only=False)
    matrix: NDArray[np.float32] = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf).reshape(-1, width)
    return matrix


def _check_unique(numbers: NDArray[np.int32], ids: Vocabulary, text: str, column: str) -> None:
    counts = np.bincount(numbers, minlength=1)
    if counts.max() > 1:
        twice = ids.decode(np.array([counts.argmax()]))[0].as_py()
        raise DataError(f"{text}: column {column!r} must hold every id once, {twice!r} comes {counts.max()} times")
