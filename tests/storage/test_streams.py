"""Pipes that bring text, none, too much or nothing at all; streams whose reader has gone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gcnrec.config import Job
from gcnrec.errors import DataError
from gcnrec.reports import progress
from gcnrec.results import memory_bounds
from gcnrec.runs.contents import RunContents
from gcnrec.runs.events import read_lines
from gcnrec.storage.streams import Lasting, check_regular, is_pipe, pipe_bytes
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def writing(path, *parts):
    """A thread that opens `path` and writes the parts."""

    def write():
        with path.open("wb", buffering=0) as file:
            for part in parts:
                file.write(part)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def test_a_pipe_gives_what_is_written_until_its_writer_ends(fifo):
    writer = writing(fifo, b"user\n", b"x" * 200_000, b"\n7\n")
    assert pipe_bytes(fifo, 10**6) == b"user\n" + b"x" * 200_000 + b"\n7\n"
    writer.join()


def test_a_file_is_read_like_a_pipe(tmp_path):
    (tmp_path / "ids.csv").write_bytes(b"user\n1\n")
    assert pipe_bytes(tmp_path / "ids.csv", 7) == b"user\n1\n"
    assert not is_pipe(tmp_path / "ids.csv")


def test_a_pipe_without_a_writer_is_a_sentence(fifo):
    with pytest.raises(DataError, match=r"fifo is a pipe that brought no byte for 0.05 s; see what writes into it"):
        pipe_bytes(fifo, 100, 0.05)


def test_a_writer_that_falls_silent_is_a_sentence(fifo):
    end = os.open(fifo, os.O_RDWR)
    os.write(end, b"user\n")
    with pytest.raises(DataError, match=r"brought no byte for 0.05 s"):
        pipe_bytes(fifo, 100, 0.05)
    os.close(end)


@pytest.mark.parametrize("path", ["/dev/zero", "fifo"])
def test_more_than_the_bound_is_refused(path, fifo):
    path = fifo if path == "fifo" else Path(path)
    if path == fifo:
        writing(fifo, b"12345678901")
    with pytest.raises(DataError, match="must hold at most 10 bytes, it holds more"):
        pipe_bytes(path, 10)


def test_folders_and_absent_files_are_sentences(tmp_path):
    with pytest.raises(DataError, match="must be a file or a pipe, is a folder"):
        pipe_bytes(tmp_path, 10)
    with pytest.raises(DataError, match=r"absent cannot be read \(No such file or directory\)"):
        pipe_bytes(tmp_path / "absent", 10)
    with pytest.raises(DataError, match="null byte"):
        pipe_bytes(Path("a\0b"), 10)


def test_only_regular_files_pass_where_a_pipe_would_block(fifo, tmp_path):
    assert is_pipe(fifo) and is_pipe(Path("/dev/null")) and not is_pipe(tmp_path / "absent")
    with pytest.raises(DataError, match="must be a Parquet file, is a pipe or a device; write it to a file first"):
        check_regular(fifo, "a Parquet file")
    with pytest.raises(DataError, match="is a folder"):
        check_regular(tmp_path)
    (tmp_path / "file").touch()
    check_regular(tmp_path / "file")


def test_a_stream_without_a_reader_drops_what_it_gets():
    reader, writer = os.pipe()
    os.close(reader)
    stream = Lasting(writer, 10.0)
    assert stream.write(b"x" * 10**6) == 10**6 and stream.lost.errno == errno.EPIPE
    os.close(writer)


def test_a_reader_that_stops_reading_is_lost():
    reader, writer = os.pipe()
    stream = Lasting(writer, 0.05)
    assert stream.write(b"x" * 10**6) == 10**6
    assert stream.lost.errno == errno.ETIMEDOUT and stream.lost.strerror == "its reader took nothing for 0.05 s"
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert 0 < len(file.read()) < 10**6


def test_a_stream_that_must_not_wait_waits_all_the_same():
    """Whoever starts a command may have set O_NONBLOCK on what it inherits."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    read = []

    def drain():
        with os.fdopen(reader, "rb") as file:
            read.append(file.read())

    thread = threading.Thread(target=drain)
    thread.start()
    assert Lasting(writer).write(b"x" * 10**6) == 10**6
    os.close(writer)
    thread.join()
    assert read == [b"x" * 10**6]


def test_a_full_disk_under_a_stream_is_lost():
    with Path("/dev/full").open("wb", buffering=0) as full:
        stream = Lasting(full.fileno())
        assert stream.write(b"line\n") == 5 and stream.lost.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("redirections", "code", "said"),
    [
        (">/dev/full", 3, "gcnrec: stdout took no results (No space left on device)"),
        ("| exec head -c 0", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        (">/dev/full 2>&-", 3, ""),
    ],
)
def test_lost_results_are_an_error_and_a_reader_that_left_is_none(redirections, code, said):
    command = f"set -o pipefail; {sys.executable} -m gcnrec --version {redirections}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code and done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)


def test_a_stderr_that_is_lost_costs_no_training_and_leaves_one_line(tmp_path, monkeypatch):
    dataset = write_dataset(checkerboard(), tmp_path / "data")
    job = Job.parse({"model": {"width": 4}, "train": {"epochs": 3, "batch_size": 64}, "evaluate": {"baselines": []}}, [], "job")
    monkeypatch.setattr(progress, "lost", lambda descriptor: OSError(errno.EPIPE, "Broken pipe"))
    with progress.observed() as observer:
        run = train(job, dataset, tmp_path / "run", observer=observer)
    assert len(RunContents(run.folder).epochs("fit")) == 3
    warnings = [(line["kind"], line["text"]) for line in read_lines(run.folder) if line["event"] == "warning"]
    assert warnings == [("stream", "stderr was lost (Broken pipe) and gets no more reports; the work continued")]


def test_a_named_pipe_of_new_items_is_no_parquet_file(fifo):
    assert memory_bounds._most_rows(fifo) == 0
