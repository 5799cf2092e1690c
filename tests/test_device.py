"""What the host prepares becomes tensors by one upload, in the form in which it was given. A worker takes a GPU of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from gcnrec import device
from gcnrec.device import ops_for, uploaded
from gcnrec.errors import DeviceError
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


@pytest.fixture
def gpus(monkeypatch):
    """So many GPUs as torch would see; the number of the current one is in the list."""
    current = [0]

    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda place: current.__setitem__(0, place))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
        monkeypatch.setattr(device, "find_spec", lambda name: name)
        return current

    return see


def test_each_worker_of_a_host_takes_a_gpu_of_its_own(gpus):
    current = gpus(3)
    for place in (2, 0, 1):
        assert device.take_gpu(place, 3) == torch.device("cuda", place) and current == [place]
    assert device.take_gpu(1, 2) == torch.device("cuda", 1)


@pytest.mark.parametrize(("place", "workers"), [(0, 3), (2, 3), (2, 1)], ids=["too many", "the last of too many", "a far place"])
def test_more_workers_than_gpus_are_refused(gpus, place, workers):
    current = gpus(2)
    with pytest.raises(DeviceError, match=rf"host \({workers}\) needs a GPU .* number {place} from 0 sees 2; start as many"):
        device.take_gpu(place, workers)
    assert current == [0]


def test_a_worker_without_a_gpu_gets_the_sentence_of_a_process_without_one(gpus):
    gpus(0)
    with pytest.raises(DeviceError, match="needs an NVIDIA GPU"):
        device.take_gpu(0, 1)


def test_a_gpus_cores_are_those_of_its_place_on_the_bus(monkeypatch):
    facts, asked = SimpleNamespace(pci_domain_id=1, pci_bus_id=0x3B, pci_device_id=4), []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: facts)
    monkeypatch.setattr(device, "cores_near", lambda address: asked.append(address) or frozenset({3}))
    assert device.cores_of(torch.device("cuda", 1)) == {3} and asked == ["0001:3b:04.0"]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(name="of an old torch"))
    assert device.cores_of(torch.device("cuda", 1)) == frozenset()
