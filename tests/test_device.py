"""What the host prepares becomes tensors by one upload, in the form in which it was given."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gcnrec.device import ops_for, uploaded
from gcnrec.ops.cpu import CpuOps


class Named(NamedTuple):
    first: np.ndarray
    size: int
    rest: tuple
    absent: None = None


class Counted(CpuOps):
    """Packs and uploads, and counts both."""

    def __init__(self):
        self.packed, self.uploads = [], 0

    def pack(self, arrays):
        self.packed.append(len(arrays))
        return super().pack(arrays)

    def upload(self, packed):
        self.uploads += 1
        return super().upload(packed)


def test_tuples_keep_their_form_and_arrays_become_tensors():
    ops, matrix = Counted(), np.arange(6.0).reshape(2, 3)
    given = Named(np.arange(4), 5, (matrix, "text", (np.empty(0, np.int32),), Named(np.ones(1), 2, ())))
    found = uploaded((given, None, 3), ops)
    assert (ops.packed, ops.uploads) == ([4], 1)
    (named, nothing, three) = found
    assert nothing is None and three == 3 and type(named) is Named and (named.size, named.absent) == (5, None)
    assert torch.equal(named.first, torch.arange(4)) and torch.equal(named.rest[0], torch.from_numpy(matrix))
    assert named.rest[1] == "text" and named.rest[2][0].dtype == torch.int32 and type(named.rest[3]) is Named


def test_on_the_cpu_nothing_is_copied():
    array = np.arange(5)
    (tensor,) = uploaded((array,), ops_for(torch.device("cpu")))
    assert tensor.data_ptr() == array.ctypes.data
