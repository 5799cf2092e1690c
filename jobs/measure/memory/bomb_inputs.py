"""Small files that expand, for `jobs.measure.memory.bombs`. Each maker writes one kind of them, of a size, into a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gcnrec.config import Data
from gcnrec.loaders.bounds.footer import Footer
from gcnrec.loaders.bounds.pages import pages
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.schema import seal
from jobs.measure.memory import inputs

REFERENCES = 50_000
"""Rows that refer to one long value."""
_ONE_PAGE: dict[str, Any] = {"data_page_size": 2**30, "max_rows_per_page": 2**30}
_PIECE = 1_000_000
_ITEMS = 1000


def long_ids(path: Path, size: int, codec: str = "zstd") -> None:
    """Two ids of `size` bytes each."""
    texts = pa.array(["x" * size, "y" + "x" * (size - 1)])
    pq.write_table(pa.table({"user": texts, "item": [1, 2]}), path, compression=codec, use_dictionary=False)


def repeated(path: Path, size: int, column: str = "user", as_dictionary: bool = False) -> None:
    """One text of `size` bytes in `REFERENCES` rows, once in the file."""
    rows = np.arange(REFERENCES)
    coded = pa.DictionaryArray.from_arrays(pa.array(np.zeros(REFERENCES, np.int32)), pa.array(["x" * size]))
    table = pa.table({"user": rows % 1000, "item": rows % _ITEMS} | {column: coded})
    pq.write_table(table, path, compression="zstd", store_schema=as_dictionary)


def large_dictionary(path: Path, size: int, column: str = "user", as_dictionary: bool = True) -> None:
    """Distinct texts of 1000 bytes, `size` bytes in all, in one dictionary."""
    count = max(size // 1000, 2)
    texts = pa.array([f"{number:01000}" for number in range(count)])
    coded = pa.DictionaryArray.from_arrays(pa.array(np.arange(count, dtype=np.int32)), texts)
    table = pa.table({"user": np.arange(count) % 1000, "item": np.arange(count) % _ITEMS} | {column: coded})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30, store_schema=as_dictionary)


def shared_prefixes(path: Path, size: int) -> None:
    """Texts of `size` bytes that differ in their last letters only, which alone are in the file."""
    count = max(200_000_000 // size, 2)
    with pq.ParquetWriter(
        path, pa.schema({"user": pa.string(), "item": pa.int64()}), use_dictionary=False, compression="zstd",
        column_encoding={"user": "DELTA_BYTE_ARRAY", "item": "PLAIN"}, **_ONE_PAGE,
    ) as writer:  # fmt: skip
        for first in range(0, count, 50):
            numbers = np.arange(first, min(first + 50, count))
            texts = ["x" * size + f"{number:06}" for number in numbers]
            writer.write_batch(pa.RecordBatch.from_arrays([pa.array(texts), pa.array(numbers)], ["user", "item"]))


def many_columns(path: Path, size: int) -> None:
    """`size` columns."""
    ids: dict[str, Any] = {"user": np.arange(40) % 8, "item": np.arange(40) % 5}
    pq.write_table(pa.table(ids | {f"column_{number}": np.zeros(40, np.int8) for number in range(size)}), path)


def many_groups(path: Path, size: int) -> None:
    """`size` row groups of one row."""
    table = pa.table({"user": np.arange(size) % 50, "item": np.arange(size) % 7})
    pq.write_table(table, path, row_group_size=1)


def deep(path: Path, size: int) -> None:
    """A struct in a struct, `size` times."""
    values, kind = pa.array(np.zeros(10, np.int8)), None
    for _ in range(size):
        values = pa.StructArray.from_arrays([values], ["a"])
        kind = values.type
    assert kind is not None
    pq.write_table(pa.table({"user": np.arange(10), "item": np.arange(10), "deep": values}), path, store_schema=False)


def large_metadata(path: Path, size: int) -> None:
    """`size` bytes in the footer."""
    table = pa.table({"user": np.arange(40) % 8, "item": np.arange(40) % 5})
    pq.write_table(table.replace_schema_metadata({"note": "x" * size}), path)


def wide_binary(path: Path, size: int) -> None:
    """Ids of `size` bytes each, a fixed number; all but two are null."""
    kind = pa.binary(size)
    users = pa.array([bytes(size), None, b"x" * size], kind)
    pq.write_table(pa.table({"user": users, "item": [1, 2, 3]}), path, compression="zstd")


def runs(path: Path, size: int, value: int | None = 0) -> None:
    """`size` rows of one number, or of none, in a row group of a few kB."""
    schema = pa.schema({"user": pa.int32(), "item": pa.int32()})
    with pq.ParquetWriter(path, schema, **_ONE_PAGE) as writer:
        for first in range(0, size, _PIECE):
            count = min(_PIECE, size - first)
            numbers = pa.nulls(count, pa.int32()) if value is None else pa.array(np.full(count, value, np.int32))
            writer.write_batch(pa.RecordBatch.from_arrays([numbers, numbers], schema=schema))


def large_pages(path: Path, size: int, codec: str = "gzip") -> None:
    """A page of `size` bytes of numbers in each column."""
    rows = size // 8
    table = pa.table({"user": np.arange(rows) % 100, "item": np.arange(rows) % 50})
    pq.write_table(table, path, compression=codec, use_dictionary=False, **_ONE_PAGE, row_group_size=rows)


def lying_page(path: Path, size: int) -> None:
    """A page of `size` bytes, above 2**27, whose header says 2**31 - 1."""
    long_ids(path, size // 2)
    data = path.read_bytes()
    with fs.LocalFileSystem().open_input_file(str(path)) as source:
        chunk = Footer(source).groups(lambda leaf: leaf == "user")[0].chunks[0]
        true = _zigzag(next(pages(source, chunk)).size)
    at = data.index(true)
    path.write_bytes(data[:at] + _zigzag(2**31 - 1) + data[at + len(true) :])


def _zigzag(number: int) -> bytes:
    """A number as Thrift writes it."""
    left, digits = number << 1, []
    while left > 127:
        digits.append(left & 127 | 128)
        left >>= 7
    return bytes([*digits, left])


def features(folder: Path, columns: Callable[[int], dict[str, Any]], rows: int, **options: Any) -> None:
    """`features.parquet` of `columns(rows)`, and `edges.parquet` of as many items."""
    items = np.arange(rows)
    pq.write_table(pa.table({"user": items % max(rows // 10, 1), "item": items}), folder / "edges.parquet")
    pq.write_table(pa.table({"item": items} | columns(rows)), folder / "features.parquet", **options)


def long_texts(folder: Path, size: int) -> None:
    """Texts of `size` bytes."""
    features(folder, lambda rows: {"text": [f"{row % 3}" + "x" * size for row in range(rows)]}, 30, compression="zstd")


def repeated_texts(folder: Path, size: int) -> None:
    """One text of `size` bytes in many rows."""

    def columns(rows: int) -> dict[str, Any]:
        numbers = pa.array(np.arange(rows, dtype=np.int32) % 2)
        return {"text": pa.DictionaryArray.from_arrays(numbers, pa.array(["x" * size, "y"]))}

    features(folder, columns, 20_000, compression="zstd", store_schema=False)


def long_list(folder: Path, size: int) -> None:
    """A list of `size` numbers in one row; others are short."""

    def columns(rows: int) -> dict[str, Any]:
        lengths = np.full(rows, 3)
        lengths[rows // 2] = size
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return {"list": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.zeros(offsets[-1], np.int8)))}

    features(folder, columns, 100, **_ONE_PAGE)


def repeated_words(folder: Path, size: int) -> None:
    """Lists of words of which one has `size` bytes, once in the file."""

    def columns(rows: int) -> dict[str, Any]:
        numbers = pa.array(np.arange(10 * rows, dtype=np.int32) % 3)
        words = pa.DictionaryArray.from_arrays(numbers, pa.array(["x" * size, "y", "z"]))
        return {"words": pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * 10, words)}

    features(folder, columns, 2000, compression="zstd", store_schema=False)


def wide_vectors(folder: Path, size: int) -> None:
    """Vectors of `size` numbers."""

    def columns(rows: int) -> dict[str, Any]:
        return {"vector": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * size, np.float32)), size)}

    features(folder, columns, 10, compression="zstd")


def many_features(folder: Path, size: int) -> None:
    """`size` columns of numbers."""
    features(folder, lambda rows: {f"feature_{column}": np.arange(rows) for column in range(size)}, 30)


def decimals(folder: Path, size: int) -> None:
    """`size` decimals of 76 digits, all the same."""
    values = pa.repeat(pa.scalar(10**70, pa.decimal256(76, 0)), 1000)
    features(folder, lambda rows: {"number": pa.concat_arrays([values] * (rows // 1000))}, size, compression="zstd")


def many_files(folder: Path, size: int) -> None:
    """`size` files of a hive data set with 300 columns each."""
    for number in range(size):
        part = folder / "edges" / f"day={number}"
        part.mkdir(parents=True)
        if number:
            shutil.copy(folder / "edges" / "day=0" / "part.parquet", part / "part.parquet")
        else:
            many_columns(part / "part.parquet", 300)


def lines(path: Path, size: int) -> None:
    """A CSV whose second line has `size` bytes."""
    with path.open("w", encoding="ascii") as file:
        file.write("user\n")
        for first in range(0, size, _PIECE):
            file.write("1" * min(_PIECE, size - first))
        file.write("\n")


def dataset(folder: Path, size: int) -> None:
    """A dataset folder whose `users.parquet` holds a text of `size` bytes for each of its users."""
    rows = np.arange(4000)
    pq.write_table(pa.table({"user": (rows % 2000).astype(str), "item": rows % 300}), folder / "edges.parquet")
    data = Data(train=str(folder / "edges.parquet"), user="user", item="item")
    ingest(data, folder / "data", data_root=None, name="bomb")
    path = folder / "data" / "users.parquet"
    table = pq.read_table(path)
    coded = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), np.int32)), pa.array(["x" * size]))
    pq.write_table(table.set_column(0, "id", coded), path, compression="zstd", store_schema=False)
    document = json.loads((folder / "data" / "dataset.json").read_text(encoding="utf-8"))
    written = ("format", "files", "digest", "own_sha256")
    seal(folder / "data", {key: value for key, value in document.items() if key not in written})
    inputs.untrained_run(folder)
