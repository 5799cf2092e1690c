"""SQL conditions with their truth in plain Python: three values, and comparisons as IEEE has them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Truth = Callable[[dict[str, Any]], bool | None]
SIGNS = {"<": operator.lt, "<=": operator.le, "=": operator.eq, "<>": operator.ne, ">": operator.gt, ">=": operator.ge}
MIRRORED = {"<": ">", "<=": ">=", "=": "=", "<>": "<>", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Condition:
    """`sql` for gcnrec; `holds` says True, False or None (NULL) of a row {column: value}; `columns` are what it names."""

    sql: str
    columns: frozenset[str]
    holds: Truth


def compared(column: tuple[str, str], sign: str, value: Any, text: str, left: bool = False) -> Condition:
    """A column (its name, and as SQL writes it) and a literal, which is `value` in the column's own type and `text` in SQL."""
    name, written = column

    def holds(row: dict[str, Any]) -> bool | None:
        return None if row.get(name) is None else bool(SIGNS[sign](row[name], value))

    sql = f"{text} {MIRRORED[sign]} {written}" if left else f"{written} {sign} {text}"
    return Condition(sql, frozenset((name,)), holds)


def of_two(one: tuple[str, str], sign: str, other: tuple[str, str]) -> Condition:
    """Two columns of one type."""

    def holds(row: dict[str, Any]) -> bool | None:
        absent = row.get(one[0]) is None or row.get(other[0]) is None
        return None if absent else bool(SIGNS[sign](row[one[0]], row[other[0]]))

    return Condition(f"{one[1]} {sign} {other[1]}", frozenset((one[0], other[0])), holds)


def is_null(column: tuple[str, str]) -> Condition:
    return Condition(f"{column[1]} IS NULL", frozenset((column[0],)), lambda row: row.get(column[0]) is None)


def negated(part: Condition) -> Condition:
    def holds(row: dict[str, Any]) -> bool | None:
        met = part.holds(row)
        return None if met is None else not met

    return Condition(f"NOT ({part.sql})", part.columns, holds)


def joined(parts: list[Condition], either: bool, sql: str | None = None) -> Condition:
    """AND of the parts, or OR; `sql` is another way to write it (BETWEEN, IN)."""

    def holds(row: dict[str, Any]) -> bool | None:
        met = [part.holds(row) for part in parts]
        return either if either in met else None if None in met else not either

    word = " OR " if either else " AND "
    written = sql or "(" + word.join(part.sql for part in parts) + ")"
    return Condition(written, frozenset().union(*(part.columns for part in parts)), holds)
