"""Files against their listed digests: damage is found, also where an mtime was put back; what is remembered holds."""

from __future__ import annotations

import hashlib
import os
import threading
import time

import pytest

from gcnrec.errors import DataError
from gcnrec.integrity import facts
from gcnrec.integrity.digests import State, own_digest, sha256_of
from gcnrec.integrity.facts import file_fact, recalled, remember
from gcnrec.integrity.listed import Listed, verify


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where facts are kept."""
    folder = tmp_path / "facts"
    folder.mkdir(0o700)
    monkeypatch.setattr(facts, "own_folder", lambda name: folder)
    monkeypatch.setattr(facts, "_established", set())
    return folder


@pytest.fixture
def later(monkeypatch):
    """An hour from now, so that files count as settled."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 3600 * 10**9)


@pytest.fixture
def another_process(monkeypatch):
    """Forgets what this process has established."""
    return lambda: monkeypatch.setattr(facts, "_established", set())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "array.npy"
    path.write_bytes(b"0123456789")
    return path


def listed(content=b"0123456789"):
    return Listed(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def check(path, expected, anew=False):
    verify({path: expected}, "list.json", lambda wrong: f"make {wrong.name} again", anew)


def test_a_whole_file_passes_and_a_damaged_one_is_one_sentence(file, place):
    check(file, listed())
    file.write_bytes(b"0123456780")
    sentence = f"{file} does not match the sha256 in list.json, it has changed since; make array.npy again"
    with pytest.raises(DataError, match=sentence):
        check(file, listed())
    file.write_bytes(b"012345678")
    with pytest.raises(DataError, match=r"must have 10 bytes, has 9; make array.npy again"):
        check(file, listed())
    file.unlink()
    with pytest.raises(DataError, match=r"No such file or directory\); make array.npy again"):
        check(file, listed())
    os.mkfifo(file)
    with pytest.raises(DataError, match=r"array\.npy"):  # and does not wait for a writer
        check(file, Listed(bytes=0, sha256="0" * 64))


def test_a_settled_file_is_remembered_until_it_changes(file, place, later, another_process):
    check(file, listed())
    another_process()
    assert file_fact(State.of(file.stat()), listed().sha256) in recalled()
    before = file.stat()
    file.write_bytes(b"0123456780")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="does not match"):
        check(file, listed())


def test_what_is_remembered_is_not_read_again_unless_it_is_asked_anew(file, place, later, another_process):
    other = listed(b"x" * 10)
    (place / facts.FILE).write_text(f"{file_fact(State.of(file.stat()), other.sha256)}\n")
    check(file, other)
    with pytest.raises(DataError, match="does not match"):
        check(file, other, anew=True)
    check(file, listed(), anew=True)
    os.truncate(place / facts.FILE, 0)
    check(file, listed(), anew=True)
    assert (place / facts.FILE).read_text() == "" and not recalled() - facts.established()  # this process had read it


def test_a_file_that_has_just_been_written_is_not_remembered(file, place):
    check(file, listed())
    assert recalled() == frozenset() and list(place.iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_not_remembered(file, place, later, monkeypatch):
    plain = os.readv

    def touched(descriptor, pieces):
        os.utime(file)
        return plain(descriptor, pieces)

    monkeypatch.setattr(os, "readv", touched)
    check(file, listed())
    assert recalled() == frozenset()


def test_without_a_place_each_process_verifies(file, later, another_process, monkeypatch):
    monkeypatch.setattr(facts, "own_folder", lambda name: None)
    another_process()
    check(file, listed())
    assert len(recalled()) == 1
    another_process()
    assert recalled() == frozenset()


def noise(path):
    path.write_bytes(os.urandom(5000))


def zeros(path):
    path.write_bytes(bytes(5000))


def open_to_others(path):
    path.chmod(0o666)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    path.with_name("elsewhere").chmod(0o666)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [noise, zeros, open_to_others, link, pipe, folder])
def test_a_damaged_memory_is_ignored(file, place, later, another_process, spoil):
    check(file, listed())
    spoil(place / facts.FILE)
    another_process()
    assert file_fact(State.of(file.stat()), listed().sha256) not in recalled()
    check(file, listed())


def test_a_line_that_was_cut_short_spoils_no_other(place, another_process):
    remember(["content 1 a", "content 1 b"])
    os.truncate(place / facts.FILE, (place / facts.FILE).stat().st_size - 2)
    remember(["content 1 c"])
    another_process()
    assert {"content 1 a", "content 1 c"} <= recalled() and "content 1 b" not in recalled()


def test_the_memory_is_bounded_and_keeps_the_newest(place, another_process):
    names = [f"content 1 {number:064}" for number in range(20_000)]
    for first in range(0, len(names), 500):
        remember(names[first : first + 500])
        assert (place / facts.FILE).stat().st_size <= facts.MOST_BYTES
    another_process()
    assert set(names[-3000:]) <= recalled() and names[0] not in recalled()
    assert [path.name for path in place.iterdir()] == [facts.FILE] and (place / facts.FILE).stat().st_mode & 0o777 == 0o600


def test_writers_at_the_same_time_lose_no_line(place, another_process):
    names = [[f"content 1 {writer} {number}" for number in range(50)] for writer in range(4)]
    writers = [threading.Thread(target=lambda own=own: [remember([name]) for name in own]) for own in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    another_process()
    assert {name for own in names for name in own} <= recalled()


def test_several_large_files_are_read_whole(tmp_path, place, later):
    contents = {tmp_path / f"{number}.npy": os.urandom(3 * 2**20 + number) for number in range(4)}
    for path, content in contents.items():
        path.write_bytes(content)
    verify({path: listed(content) for path, content in contents.items()}, "list.json", str)
    assert len(recalled()) == 4
    path = tmp_path / "2.npy"
    assert sha256_of(path) == hashlib.sha256(contents[path]).hexdigest()
    with path.open("r+b") as file:
        file.seek(2**20)
        file.write(bytes([contents[path][2**20] ^ 1]))
    with pytest.raises(DataError, match=r"2.npy does not match"):
        verify({path: listed(content) for path, content in contents.items()}, "list.json", str)


def test_the_digest_of_a_document_is_of_its_other_keys_in_any_order():
    document = {"b": [1, 2.5, None], "a": {"é": "x"}}
    assert own_digest(document) == own_digest({"own_sha256": "0", "a": {"é": "x"}, "b": (1, 2.5, None)})
    assert own_digest(document) == hashlib.sha256(b'{"a": {"\\u00e9": "x"}, "b": [1, 2.5, null]}').hexdigest()
    assert own_digest(document) != own_digest({**document, "b": [1, 2.5]})
