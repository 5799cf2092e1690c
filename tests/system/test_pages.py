"""Pages of mapped files that are let go: what they held comes back, and memory of others is left alone."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from gcnrec.system import pages
from gcnrec.system.pages import let_go, let_go_read_only, map_rows
from gcnrec.system.scratch import trim_heap


def test_what_was_written_comes_back():
    with tempfile.TemporaryFile() as file:
        file.truncate(4 * 1000 * 7)
        rows_RD = map_rows(file, 1000, 7)
    written_RD = torch.arange(7000, dtype=torch.float32).view(1000, 7)
    rows_RD[:] = written_RD
    let_go(rows_RD[10:20, 3:5])  # a part names the whole
    assert torch.equal(rows_RD, written_RD)
    rows_RD[5] = -1.0
    let_go(rows_RD)
    assert (rows_RD[5] == -1).all() and torch.equal(rows_RD[6:], written_RD[6:])


def test_a_matrix_without_cells():
    with tempfile.TemporaryFile() as file:
        file.truncate(4)
        rows_RD = map_rows(file, 0, 7)
    let_go(rows_RD)
    assert rows_RD.shape == (0, 7)


def test_other_memory_keeps_what_it_holds():
    rows_RD = torch.ones(1 << 16, 4)
    let_go(rows_RD)
    let_go(torch.empty(0, 4))
    assert bool((rows_RD == 1).all())


def test_a_map_is_forgotten_with_its_last_tensor():
    with tempfile.TemporaryFile() as file:
        file.truncate(4096)
        rows_RD = map_rows(file, 256, 4)
    at, part_RD = rows_RD.data_ptr(), rows_RD[3:]
    del rows_RD
    assert at in pages._MAPS
    del part_RD
    gc.collect()
    assert at not in pages._MAPS


def test_arrays_that_are_only_read_come_back(tmp_path):
    np.save(tmp_path / "numbers.npy", np.arange(100_000))
    for mode in ("r", "c", "r+"):
        array = np.load(tmp_path / "numbers.npy", mmap_mode=mode).view(np.ndarray)
        if mode == "c":
            array[7] = -1  # in this process only: it must not be let go
        let_go_read_only(array[5:])
        assert array[7] == (-1 if mode == "c" else 7) and array[99_999] == 99_999
    frozen = np.arange(10)
    frozen.flags.writeable = False
    let_go_read_only(frozen)
    assert frozen[3] == 3


@pytest.mark.serial
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_ram_of_arrays_is_given_back(tmp_path):
    np.save(tmp_path / "numbers.npy", np.ones(8 << 20))
    array = np.load(tmp_path / "numbers.npy", mmap_mode="r").view(np.ndarray)
    assert array.sum() == 8 << 20
    before = _resident()
    let_go_read_only(array)
    assert before - _resident() > 60 << 20


@pytest.mark.serial
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_ram_is_given_back():
    with tempfile.TemporaryFile(dir=".") as file:
        file.truncate(64 << 20)
        rows_RD = map_rows(file, 1 << 20, 16)
    rows_RD.fill_(1.0)
    before = _resident()
    let_go(rows_RD)
    assert before - _resident() > 60 << 20


def _resident() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


@pytest.mark.serial
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_the_heap_is_given_back():
    """Blocks below the smallest that the C library ever maps by itself, freed under one that stays."""
    blocks = [np.ones(8 << 10) for _ in range(800)]  # 50 MB
    stays = np.ones(8 << 10)
    trim_heap()
    before = _resident()
    blocks.clear()
    gc.collect()
    trim_heap()
    assert before - _resident() > 40 << 20
    assert stays.sum() == 8 << 10


_ROUNDS = """
import resource, sys
import numpy as np
from gcnrec.system.scratch import keep_freed_memory, trim_heap
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        held = [np.ones(3 << 20) for _ in range(3)]  # 24 MiB each: 18,432 pages in all
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, again = faults(), faults()
trim_heap()
print(first, again, faults())
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="sets glibc's heap")
def test_freed_memory_is_kept_for_the_next_arrays():
    """Pages are cleared by the system once, and once more where they were given back."""
    done = subprocess.run([sys.executable, "-c", _ROUNDS], capture_output=True, text=True, check=True)
    first, again, trimmed = map(int, done.stdout.split())
    assert 4 * again < first
    assert 4 * again < trimmed
