"""Which files an input names, against `pyarrow.dataset` and against lists written out by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from gcnrec.errors import DataError
from gcnrec.loaders.ingest import listing
from gcnrec.loaders.ingest.listing import _with_patience, listed

ROWS = pa.table({"user": [1, 2], "item": [3, 4]})


def write(*paths, rows=ROWS):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path)


def names(text, base):
    return [listed(text, base).inside(path) for path in listed(text, base).files]


HIDDEN = [
    "_temporary/0/task_1/part-1.parquet",
    ".hive-staging_1/part-1.parquet",
    ".ipynb_checkpoints/part-0-checkpoint.parquet",
    "_spark_metadata/0.parquet",
    "day=1/_temporary/part-1.parquet",
    "day=1/_part-2.parquet",
    "day=1/.part-0.parquet",
    "_metadata",
]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_folder_holds_what_pyarrow_finds_in_it(tmp_path, hidden):
    write(tmp_path / "events/part-0.parquet", tmp_path / "events/day=1/part-0.parquet", tmp_path / "events" / hidden)
    theirs = ds.dataset(tmp_path / "events", format="parquet").files
    own = sorted(Path(path).relative_to(tmp_path / "events").as_posix() for path in theirs)
    assert names("events", tmp_path) == own == ["day=1/part-0.parquet", "part-0.parquet"]
    uri = (tmp_path / "events").as_uri()
    for text in ("event*", "events/**", "events/*", f"{uri}", f"{uri}/*", f"{uri[:-1]}*", f"{uri}/**"):
        assert [Path(path).relative_to(tmp_path / "events").as_posix() for path in listed(text, tmp_path).files] == own, text


def test_names_that_the_user_spells_are_taken(tmp_path):
    write(tmp_path / "_raw/.day/part.parquet", tmp_path / "_raw/.day/_old.parquet", tmp_path / "_raw/.day/_tmp/x.parquet")
    for text, found in [
        ("_raw/.day", ["part.parquet"]),
        ("_raw/.day/*", ["part.parquet"]),
        ("_raw/.d*", [".day/part.parquet"]),
        ("_raw/.day/_old.parquet", ["_old.parquet"]),
        ("_raw/.day/_*.parquet", ["_old.parquet"]),
        ("_raw/*/_tmp/*", None),
        ("_r*/.day/_tmp", ["_raw/.day/_tmp/x.parquet"]),
    ]:
        if found is None:
            with pytest.raises(DataError, match=r"matches no Parquet file .*; a name that begins with _ or \. is left out"):
                listed(text, tmp_path)
        else:
            assert names(text, tmp_path) == found, text


def test_globs_know_the_same_signs_in_paths_and_uris(tmp_path):
    write(*(tmp_path / f"in/{folder}/{name}.parquet" for folder in ("a b", "b", "c/d") for name in ("x1", "x2", "y")))
    uri = (tmp_path / "in").as_uri()
    for text, found in [
        ("*/x1.parquet", ["a b/x1.parquet", "b/x1.parquet"]),
        ("**/x1.parquet", ["a b/x1.parquet", "b/x1.parquet", "c/d/x1.parquet"]),
        ("*b/[!y]*", ["a b/x1.parquet", "a b/x2.parquet", "b/x1.parquet", "b/x2.parquet"]),
        ("c", ["d/x1.parquet", "d/x2.parquet", "d/y.parquet"]),
        ("[bc]*/d/y*", ["c/d/y.parquet"]),
    ]:
        assert names(f"in/{text}", tmp_path) == found
        assert names(f"{uri}/{text}", None) == found
    assert names(f"{uri}/a%20b/x*", None) == ["x1.parquet", "x2.parquet"]
    assert names("in/a b/x?.parquet", tmp_path) == ["x1.parquet", "x2.parquet"]


def test_a_name_with_wildcards_that_lies_there_is_a_name(tmp_path):
    write(tmp_path / "[1] a*/x.parquet", tmp_path / "[1] a*/y.parquet", tmp_path / "1/z.parquet", tmp_path / "[1] ab/z.parquet")
    assert names("[1] a*", tmp_path) == ["x.parquet", "y.parquet"]
    assert names("[1] a*/x*", tmp_path) == ["x.parquet"]
    assert names("x*", tmp_path / "[1] a*") == ["x.parquet"]
    assert names((tmp_path / "[1] a*").as_uri(), None) == ["x.parquet", "y.parquet"]
    assert names((tmp_path / "[1] a*").as_uri() + "/x*", None) == ["x.parquet"]


def test_roots_are_the_folder_or_the_fixed_part(tmp_path):
    write(tmp_path / "user=9/raw/day=1/x.parquet")
    for text, root in [
        ("user=9", "user=9"),
        ("user=9/raw/day=1/x.parquet", "user=9/raw/day=1"),
        ("user=9/raw/*/x.parquet", "user=9/raw"),
        ("user=*/raw/day=1/x.parquet", ""),
    ]:
        assert Path(listed(text, tmp_path).root) == tmp_path / root
        assert Path(listed(tmp_path.as_uri() + "/" + text).root) == tmp_path / root


def test_files_without_an_ending_count_when_they_begin_like_parquet(tmp_path):
    write(tmp_path / "hive/day=1/000000_0", tmp_path / "hive/day=2/PART.PARQUET")
    (tmp_path / "hive/README.txt").write_text("not Parquet")
    (tmp_path / "hive/day=1_$folder$").touch()
    assert names("hive", tmp_path) == ["day=1/000000_0", "day=2/PART.PARQUET"]


def test_stamps_follow_size_and_time(tmp_path):
    write(tmp_path / "in/day=1/a.parquet")
    size = (tmp_path / "in/day=1/a.parquet").stat().st_size
    os.utime(tmp_path / "in/day=1/a.parquet", ns=(0, 1234567890123456789))
    expected = [("day=1/a.parquet", size, "1234567890123456789")]
    assert listed("in", tmp_path).stamps() == expected == listed((tmp_path / "in").as_uri() + "/d*/*").stamps()
    assert listed("in/day=1/a.parquet", tmp_path).stamps() == [("a.parquet", *expected[0][1:])]


def test_relative_paths_start_where_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in/a.parquet", tmp_path / "in/_b.parquet", tmp_path / "c.parquet")
    for text, found in [
        ("in", ["a.parquet"]),
        ("in/", ["a.parquet"]),
        (".", ["c.parquet", "in/a.parquet"]),
        ("*", ["c.parquet", "in/a.parquet"]),
        ("c.parquet", ["c.parquet"]),
        ("./in/../in/*", ["a.parquet"]),
    ]:
        assert names(text, None) == found, text


def test_a_file_that_a_link_leads_to_comes_once_under_its_own_path(tmp_path):
    write(tmp_path / "in/day=1/x.parquet", tmp_path / "in/day=2/x.parquet", tmp_path / "far/y.parquet")
    (tmp_path / "in/a-latest").symlink_to("day=2")
    (tmp_path / "in/far").symlink_to(tmp_path / "far")
    for text in ("in", "in/*", "in/**"):
        assert names(text, tmp_path) == ["day=1/x.parquet", "day=2/x.parquet", "far/y.parquet"]
    assert names("in/a-*", tmp_path) == ["a-latest/x.parquet"]


def test_endings_of_compressed_files_mean_nothing(tmp_path):
    """A note called .gz is no Parquet, and Parquet called .lz4 is: neither is unpacked to see."""
    write(tmp_path / "in/a.parquet", tmp_path / "in/part-0.lz4")
    (tmp_path / "in/notes.gz").write_text("hello")
    assert names("in", tmp_path) == ["a.parquet", "part-0.lz4"]


def test_links_that_lead_in_circles_are_followed_once(tmp_path):
    write(tmp_path / "in/b/part.parquet", tmp_path / "far/c/part.parquet")
    for name, target in (("in/a", "../in"), ("in/b/up", ".."), ("in/far", "../far"), ("far/c/back", "../../far"), ("in/z", "b")):
        (tmp_path / name).symlink_to(target)
    assert names("in", tmp_path) == ["b/part.parquet", "far/c/part.parquet"]
    assert names("in/**", tmp_path) == ["b/part.parquet", "far/c/part.parquet"]


def test_a_folder_of_too_many_names_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "in/a.parquet", tmp_path / "in/b/c.parquet")
    monkeypatch.setattr(listing, "_MOST_NAMES", 2)
    with pytest.raises(DataError, match=r"in holds more than 2 files and folders; name a folder with fewer"):
        listed("in", tmp_path)


LOGS = {
    "Delta": {"_delta_log/00000000000000000000.json": json.dumps({"add": {"path": "part-0.parquet"}})},
    "Iceberg": {"metadata/v1.metadata.json": "{}"},
    "Hudi": {".hoodie/hoodie.properties": "hoodie.table.name=t"},
}


@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("text", ["lake", "lake/t", "lake/*/*.parquet", "lake/t/day=1", "lake/t/day=1/x.parquet", "uri"])
def test_a_table_with_a_log_is_refused_with_advice(tmp_path, kind, text):
    write(tmp_path / "lake/t/day=1/x.parquet", tmp_path / "lake/t/y.parquet")
    for name, content in LOGS[kind].items():
        (tmp_path / "lake/t" / name).parent.mkdir()
        (tmp_path / "lake/t" / name).write_text(content)
    itself = kind == "Delta" and text in ("lake/t", "uri")  # whose log is read, and is not whole
    why = "table whose log cannot be read" if itself else r"table, whose log .* export its current version \(in .*lake/t"
    with pytest.raises(DataError, match=f"lake/t is a {kind} {why}"):
        listed((tmp_path / "lake/t").as_uri() if text == "uri" else text, tmp_path)


def test_a_checkpoint_of_delta_is_a_log_when_it_can_name_files(tmp_path):
    write(tmp_path / "t/x.parquet")
    checkpoint = tmp_path / "t/_delta_log/00000000000000000010.checkpoint.parquet"
    write(checkpoint, rows=pa.table({"add": pa.array([None, None], pa.string())}))
    assert names("t", tmp_path) == ["x.parquet"]
    write(checkpoint, rows=pa.table({"add": [{"path": "x.parquet"}]}))
    with pytest.raises(DataError, match="is a Delta table"):
        listed("t", tmp_path)
    checkpoint.write_bytes(b"PAR1 damaged")
    with pytest.raises(DataError, match="is a Delta table"):
        listed("t", tmp_path)


@pytest.mark.parametrize(
    ("head", "query", "right"),
    [
        ("gs://bucket", "", "?retry_limit_seconds=30"),
        ("gcs://bucket", "?scheme=http", "?scheme=http&retry_limit_seconds=30"),
        ("gs://bucket", "?retry_limit_seconds=900", "?retry_limit_seconds=900"),
        ("s3://bucket", "?region=eu", "?region=eu"),
    ],
)
def test_an_unreachable_store_is_given_up_soon(head, query, right):
    assert _with_patience(head, query) == right


def test_a_pipe_is_no_file(tmp_path):
    write(tmp_path / "in/part-0.parquet")
    os.mkfifo(tmp_path / "in/part-1.parquet")
    assert names("in", tmp_path) == names("in/*", tmp_path) == ["part-0.parquet"]
    with pytest.raises(DataError, match=r"part-1\.parquet must be a Parquet file .* is a pipe or a device; write it to a file"):
        listed("in/part-1.parquet", tmp_path)
