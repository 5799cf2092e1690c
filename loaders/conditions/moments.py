"""Words by which a condition looks at the clock or at chance, so that the same files may give other rows at another moment."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from gcnrec.loaders.conditions.condition import locked, parse_condition

_CALLS = {"ago", "get_current_timestamp", "now", "random", "today", "transaction_timestamp"}
"""Functions; `age` of one argument looks at the clock as well."""
_NAMES = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
"""What DuckDB reads as the time where the row has no such column. Here it counts always: the columns are not known."""


def words_of_the_moment(text: str) -> tuple[str, ...]:
    """What the condition `text` says of the clock or of chance, such as `now`; empty where rows alone decide.

    Raises UsageError where `text` is no condition.
    """
    with closing(locked({"threads": 1})) as connection:
        parse_condition(text, connection)  # which also holds it to what a parser may be given
        written = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT 1 WHERE {text}\n"]).fetchall()[0][0]
    words: dict[str, None] = {}
    pending: list[Any] = [json.loads(written)]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            words |= dict.fromkeys(_words(node))
            pending += list(node.values())[::-1]
        elif isinstance(node, list):
            pending += node[::-1]
    return tuple(words)


def _words(node: dict[str, Any]) -> list[str]:
    """Of one expression, without the ones inside it."""
    call, path = str(node.get("function_name", "")).lower(), node.get("column_names", [])
    if call in _CALLS or (call == "age" and len(node["arguments"]) == 1):
        return [call]
    return [path[0].lower()] if len(path) == 1 and path[0].lower() in _NAMES else []
