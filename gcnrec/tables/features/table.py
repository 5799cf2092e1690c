"""Features of one side as a table that is read and never written: rows by number, float32 whatever their stored type.

A row starts on a 128-byte line, or shares one evenly where it is shorter (Min et al. 2021, "Large graph convolutional network
training with GPU-oriented data communication architecture", section 4.4). Rows of a dataset are read where they lie, with the
pitch that they have.
Letters: N nodes of the side, R rows read, F features, B rows of a block.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.ops.features import Stored, read_features
from gcnrec.ops.slots import LINE_BYTES
from gcnrec.rows import Ticket
from gcnrec.tables.dense import Allocate, in_ram
from gcnrec.tables.features.code import VALUE_BYTES, Code, Rows, blocks, encode

_UNIT = 4
"""Bytes of the values that `Allocate` gives: a row takes at least one."""
_VALUES = {"float32": np.float32, "float16": np.uint16, "bfloat16": np.uint16, "int8": np.int8}


class StepFeatures(Protocol):
    """What a training step needs of the features of a side, wherever they are."""

    @property
    def host(self) -> FeatureTable:
        """All of them in host memory."""
        ...

    def prefetch(self, ticket: Ticket, nodes_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> None:
        """Announce ascending nodes of the side, whose rows the step of `ticket` reads.

        `index_R` is `nodes_R` once more, where work of the queue of reads finds it, for a caller that has brought it there.
        """
        ...

    def read(self, ticket: Ticket, nodes_R: NDArray[np.int64]) -> torch.Tensor:
        """The rows of a ticket's nodes as a new tile, float32 (R, F), where training computes."""
        ...


class FeatureTable:
    """Rows as `stored`: row r is that of node r + `first_node`. `bytes` were allocated for them, 0 where a dataset's are read."""

    def __init__(self, stored: Stored, num_rows: int, first_node: int = 0, nbytes: int = 0) -> None:
        self.stored, self.num_rows, self.first_node, self.bytes = stored, num_rows, first_node, nbytes
        self.width = stored.width

    @classmethod
    def adopted(cls, rows_NF: Rows, first_node: int = 0) -> FeatureTable:
        """C-contiguous rows where they lie, in RAM or in a mapped file."""
        return cls(Stored(rows_NF.reshape(-1), rows_NF.shape[1], rows_NF.shape[1], "float32"), len(rows_NF), first_node)

    @classmethod
    def encoded(cls, rows_NF: Rows, code: Code, what: str, first_node: int = 0, allocate: Allocate = in_ram) -> FeatureTable:
        """A copy of rows, stored by `code`, in memory of `allocate`. `what` names the side in a DataError of `encode`."""
        width = rows_NF.shape[1]
        pitch = pitch_of(width, code.dtype)
        buffer = allocate((len(rows_NF) * pitch + LINE_BYTES) // _UNIT)
        skip = -buffer.data_ptr() % LINE_BYTES // _UNIT
        memory = buffer[skip : skip + len(rows_NF) * pitch // _UNIT].numpy()
        plane_NP = memory.view(_VALUES[code.dtype]).reshape(len(rows_NF), -1)
        for here in blocks(rows_NF):
            encode(rows_NF[here], code, plane_NP[here, :width], what)
            plane_NP[here, width:] = 0  # copies on a device move whole vectors
        stored = Stored(plane_NP.reshape(-1), plane_NP.shape[1], width, code.dtype, code.grid)
        return cls(stored, len(rows_NF), first_node, memory.nbytes)

    @property
    def host(self) -> FeatureTable:
        return self

    @property
    def pitch_bytes(self) -> int:
        """Bytes from one row to the next."""
        return self.stored.pitch * self.stored.values.itemsize

    @property
    def memory(self) -> torch.Tensor:
        """All rows as flat float32, whatever they hold: the unit in which devices copy."""
        return torch.from_numpy(self.stored.values.view(np.float32))

    def prefetch(self, ticket: Ticket, nodes_R: NDArray[np.int64], index_R: torch.Tensor | None = None) -> None:
        """Nothing: rows are read where they lie."""

    def read(self, ticket: Ticket, nodes_R: NDArray[np.int64]) -> torch.Tensor:
        return self.rows(nodes_R - self.first_node)

    def rows(self, index_R: NDArray[np.int64]) -> torch.Tensor:
        """The rows `index_R`, in any order, float32 (R, F)."""
        out_RF = np.empty((len(index_R), self.width), np.float32)  # NumPy asks for huge pages, torch faults every 4 KiB
        read_features(self.stored, index_R, out_RF)
        return torch.from_numpy(out_RF)


def pitch_of(width: int, dtype: str) -> int:
    """Bytes from one row to the next: whole lines, or a power of two below one."""
    row = max(VALUE_BYTES[dtype] * width, _UNIT)
    return -(-row // LINE_BYTES) * LINE_BYTES if row > LINE_BYTES // 2 else 1 << (row - 1).bit_length()
