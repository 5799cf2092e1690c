"""Folders and files at addresses: whole or not there, whatever ends an upload; fetched once, verified, and refused by name."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import fsspec
import pytest

from gcnrec.config import Data
from gcnrec.console.output import report
from gcnrec.errors import DataError, UsageError
from gcnrec.storage.places import place
from gcnrec.storage.remote import store as stores
from gcnrec.storage.remote.address import Address, address_of, masked
from gcnrec.storage.remote.fetch import continued, fetched, fetched_file, half_sent, mirror_of, push
from gcnrec.storage.remote.marker import NAME, Marker, read_marker, write_marker
from gcnrec.storage.remote.store import Store, open_store
from gcnrec.storage.remote.upload import published, upload

FILES = {"job.toml": "a", "lineage.json": "{}", "embeddings/users.parquet": "users", "metrics.jsonl": "one\n"}


class Killed(BaseException):
    """What ends a process in the middle of its work."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """A cache of this test, and an empty memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    yield
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path):
    return Address("memory://bucket/runs/shop" if request.param == "memory" else f"file://{tmp_path}/far/runs/shop")


def made(folder, files=FILES):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def publish(address, files=FILES, force=False):
    with published(address, force) as folder:
        made(folder, files)


def killed_after(monkeypatch, count):
    """The upload ends before file number `count`, counted from 0."""
    own, done = Store.put, []

    def put(store, local, inside):
        if len(done) == count:
            raise Killed
        done.append(inside)
        own(store, local, inside)

    monkeypatch.setattr(Store, "put", put)
    return done


def test_what_is_published_is_fetched(address):
    publish(address)
    folder = fetched(address)
    assert contents(folder) == FILES and folder == mirror_of(address)
    assert sorted(open_store(address).names()) == sorted([*FILES, NAME])


def test_only_what_changed_travels(address, monkeypatch):
    publish(address)
    folder = fetched(address)
    fetches, own = [], Store.get
    monkeypatch.setattr(Store, "get", lambda store, local, inside="": fetches.append(inside) or own(store, local, inside))
    assert fetched(address) == folder and fetches == []
    made(folder, {"metrics.json": "{}", "metrics.jsonl": "two\n"})
    puts = killed_after(monkeypatch, 9)
    push(folder, address)
    assert sorted(puts) == ["metrics.json", "metrics.jsonl"] and fetched(address) == folder and fetches == []
    (folder / "job.toml").unlink()
    fetched(address)
    assert fetches == ["job.toml"]
    push(folder, address)
    assert sorted(puts) == ["metrics.json", "metrics.jsonl"]  # nothing has changed since


@pytest.mark.parametrize("count", range(len(FILES)))
def test_a_killed_upload_is_no_run_and_is_repeated(address, monkeypatch, count):
    with monkeypatch.context() as patch:
        killed_after(patch, count)
        with pytest.raises(Killed):
            publish(address)
    there = open_store(address).names()
    assert "lineage.json" not in there and len(there) == count + 1  # with the marker, which says that it has begun
    with pytest.raises(DataError, match="holds half an upload; repeat the command that writes it"):
        fetched(address)
    assert not mirror_of(address).exists()
    publish(address, {"lineage.json": "{}", "other": "b"})
    assert contents(fetched(address)) == {"lineage.json": "{}", "other": "b"}
    assert sorted(open_store(address).names()) == [NAME, "lineage.json", "other"]


@pytest.mark.parametrize("count", range(2))
def test_a_killed_change_of_a_run_is_no_run(address, monkeypatch, count):
    publish(address)
    folder = made(fetched(address), {"metrics.json": "{}", "metrics.jsonl": "two\n"})
    with monkeypatch.context() as patch:
        killed_after(patch, count)
        with pytest.raises(Killed):
            push(folder, address)
    with pytest.raises(DataError, match="holds half an upload"):
        fetched(address)
    push(folder, address)
    assert contents(fetched(address)) == {**FILES, "metrics.json": "{}", "metrics.jsonl": "two\n"}


@pytest.mark.parametrize("left", [b"", b'{"format": 1, "comp', b"[]"])
def test_a_marker_that_is_cut_short_is_half_an_upload(address, left):
    publish(address)
    open_store(address).write(NAME, left)
    with pytest.raises(DataError, match=r"half an upload|upload the folder again"):
        fetched(address)


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    address = Address(f"file://{tmp_path}/lists/recs.csv")

    def cut(files, local, path, **others):
        Path(path).write_text("ha")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(fsspec.filesystem("file")), "put_file", cut)
        with pytest.raises(Killed), published(address) as path:
            path.write_text("half")
    assert not (tmp_path / "lists" / "recs.csv").exists()
    with published(address) as path:
        path.write_text("whole")
    assert contents(tmp_path / "lists") == {"recs.csv": "whole"}
    with pytest.raises(UsageError, match="exists and is never overwritten; choose another --out, or add --force"):
        with published(address):
            raise AssertionError
    with published(address, force=True) as path:
        path.write_text("again")
    assert fetched_file(address, tmp_path).read_text() == "again"


def test_what_a_failed_block_made_is_not_uploaded(address):
    with pytest.raises(ZeroDivisionError), published(address) as folder:
        made(folder)
        _ = 1 / 0
    assert open_store(address).names() == []


def test_what_is_not_ours_is_never_overwritten(address):
    open_store(address).write("notes.txt", b"mine")
    for force in (False, True):
        with pytest.raises(UsageError, match=r"exists and is never overwritten; choose another --out$"):
            publish(address, force=force)
    assert open_store(address).names() == ["notes.txt"]
    with pytest.raises(DataError, match="is no folder that gcnrec has uploaded; name a folder that --out wrote"):
        fetched(address)


def test_force_replaces_what_was_uploaded(address):
    publish(address)
    with pytest.raises(UsageError, match="never overwritten; choose another --out, or add --force"):
        publish(address)
    publish(address, {"dataset.json": "{}"}, force=True)
    assert contents(fetched(address)) == {"dataset.json": "{}"}


def test_other_bytes_than_were_uploaded_are_refused(address):
    publish(address)
    open_store(address).write("job.toml", b"b")
    with pytest.raises(DataError, match=r"shop/job.toml does not hold what was uploaded; repeat the command"):
        fetched(address)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", NAME, "a\nb"])
def test_a_marker_names_files_inside_its_folder(address, name):
    publish(address)
    marker = json.loads(open_store(address).read(NAME, 10_000))
    marker["files"][name] = marker["files"].pop("job.toml")
    open_store(address).write(NAME, json.dumps(marker).encode())
    with pytest.raises(DataError, match=r"is damaged .*is no path inside a folder.*; upload the folder again"):
        fetched(address)


def test_locks_and_hidden_files_stay_here(tmp_path, address):
    folder = made(tmp_path / "run", {**FILES, "run.lock": "", ".job.toml.1@x.part": "", ".x.1.dir/y": ""})
    upload(folder, open_store(address))
    assert set(read_marker(open_store(address)).files) == {*FILES}


def test_a_run_is_continued_here_or_where_it_was_uploaded(address, monkeypatch, tmp_path):
    with pytest.raises(Killed), continued(address, resume=False) as folder:
        made(folder, {"job.toml": "begun"})
        raise Killed
    assert open_store(address).names() == []
    with continued(address, resume=True) as folder:
        assert contents(folder) == {"job.toml": "begun"}
        made(folder)
    taken = r"never overwritten; choose another --out, or continue it with --resume$"
    with pytest.raises(UsageError, match=taken), continued(address, resume=False):
        raise AssertionError
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-machine"))
    with continued(address, resume=True) as folder:
        assert contents(folder) == FILES


def test_a_copy_of_what_was_removed_is_not_in_the_way(tmp_path):
    address = Address("memory://bucket/run")
    publish(address)
    made(fetched(address))
    fsspec.filesystem("memory").rm("/bucket/run", recursive=True)
    with continued(address, resume=False) as folder:
        assert not folder.exists()
        made(folder, {"job.toml": "new"})
    assert contents(fetched(address)) == {"job.toml": "new"}


def begun(address, files, monkeypatch, count=0):
    """A run that is made here, and whose upload ends before file number `count`."""
    with monkeypatch.context() as patch:
        killed_after(patch, count)
        with pytest.raises(Killed), continued(address, resume=False) as folder:
            made(folder, files)
    return folder


@pytest.mark.parametrize("count", [0, 1])
def test_a_run_whose_upload_failed_is_never_removed(address, monkeypatch, count):
    with continued(address, resume=False) as folder:
        made(folder)
    more = {**FILES, "job.toml": "c", "metrics.jsonl": "two\n"}
    with monkeypatch.context() as patch:
        killed_after(patch, count)
        with pytest.raises(Killed), continued(address, resume=True) as folder:
            made(folder, more)
    assert half_sent(address) == folder
    with pytest.raises(ZeroDivisionError), continued(address, resume=False) as there:
        assert there == folder and contents(there) == more  # where training refuses to begin
        _ = 1 / 0
    with continued(address, resume=True) as there:
        assert contents(there) == more
    assert contents(fetched(address)) == more and half_sent(address) is None


def test_a_run_of_another_machine_is_neither_replaced_nor_mixed_in(address, monkeypatch, tmp_path):
    folder = begun(address, FILES, monkeypatch)
    open_store(address).remove(NAME)
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-machine"))
        publish(address, {"lineage.json": "[]"})
    for use in (lambda: fetched(address), lambda: continued(address, resume=True).__enter__()):
        with pytest.raises(DataError, match=r"has changed, and .* holds a run of this machine that was not uploaded there; move"):
            use()
    assert contents(folder) == FILES and set(read_marker(open_store(address)).files) == {"lineage.json"}


def test_a_later_version_of_another_machine_is_continued(address, monkeypatch, tmp_path):
    with continued(address, resume=False) as folder:
        made(folder)
    with pytest.raises(Killed), continued(address, resume=True):
        raise Killed  # before it has changed anything
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-machine"))
        with continued(address, resume=True) as there:
            made(there, {"metrics.jsonl": "two\n"})
    assert contents(fetched(address)) == {**FILES, "metrics.jsonl": "two\n"}


def test_an_upload_that_ended_before_its_record_is_whole(address, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("gcnrec.storage.remote.fetch.write_json", lambda path, values: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed), continued(address, resume=False) as folder:
            made(folder)
    with continued(address, resume=True) as there:
        assert contents(there) == FILES
    assert fetched(address) == folder


@pytest.mark.parametrize("other", ["", "-data"])
def test_markers_that_name_each_other_are_refused(address, other):
    for one, two in ((address, Address(f"{address}{other}")), (Address(f"{address}{other}"), address)):
        upload_marker = Marker(complete=True, data=two.text)
        write_marker(open_store(one), upload_marker)
    with pytest.raises(DataError, match="is the dataset of a run, and its marker names another; upload that run again"):
        fetched(address)


def test_a_name_that_cannot_be_printed_is_not_uploaded(tmp_path, address):
    folder = made(tmp_path / "run", {"a\nb": "", "lineage.json": "{}"})
    with pytest.raises(DataError, match=r"has a file whose name cannot be printed, 'a\\nb', and is not uploaded"):
        upload(folder, open_store(address))
    assert open_store(address).names() == []


DATA = {"dataset.json": '{"digest": "d"}'}


def of_dataset(folder):
    return json.dumps({"data": {"folder": str(folder), "digest": "d"}})


def test_a_run_brings_its_dataset(tmp_path, monkeypatch, address):
    data = made(tmp_path / "data", {**DATA, "users.parquet": "u"})
    with continued(address, resume=False) as folder:
        made(folder, {"lineage.json": of_dataset(data), "job.toml": "a"})
    assert (folder / "dataset").resolve() == data
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-machine"))
    there = fetched(address)
    assert contents(there / "dataset") == {**DATA, "users.parquet": "u"} and not (there / "dataset").is_symlink()
    push(there, address)
    assert contents(fetched(address)) == contents(there)


@pytest.mark.parametrize("data", [{}, [], {"folder": "", "digest": "d"}, {"folder": "data", "digest": "d"}, {"digest": "e"}])
def test_a_lineage_brings_no_other_folder(tmp_path, monkeypatch, data):
    """Whoever made a run may have written anything into it; a run that is only read brings nothing of this machine at all."""
    monkeypatch.chdir(tmp_path)
    folder = made(tmp_path / "data", DATA)
    address = Address("memory://bucket/run")
    lineage = json.dumps({"data": {"folder": str(folder), **data} if data == {"digest": "e"} else data})
    with continued(address, resume=False) as run:
        made(run, {"lineage.json": lineage})
    assert set(read_marker(open_store(address)).files) == {"lineage.json"}
    made(run, {"lineage.json": of_dataset(folder)})
    push(run, address)
    assert set(read_marker(open_store(address)).files) == {"lineage.json"}


def test_nothing_is_written_through_a_link_to_a_dataset(tmp_path, monkeypatch, address):
    data = made(tmp_path / "data", DATA)
    with continued(address, resume=False) as folder:
        made(folder, {"lineage.json": of_dataset(data)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-machine"))
    made(fetched(address), {"dataset/dataset.json": "[]"})
    push(mirror_of(address), address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert contents(fetched(address) / "dataset") == {"dataset.json": "[]"} and contents(data) == DATA


def test_a_dataset_of_an_address_is_named_and_not_uploaded_again(tmp_path, monkeypatch, address):
    data = Address(f"{address}-data")
    publish(data, DATA)
    with continued(address, resume=False) as folder:
        made(folder, {"lineage.json": of_dataset(fetched(data))})
    assert read_marker(open_store(address)).data == data.text
    assert "dataset/dataset.json" not in open_store(address).names()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-machine"))
    there = fetched(address)
    assert (there / "dataset").resolve() == mirror_of(data) and contents(there / "dataset") == DATA


@pytest.mark.parametrize("text", ["runs/shop", "s3:/x", "12:30/x", "", "C:\\x"])
def test_paths_are_no_addresses(text):
    assert address_of(text) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("s3://key:secret@bucket/x", r"without password, query and fragment, got 's3://key:\*\*\*@bucket/x'; give credentials"),
        ("https://host/x?token=abc", r"without password, query and fragment, got 'https://host/x\?\*\*\*'"),
        ("s3://b/x#y", r"without password, query and fragment, got 's3://b/x#\*\*\*'"),
        ("s3://key:sec/ret@bucket/x", r"without password, .* got 's3://key:\*\*\*@bucket/x'"),
        ("s3://key:s@cret@bucket/x", r"without password, .* got 's3://key:\*\*\*@bucket/x'"),
        ("s3://key:s'cret@bucket/x", r"without password, .* got 's3://key:\*\*\*@bucket/x'"),
        (" s3://key:secret@bucket/x", r"without password, .* got ' s3://key:\*\*\*@bucket/x'"),
        ("zip::s3://key:secret@bucket/x", r"without password, .* got 'zip::s3://key:\*\*\*@bucket/x'"),
        ("https://token@host/x", r"without password, .* got 'https://\*\*\*@host/x'"),
        ("s3://b/x?", "expected an address of a file or folder"),
        ("s3://b/.", "expected an address of a file or folder"),
        ("zip::s3://b/x", "expected an address of a file or folder"),
        (" s3://b/x", "expected an address of a file or folder"),
        (f"s3://b/{201 * 'x'}", "expected an address of a file or folder"),
        ("s3://", "expected an address of a file or folder"),
        ("memory:///", "expected an address of a file or folder"),
        ("file:///a/../b", "expected an address of a file or folder"),
        ("s3://b/x\n", "expected an address of a file or folder"),
    ],
)
def test_addresses_with_secrets_or_without_a_place_are_refused(text, sentence):
    with pytest.raises(UsageError, match=sentence):
        address_of(text)


def test_addresses_without_secrets():
    assert address_of("s3://bucket/runs/shop/") == Address("s3://bucket/runs/shop")
    assert address_of("sftp://user@host/x").name == "x"
    assert masked("train --set data.train=s3://a:b@c/d?e=f --x y@z") == "train --set data.train=s3://a:***@c/d?*** --x y@z"


def test_addresses_that_only_a_store_understands():
    """A netloc that is no host is the store's to judge."""
    for text in ("http://[x", "s3://a\u2100b/x", "memory://b//x"):
        assert address_of(text) == Address(text)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("s3://key:sec/ret@bucket/x", "s3://key:***@bucket/x"),
        ("s3://bucket/x?region=a&session_token=b", "s3://bucket/x?***"),
        ("https://host/x?X-Amz-Signature=b", "https://host/x?***"),
        ("http://token@host/x", "http://***@host/x"),
    ],
)
def test_data_is_named_without_secrets(text, known):
    with pytest.raises(
        ValueError, match=re.escape(f"train expects an address without password and token, since runs record it, got '{known}'")
    ):
        Data(train=text, user="u", item="i")
    output = io.StringIO()
    with contextlib.redirect_stderr(output):
        report(DataError(f"{text} cannot be opened (GET '{text}')"), log_json=False)
    assert output.getvalue() == f"gcnrec: {known} cannot be opened (GET '{known}')\n"


def test_data_may_be_named_with_a_query():
    assert Data(train="s3://bucket/x?region=eu&scheme=http", user="u", item="i").train == "s3://bucket/x?region=eu&scheme=http"


def test_python_names_what_an_address_needs():
    with pytest.raises(UsageError, match=r"got the address 's3://bucket/x'; use fetched or published of gcnrec.storage.remote"):
        place("s3://bucket/x")


def test_without_fsspec_or_a_driver(monkeypatch):
    with pytest.raises(UsageError, match=r"nosuch://a/b has a protocol that fsspec does not know \(.*\); correct the address"):
        open_store(Address("nosuch://a/b"))
    missing = "Install s3fs to access S3"
    fsspec.register_implementation("gcnrectest", "absent_package.Files", errtxt=missing, clobber=True)
    with pytest.raises(UsageError, match=rf"gcnrectest://a/b needs fsspec's driver for gcnrectest \({missing}\); install that"):
        open_store(Address("gcnrectest://a/b"))
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"needs fsspec, which is not installed; pip install '\.\[remote\]' in a checkout"):
        open_store(Address("memory://a/b"))


def test_what_a_driver_raises_names_the_address_and_no_secret(monkeypatch):
    class Broken:
        def isfile(self, path):
            raise RuntimeError("no access to s3://key:secret@bucket/x")

    monkeypatch.setattr(stores, "_opened", lambda text: (Broken(), "bucket/x"))
    with pytest.raises(
        DataError, match=r"^s3://bucket/x cannot be read or written \(RuntimeError: no access to s3://key:\*\*\*@"
    ):
        open_store(Address("s3://bucket/x")).is_file()


def test_no_cache_can_be_had(monkeypatch):
    monkeypatch.setattr("gcnrec.storage.remote.fetch.own_folder", lambda name: None)
    with pytest.raises(DataError, match="set XDG_CACHE_HOME to one"):
        fetched(Address("memory://a/b"))
