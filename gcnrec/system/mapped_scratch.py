"""Scratch on disk for whole node matrices: mapped, nameless files whose blocks are reserved first."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from gcnrec.errors import DataError
from gcnrec.system.pages import map_rows


def scratch_rows(folder: Path, rows: int, width: int) -> torch.Tensor:
    """Float32 (rows, width) in a nameless file of `folder`, memory-mapped: it takes disk, and RAM only as far as there is some.

    The file vanishes with the last reference. Its blocks are reserved first: a full disk is a DataError here, where writing
    into the map would end the process.
    """
    size = max(4, 4 * rows * width)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            return map_rows(file, rows, width)
    except OSError as problem:
        raise DataError(
            f"{size:,} bytes of scratch cannot be had in {folder}: {problem.strerror or problem}; "
            "free some space or put the run on another disk"
        ) from None


def scratch_values(folder: Path, length: int) -> torch.Tensor:
    """`length` float32 values of scratch, as `scratch_rows` gives them."""
    return scratch_rows(folder, 1, length)[0]
