"""Settings by dotted key, out of the nested tables of a TOML file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gcnrec.errors import UsageError, shown

Settings = dict[str, Any]
"""`section.key` -> value."""


def settings_of(table: Any, where: str) -> Settings:
    """The leaves of nested tables by dotted key, so that `model.width = 8` and `"model.width" = 8` are the same."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: expected a table of settings such as train.seed, got {shown(table)}")
    settings = dict(_leaves(table, ()))
    for key in settings:
        if key.count(".") != 1:
            raise UsageError(f"{where}: expected settings such as train.seed, got {shown(key)}")
    return settings


def _leaves(table: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = ".".join((*path, key))
        if isinstance(value, dict) and "." not in name:
            yield from _leaves(value, (*path, key))
        else:
            yield name, value
