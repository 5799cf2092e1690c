"""The dataset folder: what is written is what is opened, and damage is told."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.schema import new_folder, open_dataset, read_info, seal
from gcnrec.storage.files import exchanged


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


def resealed(folder, **changes):
    """What a program writes that seals a folder as it is, or with other values in dataset.json."""
    info = {key: value for key, value in read_info(folder).items() if key not in ("format", "files", "digest", "own_sha256")}
    seal(folder, {**info, **changes})


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["user_items.indices.npy", "item_users.indptr.npy", "times.npy", "users.parquet", "valid.parquet"]
)
@pytest.mark.parametrize("verify", [False, True])
def test_a_flipped_bit_of_any_file_is_found(folder, name, verify):
    flip(folder / name, -3)
    with pytest.raises(DataError, match=rf"{name} does not match the sha256 in dataset.json, .*; ingest again"):
        open_dataset(folder, verify)


def test_a_file_that_was_cut_is_found(folder):
    path = folder / "user_items.indices.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"must have \d+ bytes, has"):
        open_dataset(folder)


@pytest.mark.parametrize(("before", "after"), [('"seed": 0', '"seed": 1'), ('"split": "', '"split": "x'), ('"five"', '"four"')])
def test_a_changed_value_of_the_description_is_found(folder, before, after):
    path = folder / "dataset.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(DataError, match=r"dataset.json does not match the sha256 in it"):
        open_dataset(folder)


def test_a_description_of_an_earlier_version_has_no_digest_of_its_own(folder):
    path = folder / "dataset.json"
    info = json.loads(path.read_text())
    del info["own_sha256"]
    path.write_text(json.dumps(info))
    assert open_dataset(folder).digest == info["digest"]


def test_files_that_are_not_listed_are_not_opened(folder):
    for name in ("weights.npy", "user_features.npy", "item_features.3.parquet", "mine.txt"):
        (folder / name).write_bytes(b"no array")
    dataset = open_dataset(folder, verify=True)
    assert dataset.weights_E is None and dataset.user_features is None


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("user_items.indices.npy", [3, 2, 4], "user_items: columns must ascend within 0 .. "),
        ("user_items.indptr.npy", [0, 2**45, 2, 3], "user_items: indptr must rise from 0 to 3"),
        ("item_users.indptr.npy", [0, 3], "item_users.indptr.npy must hold 3 values of int64, row by row, holds 2 of int64"),
        ("user_items.indptr.npy", [[0, 1, 2, 3]], "indptr.npy must hold 4 values of int64, row by row, holds 1 x 4 of int64"),
        ("times.npy", [7], "times.npy must hold 3 values of int64, row by row, holds 1 of int64"),
    ],
)
def test_a_graph_that_is_none_is_refused_where_all_digests_match(folder, name, array, expected):
    np.save(folder / name, np.array(array, np.load(folder / name).dtype))
    resealed(folder)
    with pytest.raises(DataError, match=expected):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"user": [0, 3], "item": [0, 1]}, "valid.parquet must have 'user' in 0 .. 2, has 0 .. 3; ingest again"),
        ({"user": [0], "item": [-1]}, "'item' in 0 .. 1, has -1 .. -1"),
        ({"user": [0, None], "item": [0, 1]}, "must have a value in each row of 'user'"),
        ({"item": [0]}, "must have 'user' of type int32, has no such column"),
        ({"user": ["0"], "item": [0]}, "must have 'user' of type int32, has string"),
    ],
)
def test_held_out_pairs_that_are_none_are_refused_where_all_digests_match(folder, columns, expected):
    ints = {name: pa.array(values, None if "0" in values else pa.int32()) for name, values in columns.items()}
    pq.write_table(pa.table(ints), folder / "valid.parquet")
    resealed(folder)
    with pytest.raises(DataError, match=expected):
        open_dataset(folder)


def test_more_users_than_the_files_have_are_refused(folder):
    resealed(folder, num_users=4)
    with pytest.raises(DataError, match=r"users.parquet must have 4 rows, has 3; ingest again"):
        open_dataset(folder)


def listing(folder, change):
    info = json.loads((folder / "dataset.json").read_text())
    del info["own_sha256"]
    change(info)
    (folder / "dataset.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda info: info["files"].pop("test.parquet"), "must list 'test.parquet' among its files"),
        (lambda info: info["files"].update({"../times.npy": info["files"]["times.npy"]}), r"lists '../times.npy'; ingest again"),
        (lambda info: info["files"].update({"dataset.json": info["files"]["times.npy"]}), r"lists 'dataset.json'"),
        (lambda info: info["files"].pop("times.npy"), "digest that is not the one of its files"),
        (
            lambda info: info["files"]["times.npy"].pop("sha256"),
            r"damaged \(files.times.npy.sha256: field required\); ingest again",
        ),
        (lambda info: info["files"]["times.npy"].update(bytes=-1), r"damaged \(files.times.npy.bytes: "),
        (lambda info: info["files"]["times.npy"].update(sha256="00"), r"damaged \(files.times.npy.sha256: "),
        (lambda info: info.update(num_users="3"), r"damaged \(num_users: "),
        (lambda info: info.update(num_items=2**31), r"damaged \(num_items: "),
        (lambda info: info.update(digest=None), r"damaged \(digest: "),
        (lambda info: info.update(files=[]), r"damaged \(files: "),
        (
            lambda info: info.update(item_features={"columns": [{"file": "item_features.1.parquet"}]}),
            "must list 'item_features.1",
        ),
    ],
)
def test_a_description_of_another_shape_is_one_sentence(folder, change, expected):
    listing(folder, change)
    with pytest.raises(DataError, match=expected) as caught:
        open_dataset(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"format": 2}', "must have format 1, got 2"), ("[]", "must hold a JSON object"), ("{", "cannot be read as JSON")],
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


def test_a_folder_is_there_at_each_moment_of_its_replacement(tmp_path, monkeypatch):
    """After each rename it is the old one or the new one; macOS and some file systems need two renames, with none between."""
    if not exchanged_here(tmp_path):
        pytest.skip("this file system exchanges no names")
    out, seen, rename = tmp_path / "out", [], os.rename

    def watched(*names):
        rename(*names)
        seen.append(out.exists())

    monkeypatch.setattr(os, "rename", watched)
    for content in ("first", "second"):
        with new_folder(out, force=True) as work:
            (work / "text").write_text(content)
    assert all(seen) and (out / "text").read_text() == "second" and [path.name for path in tmp_path.iterdir()] == ["out"]


def exchanged_here(folder):
    one, other = folder / "one", folder / "other"
    for path in (one, other):
        path.mkdir()
    exchanges = exchanged(one, other)
    for path in (one, other):
        path.rmdir()
    return exchanges
