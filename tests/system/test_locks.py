"""One writer at a time: others are refused by name, the dead do not count, and nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.schema import new_folder
from gcnrec.system.files import clear_leftovers
from gcnrec.system.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from gcnrec.system.locks import locked
with locked(Path(sys.argv[1]), Path("what")):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def never(text):
    raise AssertionError(text)


def test_another_process_is_named_and_the_dead_do_not_count(tmp_path, holder):
    path, told = tmp_path / "lock", []
    with (
        pytest.raises(UsageError, match=rf"what is being written by process {holder.pid} of .* since 20"),
        locked(path, tmp_path / "what"),
    ):
        pass
    holder.kill()
    holder.wait()
    with locked(path, tmp_path / "what", told.append):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert len(told) == 1 and f"process {holder.pid}" in told[0] and "continuing" in told[0]
    assert not path.exists()


def test_a_thread_may_lock_again_and_another_may_not(tmp_path):
    path, seen = tmp_path / "lock", []

    def other():
        with pytest.raises(UsageError, match=f"process {os.getpid()} "), locked(path, tmp_path, never):
            pass
        seen.append("refused")

    with locked(path, tmp_path, never):
        with locked(path, tmp_path, never):
            pass
        assert path.exists()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["refused"] and not path.exists()
    with locked(path, tmp_path, never):
        pass


def test_a_lock_is_let_go_of_when_its_block_fails(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "lock", tmp_path):
        raise KeyError
    with locked(tmp_path / "lock", tmp_path, never):
        pass


@pytest.mark.parametrize("content", ["{", "[]", '{"pid": 1}'])
def test_a_lock_that_nobody_signed_is_stale_too(tmp_path, content):
    told = []
    (tmp_path / "lock").write_text(content)
    with locked(tmp_path / "lock", tmp_path, told.append):
        pass
    assert "another process" in told[0]


def test_where_no_lock_can_be_written_it_is_said(tmp_path):
    with pytest.raises(DataError, match="cannot write"), locked(tmp_path / "absent" / "lock", tmp_path):
        pass


def test_many_threads_take_turns(tmp_path):
    """Nobody holds a lock whose file another one has removed."""
    inside, most, turns = [], [], []

    def work():
        while len(turns) < 200:
            try:
                with locked(tmp_path / "lock", tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    turns.append(inside.pop())
            except UsageError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_the_dead_are_cleared(tmp_path, holder):
    names = {f".users.parquet.{each}.part" for each in (dead(), holder.pid, os.getpid())} | {".strange.part", "mine.part"}
    for name in names:
        (tmp_path / name).touch()
    clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - {"lock"} == {
        f".users.parquet.{holder.pid}.part",
        ".strange.part",
        "mine.part",
    }


def test_a_dataset_folder_that_was_moved_aside_comes_back(tmp_path):
    """Its writer was killed between the two renames that replace it."""
    aside, half, target = (tmp_path / name for name in (f".ds.{dead()}.old", f".ds.{dead()}.part", "ds"))
    for folder in (aside, half):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    with pytest.raises(DataError, match="never overwritten"), new_folder(target, False):
        pass
    assert (target / "file").read_text() == aside.name and [path.name for path in tmp_path.iterdir()] == ["ds"]
    with new_folder(target, True) as work:
        (work / "file").write_text("new")
    assert (target / "file").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["ds"]


def test_two_writers_of_one_dataset_folder(tmp_path):
    def other():
        with pytest.raises(UsageError, match="is being written by process"), new_folder(tmp_path / "ds", True):
            pass
        refused.append(True)

    refused = []
    with new_folder(tmp_path / "ds", False) as work:
        (work / "file").touch()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused and (tmp_path / "ds" / "file").exists()
