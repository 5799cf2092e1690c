"""One writer at a time: others are refused by name, the dead do not count, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from gcnrec.errors import DataError, UsageError
from gcnrec.loaders import schema
from gcnrec.loaders.schema import new_folder, refuse_existing, refuse_foreign
from gcnrec.storage.files import atomic_file, clear_leftovers
from gcnrec.storage.locks import awaited, locked
from gcnrec.storage.tensors import save_tensors

HOLD = """
import sys, time
from pathlib import Path
from gcnrec.storage.locks import locked
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


LONG = json.dumps({"pid": 1, "host": "x" * 300, "begun": "2026-11-29T00:00:00+00:00"})
CONTROL = json.dumps({"pid": 1, "host": "\x1b[2J", "begun": "now\nroot"})


@pytest.mark.parametrize("content", [LONG, CONTROL, "{" * 4000, '{"pid": "1", "host": 1, "begun": []}', "\0" * 80])
def test_what_a_lock_says_is_shown_only_as_far_as_it_is_a_name(tmp_path, content):
    said = []
    (tmp_path / "lock").write_text(content)
    with locked(tmp_path / "lock", tmp_path, said.append):
        pass
    assert "another process" in said[0] and said[0].isprintable()


@pytest.mark.parametrize("kind", ["link", "dangling link", "loop", "second name", "folder", "pipe", "device", "text", "long"])
def test_a_lock_is_a_file_of_its_own(tmp_path, kind):
    """Nothing is written through a lock that leads elsewhere, and nothing made at its end."""
    mine, lock = tmp_path / "mine", tmp_path / "lock"
    mine.write_text('{"pid": 1}')
    match kind:
        case "link":
            lock.symlink_to(mine)
        case "dangling link":
            lock.symlink_to(tmp_path / "absent")
        case "loop":
            lock.symlink_to(lock)
        case "second name":
            lock.hardlink_to(mine)
        case "folder":
            lock.mkdir()
        case "pipe":
            os.mkfifo(lock)
        case "device":
            lock.symlink_to("/dev/null")
        case _:
            lock.write_text("dear diary" if kind == "text" else '{"pid": ' + "1" * 5000)
    before = sorted((path.name, path.is_symlink()) for path in tmp_path.iterdir())
    with (
        pytest.raises(DataError, match=r"must be a plain file at .*lock.*remove what lies there"),
        locked(lock, tmp_path / "what"),
    ):
        pass
    assert mine.read_text() == '{"pid": 1}' and sorted((path.name, path.is_symlink()) for path in tmp_path.iterdir()) == before
    shutil.rmtree(lock) if kind == "folder" else lock.unlink()
    with locked(lock, tmp_path / "what", never):
        assert lock.is_file()


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


def test_the_next_writer_of_a_file_clears_what_the_dead_left_of_it(tmp_path, holder):
    gone, host = dead(), re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:32]
    mine = [f".list.parquet.{gone}@{host}.part", f".list.parquet.{gone}.part"]
    others = [f".list.parquet.{holder.pid}@{host}.part", f".list.parquet.{gone}@elsewhere.part", f".other.parquet.{gone}.part"]
    for name in mine + others:
        (tmp_path / name).touch()
    folder = tmp_path / f".list.parquet.{gone}@{host}.dir"
    folder.mkdir()
    (folder / ".tmpAbC123").touch()
    with atomic_file(tmp_path / "list.parquet") as work:
        work.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} - {"lock"} == {"list.parquet", *others}


def test_a_killed_writer_of_tensors_leaves_only_what_names_it(tmp_path):
    tensors = "{'a': torch.zeros(1 << 24)}"
    code = "import sys, torch; from pathlib import Path; from gcnrec.storage.files import atomic_file as f\n"
    code += "from gcnrec.storage.tensors import save_tensors\nimport gcnrec.storage.tensors as t, os\n"
    code += "t.bytes_of = lambda part: os.kill(os.getpid(), 9)\n"
    code += f"with f(Path(sys.argv[1])) as work: save_tensors({tensors}, work, {{}})"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b.safetensors")], check=False)
    left = [path.name for path in tmp_path.iterdir()]
    assert left and all(name.startswith(".b.safetensors.") for name in left)
    with atomic_file(tmp_path / "b.safetensors") as work:
        save_tensors({"a": torch.zeros(3)}, work, {})
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]


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


def test_a_refusal_removes_what_a_killed_writer_left(tmp_path, holder):
    """It was killed when the folder had its name, and its lock was still there; `lock` is the holder's."""
    target, lock, work = (tmp_path / name for name in ("ds", ".ds.lock", f".ds.{dead()}.part"))
    target.mkdir()
    lock.write_text("")
    work.mkdir()
    with pytest.raises(DataError, match="never overwritten"):
        refuse_existing(target)
    assert {path.name for path in tmp_path.iterdir()} == {"ds", "lock"}
    kept = tmp_path / f".ds.{holder.pid}.part"
    kept.mkdir()
    with pytest.raises(DataError, match="never overwritten"):
        refuse_existing(target)
    assert {path.name for path in tmp_path.iterdir()} == {"ds", "lock", kept.name}
    refuse_existing(tmp_path / "other")


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


def test_leftovers_are_matched_exactly(tmp_path):
    """`shop` is not `shop.v2`, nor `shop.5`; a name is the same where it holds what separates."""
    gone = dead()
    names = [
        f".shop.v2.{gone}.part",
        f".shop.5.{gone}@here.part",
        f".shop.v2.{gone}.old",
        f".shopping.{gone}.part",
        f".shop.{gone}.old",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "other", False) as work:
        (work / "file").touch()
    assert {path.name for path in tmp_path.iterdir()} == {*names, "other"}
    with pytest.raises(DataError, match="never overwritten"), new_folder(tmp_path / "shop", False):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {*names[:-1], "other", "shop"}


def test_leftovers_of_a_living_process_and_of_another_host_stay(tmp_path, holder):
    (tmp_path / f".ds.{holder.pid}.part").mkdir()
    (tmp_path / ".ds.1@elsewhere.part").mkdir()
    (tmp_path / ".ds.1@elsewhere.old").mkdir()
    told = []
    with new_folder(tmp_path / "ds", False, told.append) as work:
        (work / "file").touch()
    assert (tmp_path / "ds" / "file").exists()
    assert {path.name for path in tmp_path.iterdir()} >= {f".ds.{holder.pid}.part", ".ds.1@elsewhere.part", ".ds.1@elsewhere.old"}
    assert len(told) == 3 and any(f"process {holder.pid}," in each for each in told) and "process 1 of elsewhere" in told[0]
    clear_leftovers(tmp_path)
    assert (tmp_path / ".ds.1@elsewhere.part").exists()


def test_a_process_that_began_later_is_not_the_writer(tmp_path, holder):
    """The system has given the writer's number to another process."""
    left = tmp_path / f".file.{holder.pid}.part"
    left.touch()
    clear_leftovers(tmp_path)
    assert left.exists()
    os.utime(left, (1e9, 1e9))
    clear_leftovers(tmp_path)
    assert not left.exists()


def test_a_killed_process_whose_parent_has_not_looked_has_ended(tmp_path, holder):
    left = tmp_path / f".file.{holder.pid}.part"
    left.touch()
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    clear_leftovers(tmp_path)
    assert not left.exists()


def test_what_this_process_writes_now_stays(tmp_path):
    with atomic_file(tmp_path / "file") as work:
        work.write_text("half")
        clear_leftovers(tmp_path)
        assert work.exists()
    assert (tmp_path / "file").read_text() == "half" and len([*tmp_path.iterdir()]) == 1


def test_an_open_file_of_safetensors_stays(tmp_path):
    names = [".tmpAbC123", ".tmpXyZ789", ".tmp-mine!", ".tmpAbC1234"]
    for name in names:
        (tmp_path / name).touch()
    with (tmp_path / names[0]).open("ab"):
        clear_leftovers(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], *names[2:]])
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


def test_a_link_is_followed_and_its_folder_replaced(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big" / "ds")
    for content in ("first", "second"):  # the link leads to nothing, then to a folder
        with new_folder(tmp_path / "link", content == "second") as work:
            (work / "file").write_text(content)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "big" / "ds" / "file").read_text() == content
    assert [path.name for path in (tmp_path / "big").iterdir()] == ["ds"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "link"]
    with pytest.raises(DataError, match=r"link exists .* --force"), new_folder(tmp_path / "link", False):
        pass


@pytest.mark.parametrize(("leads", "says"), [("loop", "back to itself"), ("absent/ds", r"absent; make .*absent, or")])
def test_a_link_that_leads_nowhere_is_refused(tmp_path, leads, says):
    (tmp_path / "loop").symlink_to(tmp_path / leads)
    for writer in (new_folder(tmp_path / "loop", True), atomic_file(tmp_path / "loop")):
        with pytest.raises(DataError, match=says), writer:
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_file_goes_where_a_link_leads_and_never_onto_a_device(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with atomic_file(tmp_path / "link") as work:
        work.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("device", "."):
        with pytest.raises(DataError, match="must be a file"), atomic_file(tmp_path / name):
            pass


def test_a_folder_that_comes_back_after_a_failed_replacement(tmp_path, monkeypatch):
    target = tmp_path / "ds"
    target.mkdir()
    (target / "file").write_text("old")
    plain = Path.rename

    def rename(path, to):
        if path.name.endswith(".part"):
            raise KeyboardInterrupt  # between the two renames
        return plain(path, to)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(schema, "exchanged", lambda *names: False)  # as on macOS
    with pytest.raises(KeyboardInterrupt), new_folder(target, True) as work:
        (work / "file").write_text("new")
    assert (target / "file").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["ds"]


def test_a_lock_can_be_waited_for(tmp_path, holder):
    told = []
    timer = threading.Timer(0.3, holder.kill)
    timer.start()
    with awaited(tmp_path / "lock", tmp_path / "what", told.append) as waited:
        assert waited
    assert f"process {holder.pid} " in told[0] and told[0].endswith("; waiting for its end")
    with awaited(tmp_path / "lock", tmp_path / "what", never) as waited:
        assert not waited


def test_only_a_dataset_folder_is_replaced(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    refuse_foreign(home)  # empty
    refuse_foreign(tmp_path / "absent")
    (home / "letters").touch()
    for path in (home, home / "letters"):
        with pytest.raises(DataError, match=r"lacks dataset\.json"):
            refuse_foreign(path)
    (home / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="it also holds letters, which would be lost"):
        refuse_foreign(home)
    (home / "letters").unlink()
    refuse_foreign(home)  # damaged
    (home / "users.parquet").mkdir()
    with pytest.raises(DataError, match=r"it also holds users\.parquet"):
        refuse_foreign(home)
