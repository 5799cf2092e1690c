"""Columns of labels in a file of ids, such as category or country: one of a name that is asked for, and its values as texts."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from gcnrec.errors import DataError
from gcnrec.ids.id_types import plain
from gcnrec.results.given.id_files import IdColumn, IdTable


def refuse_absent(table: IdTable, column: IdColumn, name: str, option: str) -> None:
    """DataError where the file has no column `name`, which `option` reads, or where that is its column of ids."""
    of_ids = table.name_of(column)
    came = ", ".join(map(repr, table.names))[:200]
    if name not in table.names:
        raise DataError(f"{table.path} must have the column {name!r} of {option}, it has {came}; rename or add one")
    if name == of_ids:
        raise DataError(
            f"{table.path} must have the column of {option} next to its ids, {name!r} holds the ids, it has {came}; name another"
        )


def as_texts(values: pa.ChunkedArray) -> pa.Array:
    """Values as texts, null where a float is NaN. Raises pa.ArrowException for values that are neither texts nor numbers."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    given = values.cast(plain(kind))
    if pa.types.is_floating(kind):
        given = pc.if_else(pc.is_nan(given), pa.scalar(None, kind), given)
    return given.cast(pa.string()).combine_chunks()
