"""The dataset folder: what is written is what is opened, and damage is told."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.schema import new_folder, open_dataset, sha256_of


@pytest.fixture
def folder(tmp_path):
    rows = {"u": [1, 1, 2, 2, 3], "i": [1, 2, 1, 2, 1], "t": [0, 1, 2, 3, 4]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    data = Data(train="rows.parquet", user="u", item="i", time="t", test_size=0.2, valid_size=0.2, keep_cold=True)
    return ingest(data, tmp_path / "out", data_root=tmp_path, name="five").folder


def test_every_file_is_described(folder):
    info = json.loads((folder / "dataset.json").read_text())
    assert (info["format"], info["name"]) == (1, "five")
    assert set(info["files"]) == {path.name for path in folder.iterdir()} - {"dataset.json"}
    assert info["files"]["times.npy"] | {"sha256": "", "bytes": 0} == {"shape": [3], "dtype": "int64", "sha256": "", "bytes": 0}
    assert info["files"]["users.parquet"]["dtype"] == {"id": "int64", "number": "int32", "degree": "int64"}
    assert info["files"]["test.parquet"]["shape"] == [1, 3]
    dataset = open_dataset(folder, verify=True)
    assert (dataset.name, dataset.digest, dataset.info) == ("five", info["digest"], info)
    assert not dataset.graph.user_items.indices.flags.writeable and dataset.test.times_E.tolist() == [4]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dataset.json", "is not a dataset folder"),
        ("users.parquet", "lacks users.parquet"),
        ("item_users.indptr.npy", "lacks item_users.indptr.npy"),
    ],
)
def test_missing_files(folder, name, expected):
    (folder / name).unlink()
    with pytest.raises(DataError, match=expected):
        open_dataset(folder)


def test_damaged_files(folder):
    path = folder / "user_items.indices.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(DataError, match=r"must have \d+ bytes, has"):
        open_dataset(folder)
    path.write_bytes(whole[:-4] + b"\x01\x00\x00\x00")
    open_dataset(folder)
    with pytest.raises(DataError, match="does not match the sha256"):
        open_dataset(folder, verify=True)


def test_a_graph_that_is_none_is_told_even_where_the_digests_match(folder):
    path = folder / "user_items.indices.npy"
    np.save(path, np.load(path) + 1)
    info = json.loads((folder / "dataset.json").read_text())
    info["files"][path.name]["sha256"] = sha256_of(path)
    (folder / "dataset.json").write_text(json.dumps(info))
    open_dataset(folder)
    with pytest.raises(DataError, match="user_items: columns must ascend"):
        open_dataset(folder, verify=True)


@pytest.mark.parametrize(
    ("text", "expected"), [('{"format": 2}', "must have format 1, got 2"), ("[]", "format 1"), ("{", "cannot be read as JSON")]
)
def test_unknown_formats(folder, text, expected):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=expected):
        open_dataset(folder)


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="no dataset folder at"):
        open_dataset(tmp_path / "absent")


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with new_folder(tmp_path / "deep" / "out", False) as work:
            (work / "part").write_text("x")
            raise ZeroDivisionError
    assert list((tmp_path / "deep").iterdir()) == []
    for content in ("first", "second"):
        with new_folder(tmp_path / "out", force=content == "second") as work:
            np.save(work / "a.npy", np.zeros(1))
            (work / "text").write_text(content)
            assert not (tmp_path / "out").exists() or (tmp_path / "out" / "text").read_text() == "first"
    assert (tmp_path / "out" / "text").read_text() == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "out"]
