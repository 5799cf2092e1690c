"""What decoding takes, from pages alone, against what Arrow decodes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from gcnrec.errors import DataError, DeviceError
from gcnrec.loaders.bounds.allowed import Allowed
from gcnrec.loaders.bounds.compact import Compact
from gcnrec.loaders.bounds.footer import Footer
from gcnrec.loaders.bounds.pieces import pieces
from gcnrec.loaders.bounds.table import table_bytes
from gcnrec.loaders.bounds.weight import weigh

ROWS, BLOCK = 3000, 50
DELTAS = ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"]


def table():
    draw = np.random.default_rng(0)
    texts = pa.array(["w" * size for size in draw.integers(0, 50, ROWS)])
    lengths = np.where(draw.random(ROWS) < 0.01, 900, draw.integers(0, 5, ROWS))
    lists = [list(map(str, range(size))) if size else None for size in lengths]
    columns = {"number": np.arange(ROWS), "text": texts, "list": pa.array(lists)}
    return pa.table(columns | {"struct": pa.StructArray.from_arrays([texts], ["inner"])})


def weights(path, allowed=None, block=BLOCK):
    with fs.LocalFileSystem().open_input_file(str(path)) as source:
        groups = Footer(source).groups(lambda leaf: True)
        limit = allowed or Allowed(250_000)  # so small that lists are looked at
        return [{chunk.leaf.path: weigh(source, chunk, "here", block, limit) for chunk in group.chunks} for group in groups]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize("encoding", ["dictionary", "plain", *DELTAS])
def test_no_run_of_rows_takes_more_than_its_weight(tmp_path, version, codec, encoding):
    given, path = table(), tmp_path / "file.parquet"
    encodings = {name: encoding for name in ("text", "list.list.element", "struct.inner")} if encoding in DELTAS else None
    pq.write_table(
        given, path, compression=codec, data_page_version=version, use_dictionary=encoding == "dictionary",
        column_encoding=encodings, row_group_size=1700, data_page_size=2000,
    )  # fmt: skip
    found = weights(path)
    assert [*found[0]] == ["number", "text", "list.list.element", "struct.inner"]
    for number, first in enumerate(range(0, ROWS, 1700)):
        part = given.slice(first, 1700)
        for leaf, weight in found[number].items():
            column = part.column(leaf.split(".")[0]).combine_chunks()
            column = column.field(0) if leaf.startswith("struct") else column
            runs = [column.slice(at, BLOCK).nbytes for at in range(0, len(column), 7)]
            assert max(runs) <= BLOCK * weight.per_row + weight.extra + 64, leaf
            assert column.nbytes <= weight.total + 64 and weight.at_hand >= 16, leaf
    longest = pc.max(pc.binary_length(given.column("text").slice(0, 1700))).as_py()
    if encoding != "plain":  # of which the mean of a page is known
        assert found[0]["text"].longest == longest == 49


def test_a_value_of_a_dictionary_counts_as_often_as_it_is_referred_to(tmp_path):
    coded = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int32)), pa.array(["x" * 5000]))
    pq.write_table(pa.table({"text": coded}), tmp_path / "file.parquet", store_schema=False)
    assert (tmp_path / "file.parquet").stat().st_size < 10_000
    [found] = weights(tmp_path / "file.parquet", Allowed(10**8))
    assert (found["text"].longest, found["text"].total) == (5000, 10_000 * 5004)
    assert table_bytes(tmp_path / "file.parquet", Allowed(10**8)) == 50_040_000


def test_a_run_of_nulls_or_numbers_counts_with_every_row(tmp_path):
    pq.write_table(pa.table({"a": pa.nulls(100_000, pa.int32()), "b": np.zeros(100_000, np.int64)}), tmp_path / "file.parquet")
    [found] = weights(tmp_path / "file.parquet", Allowed(10**8))
    assert (found["a"].total, found["b"].total) == (400_000, 800_000) and found["a"].per_row == found["b"].per_row == 16


def test_the_longest_list_counts_where_a_block_of_rows_would_be_too_large(tmp_path):
    lists = pa.array([[1] * 20_000 if row == 500 else [1] for row in range(1000)], pa.list_(pa.int8()))
    pq.write_table(pa.table({"list": lists}), tmp_path / "file.parquet")
    [found] = weights(tmp_path / "file.parquet", Allowed(10**6), block=10)
    weight = found["list.list.element"]
    assert 20_000 <= weight.per_row / 24 <= 20_010 and weight.extra == 0


def test_a_large_page_is_refused_with_its_column_and_what_would_do(tmp_path):
    pq.write_table(pa.table({"text": ["x" * 10**6]}), tmp_path / "file.parquet", use_dictionary=False, compression="zstd")
    expected = r"^here takes 1,000,0\d\d bytes to decode, most of them for column 'text'; .*set --memory-limit 3MB, or write"
    with pytest.raises(DeviceError, match=expected):
        weights(tmp_path / "file.parquet", Allowed(64_000))
    with pytest.raises(
        DataError, match=r"ids in column 'text' may have 9 bytes, one of 1,000,0\d\d lies in here; .* --max-id-bytes 1"
    ):
        weights(tmp_path / "file.parquet", Allowed(64_000, {"text": 9}))


def test_batches_are_cut_by_what_they_become_and_no_row_is_lost():
    texts = pa.array(["x" * 1000, "y"])
    coded = pa.DictionaryArray.from_arrays(pa.array(np.arange(1000, dtype=np.int32) % 2), texts)
    batch = pa.record_batch({"text": coded, "number": pa.array(np.arange(1000))})
    cut = list(pieces(batch, 20_000, "file", 0, Allowed(10**6)))
    assert pa.Table.from_batches(cut).equals(pa.Table.from_batches([batch])) and 25 < len(cut) <= 64
    assert all(piece.cast(pa.schema({"text": pa.string(), "number": pa.int64()})).nbytes <= 20_000 for piece in cut)


def test_a_row_that_is_large_by_itself_is_refused_by_its_number():
    batch = pa.record_batch(
        {"number": pa.array(range(100)), "text": pa.array(["x" * (5000 if row == 63 else 1) for row in range(100)])}
    )
    with pytest.raises(
        DeviceError, match=r"^row 1063 of file takes 5,0\d\d bytes, most of them for column 'text'; .*64MB|^row 1063"
    ):
        list(pieces(batch, 10**6, "file", 1000, Allowed(64_000)))


@pytest.mark.parametrize("damage", [b"\x00", b"\xff", b"\x15\x80"])
def test_bytes_that_are_no_pages_are_refused_and_end_nothing(tmp_path, damage):
    path = tmp_path / "file.parquet"
    pq.write_table(table(), path, row_group_size=1700, data_page_size=2000)
    whole = path.read_bytes()
    caught = 0
    for at in range(0, len(whole), len(whole) // 150):
        path.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
        try:
            weights(path, Allowed(10**8))
        except (pa.ArrowException, OSError, DeviceError):
            caught += 1
    assert 0 < caught < 160


@pytest.mark.parametrize(
    "data",
    [
        b"\x19" * 100_000,  # a list in a list in a list
        b"\x1c" * 100_000,  # a struct in a struct
        b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x11" + b"\x01" * 1000,  # a map of very many flags
        b"\x19\xfc\xff\xff\xff\xff\x0f",  # a list of very many structs
        b"\x18\xff\xff\xff\xff\x0f",  # bytes without end
    ],
)
def test_thrift_of_a_stranger_ends_soon(data):
    with pytest.raises(pa.ArrowInvalid, match=r"its metadata (is nested too deeply|ends too early)"):
        Compact(data).struct({})


def test_footers_that_arrow_should_not_parse_are_refused(tmp_path):
    value = pa.array([1])
    for _ in range(70):
        value = pa.StructArray.from_arrays([value], ["a"])
    pq.write_table(pa.table({"deep": value}), tmp_path / "deep.parquet", store_schema=False)
    with fs.LocalFileSystem().open_input_file(str(tmp_path / "deep.parquet")) as source:
        with pytest.raises(pa.ArrowInvalid, match="form a tree of at most 64 levels"):
            Footer(source)
    with pytest.raises(DeviceError, match=r"f.parquet has a footer of 9,000,000 bytes, .* set --memory-limit 480MB, or write"):
        Allowed(64 * 10**6).check_footer("f.parquet", 9_000_000)
