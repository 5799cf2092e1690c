"""Pipes that bring text, none, too much or nothing at all; streams whose reader has gone."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gcnrec.errors import DataError
from gcnrec.system.streams import check_regular, is_pipe, pipe_bytes


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
