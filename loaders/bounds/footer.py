"""What the footer of a Parquet file says, read without Arrow: its columns, and where the pages of each row group lie.

Arrow takes many times a footer's bytes to parse it, overflows its stack where columns are nested thousands deep, and ends the
process for some damage that it meets outside of a read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gcnrec.loaders.bounds.compact import Compact, Wanted

_MAGIC = b"PAR1"
_TAIL = 8
_DEEPEST = 64
"""Levels of nested columns."""
_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}
"""Bytes of a value by Parquet's physical type; byte arrays are 6, of a fixed length 7."""
_FIXED = 7
_SCHEMA: Wanted = {2: [{1: int, 2: int, 3: int, 4: bytes, 5: int}]}
_CHUNK: Wanted = {3: {4: int, 5: int, 6: int, 7: int, 9: int, 11: int}}
_GROUPS: Wanted = {3: int, 4: [{1: [_CHUNK], 3: int}]}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column of values at `path`; `width` bytes each, 0 where lengths differ. Levels are above 0 where rows may hold many
    values (`most_repetition`) or none (`most_definition`)."""

    path: str
    width: int
    most_repetition: int
    most_definition: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The pages of one column in a row group: `size` bytes from `start`, with `uncompressed` bytes and `values` in all."""

    leaf: Leaf
    codec: int
    values: int
    uncompressed: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Group:
    """A row group: its number, its rows and the columns that were asked for."""

    number: int
    rows: int
    chunks: tuple[Chunk, ...]


def footer_size(source: pa.NativeFile) -> int:
    """Bytes of the footer, before it is read; 0 where the file does not end as Parquet does, which Arrow will say."""
    size = source.size()
    if size < _TAIL:
        return 0
    source.seek(size - _TAIL)
    tail = source.read(_TAIL)
    length = int.from_bytes(tail[:4], "little")
    return length if tail[4:] == _MAGIC and length <= size - _TAIL else 0


class Footer:
    """The footer of `source`, whose `leaves` are its columns of values. Raises ArrowInvalid where it cannot be parsed, or columns
    are nested too deeply."""

    def __init__(self, source: pa.NativeFile) -> None:
        length = footer_size(source)
        if not length:
            raise pa.ArrowInvalid("it does not end as Parquet does")
        self._size = source.size()
        source.seek(self._size - _TAIL - length)
        self._data = bytes(source.read(length))
        self.leaves = _leaves(Compact(self._data).struct(_SCHEMA, last=2).get(2, []))

    def groups(self, is_wanted: Callable[[str], bool]) -> list[Group]:
        """The row groups, with the columns of values whose paths are wanted. Raises ArrowInvalid where numbers do not agree."""
        wanted = [number for number, leaf in enumerate(self.leaves) if is_wanted(leaf.path)]
        found = Compact(self._data).struct(_GROUPS, last=4)
        groups = []
        for number, group in enumerate(found.get(4, ())):
            columns, rows = group.get(1, ()), group.get(3, -1)
            if len(columns) != len(self.leaves) or rows < 0:
                raise pa.ArrowInvalid(f"row group {number} has {len(columns)} of {len(self.leaves)} columns and {rows} rows")
            chunks = tuple(_chunk(self.leaves[leaf], columns[leaf].get(3), rows, self._size) for leaf in wanted)
            groups.append(Group(number, rows, chunks))
        if (rows := sum(group.rows for group in groups)) != found.get(3):
            raise pa.ArrowInvalid(f"its row groups have {rows:,} rows, its footer says {found.get(3)}")
        return groups


def _leaves(elements: list[dict[int, Any]]) -> list[Leaf]:
    """Columns of values of a schema, whose elements come parents first."""
    leaves: list[Leaf] = []
    open_ = [(elements[0].get(5, 0), "", 0, 0)] if elements else []
    for element in elements[1:]:
        while open_ and not open_[-1][0]:
            open_.pop()
        if not open_ or len(open_) > _DEEPEST:
            raise pa.ArrowInvalid(f"its columns do not form a tree of at most {_DEEPEST} levels")
        left, above, repetition, definition = open_[-1]
        open_[-1] = left - 1, above, repetition, definition
        name = element.get(4, b"").decode("utf-8", "replace")
        path = f"{above}.{name}" if above else name
        repetition, definition = repetition + (element.get(3) == 2), definition + (element.get(3) != 0)
        if element.get(5):
            open_.append((element[5], path, repetition, definition))
        elif element.get(1) is not None:
            kind = element[1]
            width = element.get(2, 0) if kind == _FIXED else _WIDTHS.get(kind, 0)
            leaves.append(Leaf(path, width, repetition, definition))
    if any(left for left, *_ in open_):
        raise pa.ArrowInvalid("its schema ends too early")
    return leaves


def _chunk(leaf: Leaf, meta: dict[int, int] | None, rows: int, size: int) -> Chunk:
    if meta is None:
        raise pa.ArrowInvalid(f"column {leaf.path!r} has no metadata, or lies in another file")
    codec, values, uncompressed, compressed, start = (meta.get(field, -1) for field in (4, 5, 6, 7, 9))
    start = min(start, meta.get(11) or start)
    if min(codec, values, uncompressed, compressed, start) < 0 or start + compressed > size:
        raise pa.ArrowInvalid(f"column {leaf.path!r} lies outside of the file")
    if not leaf.most_repetition and values != rows:
        raise pa.ArrowInvalid(f"column {leaf.path!r} has {values:,} values in {rows:,} rows")
    return Chunk(leaf, codec, values, uncompressed, start, compressed)
