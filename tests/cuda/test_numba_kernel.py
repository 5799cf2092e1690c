"""The example of a user's own kernel, in numba's simulator; its switch works before numba is imported only, hence processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "jobs" / "examples" / "numba_kernel.py"

# The interface of a pinned array, read back as any library reads it: by its address, shape and strides alone. The driver is
# played, and maps host memory to the GPU where it lies.
BY_ADDRESS = """
import runpy, sys
import numpy as np
from gcnrec.cuda.hostmemory import allocate
from gcnrec.cuda.pinned import PinnedMemory
from gcnrec.cuda.registrar import Registrar

class Driver:
    def register(self, address, nbytes, flags): return 0
    def unregister(self, address): return 0
    def device_pointer(self, address): return 0, address
    def synchronize(self): return 0

class Foreign:
    def __init__(self, interface):
        self.__array_interface__ = {key: interface[key] for key in ("shape", "typestr", "strides", "data", "version")}

example = runpy.run_path(sys.argv[1])
with PinnedMemory(allocate(1 << 20), Registrar(Driver(), chunk_bytes=1 << 18)) as pinned:
    rows = pinned.array((50, 20), np.float32, offset=4096)
    rows.host[:] = np.arange(1000).reshape(50, 20)
    index = np.array([49, 0, 7, 7])
    print(example["read"](np.asarray(Foreign(rows.__cuda_array_interface__)), index)[:, 0].tolist())
"""


def run(*arguments, simulated):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_ENABLE_CUDASIM": "1" if simulated else "0"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_example_runs_in_the_simulator():
    code, out, err = run(str(EXAMPLE), simulated=True)
    assert (code, out, err) == (0, "8 rows gathered from 1,280,000 bytes of simulated memory, equal to torch's\n", "")


def test_a_kernel_finds_pinned_rows_by_their_interface():
    assert run("-c", BY_ADDRESS, str(EXAMPLE), simulated=True) == (0, "[980.0, 0.0, 140.0, 140.0]\n", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_example_runs_on_a_gpu():
    code, out, _ = run(str(EXAMPLE), simulated=False)
    assert (code, out) == (0, "262,144 rows gathered from 1,280,000 bytes of pinned memory, equal to torch's\n")


def test_the_example_is_short():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 60
