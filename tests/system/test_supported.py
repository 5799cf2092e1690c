"""What other systems lack or count otherwise, as far as it can be had here: macOS, Windows, locales that are not UTF-8."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.sources import _header
from gcnrec.system import limits, machine
from gcnrec.system.pages import scratch_rows
from gcnrec.system.scratch import new_npy, reserve
from gcnrec.system.supported import WINDOWS, refuse_windows

ROOT = Path(machine.__file__).parents[2]


@pytest.fixture
def macos(monkeypatch):
    """This system without what macOS has not: affinity, reservation of blocks, /proc and control groups."""
    monkeypatch.setattr(sys, "platform", "darwin")
    for name in ("sched_getaffinity", "sched_setaffinity", "posix_fallocate"):
        monkeypatch.delattr(os, name)
    for name in ("_GROUPS", "_MEMBERSHIP", "_STATUS"):
        monkeypatch.setattr(limits, name, Path("/nowhere"))


def test_macos_ingests(macos, tmp_path):
    pq.write_table(pa.table({"u": np.arange(60) % 6, "i": np.arange(60) % 10}), tmp_path / "e.parquet")
    made = ingest(
        Data(train="e.parquet", user="u", item="i", test_size=0.0, valid_size=0.0), tmp_path / "d", data_root=tmp_path, name="e"
    )
    assert (made.info["num_users"], made.info["num_items"]) == (6, 10)


def test_macos_reserves_by_writing_and_keeps_what_is_there(macos, tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    with (tmp_path / "f").open("r+b") as file:
        reserve(file.fileno(), 3 * 2**20 + 7)
    assert (tmp_path / "f").read_bytes() == b"abc".ljust(3 * 2**20 + 7, b"\0")
    array = new_npy(tmp_path / "a.npy", (3, 2), np.float32)
    array[1] = 5
    assert np.load(tmp_path / "a.npy").tolist() == [[0, 0], [5, 5], [0, 0]]
    assert scratch_rows(tmp_path, 2, 3).sum() == 0


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_file_systems_that_cannot_reserve_are_written(monkeypatch, tmp_path, number):
    def refuse(descriptor, first, size):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with (tmp_path / "f").open("w+b") as file:
        reserve(file.fileno(), 5)
    assert (tmp_path / "f").read_bytes() == b"\0" * 5


def test_macos_counts_memory_in_bytes(macos, monkeypatch):
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=123_456))
    assert limits.peak_rss_bytes() == 123_456
    assert limits.read_limits().available > 0 and machine.available_cores() == os.cpu_count()
    monkeypatch.setattr(sys, "platform", "linux")
    assert limits.peak_rss_bytes() == 1024 * 123_456


def test_windows_is_refused_in_a_sentence_that_names_wsl():
    program = "import sys, typer; sys.platform = 'win32'; sys.argv[0] = {!r}; from gcnrec.cli import main; main()"
    command, other = (
        subprocess.run([sys.executable, "-c", program.format(name)], capture_output=True, text=True, cwd=ROOT)
        for name in ("C:/venv/gcnrec", "train.py")
    )
    assert (command.returncode, command.stdout, command.stderr) == (2, "", f"gcnrec: {WINDOWS}\n")
    assert other.returncode == 1 and other.stderr.splitlines()[-1] == f"ImportError: {WINDOWS}"
    assert "WSL" in WINDOWS and "\n" not in WINDOWS
    refuse_windows("linux", [])


def test_arguments_are_utf_8_in_any_locale():
    """The command reads and prints them so, although this locale has ASCII only."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "gcnrec", "evaluate", "données", "--k", "dix-é"]
    done = subprocess.run(command, env=environment, capture_output=True)
    assert (done.returncode, done.stderr.decode("utf-8")) == (
        2,
        "gcnrec: --k expects list lengths such as 10,20,50, got 'dix-é'\n",
    )


def test_a_byte_order_mark_begins_no_name(tmp_path):
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbfuser:token\titem:token\r\n1\t2\r\n")
    assert _header(tmp_path / "t.tsv", {"user": "int64", "item": "int64"}) == ["user", "item"]
