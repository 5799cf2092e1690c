"""Bad input: one sentence, exit code 3, and nothing half-written."""

from __future__ import annotations

import errno
import os
import re

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec import interactions
from gcnrec.config import Data
from gcnrec.config.toml import validated
from gcnrec.errors import DataError, DeviceError, UsageError
from gcnrec.loaders import parquet, schema
from gcnrec.loaders.parquet import ingest
from gcnrec.system import scratch

GOOD = {
    "user": ["a", "b", "a", "c"],
    "item": [1, 2, 2, 1],
    "time": [0, 1, 2, 3],
    "weight": [1.0, 2.0, 0.5, 1.0],
    "note": ["", "x", "y", "z"],
    "event": [{"who": 1}, {"who": 2}, {"who": 1}, {"who": 2}],
    "share": [0.5, 0.25, 1.0, 2.0],
}


def text_of(*values):
    """A column of text with these bytes, of equal lengths, which need not be UTF-8."""
    size = pa.array(range(0, 2 * len(values) + 1, 2), pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), len(values), [None, size, pa.py_buffer(b"".join(values))])


def attempt(folder, content=None, **settings):
    """Ingest `train.parquet` (or whatever the folder holds); returns the message of the expected DataError."""
    if content is not None:
        pq.write_table(pa.table({**GOOD, **content}), folder / "train.parquet")
    before = sorted(folder.rglob("*"))
    data = Data(**{"train": "train.parquet", "user": "user", "item": "item", "split": "random", "valid_size": 0.0, **settings})
    with pytest.raises(DataError) as caught:
        ingest(data, folder / "out", data_root=folder, name="bad")
    assert sorted(folder.rglob("*")) == before, "something was left behind"
    message = str(caught.value)
    assert caught.value.exit_code == 3 and "\n" not in message and not message.endswith(".")
    return message


@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        ({}, {"user": "usr"}, "train.parquet has no column 'usr'; did you mean 'user'?"),
        ({}, {"item": "event.whom"}, "has no column 'event.whom'; did you mean 'event.who'?"),
        ({}, {"time": "tme"}, "has no column 'tme'; did you mean 'time'?"),
        ({}, {"weight": "wait"}, "no column 'wait'"),
        ({}, {"where": "itm = 1"}, "did you mean 'item'?"),
        ({"user": ["a", None, "b", None]}, {}, "column 'user' holds nulls, first in row 1 of"),
        ({"item": [1, 2, 3, None]}, {}, "column 'item' holds nulls, first in row 3 of"),
        ({"time": [0, 1, None, 3]}, {"time": "time"}, "column 'time' holds nulls or numbers that are no time, first in row 2 of"),
        (
            {"time": [0.0, float("nan"), 1.0, 3.0]},
            {"time": "time"},
            "column 'time' holds nulls or numbers that are no time, first in row 1 of",
        ),
        (
            {"time": pa.array([0, 2**63, 2**64 - 1, 3], pa.uint64())},
            {"time": "time"},
            "column 'time' holds nulls or numbers that are no time, first in row 1 of",
        ),
        (
            {"user": text_of(b"ab", b"\xff\xfe", b"\xc3\xa9", b"cd")},
            {},
            "train.parquet: column 'user' must hold text in UTF-8 (Inv",
        ),
        (
            {"note": text_of(b"ab", b"\xff\xfe", b"\xc3\xa9", b"cd")},
            {"where": "note <> ''"},
            "column 'note' must hold text in UTF-8",
        ),
        ({"note": pa.array([[]] * 4, pa.list_(pa.string()))}, {"time": "note"}, "column 'note' must hold times"),
        ({"weight": [1.0, 1.0, -0.5, 1.0]}, {"weight": "weight"}, "holds a negative or non-finite weight, first in row 2 of"),
        ({"weight": [1.0, float("nan"), 1.0, 1.0]}, {"weight": "weight"}, "first in row 1 of"),
        ({"weight": [float("inf"), 1.0, 1.0, 1.0]}, {"weight": "weight"}, "first in row 0 of"),
        ({"weight": [1.0, 1.0, 1.0, None]}, {"weight": "weight"}, "column 'weight' holds nulls, first in row 3 of"),
        ({}, {"weight": "note"}, "column 'note' must hold numbers, it holds string"),
        ({}, {"time": "note"}, "column 'note' must hold times"),
        ({}, {"rating": "note", "min_rating": 4}, "column 'note' must hold numbers, it holds string"),
        ({}, {"user": "share"}, "decimals without fraction, column 'share' is double; cast it to integers or text"),
        ({}, {"user": "event"}, "ids must be integers, text, binary, UUIDs, dates or decimals without fraction, column 'event'"),
        ({}, {"where": "item > 5"}, "removes all 4 rows"),
        ({}, {"rating": "weight", "min_rating": 9}, "removes all 4 rows"),
        ({}, {"k_core": 3}, "k_core = 3 removes all 4 interactions"),
        ({}, {"split": "temporal", "time": "time", "test_from": 0}, "choose a later test_from than 0"),
    ],
)
def test_columns_and_filters(tmp_path, content, settings, expected):
    assert expected in attempt(tmp_path, content, **settings)


@pytest.mark.parametrize("column", ["note", "event"])
def test_text_of_features_that_is_no_utf8_is_refused_by_its_column(tmp_path, column):
    text = text_of(b"ab", b"\xff\xfe")
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), text)
    pq.write_table(pa.table({"item": [1, 2], column: text if column == "note" else lists}), tmp_path / "f.parquet")
    message = attempt(tmp_path, {}, item_features="f.parquet")
    assert f"f.parquet: column '{column}' must hold text in UTF-8" in message


def test_nulls_are_found_in_the_right_file(tmp_path):
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.table(GOOD), tmp_path / "parts" / "0.parquet")
    pq.write_table(pa.table({**GOOD, "item": [1, None, 2, 2]}), tmp_path / "parts" / "1.parquet")
    message = attempt(tmp_path, train="parts")
    assert "column 'item' holds nulls, first in row 1 of" in message and "1.parquet" in message and "0.parquet" not in message


def test_nulls_in_the_test_file(tmp_path):
    pq.write_table(pa.table({"user": ["a", None], "item": [1, 2]}), tmp_path / "test.parquet")
    message = attempt(tmp_path, {}, split="given", test="test.parquet")
    assert "column 'user' holds nulls, first in row 1 of" in message and "test.parquet" in message


def test_files(tmp_path):
    assert "no such file or folder" in attempt(tmp_path, train="absent.parquet")
    assert "matches no Parquet file" in attempt(tmp_path, train="absent-*.parquet")
    assert "cannot be opened" in attempt(tmp_path, train="nowhere://bucket/file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("no Parquet here")
    assert "folder is a folder without a Parquet file" in attempt(tmp_path, train="folder")
    (tmp_path / "zero.parquet").touch()
    assert "zero.parquet is not a readable Parquet file (it is empty)" in attempt(tmp_path, train="zero.parquet")
    pq.write_table(pa.table(GOOD).slice(0, 0), tmp_path / "rows.parquet")
    assert "rows.parquet holds no rows" in attempt(tmp_path, train="rows.parquet")
    (tmp_path / "text.parquet").write_text("user,item\na,1\n" * 100)
    assert "text.parquet is not a readable Parquet file" in attempt(tmp_path, train="text.parquet")


def test_truncated_file_among_others(tmp_path):
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.table(GOOD), tmp_path / "parts" / "0.parquet")
    whole = (tmp_path / "parts" / "0.parquet").read_bytes()
    (tmp_path / "parts" / "1.parquet").write_bytes(whole[: len(whole) // 2])
    message = attempt(tmp_path, train="parts")
    assert "1.parquet is not a readable Parquet file" in message and "truncated or damaged" in message


def test_damaged_pages(tmp_path):
    """The footer is whole, so only the scan meets the damage."""
    (tmp_path / "parts").mkdir()
    many = pa.table({"user": list(range(50_000)), "item": list(range(50_000))})
    for name in ("0", "1"):
        pq.write_table(many, tmp_path / "parts" / f"{name}.parquet", compression="zstd", use_dictionary=False)
    whole = bytearray((tmp_path / "parts" / "1.parquet").read_bytes())
    whole[100:20_000] = bytes(19_900)
    (tmp_path / "parts" / "1.parquet").write_bytes(whole)
    message = attempt(tmp_path, train="parts")
    assert "1.parquet cannot be read" in message and "damaged" in message


def test_test_ids_of_another_kind(tmp_path):
    pq.write_table(pa.table({"user": ["a"], "item": ["not a number"]}), tmp_path / "test.parquet")
    message = attempt(tmp_path, {}, split="given", test="test.parquet")
    assert "column 'item' must hold ids of one type in all inputs, it is int64 in train.parquet and string in test" in message


def test_test_file_lacks_a_column(tmp_path):
    pq.write_table(pa.table({"user": ["a"], "items": [1]}), tmp_path / "test.parquet")
    assert "test.parquet has no column 'item'; did you mean 'items'?" in attempt(tmp_path, {}, split="given", test="test.parquet")


def test_more_ids_than_int32(tmp_path, monkeypatch):
    monkeypatch.setattr(interactions, "MAX_NODES", 2)
    assert "3 distinct users are more than the 2 that int32 can number" in attempt(tmp_path, {})


@pytest.mark.parametrize("where", ["scratch", "result", "json"])
def test_full_disk(tmp_path, monkeypatch, where):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "scratch":
        monkeypatch.setattr(scratch.Scratch, "empty", full)
    elif where == "result":
        monkeypatch.setattr(scratch, "reserve", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    told = "the disk is full" if where == "scratch" else "No space left on device"
    assert told in attempt(tmp_path, {})


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (duckdb.IOException, "IO Error: Could not write file: No space left on device", "the disk is full while reading"),
        (duckdb.OutOfMemoryException, "Out of Memory Error: failed to offload, max_temp_directory_size", "the disk is full"),
        (duckdb.OutOfMemoryException, "Out of Memory Error: could not allocate block", "memory_limit is too small"),
    ],
)
def test_full_disk_and_memory_inside_duckdb(tmp_path, monkeypatch, kind, text, expected):
    def fail(*_):
        raise kind(text)

    monkeypatch.setattr(parquet.Input, "batches", fail)
    assert expected in attempt(tmp_path, {})


@pytest.mark.parametrize("kind", [MemoryError, pa.ArrowMemoryError, lambda text: OSError(errno.ENOMEM, text)])
@pytest.mark.parametrize("where", ["batches", "empty"])
def test_memory_that_runs_out_names_the_limit(tmp_path, monkeypatch, kind, where):
    def fail(*_):
        raise kind("malloc of size 12345 failed")

    monkeypatch.setattr(parquet.Input if where == "batches" else scratch.Scratch, where, fail)
    pq.write_table(pa.table(GOOD), tmp_path / "train.parquet")
    with pytest.raises(DeviceError, match=r"memory ran out under memory_limit = 2GB \(.*malloc of size 12345 failed\)"):
        ingest(Data(train=str(tmp_path / "train.parquet"), user="user", item="item"), tmp_path / "out", data_root=None, name="x")
    assert not (tmp_path / "out").exists()


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    pq.write_table(pa.table(GOOD), tmp_path / "train.parquet")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parquet, "build", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ingest(
            Data(train="train.parquet", user="user", item="item", split="random"), tmp_path / "out", data_root=tmp_path, name="x"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


def test_force_keeps_the_old_folder_when_the_new_one_fails(tmp_path):
    pq.write_table(pa.table(GOOD), tmp_path / "train.parquet")
    data = Data(train="train.parquet", user="user", item="item", split="random", test_size=0.0, valid_size=0.0)
    first = ingest(data, tmp_path / "out", data_root=tmp_path, name="x")
    with pytest.raises(DataError):
        ingest(data.model_copy(update={"k_core": 9}), tmp_path / "out", data_root=tmp_path, name="x", force=True)
    assert schema.open_dataset(tmp_path / "out", verify=True).digest == first.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "train.parquet"]


def test_an_id_may_have_as_many_bytes_as_max_id_bytes_says(tmp_path):
    users = ["a", "b" * 5000, "c" * 4096, "d"]
    expected = "column 'user' holds an id of 5,000 bytes and may hold 4,096, first in row 1 of .*; shorten or drop it, or set "
    given = {"user": users, "item": [1, 2, 3, 4]}
    assert re.search(expected, attempt(tmp_path, given))
    pq.write_table(pa.table(given), tmp_path / "train.parquet")
    data = Data(train="train.parquet", user="user", item="item", split="random", test_size=0.0, valid_size=0.0)
    longer = ingest(data.model_copy(update={"max_id_bytes": 5000}), tmp_path / "out", data_root=tmp_path, name="x")
    assert sorted(longer.user_ids.ids.to_pylist()) == sorted(users)
    fewer = ingest(data.model_copy(update={"where": "item <> 2"}), tmp_path / "fewer", data_root=tmp_path, name="x")
    assert sorted(fewer.user_ids.ids.to_pylist()) == ["a", "c" * 4096, "d"]


@pytest.mark.parametrize("limit", ["lots", "2XB", "1KB", ""])
def test_memory_limit_must_be_a_size(limit):
    with pytest.raises(UsageError, match=r"memory_limit: (expects a size such as|must be at least 64MB)"):
        validated(Data, {"train": "t", "user": "u", "item": "i", "memory_limit": limit}, "ingest")


def test_columns_must_be_named(tmp_path):
    pq.write_table(pa.table(GOOD), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match=r"set both in .data., or by --user and --item"):
        ingest(Data(train="train.parquet", user="user"), tmp_path / "out", data_root=tmp_path, name="x")
