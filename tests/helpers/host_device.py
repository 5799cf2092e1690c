"""The GPU's kernels and queues where the GPU's memory is the host's: work is done when it is given."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import pytest
import torch

from gcnrec import device
from gcnrec.cuda import module
from gcnrec.cuda.ops import CudaOps
from gcnrec.cuda.spans import copy_pairs, patch
from gcnrec.ops import cpu


class HostOps(CudaOps):
    """The GPU's functions where the GPU's memory is the host's."""

    def __init__(self):
        super().__init__(torch.device("cpu"))

    def pack(self, arrays):
        return arrays

    def upload(self, packed):
        return tuple(torch.from_numpy(array) for array in packed)

    def sent(self, tensors):
        return cpu.Here([float(tensor) for tensor in tensors])


class Now:
    """A queue whose work is done when it is given."""

    def mark(self):
        return self

    def finish(self):
        """Done already."""

    def after(self, mark):
        """Done already."""


class HostDevice:
    """Transfers by the GPU's kernel, one after the other."""

    def __init__(self):
        self.compute = self.reads = self.writes = Now()

    def adopt(self, memory, length):
        """Every memory is the host's."""

    def within(self, queue):
        return nullcontext()

    def place(self, values):
        return torch.from_numpy(values)

    def empty(self, length, like):
        return torch.empty(length, dtype=like.dtype)

    def resident(self, values):
        return values.clone()

    def copy(self, queue, pairs):
        copy_pairs(pairs, max_blocks=3, by_target=queue is self.writes)

    def patch(self, earlier_E, later_L, pairs):
        patch(earlier_E, later_L, pairs)


@contextmanager
def kernels_of_the_gpu(launcher):
    """What asks for the CPU's kernels gets the GPU's."""
    launcher.launches.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "launch", launcher.launch)
        patch.setattr(cpu, "CpuOps", HostOps)
        device.ops_for.cache_clear()
        yield
    device.ops_for.cache_clear()
