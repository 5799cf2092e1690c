"""The cache: an entry is what its name says, however many make it at once and whatever was done to it since."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gcnrec.errors import DataError
from gcnrec.loaders.cache import Entry


def make(entry, content=b"content"):
    """Put a file, or a folder with a file, into the cache."""
    with entry.workspace() as work:
        if entry.suffix:
            (work / "made").write_bytes(content)
        else:
            (work / "made").mkdir()
            (work / "made" / "part").write_bytes(content)
        return entry.keep(work / "made")


@pytest.fixture(params=[".parquet", ""], ids=["file", "folder"])
def entry(request, tmp_path):
    return Entry(tmp_path / "cache", "name", "key", request.param)


def find(entry):
    """What `find` gives, and what it told."""
    said = []
    return entry.find(said.append), said


def test_an_entry_is_found_again_and_only_by_its_own_key(entry, tmp_path):
    assert find(entry) == (None, []) and not (tmp_path / "cache").exists()
    path = make(entry)
    assert find(entry) == (path, []) and [*path.parent.iterdir()] == [path]
    assert find(Entry(entry.folder, "name", "other", entry.suffix)) == (None, [])
    assert make(entry) == path, "made again, it is the same"


def test_what_fails_leaves_nothing(entry):
    with pytest.raises(ZeroDivisionError), entry.workspace() as work:
        (work / "made").write_bytes(b"x")
        1 / 0  # noqa: B018
    assert [*entry.folder.iterdir()] == []


def test_a_changed_entry_is_removed(entry):
    path = make(entry)
    file = path if entry.suffix else path / "part"
    changes = [lambda: file.write_bytes(b"contenT"), lambda: file.write_bytes(b""), lambda: path.rename(f"{path}0{entry.suffix}")]
    for change in changes:
        change()
        found, said = find(entry)
        assert found is None and len(said) == 1 and not [*entry.folder.iterdir()]
        assert make(entry) == path


def test_a_changed_folder_is_removed(tmp_path):
    entry = Entry(tmp_path / "cache", "name", "key")
    for change in ("more", "less", "renamed"):
        path = make(entry)
        if change == "more":
            (path / "more").write_bytes(b"")
        elif change == "less":
            (path / "part").unlink()
        else:
            (path / "part").rename(path / "trap")
        assert find(entry)[0] is None and not [*entry.folder.iterdir()]


def test_a_link_is_never_followed(entry, tmp_path):
    path = make(entry)
    path.rename(tmp_path / "target")
    path.symlink_to(tmp_path / "target")
    with pytest.raises(DataError, match="remove it"):
        find(entry)
    path.unlink()
    path = make(entry)
    if not entry.suffix:
        (path / "part").rename(tmp_path / "part")
        (path / "part").symlink_to(tmp_path / "part")
        with pytest.raises(DataError, match="remove it"):
            find(entry)


@pytest.mark.parametrize("what", ["link", "dangling link", "file"])
def test_a_folder_that_is_none_is_refused(entry, tmp_path, what):
    if what == "link":
        (tmp_path / "elsewhere").mkdir()
    if what == "file":
        entry.folder.write_bytes(b"")
    else:
        entry.folder.symlink_to(tmp_path / "elsewhere")
    for use in (find, make):
        with pytest.raises(DataError, match="remove it"):
            use(entry)


@pytest.mark.parametrize("contents", [[b"same"] * 4, [b"a", b"b", b"c", b"d"]], ids=["same", "different"])
def test_many_make_an_entry_at_once(entry, tmp_path, contents):
    """Of different content where their libraries are of different versions."""
    with ThreadPoolExecutor(4) as pool:
        for number in range(50):
            each, meet = Entry(tmp_path / f"cache-{number}", "name", "key", entry.suffix), threading.Barrier(4)
            made = list(pool.map(lambda content, to=each, begin=meet.wait: begin() >= 0 and make(to, content), contents))
            assert {*each.folder.iterdir()} == {*made} and len({*made}) == len({*contents})
            assert find(each)[0] in made


def test_what_a_killed_process_left_is_removed_and_a_similar_name_stays(entry):
    path = make(entry)
    other = Entry(entry.folder, path.name.removesuffix(entry.suffix)[:22] + "b", "key", entry.suffix)  # begins as the entry does
    kept, process = make(other), subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = entry.folder / f".making-1.{process.pid}.part"
    left.mkdir()
    (left / "file").touch()
    with entry.workspace() as work:
        assert not left.exists() and work.is_dir()
        with Entry(entry.folder, "third", "key", entry.suffix).workspace() as second:
            assert work.is_dir() and second != work
    assert find(entry) == (path, []) and find(other) == (kept, [])
    assert sorted(entry.folder.iterdir()) == sorted([path, kept])
