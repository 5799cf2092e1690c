"""The kernels run on CPU tensors: compiled by g++, launched through the same glue as on a GPU."""

from __future__ import annotations

import importlib.util
import mmap
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from gcnrec.cuda import module, pinned, queues
from gcnrec.cuda.registrar import Registrar
from gcnrec.ops.slots import copy_spans

# Tests are no package (NVIDIA's `cuda` must stay a namespace), so the launcher is loaded from its file.
_spec = importlib.util.spec_from_file_location("cuda_host_launcher", Path(__file__).parent / "host" / "launcher.py")
launcher = sys.modules["cuda_host_launcher"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(launcher)


@pytest.fixture(scope="session")
def host_launcher(tmp_path_factory):
    return launcher.HostLauncher(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(params=["rising", "falling"])
def host(request, host_launcher, monkeypatch):
    """Kernels on the CPU, threads in both orders; `host.launches` lists what was launched."""
    host_launcher.falling = request.param == "falling"
    host_launcher.launches.clear()
    monkeypatch.setattr(module, "launch", host_launcher.launch)
    return host_launcher


class Driver:
    """Registers whole pages, and no page twice; refuses the calls whose numbers are in `refused`."""

    def __init__(self, refused=()):
        self.pages, self.refused, self.calls = {}, refused, 0

    def register(self, address, nbytes, flags):
        self.calls += 1
        pages = set(range(address // mmap.PAGESIZE, -(-(address + nbytes) // mmap.PAGESIZE)))
        if self.calls in self.refused:
            return 1
        assert not any(pages & other for other in self.pages.values()), "a page is pinned twice"
        self.pages[address] = pages
        return 0

    def synchronize(self):
        return 0

    def unregister(self, address):
        del self.pages[address]
        return 0

    def device_pointer(self, address):
        return 0, address

    def last_error(self):
        return 0

    def error_name(self, code):
        return f"error {code}"

    def maps_read_only(self):
        return True


class Stream:
    def __init__(self, *_, **__):
        pass

    def wait_event(self, event):
        """Streams of the host run at once."""


class Event:
    def record(self, stream):
        """Over already."""

    def synchronize(self):
        """Over already."""


@pytest.fixture
def device_of(monkeypatch, host_launcher):
    """Makes a CudaDevice whose memory is the host's, on a driver, and the list of its warnings."""
    host_launcher.falling = False
    host_launcher.launches.clear()
    monkeypatch.setattr(module, "launch", host_launcher.launch)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(queues, "_pinned_bytes", lambda nbytes: torch.empty(nbytes, dtype=torch.uint8))

    def make(driver=None, on_file=False):
        warnings, own = [], Registrar(driver or Driver())
        monkeypatch.setattr(pinned, "process_registrar", lambda: own)
        return queues.CudaDevice(torch.device("cpu"), copy_spans, 3, on_file, warnings.append), warnings

    return make


@pytest.fixture
def driver_of():
    """Makes a driver that refuses some calls."""
    return Driver
