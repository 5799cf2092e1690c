"""Scratch for a node matrix that is made a block of columns after the other, and read once, in stretches of whole rows.

Each block is a nameless file of its own, so that every byte is written once and read once: a matrix in one file, row after row,
would be rewritten page by page for each of its blocks.
Letters: N rows, R consecutive rows, D columns, C columns of a block.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import torch

from gcnrec.system.pages import map_descriptor, scratch_errors
from gcnrec.system.scratch import reserve

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""Modes of fallocate in Linux's falloc.h."""
_ROWS_AT_ONCE = 1 << 16
"""Rows that are joined at a time."""
Report = Callable[[int, int], None]
"""Is called with the values that are done and those in all."""


def unreported(done: int, total: int) -> None:
    """No one waits."""


class ColumnBlocks:
    """Float32 (N, D) in scratch of a folder, cut into `blocks` of columns, [first, last), which cover 0 .. D-1 in order.

    Files vanish with the object. Their bytes are reserved at once: DataError where the disk has no room for them.
    """

    def __init__(self, folder: Path, num_rows: int, blocks: Sequence[tuple[int, int]], report: Report = unreported) -> None:
        self.num_rows, self.blocks, self.width = num_rows, list(blocks), blocks[-1][1]
        self.total = 0.0
        self._folder, self._report, self._done = folder, report, 0
        self._files = [_Nameless(folder) for _ in self.blocks]
        with scratch_errors(folder, 4 * num_rows * self.width):
            for file, (first, last) in zip(self._files, self.blocks, strict=True):
                reserve(file.descriptor, max(4, 4 * num_rows * (last - first)))

    def put(self, block: int, row: int, piece_RC: torch.Tensor) -> None:
        """Write rows from `row` on of a block. `total` becomes the sum of all values: not finite where one of them is not."""
        self.total += float(piece_RC.sum())
        first, last = self.blocks[block]
        self._files[block].write(piece_RC.contiguous(), 4 * row * (last - first))
        self._done += piece_RC.numel()
        self._report(self._done, self.num_rows * self.width)

    def whole(self) -> torch.Tensor:
        """The matrix, memory-mapped, of a single block: to be written, or read."""
        (file,) = self._files
        return map_descriptor(file.descriptor, self.num_rows, self.width)

    def take(self, first: int, last: int) -> torch.Tensor:
        """Rows `first .. last-1` as a new float32 (R, D), and those before `last` leave the disk: stretches come in rising order.

        Where the file system makes no holes, the disk is given back with the object.
        """
        rows_RD = torch.empty(last - first, self.width)
        for file, (left, right) in zip(self._files, self.blocks, strict=True):
            width = right - left
            piece_RC = rows_RD if width == self.width else torch.empty(last - first, width)
            file.read(piece_RC, 4 * first * width)
            if piece_RC is not rows_RD:
                rows_RD[:, left:right] = piece_RC  # copy: columns of a block, into whole rows
            file.punch(4 * first * width, 4 * last * width)
        return rows_RD

    def joined(self) -> torch.Tensor:
        """The matrix row after row, memory-mapped: a single block is that already, several give way to it stretch by stretch."""
        if len(self.blocks) == 1:
            return self.whole()
        file = _Nameless(self._folder)
        with scratch_errors(self._folder, 4 * self.num_rows * self.width):
            for first in range(0, self.num_rows, _ROWS_AT_ONCE):
                file.write(self.take(first, min(first + _ROWS_AT_ONCE, self.num_rows)), 4 * first * self.width)
            return map_descriptor(file.descriptor, self.num_rows, self.width)


class _Nameless:
    """A file without a name in a folder, which is gone with this object and the last map of it."""

    def __init__(self, folder: Path) -> None:
        with scratch_errors(folder, 0), TemporaryFile(dir=folder) as file:
            self.descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)

    def write(self, rows: torch.Tensor, offset: int) -> None:
        left = rows.view(-1).numpy().data.cast("B")
        while left:
            written = os.pwrite(self.descriptor, left, offset)
            left, offset = left[written:], offset + written

    def read(self, rows: torch.Tensor, offset: int) -> None:
        left = rows.view(-1).numpy().data.cast("B")
        while left:
            count = os.preadv(self.descriptor, [left], offset)
            if not count:
                raise EOFError(f"scratch ends at byte {offset}, rows were to follow")
            left, offset = left[count:], offset + count

    def punch(self, first: int, last: int) -> None:
        """Give the disk of bytes before `last` back, from the page of `first` on; nothing where that cannot be done."""
        begin = first - first % mmap.PAGESIZE
        try:
            fallocate = ctypes.CDLL(None).fallocate
        except (AttributeError, OSError, TypeError):
            return
        fallocate(self.descriptor, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(begin), ctypes.c_int64(last - begin))
