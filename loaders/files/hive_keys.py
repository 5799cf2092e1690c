"""Hive partitions: what the folders `key=value` of a path say of every row of the file below them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow as pa

from gcnrec.errors import DataError

_NULL = "__HIVE_DEFAULT_PARTITION__"
"""What Hive writes for a value that is absent."""
_INTEGER = re.compile(r"-?[0-9]{1,18}")
"""A value that is taken for an integer where no type is declared."""
_NO_ZONE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9:.]+")
_DIGITS = re.compile(r"-?[0-9]+")


def keys_of(inside: str) -> dict[str, str | None]:
    """Values by key from the folders of a path that begins below the root; None where Hive writes that there is none.

    Raises DataError where a key comes twice.
    """
    found: dict[str, str | None] = {}
    for part in PurePosixPath(inside).parts[:-1]:
        name, equals, value = part.partition("=")
        name = unquote(name)
        if not (name and equals):
            continue
        if name in found:
            raise DataError(f"the path {inside} has the partition key {name!r} twice; name the folder below the first of them")
        found[name] = None if value == _NULL else unquote(value)
    return found


def types_of(keys: Iterable[Mapping[str, str | None]], given: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """The type of each key: the given one, or else integers where every value of all files is one, or else text."""
    values: dict[str, set[str]] = {}
    for file in keys:
        for name, value in file.items():
            values.setdefault(name, set()).update([] if value is None else [value])
    return {name: given.get(name) or _guessed(texts) for name, texts in values.items()}


def _guessed(texts: set[str]) -> pa.DataType:
    if not texts or not all(map(_INTEGER.fullmatch, texts)):
        return pa.string()
    return pa.int32() if all(-(2**31) <= int(text) < 2**31 for text in texts) else pa.int64()


def parsed(path: str, name: str, text: str | None, kind: pa.DataType) -> pa.Scalar:
    """The value of key `name` of the file `path` in its type. DataError where it has no such value."""
    try:
        if text is not None and pa.types.is_integer(kind) and not _DIGITS.fullmatch(text):  # Arrow reads 0x10 as 16
            raise pa.ArrowInvalid(text)
        if text is not None and pa.types.is_timestamp(kind) and kind.tz == "UTC" and _NO_ZONE.fullmatch(text):
            text = f"{text}Z"  # Delta's writers leave out what the type says
        return pa.scalar(text, pa.string()).cast(kind)
    except pa.ArrowException:
        raise DataError(
            f"{path}: the partition key {name!r} must hold values of type {kind}, the path has {text!r}; "
            f"declare --partition-type {name}=string, or another type"
        ) from None
