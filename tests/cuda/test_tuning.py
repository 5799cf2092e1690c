"""The grid of transfers: chosen from made-up curves, remembered in a file that may be missing, broken or out of reach."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gcnrec.cuda import tuning
from gcnrec.cuda.pinned import StagedMemory
from gcnrec.errors import DeviceError


def rising(full):
    """Seconds of a transfer whose rate grows with the blocks until `full` of them fill the link."""
    return lambda blocks: 1.0 / min(blocks, full)


@pytest.mark.parametrize(
    ("transfers", "blocks"),
    [
        ([rising(8)], 8),
        ([rising(2)], 2),
        ([rising(1000)], 132),
        ([rising(8), rising(24)], 24),  # enough for both
        ([lambda blocks: 1.0 if blocks >= 12 else 1.029], 2),  # 97.2 % are enough
        ([lambda blocks: 1.0 if blocks >= 12 else 1.04], 12),  # 96.2 % are not
        ([lambda blocks: 1.0 + abs(blocks - 16)], 16),  # more can be slower
        ([lambda blocks: float(blocks)], 2),
        # The one wants 2, the other 132. With 12 either runs at more than a third of its best, with any other at less.
        ([lambda blocks: blocks**0.6, lambda blocks: 132.0 / blocks**0.4], 12),
    ],
)
def test_the_smallest_grid_that_is_enough(transfers, blocks):
    assert tuning.smallest_enough(transfers, runs=1) == blocks


def test_first_calls_and_outliers_do_not_count():
    calls = dict.fromkeys(tuning.CAPS, 0)

    def seconds(blocks):
        calls[blocks] += 1
        slow = calls[blocks] == 1 or calls[blocks] == 3 + blocks % 3
        return 100.0 if slow else 1.0 / min(blocks, 8)

    assert tuning.smallest_enough([seconds]) == 8
    assert set(calls.values()) == {tuning.RUNS + 1}


def test_spans_are_disjoint_ascending_and_cover_the_buffer():
    sets = tuning.spans_of(64 * 103, 64)
    assert len(sets) == tuning.SETS and all(np.array_equal(each, np.unique(each)) for each in sets)
    assert sorted(np.concatenate(sets).tolist()) == list(range(0, 64 * 103, 64))


def never():
    raise AssertionError("what is remembered is not measured")


def test_a_number_is_measured_once(tmp_path):
    file = tmp_path / "new" / "folders" / "transfer.json"
    assert tuning.remembered(file, "a GPU", lambda: 12) == 12
    assert tuning.remembered(file, "a GPU", never) == 12
    assert tuning.remembered(file, "another", lambda: 48) == 48
    assert json.loads(file.read_text()) == {"a GPU": 12, "another": 48}
    assert [path.name for path in file.parent.iterdir()] == [file.name], "nothing is left beside it"


BROKEN = ["", "{", "[1]", '{"a GPU": "12"}', '{"a GPU": 0}', '{"a GPU": true}', '{"a GPU": 1.5}', "\udcff"]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_ignored_and_rewritten(text, tmp_path):
    file = tmp_path / "transfer.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert tuning.remembered(file, "a GPU", lambda: 16) == 16
    assert tuning.remembered(file, "a GPU", never) == 16


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "taken").write_text("a file where the folder should be")
    file = tmp_path / "taken" / "transfer.json"
    for reached in (file, None):
        assert [tuning.remembered(reached, "a GPU", lambda number=number: number) for number in (4, 8)] == [4, 8]


def test_what_could_not_be_measured_is_not_remembered(tmp_path):
    file = tmp_path / "transfer.json"
    assert tuning.remembered(file, "a GPU", lambda: None) is None and not file.exists()


def homeless():
    raise RuntimeError("no home")


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for named, base in [(str(tmp_path / "own"), tmp_path / "own"), ("relative", tmp_path / ".cache"), ("", tmp_path / ".cache")]:
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert tuning.cache_file() == base / "gcnrec" / "transfer.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tuning.cache_file() == tmp_path / ".cache" / "gcnrec" / "transfer.json"
    monkeypatch.setattr(Path, "home", homeless)
    assert tuning.cache_file() is None


def facts(bus):
    return SimpleNamespace(name="A GPU", pci_domain_id=0, pci_bus_id=bus, pci_device_id=0)


def test_the_key_tells_machines_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(tuning, "_PCI", tmp_path)
    monkeypatch.setattr(tuning, "_DRIVER", tmp_path / "version")
    (tmp_path / "version").write_text("580.1\n")
    for bus, lanes in [(1, 16), (2, 8)]:
        folder = tmp_path / f"0000:{bus:02x}:00.0"
        folder.mkdir()
        (folder / "max_link_speed").write_text("32.0 GT/s PCIe\n")
        (folder / "current_link_width").write_text(f"{lanes}\n")
    keys = []
    for bus in (1, 2, 3):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, bus=bus: facts(bus))
        keys.append(tuning.machine_key(torch.device("cuda", 0)))
    assert keys[0].startswith("A GPU, driver 580.1, PCIe 32.0 GT/s PCIe x16, kernel ") and "x8" in keys[1] and "? x?" in keys[2]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name="A GPU"))
    assert "PCIe ?," in tuning.machine_key(torch.device("cuda", 0))


def test_without_pinned_memory_the_default_holds(monkeypatch, tmp_path):
    def no_memory(nbytes):
        raise DeviceError("full")

    device = torch.device("cuda", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts(1))
    monkeypatch.setattr(tuning, "BUFFER_BYTES", 1 << 16)
    monkeypatch.setattr(tuning, "pin_or_stage", lambda memory: StagedMemory(memory, "refused"))
    assert tuning.measured(device) is None
    monkeypatch.setattr(tuning, "allocate", no_memory)
    assert tuning.measured(device) is None
    tuning.transfer_blocks.cache_clear()
    assert tuning.transfer_blocks(device) == tuning.DEFAULT
    tuning.transfer_blocks.cache_clear()
    assert not list(tmp_path.iterdir())


def test_what_is_timed(host, monkeypatch):
    """One transfer's spans are copied whole; events and the device are made up."""
    ticks = iter(range(100))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = next(ticks)

        def synchronize(self):
            """Over already."""

        def elapsed_time(self, end):
            return 1e3 * (end.time - self.time)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    seconds = tuning._transfer(torch.randn(64 * 20), 256, torch.device("cpu"))
    assert [seconds(cap) for cap in (1, 3, 2)] == [1.0, 1.0, 1.0]
    assert [(name, grid) for name, grid, _ in host.launches] == [("gcnrec_copy_spans_4", 1)] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    device = torch.device("cuda", torch.cuda.current_device())
    assert tuning.measured(device) in tuning.CAPS and "driver" in tuning.machine_key(device)
