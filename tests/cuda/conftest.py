"""The kernels run on CPU tensors: compiled by g++, launched through the same glue as on a GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from gcnrec.cuda import module

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
