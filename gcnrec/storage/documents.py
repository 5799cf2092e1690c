"""JSON documents: written whole, read within bounds, typed and verified. Keys that this version does not know are kept.

A document on disk may come from anyone. It is read as a regular file of at most so many bytes of UTF-8. Its nesting is bounded,
its keys differ, its numbers fit 64 bits, and its texts can be printed and named in a path.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gcnrec.errors import DataError
from gcnrec.storage.files import atomic_file

MOST_BYTES = 2**25
"""Of a document; the largest of our own name a hundred thousand input files."""
MOST_DEPTH = 32
"""Of lists and objects within each other."""
_TOO_DEEP = f"lists or objects lie more than {MOST_DEPTH} deep"
_LEAST, _MOST = -(2**63), 2**64 - 1
_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_SHOWN = 60
"""Characters of a key that a message shows."""


class Document(BaseModel):
    """A frozen JSON object whose attributes have the names of its keys."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, use_attribute_docstrings=True)


D = TypeVar("D", bound=Document)


def checked(kind: type[D], content: Any, where: str, remedy: str = "restore it, or train again") -> D:
    """`content` as a `kind`. DataError, naming `where`, the key and the remedy, when a value is missing or of another type."""
    try:
        return typed(kind, content)
    except ValueError as problem:
        raise DataError(f"{where} is damaged ({problem}); {remedy}") from None


def typed(kind: type[D], content: Any) -> D:
    """`content` as a `kind`. ValueError, naming the key, when a value is missing or of another type."""
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
    key = _shown(".".join(map(str, first["loc"])))
    raise ValueError(f"{key + ': ' if key else ''}{first['msg'].lower()}")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document` to `path` as indented JSON. DataError when it cannot be written."""
    with atomic_file(path) as work:
        work.write_text(json_text(document), encoding="utf-8")


def json_text(document: dict[str, Any]) -> str:
    """`document` as `write_json` writes it."""
    return json.dumps(document, indent=2) + "\n"


def read_object(path: Path, remedy: str, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in the file `path` of at most `most` bytes. DataError, with `remedy`, when it is missing or damaged."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size) if size <= most else b""  # read(most) takes memory for `most` bytes, whatever is there
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {remedy}") from None
    except OSError as problem:
        raise DataError(f"{path} cannot be read as JSON ({problem.strerror or problem}); it is damaged, {remedy}") from None
    if size > most:
        raise DataError(f"{path} must have at most {most:,} bytes, has more; it is damaged, {remedy}")
    return object_of(content, str(path), remedy)


def object_of(content: bytes, where: str, remedy: str) -> dict[str, Any]:
    """The JSON object in the bytes `content`. DataError, naming `where`, the place in it and the `remedy`, for anything else."""
    try:
        document = parsed(content)
    except ValueError as problem:
        raise DataError(f"{where} cannot be read as JSON ({problem}); it is damaged, {remedy}") from None
    if not isinstance(document, dict):
        raise DataError(f"{where} must hold a JSON object, holds {type(document).__name__}; it is damaged, {remedy}")
    return document


def parsed(content: bytes) -> Any:
    """The JSON value in the bytes `content`. ValueError, with the place in it, for what is none or passes a bound."""
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_without_twins, parse_constant=_refused)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _inspect(value)
    return value


def open_regular(path: Path) -> BinaryIO:
    """The file `path`, opened to be read. OSError where it is none that has an end: a folder, a pipe or a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"it is a {_kind(os.fstat(descriptor).st_mode)}, where a file was expected")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _kind(mode: int) -> str:
    return "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"it has the key {_shown(twin)} twice")
    return document


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _inspect(document: Any) -> None:
    """ValueError for what JSON allows and no document of ours has: deep nesting, numbers of any size, text that is no text."""
    pending: list[tuple[Any, int, tuple[Any, ...] | None]] = [(document, 0, None)]
    while pending:
        value, depth, place = pending.pop()
        if isinstance(value, str):
            if not _is_text(value):
                raise ValueError(f"the text at {_place(place)} has a character that no text can have")
        elif isinstance(value, (int, float)):
            if not (_LEAST <= value <= _MOST if isinstance(value, int) else math.isfinite(value)):
                raise ValueError(f"the number at {_place(place)} does not fit 64 bits")
        elif isinstance(value, (dict, list)):
            if depth == MOST_DEPTH:
                raise ValueError(_TOO_DEEP)
            if isinstance(value, dict) and not all(map(_is_text, value)):
                raise ValueError(f"a key at {_place(place)} has a character that no text can have")
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            pending.extend((below, depth + 1, (key, place)) for key, below in inner)


def _is_text(text: str) -> bool:
    """Whether a text has neither NUL nor halves of a pair of UTF-16; bytes of a path that are no UTF-8 (PEP 383) may be there."""
    return "\0" not in text and (text.isascii() or not _HALVES.search(text))


def _place(place: tuple[Any, ...] | None) -> str:
    """Keys and numbers of a place, from outside in, such as `data.files.3`."""
    keys: list[str] = []
    while place is not None:
        key, place = place
        keys.append(str(key))
    return _shown(".".join(reversed(keys))) if keys else "its top"


def _shown(name: str) -> str:
    """A key as a message shows it: short, and without what moves a terminal's cursor."""
    short = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
    return short if short.isprintable() else ascii(short)[1:-1]
