"""A condition bound to the columns of one input: exact names, types, and the SQL that runs.

DuckDB knows no case of names: the columns go to it under names of our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from gcnrec.errors import DataError, UsageError, first_line, nearest
from gcnrec.loaders.conditions.comparisons import NUMBERS, Comparisons, Kind, Node, Unfit, kind_of, operands, text_of
from gcnrec.loaders.conditions.condition import CLOCKS, Condition, clause_of, locked, sql_of
from gcnrec.loaders.conditions.expressions import OWN, TOO_DEEP, Refused, columns_of

FROM_DUCKDB = (duckdb.Error, UnicodeDecodeError)
"""What DuckDB raises; the second where its message cuts a character into two."""
_OWN_NAME = re.compile(rf"\b{OWN}[0-9]+\b")
_NONE = f"{OWN}none"
"""A table of the columns, without rows."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A condition on one input: `sql` speaks of `columns`, which maps its names to the paths of columns and fields."""

    condition: Condition
    sql: str
    columns: dict[str, tuple[str, ...]]
    halves: frozenset[str]
    """Names of columns of float16, which DuckDB has to get as float32."""

    def in_names_of_the_file(self, message: str) -> str:
        """A message of DuckDB with the file's names of the columns."""
        return _in_names_of_the_file(message, {path: name for name, path in self.columns.items()})


def bind(
    condition: Condition, schema: pa.Schema, source: str, parser: duckdb.DuckDBPyConnection | None = None, first: int = 0
) -> Bound:
    """Bind `condition` to columns of `schema`, of the input that messages call `source`; names of ours count from `first`.

    A `locked` connection works out the types, one of its own unless `parser` is given.

    Raises DataError for a column or field that is not there (names are exact), and where types do not fit; UsageError where
    the condition, as it is rebuilt for these types, is too deep or makes too much of a row.
    """
    return _bind(condition, schema, source, parser, first, _check_truth)


def bind_number(condition: Condition, schema: pa.Schema, source: str, first: int = 0) -> Bound:
    """Bind an expression that gives a number, as `bind` binds a condition. DataError where it gives text, a truth or the like."""
    return _bind(condition, schema, source, None, first, _check_number)


def _bind(
    condition: Condition,
    schema: pa.Schema,
    source: str,
    parser: duckdb.DuckDBPyConnection | None,
    first: int,
    check: Callable[[str, duckdb.DuckDBPyConnection], None],
) -> Bound:
    """See `bind`. `check` raises Unfit, or what DuckDB does, where the SQL does not give what it should."""
    paths = [path for path in condition.references if path[0] in schema.names or path[0].lower() not in CLOCKS]
    fields = {path: _field(condition, schema, path, source) for path in paths}
    names = {path: f"{OWN}{number}" for number, path in enumerate(paths, start=first)}
    halves = {path for path, field in fields.items() if pa.types.is_float16(field.type)}
    columns = [(names[path], pa.float32() if path in halves else field.type) for path, field in fields.items()] or [
        (_NONE, pa.bool_())
    ]
    with nullcontext(parser) if parser else closing(locked({"threads": 1})) as connection:
        try:
            # DuckDB takes no table without columns.
            connection.register(_NONE, pa.Table.from_batches([], pa.schema(columns or [(_NONE, pa.bool_())])))
            rebuilt = _rebuilt(condition.clause, names, halves, connection)
            columns_of(rebuilt)
            sql = sql_of(_renamed(rebuilt, names), connection)
            check(sql, connection)
        except Refused as problem:
            raise UsageError(f"{condition} {problem}") from None
        except RecursionError:
            raise UsageError(f"{condition} {TOO_DEEP}") from None
        except Unfit as problem:
            raise DataError(f"{condition} does not fit {source}: {problem}") from None
        except FROM_DUCKDB as problem:
            raise DataError(f"{condition} does not fit {source}: {_in_names_of_the_file(reason(problem), names)}") from None
    return Bound(condition, sql, {name: path for path, name in names.items()}, frozenset(names[path] for path in halves))


def _check_truth(sql: str, connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(f"SELECT count(*) FROM {_NONE} WHERE {sql}").fetchall()


def _check_number(sql: str, connection: duckdb.DuckDBPyConnection) -> None:
    """Unfit unless the expression gives a number. A cast would make one of a text, as long as its letters are digits."""
    given = connection.sql(f"SELECT {sql} FROM {_NONE}")
    (declared,) = given.types
    if kind_of(declared).name not in NUMBERS:
        raise Unfit(f"it must give numbers, it gives {str(declared).lower()}; cast it, as in CAST(... AS DOUBLE)")
    given.fetchall()


def reason(problem: Exception) -> str:
    """The first line of what an exception says; DuckDB's may hold a whole value of the data."""
    if isinstance(problem, UnicodeDecodeError):
        problem = ValueError(problem.object.decode(errors="replace"))
    return first_line(problem)[:300]


def _field(condition: Condition, schema: pa.Schema, path: tuple[str, ...], source: str) -> pa.Field:
    if path[0] not in schema.names:
        raise DataError(f"{condition} names the column {path[0]!r}, {source} has none{nearest(path[0], schema.names)}")
    field = schema.field(path[0])
    for name in path[1:]:
        inside = (
            [field.type.field(number).name for number in range(field.type.num_fields)] if pa.types.is_struct(field.type) else []
        )
        if name not in inside:
            raise DataError(f"{condition} names a field {name!r} of {field.name!r}, {source} has none{nearest(name, inside)}")
        if inside.count(name) > 1:
            raise DataError(f"{condition} names the field {name!r} of {field.name!r}, {source} has it twice; rename one")
        field = field.type.field(name)
    _check_twins(condition, field, path, source)
    return field


def _check_twins(condition: Condition, field: pa.Field, path: tuple[str, ...], source: str) -> None:
    """DataError for a struct as a whole whose fields differ in case only: DuckDB would read the first for each of them."""
    pending = [field.type]
    while pending:
        kind = pending.pop()
        inside = [kind.field(number) for number in range(kind.num_fields)]
        pending += [inner.type for inner in inside]
        if pa.types.is_struct(kind) and len({inner.name.lower() for inner in inside}) < len(inside):
            raise DataError(
                f"{condition} reads {'.'.join(path)!r} of {source}, whose fields {', '.join(inner.name for inner in inside)} "
                f"differ in upper and lower case only; name the field itself, as in {path[-1]}.{inside[0].name}"
            )


def _rebuilt(
    clause: Node, names: Mapping[tuple[str, ...], str], halves: Iterable[tuple[str, ...]], connection: duckdb.DuckDBPyConnection
) -> Node:
    """The clause with comparisons that mean what they say, still in the names of the file."""
    known: dict[str, Node] = {}

    def parsed(expression: str) -> Node:
        if expression not in known:
            known[expression] = clause_of(expression, connection)
        return known[expression]

    def evaluated(node: Node) -> float | None:
        try:
            number = connection.execute(f"SELECT CAST({sql_of(node, connection)} AS DOUBLE)").fetchall()[0][0]
        except FROM_DUCKDB:
            return None
        return None if number is None else float(number)

    kinds = _kinds(clause, names, connection)
    kinds |= {text: Kind("half") for text, node in _references(clause) if tuple(node["column_names"]) in halves}
    rebuilt: Node = Comparisons(kinds, parsed, evaluated).rebuilt(clause)
    return rebuilt


def _kinds(clause: Node, names: Mapping[tuple[str, ...], str], connection: duckdb.DuckDBPyConnection) -> dict[str, Kind]:
    """The kinds of the operands in a clause, by their texts."""
    found = {text_of(node): node for node in operands(clause)}
    if not found:
        return {}
    listed = ", ".join(sql_of(_renamed(node, names), connection) for node in found.values())
    types = connection.sql(f"SELECT {listed} FROM {_NONE}").types
    return {text: kind_of(declared) for text, declared in zip(found, types, strict=True)}


def _references(clause: Any) -> Iterable[tuple[str, Node]]:
    return ((text_of(node), node) for node in operands(clause) if node["class"] == "COLUMN_REF")


def _renamed(node: Any, names: Mapping[tuple[str, ...], str]) -> Any:
    """The tree with columns and fields under the names that DuckDB gets."""
    if isinstance(node, list):
        return [_renamed(part, names) for part in node]
    if not isinstance(node, dict):
        return node
    if node.get("class") == "COLUMN_REF":
        path = tuple(node["column_names"])
        return {**node, "column_names": [names[path]]} if path in names else node
    return {key: _renamed(value, names) for key, value in node.items()}


def _in_names_of_the_file(message: str, names: Mapping[tuple[str, ...], str]) -> str:
    paths = {name: ".".join(path) for path, name in names.items()}
    return _OWN_NAME.sub(lambda found: paths.get(found[0], found[0]), message)
