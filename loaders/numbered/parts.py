"""The Parquet files of one folder of numbered data, in the order of their content, whatever an engine called them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from gcnrec.errors import DataError
from gcnrec.loaders.bounds.allowed import Allowed
from gcnrec.loaders.ingest.inputs import Input, open_files
from gcnrec.loaders.ingest.listing import listed
from gcnrec.loaders.numbered.layout import AGAIN, DOCUMENT, inside


@dataclass(slots=True)
class Places:
    """Which file holds which rows of a folder, as it is read: rows count from 0 through all files."""

    firsts: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def begin(self, path: str, first: int) -> None:
        """The row `first` and later ones are of the file `path`."""
        if not self.paths or self.paths[-1] != path:
            self.firsts.append(first)
            self.paths.append(path)

    def of(self, row: int) -> str:
        """Where a row lies, as messages have it; its number counts from 0 in its file."""
        at = bisect_right(self.firsts, row) - 1
        return f"row {row - self.firsts[at]} of {self.paths[at]}"


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of numbered data, opened: `columns` are read, the first `keys` of them order the rows.

    `places` gets what is read. `limit`: bytes of memory, of which a batch takes a small share.
    """

    source: Input
    columns: dict[str, ds.Expression]
    keys: int
    limit: int
    places: Places = field(default_factory=Places)

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of all files with the number of their first row; files follow each other by their first keys.

        Raises DataError for a null, and for more rows than the files' metadata says.
        """
        paths = list(self.columns)
        size = self.source.batch_rows(paths, self.limit)
        files = self.source.by_file(self.columns, paths, size, self.limit / 200)
        done = 0
        for path in self._in_order(paths[: self.keys]) if len(files) > 1 else files:
            self.places.begin(path, done)
            for batch in files[path]:
                if done + len(batch) > self.source.rows:
                    raise DataError(f"{path} holds more rows than its metadata says; it is damaged, {AGAIN}")
                self._refuse_nulls(batch, done)
                yield done, batch
                done += len(batch)

    def _in_order(self, keys: Sequence[str]) -> list[str]:
        """The files by the keys of their first rows. A null comes first: it is refused when its file is read."""
        columns = {name: self.columns[name] for name in keys}
        firsts = []
        for path, batches in self.source.by_file(columns, keys, 1).items():
            batch = next(batches, None)
            if batch is not None:
                values = [column[0].as_py() for column in batch.columns]
                firsts.append(([-1 if value is None else value for value in values], path))
        return [path for _, path in sorted(firsts)]

    def _refuse_nulls(self, batch: pa.RecordBatch, first: int) -> None:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if column.null_count:
                row = int(np.flatnonzero(pc.is_null(column).to_numpy(zero_copy_only=False))[0])
                raise DataError(f"column {name!r} must hold no null, {self.places.of(first + row)} does; {AGAIN}")


def open_part(text: str, role: str, rows: int, base: Path | None, allowed: Allowed) -> Input | None:
    """The files in the folder `role` of `text`, which hold `rows` rows by `numbered.json`; None where that is none.

    Raises DataError where they hold another number of rows.
    """
    place = inside(text, role)
    if not rows:
        try:
            listed(place, base)
        except DataError:  # nothing is there, and nothing needs to be
            return None
    source = open_files(place, base, allowed=allowed)
    if source.rows != rows:
        raise DataError(
            f"{place} must hold {rows:,} rows by {DOCUMENT}, it holds {source.rows:,}; a file is missing or of another writing, "
            f"{AGAIN}"
        )
    return source if rows else None


def integers(source: Input, path: str, what: str) -> ds.Expression:
    """The column `path` as int64. DataError, saying `what` it must hold, where it is absent or has no integers."""
    kind = source.field(path).type
    if not pa.types.is_integer(kind):
        raise DataError(f"{source.text}: column {path!r} must hold {what} as integers, it holds {kind}; {AGAIN}")
    return source.expression(path).cast(pa.int64())
