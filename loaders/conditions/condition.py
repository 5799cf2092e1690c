"""The user's SQL condition: parsed by DuckDB and held to what one row can answer; its text is never run.

Its tree must be of one SELECT with one WHERE clause, of expressions that one row can answer (`expressions`). What runs is
rebuilt from the tree (`bound`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb

from gcnrec.errors import UsageError
from gcnrec.loaders.conditions.expressions import MOST_DEPTH, TOO_DEEP, Refused, columns_of, refuse

_MOST_CHARACTERS = 100_000
"""Of a condition. DuckDB's parser and the tree take 2 kB of memory for each of them."""
_SELECT = "SELECT 1 WHERE "
_OPENING, _CLOSING, _SIGNS = (b"(", b"[", b"{"), (b")", b"]", b"}"), (b"+", b"-")
CLOCKS = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
"""Names that DuckDB reads as the time where the row has no such column."""
_PLACES = {"query_location", "query_location_length"}
_OFF = (
    "autoinstall_known_extensions", "autoload_known_extensions", "allow_community_extensions", "allow_unsigned_extensions",
    "allow_persistent_secrets", "python_enable_replacements",
)  # fmt: skip
"""Settings of DuckDB by which SQL could reach out, or run foreign code."""
_STATEMENT = "another statement"


@dataclass(frozen=True, slots=True)
class Condition:
    """What rows must meet: the text under its `key`, the tree of its clause, and the paths of the columns that it refers to.

    A path is the name of a column and of fields inside it; each as it is written, as names are exact.
    """

    text: str
    key: str
    clause: dict[str, Any]
    references: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return shown(self.text, self.key)

    def missing(self, names: Sequence[str]) -> str | None:
        """The first column that is referred to and not among `names`."""
        roots = (path[0] for path in self.references)
        return next((name for name in roots if name not in names and name.lower() not in CLOCKS), None)


def parse_condition(text: str, parser: duckdb.DuckDBPyConnection | None = None, key: str = "where") -> Condition:
    """The condition that `text` is, parsed by a `locked` connection, one of its own unless `parser` is given.

    Raises UsageError, with the `key` of the setting and the reason, unless it looks at a row only.
    """
    try:
        _check_text(text)
        with nullcontext(parser) if parser else closing(locked({"threads": 1})) as connection:
            return Condition(text, key, *_parsed(text, connection))
    except Refused as problem:
        raise UsageError(f"{shown(text, key)} {problem}") from None
    except RecursionError:
        raise UsageError(f"{shown(text, key)} {TOO_DEEP}") from None


def shown(text: str, key: str) -> str:
    """The setting as messages have it, on one line and not too long."""
    return f"{key} = {text if len(text) <= 200 else text[:200] + ' ...'!r}"


def clause_of(expression: str, parser: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """The tree of an SQL expression of our own."""
    clause: dict[str, Any] = _parse(parser, f"{_SELECT}{expression}")["statements"][0]["node"]["where_clause"]
    return clause


def sql_of(clause: dict[str, Any], parser: duckdb.DuckDBPyConnection) -> str:
    """SQL of an expression, in parentheses, written from its tree; Refused where DuckDB would read another tree from it."""
    tree = _parse(parser, f"{_SELECT}true")
    tree["statements"][0]["node"]["where_clause"] = clause
    sql = str(parser.execute("SELECT json_deserialize_sql(?)", [json.dumps(tree)]).fetchall()[0][0])
    sql = f"({sql.removeprefix(_SELECT)})"
    if _parse(parser, f"{_SELECT}{sql}") != tree:
        refuse("something that DuckDB does not write as it reads it", "say it in another way")
    return sql


def locked(config: Mapping[str, Any], folders: Sequence[Path] = ()) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB whose SQL reaches no file outside `folders` and its own temp_directory, no network and no extension."""
    connection = duckdb.connect(":memory:", config={**config, **dict.fromkeys(_OFF, False)})
    # A time that names no zone is UTC on every machine.
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET allowed_directories = ?", [[str(folder.resolve()) for folder in folders]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _parsed(text: str, connection: duckdb.DuckDBPyConnection) -> tuple[dict[str, Any], tuple[tuple[str, ...], ...]]:
    """The tree of the clause, and the paths that it refers to."""
    tree = _parse(connection, f"{_SELECT}{text}\n")
    clause = _clause(tree, _parse(connection, f"{_SELECT}true"))
    # Were its parentheses to close what it does not open, it would be another one inside ours.
    if _parse(connection, f"{_SELECT}({text}\n)") != tree:
        refuse("parentheses that do not match", "correct them")
    references = columns_of(clause)
    sql_of(clause, connection)
    return clause, references


def _check_text(text: str) -> None:
    """Refuse what must not come before DuckDB's parser: it takes time and memory without bound for some texts."""
    if not text.strip():
        raise Refused("is empty; leave it out to keep every row")
    if len(text) > _MOST_CHARACTERS:
        raise Refused(
            f"has {len(text):,} characters, at most {_MOST_CHARACTERS:,} are read; put long lists into a column of the input"
        )
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise Refused("must be Unicode text; it has bytes that are none") from None
    if b"\0" in encoded:
        raise Refused("must be text, it has a zero byte; leave that out")
    _check_words(encoded, text)


def _check_words(encoded: bytes, text: str) -> None:
    """Refuse brackets in brackets and signs after signs that are too many, and queries.

    Measured, DuckDB 2.0: 5000 brackets that are left open take its parser 24 s and 4 GB; each query in a query doubles both.
    """
    tokens = [*duckdb.tokenize(text), (len(encoded), None)]
    parts = [(kind, encoded[start:end].strip().lower()) for (start, kind), (end, _) in pairwise(tokens)]
    words = [word for kind, word in parts if kind != duckdb.token_type.comment]
    open_brackets = signs = 0
    for word, following in pairwise([*words, b""]):
        # After WITH, a type (TIMESTAMP WITH TIME ZONE) or a query.
        if word == b"select" or (word == b"with" and following != b"time"):
            refuse("a subquery")
        open_brackets = max(open_brackets + (word in _OPENING) - (word in _CLOSING), 0)
        signs += word in _SIGNS and following in _SIGNS
        if max(open_brackets, signs) > MOST_DEPTH:
            raise Refused(TOO_DEEP)


def _parse(connection: duckdb.DuckDBPyConnection, statement: str) -> dict[str, Any]:
    """The tree that DuckDB's parser makes of `statement`, as `_strip` leaves it; Refused where it is an error."""
    tree: dict[str, Any]
    try:
        tree = json.loads(str(connection.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()[0][0]))
    except (duckdb.Error, UnicodeDecodeError) as problem:
        tree = {"error": True, "error_message": str(problem)}
    if tree["error"]:
        reason = str(tree["error_message"]).strip().splitlines()[0][:200].rstrip(".")
        if "expression depth" in reason:
            raise Refused(TOO_DEEP)
        if reason.startswith("Only SELECT statements"):
            refuse(_STATEMENT)
        raise Refused(
            f"is not an SQL expression: {reason}; columns whose names have blanks or are words of SQL go into double quotes"
        )
    _strip(tree)
    return tree


def _strip(tree: dict[str, Any]) -> None:
    """Take from `tree` what may change when it is written and read: places, how a call is written, names other than `name`."""
    pending: list[Any] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            for key in _PLACES & node.keys():
                del node[key]
            if "is_operator" in node:
                node["is_operator"] = False
            if node.get("class", "TYPE") != "TYPE":
                node["alias"] = ""
            pending += node.values()
        elif isinstance(node, list):
            pending += node


def _clause(tree: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    """The WHERE clause of `tree`; Refused unless the tree is else as `template`, SELECT 1 WHERE true."""
    if len(tree["statements"]) != 1:
        refuse(_STATEMENT)
    (statement,), (known,) = tree["statements"], template["statements"]
    if statement["node"]["type"] != "SELECT_NODE":
        refuse("another query (UNION, EXCEPT or INTERSECT)")
    if statement.get("named_param_map"):
        refuse("a parameter ($1 or ?)", "write the value instead")
    clause = statement["node"]["where_clause"]
    expected = {**template, "statements": [{**known, "node": {**known["node"], "where_clause": clause}}]}
    if tree != expected or not isinstance(clause, dict):
        refuse("another clause of SQL (FROM, GROUP BY, ORDER BY, LIMIT or the like)")
    return clause
