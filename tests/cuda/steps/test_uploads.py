"""Arrays packed into slabs and uploaded by one copy: all come back, aligned, and no slab is filled before its copy is over."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda.uploads import ALIGNMENT, Uploads


class Bus:
    """Copies that take place only when they end: `finish` ends the oldest."""

    def __init__(self):
        self.slabs, self.open, self.copies = [], [], 0

    def allocate(self, nbytes):
        self.slabs.append(torch.full((nbytes,), 7, dtype=torch.uint8))
        return self.slabs[-1]

    def to_device(self, packed):
        starts = [slab.data_ptr() for slab in self.slabs]
        assert not len(packed) or packed.data_ptr() in starts, "one copy, from the start of a slab"
        copy = Copy(packed, torch.empty_like(packed))
        self.copies += 1
        self.open.append(copy)
        return copy.arrived, copy

    def finish(self):
        copy = self.open.pop(0)
        copy.arrived.copy_(copy.packed)
        copy.over = True


class Copy:
    def __init__(self, packed, arrived):
        self.packed, self.arrived, self.over = packed, arrived, False

    def query(self):
        return self.over


def arrays(seed):
    draw = np.random.default_rng(seed)
    return [
        draw.integers(-9, 9, 13), draw.integers(0, 99, 7).astype(np.int32), draw.standard_normal((5, 3)).astype(np.float32),
        np.empty(0, np.int64), draw.random(3) < 0.5, draw.integers(0, 9, 40)[::2], np.empty((4, 0), np.int32),
        draw.integers(0, 99, 1).astype(np.int64),
    ]  # fmt: skip


def alike(tensors, expected):
    assert len(tensors) == len(expected)
    for tensor, array in zip(tensors, expected, strict=True):
        assert tensor.numpy().dtype == array.dtype and np.array_equal(tensor.numpy(), array)


def test_every_array_comes_back_aligned_by_one_copy():
    bus, given = Bus(), arrays(0)
    uploads = Uploads(bus.allocate, bus.to_device)
    tensors = uploads.upload(uploads.pack(given))
    assert bus.copies == 1
    bus.finish()
    alike(tensors, given)
    assert all((tensor.data_ptr() - tensors[0].data_ptr()) % ALIGNMENT == 0 for tensor in tensors if tensor.numel())


def test_no_slab_is_filled_before_its_copy_is_over():
    """Any number of batches on their way, packed before, between and after copies: all arrive whole."""
    bus = Bus()
    uploads, given, arrived, packed = Uploads(bus.allocate, bus.to_device), [], [], []
    for seed, word in enumerate("pupppuuufpufffpuppuuffff"):
        if word == "p":
            given.append(arrays(seed))
            packed.append(uploads.pack(given[-1]))
        elif word == "u":
            arrived.append(uploads.upload(packed.pop(0)))
        else:
            bus.finish()
    assert not bus.open and not packed
    for tensors, expected in zip(arrived, given, strict=True):
        alike(tensors, expected)


def test_slabs_are_used_again_and_grow():
    bus = Bus()
    uploads = Uploads(bus.allocate, bus.to_device)
    for seed in range(20):
        uploads.upload(uploads.pack(arrays(seed)))
        if seed:
            bus.finish()  # a batch is on its way while the next is packed
    assert len(bus.slabs) == 2, "one being filled, one on its way"
    bus.finish()
    large = np.arange(300_000)
    tensors = uploads.upload(uploads.pack([large]))
    bus.finish()
    alike(tensors, [large])
    assert len(bus.slabs) == 3 and len(bus.slabs[-1]) >= large.nbytes


@pytest.mark.parametrize("given", [[], [np.empty(0, np.int64)]], ids=["no array", "an empty one"])
def test_nothing_to_upload(given):
    bus = Bus()
    uploads = Uploads(bus.allocate, bus.to_device)
    alike(uploads.upload(uploads.pack(given)), given)
