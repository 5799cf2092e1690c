"""Compiles kernel files by g++ with the shim, and launches their kernels on CPU tensors."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from gcnrec.cuda import module

SHIM = Path(__file__).parent / "shim.h"
FLAGS = ("-std=c++17", "-O1", "-g", "-fPIC", f"-I{module.FOLDER}", "-include", str(SHIM), "-x", "c++")
CHECKS = ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra", "-Werror")
CUDA_ONLY = ("-Wno-unused-function", "-Wno-unknown-pragmas")
ENTRY = """
extern "C" int host_{name}(int count, unsigned grid, unsigned block, void** values, const char** types, int falling) {{
    return shim::launch({name}, count, grid, block, values, types, falling);
}}
"""


class HostLauncher:
    """Stands in for `module.launch`. `falling` runs threads from the last to the first, in a single block: kernels must stride
    over whatever a grid leaves, and hand shared memory from one row to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.falling = False
        self.launches: list[tuple[str, int, int]] = []
        self._libraries: dict[Path, ctypes.CDLL] = {}
        self._one = threading.Lock()

    def launch(self, file, kernel, grid, block, arguments, device, shared=0):
        assert shared == 0 and 1 <= grid < 2**31 and block % 32 == 0 and 32 <= block <= 1024, (grid, block)
        structs = [argument for argument in arguments if not isinstance(argument, np.generic)]
        assert all(each.dtype.kind == "V" and each.size == 1 for each in structs), "arguments must be NumPy scalars, or structs"
        self.launches.append((kernel, grid, block))
        cells = [np.array([argument]).reshape(1) for argument in arguments]
        values = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
        types = (ctypes.c_char_p * len(cells))(*(cell.dtype.str[1:].encode() for cell in cells))
        with self._one:  # a kernel's threads have variables of the whole process
            entry = getattr(self.library(module.FOLDER / file), f"host_{kernel}")
            wrong = entry(len(cells), 1 if self.falling else grid, block, values, types, int(self.falling))
        assert wrong == -1, f"{kernel}: argument {wrong} of {len(cells)} has the wrong type or the count is wrong"

    def library(self, path: Path) -> ctypes.CDLL:
        if path not in self._libraries:
            self._libraries[path] = compiled(path, self.folder)
        return self._libraries[path]


def compiled(path: Path, folder: Path) -> ctypes.CDLL:
    """The file's kernels in a shared library, each with an entry that takes its arguments by address."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    whole, library = folder / f"{path.stem}.cpp", folder / f"{path.stem}.so"
    seen = subprocess.run(["g++", *FLAGS, "-E", "-P", str(path)], capture_output=True, text=True, check=True).stdout
    names = re.findall(r'extern "C"\s+void (gcnrec_\w+)\(', seen)
    whole.write_text(f'#include "{path}"\n' + "".join(ENTRY.format(name=name) for name in names), encoding="utf-8")
    command = ["g++", *FLAGS, *CHECKS, *CUDA_ONLY, "-shared", str(whole), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))
