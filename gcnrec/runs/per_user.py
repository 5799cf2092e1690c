"""The metrics of every user of a run, read back: a file that later comparisons pair users by."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gcnrec.errors import DataError, reading
from gcnrec.ranking.evaluate import metric_columns
from gcnrec.runs.manifest import check

SAMPLED = b"sampled_from"
"""Of the metadata of a table of a sample: how many users it was drawn from."""


def read_per_user(folder: Path, path: Path, remedy: str) -> pa.Table:
    """The per-user metrics in the file `path` of a run folder: `user`, `num_held_out`, and float columns such as `recall@20`.

    DataError, with the `remedy`, where the file is not as it was written, or lacks a column or a value.
    """
    check(folder, [path])
    with reading(path, remedy):
        table = pq.read_table(path)
    names = ["num_held_out", *metric_columns(table)]
    missing = [name for name in ("user", *names) if name not in table.column_names]
    if missing or len(names) < 2:
        raise DataError(f"{path} must have a column {(missing or ['recall@20'])[0]!r}, has none; {remedy}")
    for name in names:
        column = table.column(name)
        numbers = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        if not numbers or column.null_count:
            raise DataError(f"{path} must hold a number in each row of {name!r}, holds {column.type} or nulls; {remedy}")
    return table
