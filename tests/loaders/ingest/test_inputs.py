"""Small batches of Parquet files of one data set, against reading all of it at once."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from gcnrec.loaders.ingest.inputs import open_input


@pytest.fixture
def source(tmp_path):
    """Two partitions; the second file lacks a column and has narrower integers in another."""
    rows = list(range(50))
    first = pa.table(
        {"id": pa.array(rows, pa.int64()), "s": [{"a": row, "b": str(row)} for row in rows], "x": [row / 2 for row in rows]}
    )
    second = pa.table({"id": pa.array(rows, pa.int16()), "s": [{"a": -row, "b": "b"} for row in rows]})
    for day, table in ((1, first), (2, second)):
        (tmp_path / "in" / f"day={day}").mkdir(parents=True)
        pq.write_table(table, tmp_path / "in" / f"day={day}" / "part.parquet", row_group_size=20)
    return open_input(str(tmp_path / "in"))


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_all_rows_come_in_order_and_in_one_type(source, rows):
    columns = {"id": ds.field("id"), "a": ds.field("s", "a"), "x": ds.field("x"), "day": ds.field("day")}
    batches = list(source.batches(columns, ["id", "s.a", "x", "day"], rows))
    assert max(map(len, batches)) <= rows
    assert pa.Table.from_batches(batches).equals(source.dataset.to_table(columns=columns).combine_chunks())


def test_a_partition_alone_keeps_its_rows(source):
    days = pa.Table.from_batches(list(source.batches({"day": ds.field("day")}, ["day"], 30))).column("day")
    assert days.to_pylist() == [1] * 50 + [2] * 50


def test_mean_bytes_count_values_of_lists_and_texts(tmp_path):
    pq.write_table(pa.table({"text": ["x" * 100] * 40 + ["y" * 100] * 40, "list": [[1] * 25] * 80}), tmp_path / "a.parquet")
    source = open_input(str(tmp_path / "a.parquet"))
    assert source.mean_row_bytes(["list"]) >= 25 * 8
    assert source.mean_row_bytes(["text", "list"]) == source.mean_row_bytes(["text"]) + source.mean_row_bytes(["list"])
