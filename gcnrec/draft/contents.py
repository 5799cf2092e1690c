"""What each column of an input holds: its type, how many distinct values, nulls, range and examples, from a sample of rows.

One column is read at a time, so that the memory is that of the widest one. Lists and maps are left out: they hold no ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from gcnrec.draft.words import says_something
from gcnrec.errors import DataError, DeviceError
from gcnrec.ids.id_types import family, plain
from gcnrec.loaders.ingest.columns import TICKS
from gcnrec.loaders.ingest.inputs import BATCH_ROWS, Input

LOOKED_AT = 1_000_000
"""Rows of all files together that are read of each column."""
_MOST_FILES = 16
"""Of many files, these are read, spread evenly over the sorted list."""
_MOST_COLUMNS = 60
"""Of more, those are read whose names say something."""
_MOST_BYTES = 64 * 10**6
"""Of distinct values; a column with more counts no further."""
_BATCH_BYTES = 16 * 10**6
FEW = 32
"""Distinct values that are kept by name: as many as behaviours may be."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column, or a field of a struct, over `rows` rows that were read of it.

    `distinct`: None where there are too many to count. `growth`: the power b of the rows by which their number grew. `low`,
    `high`: of numbers as they are, of timestamps and dates in seconds since 1970; None without a finite value.
    `values`: where there are at most `FEW`, all distinct values as text with their rows, the most frequent first; `examples`:
    some values, whatever their number.
    """

    path: str
    kind: pa.DataType
    rows: int
    nulls: int
    distinct: int | None
    growth: float
    low: float | None
    high: float | None
    values: dict[str, int]
    examples: tuple[str, ...]
    mean_bytes: float
    is_key: bool = False
    """Whether folders `key=value` bring it."""

    @property
    def is_time(self) -> bool:
        """Whether its type is a timestamp or a date."""
        return pa.types.is_timestamp(self.kind) or pa.types.is_date(self.kind)

    @property
    def has_range(self) -> bool:
        """Whether it holds numbers of any kind, decimals included, of which some are finite."""
        return self.low is not None and not self.is_time

    @property
    def is_number(self) -> bool:
        """Whether its type is one of integers or floats."""
        return pa.types.is_integer(self.kind) or pa.types.is_floating(self.kind)

    @property
    def holds_ids(self) -> bool:
        """Whether ingestion takes its type for ids."""
        return family(self.kind) is not None

    @property
    def holds_dates_as_text(self) -> bool:
        """Whether it is text, and every example is an ISO date or time."""
        return family(self.kind) == "text" and bool(self.examples) and all(map(_is_date, self.examples))

    @property
    def is_unique(self) -> bool:
        """Whether no value comes twice, as in a number of rows."""
        return self.distinct == self.rows - self.nulls

    def estimated(self, rows: int) -> int:
        """Distinct values in `rows` rows: their number grows as rows^b (Heaps 1978), at most one a row."""
        if self.distinct is None:
            return rows
        return min(int(self.distinct * max(rows / max(self.rows, 1), 1.0) ** self.growth), rows)


def contents(source: Input, look: Callable[[str, int, int], None]) -> list[Column]:
    """The columns of `source` in the order of its schema, without those that cannot be read or hold no single values.

    `look` (what, columns read, columns in all) reports each.
    """
    position = {name: number for number, name in enumerate(source.dataset.schema.names)}
    found = [(path, field) for path, field in source.columns() if not pa.types.is_nested(field.type)]
    found = [(path, field) for path, field in found if path and not pa.types.is_null(field.type)]
    found.sort(key=lambda leaf: position.get(leaf[0], position.get(leaf[0].partition(".")[0], len(position))))
    if len(found) > _MOST_COLUMNS:
        found = sorted(found, key=lambda leaf: not says_something(leaf[0]))[:_MOST_COLUMNS]
    known = []
    for number, (path, _) in enumerate(found):
        look("looking at columns", number, len(found))
        try:
            known.append(_column(source, path))
        except (DataError, DeviceError):  # damaged, of two types, or too large: ingestion names it if it is chosen
            continue
    return known


def _column(source: Input, path: str) -> Column:
    """Read a sample of one column. Raises DataError and DeviceError as `Input.batches`."""
    declared = source.field(path).type
    kind = plain(declared.value_type if pa.types.is_dictionary(declared) else declared)
    seen = _Seen(kind)
    for batch in _sample(source, path, kind):
        seen.take(batch)
    return replace(seen.column(path, declared if declared == pa.uuid() else kind), is_key=path in source.keys)


def _sample(source: Input, path: str, kind: pa.DataType) -> Iterator[pa.Array]:
    """Values of the first rows of some files, `LOOKED_AT` in all."""
    readers = list(source.by_file({"value": source.expression(path).cast(kind)}, [path], BATCH_ROWS, _BATCH_BYTES).values())
    step = max(len(readers) / _MOST_FILES, 1.0)
    chosen = [readers[int(number * step)] for number in range(min(len(readers), _MOST_FILES))]
    for reader in chosen:
        left = math.ceil(LOOKED_AT / len(chosen))
        with closing(reader) as batches:  # type: ignore[type-var]
            for batch in batches:
                yield batch.column("value").slice(0, left)
                left -= len(batch)
                if left <= 0:
                    break


@dataclass(slots=True)
class _Seen:
    """What has been seen of a column of type `kind`."""

    kind: pa.DataType
    rows: int = 0
    nulls: int = 0
    text_bytes: int = 0
    low: float = math.inf
    high: float = -math.inf
    counts: pa.Table | None = None
    grown: list[tuple[int, int]] = field(default_factory=list)
    is_counted: bool = True

    def take(self, values: pa.Array) -> None:
        self.rows += len(values)
        self.nulls += values.null_count
        if pa.types.is_floating(self.kind):
            values = values.cast(pa.float64())
            self.nulls += pc.sum(pc.is_nan(values)).as_py() or 0
            values = values.filter(pc.is_finite(values))
        values = values.drop_null()
        if family(self.kind) in ("text", "bytes"):
            self.text_bytes += pc.sum(pc.binary_length(values)).as_py() or 0
        elif len(values):
            self._take_range(values)
        if self.is_counted:
            self._count(values)

    def _take_range(self, values: pa.Array) -> None:
        numbers = _seconds(values)
        if numbers is not None:
            ends = pc.min_max(numbers).as_py()
            self.low, self.high = min(self.low, ends["min"]), max(self.high, ends["max"])

    def _count(self, values: pa.Array) -> None:
        """Merge the counts of one batch. Where distinct values take too much memory, counting ends."""
        new = pa.table({"value": values, "n": pa.repeat(1, len(values))})
        both = new if self.counts is None else pa.concat_tables([self.counts, new])
        merged = both.group_by("value").aggregate([("n", "sum")])
        self.counts = merged.select(["value", "n_sum"]).rename_columns(["value", "n"])
        self.grown.append((self.rows, len(self.counts)))
        if self.counts.nbytes > _MOST_BYTES:
            self.is_counted = False

    def column(self, path: str, kind: pa.DataType) -> Column:
        distinct = len(self.counts) if self.is_counted and self.counts is not None else None
        ordered = self.counts.sort_by([("n", "descending")]).slice(0, FEW) if self.counts is not None else None
        texts = tuple(_texts(ordered.column("value"))) if ordered is not None else ()
        few = dict(zip(texts, ordered.column("n").to_pylist(), strict=True)) if ordered and (distinct or FEW + 1) <= FEW else {}
        low, high = (self.low, self.high) if math.isfinite(self.low) else (None, None)
        mean_bytes = self.text_bytes / max(self.rows - self.nulls, 1)
        return Column(path, kind, self.rows, self.nulls, distinct, self._growth(), low, high, few, texts[:8], mean_bytes)

    def _growth(self) -> float:
        """The slope of log(distinct values) over log(rows), between the first half of the rows and all; 1 where it is unknown."""
        before = [(rows, count) for rows, count in self.grown if rows < self.rows and count]
        if not before:
            return 1.0
        rows, count = min(before, key=lambda each: abs(2 * each[0] - self.rows))
        return min(math.log(self.grown[-1][1] / count) / math.log(self.rows / rows), 1.0)


def _seconds(values: pa.Array) -> pa.Array | None:
    """Numbers as they are, decimals as floats, timestamps and dates in seconds since 1970; None for other types."""
    kind = values.type
    if pa.types.is_timestamp(kind):
        return pc.divide(values.cast(pa.int64()), TICKS[kind.unit])
    if pa.types.is_date(kind):
        return values.cast(pa.timestamp("s")).cast(pa.int64())
    if pa.types.is_decimal(kind):
        return values.cast(pa.float64(), safe=False)
    return values if pa.types.is_integer(kind) or pa.types.is_floating(kind) else None


def _texts(values: pa.ChunkedArray) -> list[str]:
    """Values as ingestion writes them where they are behaviours; bytes and UUIDs as Python shows them."""
    try:
        return [str(text) for text in values.cast(pa.string()).to_pylist()]
    except pa.ArrowException:
        return [str(value) for value in values.to_pylist()]


def _is_date(text: str) -> bool:
    if len(text) < len("2024-01-01") or "-" not in text:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
