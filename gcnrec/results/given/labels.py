"""Columns of labels in a file of ids, such as category or country, by a name that is asked for."""

from __future__ import annotations

from gcnrec.errors import DataError
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
