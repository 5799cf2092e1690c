"""Numbered pairs that break a rule: one sentence that names file and row, exit code 3, and nothing half-written."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.numbered import folder as numbered_folder
from gcnrec.loaders.numbered.folder import ingest_numbered
from gcnrec.loaders.numbered.layout import settings_of
from gcnrec.system.observer import SILENT

FILES = {
    "users/a.parquet": {"number": [0, 1], "id": ["u", "v"]},
    "users/b.parquet": {"number": [2, 3], "id": ["w", "x"]},
    "items/a.parquet": {"number": [0, 1, 2], "id": [30, 10, 20]},
    "train/a.parquet": {"user": [0, 0, 0, 1], "item": [0, 1, 2, 0], "time": [9, 8, 7, 6], "weight": [1.0, 1.0, 2.0, 0.5]},
    "train/b.parquet": {"user": [1, 2, 3], "item": [1, 0, 0], "time": [5, 4, 3], "weight": [1.0, 0.0, 3.0]},
    "test/a.parquet": {"user": [1, 2], "item": [2, 1], "time": [2, 1]},
}
DOCUMENT = {"format": 1, "users": 4, "items": 3, "train": 7, "test": 2}


def write(place, changes, document):
    """The sound folder with other columns in some files (None: without the file), and other keys in its document."""
    for name, columns in (FILES | changes).items():
        if columns is not None:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns), place / name)
    if document is not None:
        text = json.dumps(DOCUMENT | document) if isinstance(document, dict) else document
        (place / "numbered.json").write_text(text)


def attempt(tmp_path, changes=None, document=None, **given):
    """Ingest the changed folder; returns the message of the expected DataError."""
    if not (tmp_path / "in").exists():
        write(tmp_path / "in", changes or {}, {} if document is None else document)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as caught:
        ingested(tmp_path, **given)
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind"
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".")
    return message


def ingested(tmp_path, **given):
    return ingest_numbered("in", settings_of(given), tmp_path / "out", data_root=tmp_path, force=False, observer=SILENT)


def changed(name, **columns):
    """A file of the sound folder with other values in some columns; a column that is None is left out."""
    return {name: {key: value for key, value in (FILES[name] | columns).items() if value is not None}}


def test_the_folder_of_these_tests_is_sound(tmp_path):
    write(tmp_path / "in", {}, {})
    dataset = ingested(tmp_path)
    assert dataset.graph.user_items.indices.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert dataset.graph.user_items.indptr.tolist() == [0, 3, 5, 6, 7] and dataset.graph.item_users.indptr.tolist() == [
        0,
        4,
        6,
        7,
    ]
    assert dataset.graph.item_users.indices.tolist() == [0, 1, 2, 3, 0, 1, 0]
    assert dataset.user_ids.ids.to_pylist() == ["u", "v", "w", "x"] and dataset.item_ids.ids.to_pylist() == [30, 10, 20]
    assert dataset.times_E.tolist() == [9, 8, 7, 6, 5, 4, 3] and dataset.weights_E.tolist() == [1.0, 1.0, 2.0, 0.5, 1.0, 0.0, 3.0]
    assert (dataset.test.users_E.tolist(), dataset.test.items_E.tolist()) == ([1, 2], [2, 1])
    assert dataset.test.weights_E is None and dataset.valid.weights_E.tolist() == []


@pytest.mark.parametrize(
    ("changes", "document", "expected"),
    [
        # Numbers and ids.
        (changed("users/b.parquet", number=[2, 2]), {}, "row 1 of {in}/users/b.parquet must have number 3, has 2"),
        (changed("users/b.parquet", number=[2, 4]), {}, "row 1 of {in}/users/b.parquet must have number 3, has 4"),
        (changed("users/a.parquet", number=[1, 0]), {}, "row 0 of {in}/users/a.parquet must have number 0, has 1"),
        (changed("items/a.parquet", number=[-1, 1, 2]), {}, "row 0 of {in}/items/a.parquet must have number 0, has -1"),
        (changed("users/a.parquet", number=["0", "1"]), {}, "'number' must have one type in all files"),
        (changed("items/a.parquet", number=[0.0, 1.0, 2.0]), {}, "'number' must hold numbers as integers, it holds double"),
        (changed("users/b.parquet", number=[2, None]), {}, "'number' must hold no null, row 1 of {in}/users/b.parquet does"),
        (changed("users/b.parquet", number=[None, 3]), {}, "'number' must hold no null, row 0 of {in}/users/b.parquet does"),
        (
            changed("users/b.parquet", id=["w", "u"]),
            {},
            "users must hold each id once, 'u' comes again in row 1 of {in}/users/b.p",
        ),
        (changed("items/a.parquet", id=[30, 20, 20]), {}, "items must hold each id once, 20 comes again in row 2 of"),
        (changed("users/b.parquet", id=[None, "x"]), {}, "column 'id' must hold no null, row 0 of {in}/users/b.parquet does"),
        (changed("users/b.parquet", id=[5, 6]), {}, "column 'id' must have one type in all files, it is string in"),
        (changed("items/a.parquet", id=[0.5, 1.0, 2.0]), {}, "ids must be integers, text"),
        (changed("items/a.parquet", id=None), {}, "items has no column 'id'"),
        (changed("users/b.parquet", id=["w", "y" * 5000]), {}, "--max-id-bytes 5000"),
        ({}, {"types": {"item": "string"}}, "'id' must hold string ids by numbered.json, it holds int64"),
        (changed("items/a.parquet", id=[300, 10, 20]), {"types": {"item": "int8"}}, "{in}/items/a.parquet cannot be read"),
        # Degrees and ties.
        (
            changed("users/b.parquet", id=["x", "w"]),
            {},
            "degree 1 follows degree 1 and id 'w' follows 'x' in row 1 of {in}/users",
        ),
        (
            changed("train/b.parquet", user=[2, 2, 2], item=[0, 1, 2]),
            {},
            "users must be numbered by falling train degree, ties by",
        ),
        (changed("train/b.parquet", item=[2, 0, 0]), {}, "degree 2 follows degree 1 in row 2 of {in}/items/a.parquet; a part of"),
        (
            changed("train/b.parquet", user=[1, 2, 2], item=[1, 0, 1]),
            {},
            "number 3 (id 'x', row 1 of {in}/users/b.parquet) has none",
        ),
        # Pairs.
        (
            changed("train/b.parquet", user=[1, 2, 4]),
            {},
            "users must be numbers 0 to 3, user 4 is in row 2 of {in}/train/b.parquet",
        ),
        (changed("train/a.parquet", user=[-1, 0, 0, 1]), {}, "user -1 is in row 0 of {in}/train/a.parquet"),
        (changed("test/a.parquet", item=[3, 1]), {}, "items must be numbers 0 to 2, item 3 is in row 0 of {in}/test/a.parquet"),
        (changed("train/b.parquet", item=[1, 0, 2**40]), {}, "item 1,099,511,627,776 is in row 2 of"),
        (changed("train/b.parquet", item=[0, 0, 0]), {}, "user 1 and item 0 come again in row 0 of {in}/train/b.parquet"),
        (
            changed("train/b.parquet", user=[1, 3, 2]),
            {},
            "user 2, item 0 follows user 3, item 0 in row 2 of {in}/train/b.parquet",
        ),
        (
            changed("train/a.parquet", item=[1, 0, 2, 0]),
            {},
            "user 0, item 0 follows user 0, item 1 in row 1 of {in}/train/a.parquet",
        ),
        (
            changed("train/a.parquet", user=[0, 0, 0, 2]),
            {},
            "files must not overlap: user 1, item 1 follows user 2, item 0 in row 0",
        ),
        (changed("train/b.parquet", user=[1, None, 3]), {}, "'user' must hold no null, row 1 of {in}/train/b.parquet does"),
        (changed("train/b.parquet", user=None), {}, "column 'user' must hold no null, row 0 of {in}/train/b.parquet does"),
        (changed("test/a.parquet", user=["1", "2"]), {}, "column 'user' must hold node numbers as integers, it holds string"),
        (
            changed("test/a.parquet", user=[0, 2], item=[0, 1]),
            {},
            "user 0 and item 0 are in both, in row 0 of {in}/test/a.parquet",
        ),
        ({"valid/a.parquet": FILES["test/a.parquet"]}, {"valid": 2}, "test must hold no pair of valid, user 1 and item 2 are in"),
        # Times and weights.
        (changed("train/b.parquet", time=[5, None, 3]), {}, "'time' must hold no null, row 1 of {in}/train/b.parquet does"),
        (changed("train/b.parquet", time=None), {}, "'time' must hold no null, row 0 of {in}/train/b.parquet does"),
        (changed("test/a.parquet", time=None), {}, "test must have a column 'time', as train has"),
        (
            changed("test/a.parquet", time=pa.array([1, 2], pa.timestamp("s"))),
            {},
            "'time' must hold seconds since 1970 as integers",
        ),
        (changed("train/b.parquet", weight=[1.0, -1.0, 3.0]), {}, "row 1 of {in}/train/b.parquet has -1.0 as a float32"),
        (changed("train/b.parquet", weight=[1.0, 1e300, 3.0]), {}, "row 1 of {in}/train/b.parquet has inf as a float32"),
        (changed("train/b.parquet", weight=["1", "2", "3"]), {}, "column 'weight' must have one type in all files"),
        # Files that are missing, or too many.
        ({"train/b.parquet": None}, {}, "in/train must hold 7 rows by numbered.json, it holds 4; a file is missing"),
        ({"train/c.parquet": FILES["train/b.parquet"]}, {}, "train must hold 7 rows by numbered.json, it holds 10;"),
        ({"users/a.parquet": None, "users/b.parquet": None}, {}, "no such file or folder: {in}/users"),
        ({}, {"test": 0}, "test must hold 0 rows by numbered.json, it holds 2"),
        ({"test/a.parquet": None}, {}, "no such file or folder: {in}/test"),
        # The document.
        ({}, {"format": 2}, "numbered.json must have format 1, has 2"),
        ({}, {"format": True}, "numbered.json must have format 1, has True"),
        ({}, {"format": 1.0}, "numbered.json must have format 1, has 1.0"),
        ({}, {"train": "7"}, "numbered.json is damaged (train: input should be a valid integer)"),
        ({}, {"train": 0}, "numbered.json is damaged (train: "),
        ({}, {"items": 2**31}, "numbered.json is damaged (items: "),
        ({}, {"tests": 2}, "numbered.json is damaged (tests: extra inputs are not permitted)"),
        ({}, {"split": "by_hand"}, "numbered.json is damaged (split: "),
        ({}, {"types": {"user": "float"}}, "types.user: value error, expects arrow's name of a type of ids such as string"),
        ({}, {"users": 5}, "users must hold 5 rows by numbered.json, it holds 4"),
        ({}, "{", "numbered.json cannot be read as JSON"),
        ({}, "[1]", "must hold a JSON object, holds list"),
    ],
)
def test_a_broken_rule_is_one_sentence(tmp_path, changes, document, expected):
    assert expected.replace("{in}", str(tmp_path / "in")) in attempt(tmp_path, changes, document)


def test_a_split_by_time_needs_times(tmp_path):
    changes = {name: {key: value for key, value in columns.items() if key != "time"} for name, columns in FILES.items()}
    assert "split = 'temporal', which goes by time" in attempt(tmp_path, changes, {"split": "temporal"})


@pytest.mark.parametrize(
    ("split", "times", "problem"),
    [
        ("temporal", [10, 8], "1 pairs of train are later than the first pair of test"),
        ("leave_last", [9, 4], None),
        ("leave_last", [9, 3], "50.0% of the pairs of test are earlier than their user's last pair of train"),
        ("temporal", [9, 9], None),
        ("given", [1, 1], None),
    ],
)
def test_a_split_by_time_goes_by_time(tmp_path, split, times, problem):
    """Train ends at 9, and that of the users of test at 6 and 4. Equal times are on either side."""
    changes = changed("test/a.parquet", time=times)
    if problem is None:
        write(tmp_path / "in", changes, {"split": split})
        assert ingested(tmp_path).info["split"] == split
        return
    expected = f"numbered.json says split = '{split}', and {problem}; say split = 'given' there, or write the folder anew"
    assert attempt(tmp_path, changes, {"split": split}) == expected


def test_held_out_weights_need_weights_of_train(tmp_path):
    changes = changed("train/a.parquet", weight=None) | changed("train/b.parquet", weight=None)
    changes |= changed("test/a.parquet", weight=[1.0, 2.0])
    assert "test has a column 'weight', which train lacks" in attempt(tmp_path, changes)


def test_an_unfinished_folder_is_refused(tmp_path):
    write(tmp_path / "in", {}, None)
    assert "numbered.json is written last, wait for the engine" in attempt(tmp_path)


def test_a_pair_of_held_out_nodes_alone_is_cold(tmp_path):
    """User 4 and item 3 have no train pair and a test pair: they are the last numbers."""
    changes = {"users/c.parquet": {"number": [4], "id": ["a"]}, "items/c.parquet": {"number": [3], "id": [1]}}
    write(
        tmp_path / "in",
        changes | {"test/c.parquet": {"user": [4], "item": [3], "time": [1]}},
        {"users": 5, "items": 4, "test": 3},
    )
    dataset = ingested(tmp_path)
    assert dataset.graph.user_items.degrees.tolist() == [3, 2, 1, 1, 0] and dataset.graph.item_users.degrees.tolist() == [
        4,
        2,
        1,
        0,
    ]
    assert dataset.user_ids.ids.to_pylist()[-1] == "a" and dataset.item_ids.ids.to_pylist()[-1] == 1


@pytest.mark.parametrize("files", [{}, {"test/a.parquet": {"user": pa.array([], pa.int64()), "item": pa.array([], pa.int64())}}])
def test_an_empty_test_part(tmp_path, files):
    """Absent, or a file without rows, as engines write it."""
    write(tmp_path / "in", {"test/a.parquet": None} | files, {"test": 0})
    dataset = ingested(tmp_path)
    assert len(dataset.test) == 0 and dataset.info["num_test"] == 0


@pytest.mark.parametrize("name", ["users/b.parquet", "train/b.parquet"])
@pytest.mark.parametrize("damage", ["cut", "values"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    write(tmp_path / "in", {}, {})
    path = tmp_path / "in" / name
    content = path.read_bytes()
    path.write_bytes(content[:-20] if damage == "cut" else content[:4] + bytes(60) + content[64:])
    assert str(path) in attempt(tmp_path)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    def writing(*arguments):
        pq.write_table(pa.table(FILES["train/b.parquet"]), tmp_path / "in" / "train" / "new.parquet")
        return {}

    write(tmp_path / "in", {}, {})
    monkeypatch.setattr(numbered_folder, "write_all_features", writing)
    with pytest.raises(DataError, match=r"must stay as it is while it is read, train/new.parquet of data.numbered is new"):
        ingested(tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_ends_early_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    write(tmp_path / "in", {}, {})
    monkeypatch.setattr(numbered_folder, "seal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingested(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["in"]


def test_an_existing_folder_stays(tmp_path):
    (tmp_path / "out").mkdir()
    assert "out exists and is never overwritten" in attempt(tmp_path)


def test_an_id_that_needs_more_than_the_limit_is_refused_before_it_is_decoded(tmp_path):
    write(tmp_path / "in", {}, {})
    ids = pa.table({"number": [0, 1, 2], "id": ["a", "b", "c" * (40 << 20)]})
    pq.write_table(ids, tmp_path / "in" / "items" / "a.parquet", compression="zstd")
    assert "ids in column 'id' may have 4,096 bytes, one of " in attempt(tmp_path, memory_limit="64MB")


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (["--train", "x.parquet"], "--train"),
        (["--split", "random"], "--split"),
        (["--where", "a > 1"], "--where"),
        (["--k-core", "2"], "--k-core"),
        (["--repeats", "keep"], "--repeats"),
        (["--behaviour", "event", "--target", "buy"], "--behaviour"),
        (["--keep-cold"], "--keep-cold"),
        (["card.toml"], "a card"),
    ],
)
def test_flags_that_say_which_rows_count_are_refused(tmp_path, gcnrec, flags, refused):
    write(tmp_path / "in", {}, {})
    code, out, err = gcnrec("ingest", "--numbered", "in", "--out", "data", *flags)
    assert (code, out) == (2, "") and f"and no {refused}; leave it out" in err and err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_settings_keep_what_says_nothing_of_rows():
    given = {"item": "sku", "item_features": "items.parquet", "text_width": 8, "memory_limit": "1GB", "name": "shop"}
    assert settings_of(given).model_dump(exclude_unset=True) == {"user": "user", **given}
    with pytest.raises(UsageError, match="no --min-rating"):
        settings_of({"min_rating": 4.0})
