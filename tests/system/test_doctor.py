"""The doctor on machines that are made up, healthy and broken."""

from __future__ import annotations

import json
import re
import resource
import tomllib
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from gcnrec.system import doctor, limits
from gcnrec.system.doctor import findings
from gcnrec.workers import probe

GPU = {"name": "Some GPU", "major": 9, "minor": 0, "pci_domain_id": 0, "pci_bus_id": 0xAF, "pci_device_id": 1}


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """One made-up device; what the kernel tells about its link is written below the returned folder."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(**GPU))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (3 << 30, 4 << 30))
    monkeypatch.setattr(doctor, "_PCI", tmp_path)
    monkeypatch.setattr(doctor, "_DRIVER", tmp_path / "version")
    folder = tmp_path / "0000:af:01.0"
    folder.mkdir()
    return folder


def test_this_machine_has_no_problem():
    facts = doctor.examine()
    sections = ["machine", "required", "optional", "extras", "cuda", "devices", "threads", "memory", "disk", "findings"]
    assert list(facts) == sections
    assert "problem" not in str(facts)
    assert [finding for finding in facts["findings"] if finding["exit_code"]] == []
    assert {"numba-cuda", "cupy-cuda13x"} <= facts["optional"].keys()
    assert facts["memory"]["left_for_tables_gib"] <= facts["memory"]["total_gib"]


def test_a_device_tells_its_link(gpu):
    (gpu / "max_link_speed").write_text("32.0 GT/s PCIe\n")
    (gpu / "max_link_width").write_text("16\n")
    (gpu.parent / "version").write_text("580.95.05\n")
    assert doctor.examine()["devices"] == [
        {"name": "Some GPU", "capability": "9.0", "memory_gib": 4.0, "free_gib": 3.0, "pcie_generation": 5, "pcie_lanes": 16}
    ]
    assert doctor.examine()["cuda"]["driver"] == "580.95.05"


def test_why_there_is_no_device(gpu, monkeypatch):
    assert doctor.examine()["cuda"]["no_device_because"] is None

    def refuse():
        raise RuntimeError("the driver is too old (found version 11040)\nPlease update")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", refuse)
    assert doctor.examine()["cuda"]["no_device_because"] == "the driver is too old (found version 11040)"
    assert doctor.examine()["devices"] == []


def test_a_link_that_cannot_be_read_is_unknown(gpu, monkeypatch):
    unknown = {"pcie_generation": None, "pcie_lanes": None}
    assert unknown.items() <= doctor.examine()["devices"][0].items()
    (gpu / "max_link_speed").write_text("Unknown\n")
    (gpu / "max_link_width").write_text("\n")
    assert unknown.items() <= doctor.examine()["devices"][0].items()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(name="old", major=7, minor=0))
    assert unknown.items() <= doctor.examine()["devices"][0].items()


def test_a_broken_part_is_a_finding_and_stops_no_other(gpu, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("CUDA driver is too old")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    monkeypatch.setattr(psutil, "virtual_memory", broken)
    facts = doctor.examine()
    assert facts["devices"] == facts["memory"] == {"problem": "RuntimeError: CUDA driver is too old"}
    assert "problem" not in str({name: facts[name] for name in ("optional", "threads", "disk", "cuda")})


@pytest.mark.parametrize("part", ["machine", "versions", "_cuda", "_devices", "_threads", "_memory", "_gib"])
def test_it_never_raises(monkeypatch, part):
    def broken(*arguments):
        raise OSError("gone")

    monkeypatch.setattr(doctor, part, broken)
    assert {"problem": "OSError: gone"} in doctor.examine().values()


@pytest.mark.parametrize(
    ("version_2", "version_1", "gib"),
    [("max", None, None), (str(3 << 30), None, 3.0), (None, "9223372036854771712", None), (None, str(5 << 30), 5.0)],
)
def test_limits_of_both_kinds_of_control_group(monkeypatch, tmp_path, version_2, version_1, gib):
    paths = (tmp_path / "two", tmp_path / "one")
    for path, text in zip(paths, (version_2, version_1), strict=True):
        if text is not None:
            path.write_text(f"{text}\n")
    monkeypatch.setattr(doctor, "_CGROUP_LIMITS", paths)
    assert doctor.examine()["memory"]["container_limit_gib"] == gib


@pytest.mark.parametrize(("limit", "gib"), [(resource.RLIM_INFINITY, None), (1 << 29, 0.5)])
def test_the_limit_on_locked_memory(monkeypatch, tmp_path, limit, gib):
    monkeypatch.setattr(limits, "_STATUS", tmp_path / "status")  # whatever this process may do
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert doctor.examine()["memory"]["lockable_gib"] == gib


def test_every_extra_of_the_package_is_explained():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = {name: {_name(each) for each in needs} for name, needs in project["optional-dependencies"].items() if name != "test"}
    assert extras.keys() == doctor.EXTRAS.keys()
    for name, needs in extras.items():
        assert needs <= set(doctor.EXTRAS[name][0])
    assert {_name(each) for each in project["dependencies"]} == set(doctor.REQUIRED)


def _name(requirement):
    return re.split(r"[<>=]", requirement)[0]


HEALTHY = {
    "required": {"torch": "2.13"},
    "optional": {"cupy-cuda13x": "14.2"},
    "cuda": {"driver": "580.95", "runtime": "13.0", "no_device_because": None},
    "devices": [{"name": "Some GPU"}],
    "threads": {"cores": 8, "container_cores": None},
    "memory": {"total_gib": 64.0, "available_gib": 32.0, "container_limit_gib": None, "lockable_gib": None},
    "disk": {"free_gib_here": 100.0},
}


def with_changes(changes):
    return {**HEALTHY, **{name: {**HEALTHY[name], **each} if isinstance(each, dict) else each for name, each in changes.items()}}


def test_nothing_is_found_on_a_healthy_machine():
    assert findings(HEALTHY) == []


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"required": {"torch": None}}, 4, "torch, which gcnrec needs"),
        ({"memory": {"problem": "OSError: gone"}}, 4, "memory cannot be examined: OSError: gone"),
        ({"cuda": {"no_device_because": "too old"}, "devices": []}, 4, "finds no GPU: too old"),
        ({"cuda": {"no_device_because": "cpu", "runtime": None}, "devices": []}, 0, "built for the CPU only"),
        ({"optional": {"cupy-cuda13x": None}}, 0, "CuPy is not"),
        ({"memory": {"lockable_gib": 0.06}}, 0, "may lock 0.06 GiB"),
        ({"memory": {"available_gib": 0.5}}, 4, "only 0.5 GiB of memory"),
        ({"memory": {"container_limit_gib": 16.0}}, 0, "may use 16.0 of the machine's 64.0 GiB"),
        ({"threads": {"container_cores": 1.5}}, 0, "set train.threads = 1"),
        ({"disk": {"free_gib_here": 0.1}}, 3, "on the disk"),
    ],
)
def test_findings(changes, code, words):
    (finding,) = findings(with_changes(changes))
    assert finding["exit_code"] == code and words in finding["text"]


@pytest.mark.parametrize(("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("nonsense", None), (None, None)])
def test_the_cores_of_a_container(monkeypatch, tmp_path, text, cores):
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(doctor, "_CGROUP_CORES", tmp_path / "cpu.max")
    assert doctor.examine()["threads"]["container_cores"] == cores


def test_the_exit_code_is_that_of_the_worst_finding(gcnrec, monkeypatch):
    monkeypatch.setattr(probe, "probe", lambda: {"gloo": True, "exchange_16_mb_gb_per_s": 1.5})
    code, out, _ = gcnrec("doctor")
    assert code == 0 and "exchange_16_mb_gb_per_s  1.5" in out
    amiss = [{"text": "a disk", "exit_code": 3}, {"text": "a device", "exit_code": 4}, {"text": "advice", "exit_code": 0}]
    monkeypatch.setattr(doctor, "findings", lambda facts: amiss)
    code, out, _ = gcnrec("doctor", "--json")
    assert code == 4 and json.loads(out)["findings"] == amiss
    code, out, _ = gcnrec("doctor")
    assert code == 4 and "a device" in out
