"""Small batches of Parquet files of one data set, against reading all of it at once."""

from __future__ import annotations

import gc
import shutil
import sys

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from gcnrec.bench.memory import counters
from gcnrec.errors import DataError
from gcnrec.loaders.ingest.inputs import open_input
from gcnrec.system.scratch import trim_heap


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


def test_bytes_are_those_before_compression(tmp_path):
    """A million equal numbers take a few kilobytes in the file, and 8 bytes each in memory."""
    pq.write_table(pa.table({"x": [7] * 100_000}), tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    assert open_input(str(tmp_path / "a.parquet")).mean_row_bytes(["x"]) >= 8


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/status is Linux's")
def test_footers_of_files_that_were_read_are_not_kept(tmp_path):
    """What Arrow makes of a footer of 400 columns takes about 1 MB."""
    one = tmp_path / "part-0.parquet"
    pq.write_table(pa.table({f"c{number}": [1, 2, 3] for number in range(400)}), one)
    for number in range(1, 50):
        shutil.copy(one, tmp_path / f"part-{number}.parquet")

    def held():
        gc.collect()
        trim_heap()
        return counters()["RssAnon"]

    source = open_input(str(tmp_path))
    list(source.batches({"x": ds.field("c7")}, ["c7"], 10))  # whatever is loaded once
    before, source = held(), open_input(str(tmp_path))
    assert len(list(source.batches({"x": ds.field("c7")}, ["c7"], 10))) == 50
    assert held() - before < 10 * 2**20


@pytest.fixture
def uneven(tmp_path):
    """4,000 light rows in groups of 1,000, then 40 rows of 40 kB in a group, then light ones again."""
    texts = ["x"] * 4000 + [str(row) * 20_000 for row in range(10, 50)] + ["y"] * 1000
    with pq.ParquetWriter(tmp_path / "a.parquet", pa.schema({"row": pa.int64(), "text": pa.string()})) as writer:
        for first, last in [*((at, at + 1000) for at in range(0, 4000, 1000)), (4000, 4040), (4040, 5040)]:
            writer.write_table(pa.table({"row": range(first, last), "text": texts[first:last]}), row_group_size=1000)
    return open_input(str(tmp_path / "a.parquet")), texts


@pytest.mark.parametrize("columns", [["row", "text"], ["text"], ["row"]])
def test_a_heavy_row_group_is_read_in_fewer_rows_at_a_time(uneven, columns):
    source, texts = uneven
    batches = list(source.batches({name: ds.field(name) for name in columns}, columns, 3000, 100_000))
    found = pa.Table.from_batches(batches).to_pydict()
    assert found == {name: {"row": list(range(5040)), "text": texts}[name] for name in columns}
    # 100 kB hold two rows of 40 kB. Light groups, and groups without the heavy column, are read together.
    assert list(map(len, batches)) == ([3000, 1000, *[2] * 20, 1000] if "text" in columns else [3000, 2040])


def test_other_columns_are_not_even_read(tmp_path):
    table = pa.table({"row": list(range(20_000)), "text": [f"text {row}" for row in range(20_000)]})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, compression="none")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    at = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(1).data_page_offset
    content[at : at + 64] = b"\xff" * 64
    (tmp_path / "a.parquet").write_bytes(content)
    source = open_input(str(tmp_path / "a.parquet"))
    batches = source.batches({"row": ds.field("row")}, ["row"], 1000, 10_000)
    assert [row for batch in batches for row in batch["row"].to_pylist()] == list(range(20_000))
    with pytest.raises(DataError, match=r"a\.parquet cannot be read \(.*it is damaged"):
        source.check({"text": ds.field("text")}, ["text"])


@pytest.mark.parametrize("told", [4, 6])
def test_a_file_of_more_or_fewer_rows_than_it_says_is_damaged(tmp_path, told):
    """Thrift writes the number of rows as 2 * 5 behind the byte of its field, first of the file, then of its row group."""
    pq.write_table(pa.table({"row": list(range(5))}), tmp_path / "a.parquet", store_schema=False)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    at = content.index(b"\x16\x0a", content.index(b"schema"))
    content[at + 1] = 2 * told
    (tmp_path / "a.parquet").write_bytes(content)
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == told
    with pytest.raises(DataError, match=r"a\.parquet .*\b5\b.*damaged"):
        source = open_input(str(tmp_path / "a.parquet"))
        list(source.batches({"row": ds.field("row")}, ["row"], 1000))
