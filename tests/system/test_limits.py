"""Limits on host memory, from control groups and capabilities written out by hand."""

from __future__ import annotations

import resource

import psutil
import pytest

from gcnrec.errors import DeviceError
from gcnrec.system import limits
from gcnrec.system.limits import Limits, read_limits, require_memory

UNLIMITED = 9223372036854771712  # how version 1 says so


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes control-group files below a root that stands for the real one."""
    monkeypatch.setattr(limits, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(limits, "_STATUS", tmp_path / "status")

    def write(path, **files):
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(f"{text}\n")

    return write


def test_version_2_counts_every_parent_and_what_can_be_given_back(groups):
    groups(".", membership="0::/job/step")
    groups("cgroup/job", memory__max=1000, memory__current=900, memory__stat="anon 5\ninactive_file 250")
    groups("cgroup/job/step", memory__max="max", memory__current=900)
    assert limits._group_rooms() == [350]
    groups("cgroup/job/step", memory__max=500, memory__current=900)
    assert limits._group_rooms() == [0, 350]
    assert read_limits().available == 0


def test_version_1_has_a_hierarchy_of_its_own(groups):
    groups(".", membership="9:name=systemd:/\n4:cpu,memory:/box\n0::/")
    groups("cgroup/memory/box", memory__limit_in_bytes=700, memory__usage_in_bytes=100, memory__stat="total_inactive_file 60")
    groups("cgroup/memory", memory__limit_in_bytes=UNLIMITED, memory__usage_in_bytes=0)
    assert limits._group_rooms() == [660, UNLIMITED]
    assert read_limits().available == 660 - 41, "a sixteenth stays"


def test_without_control_groups_free_memory_binds(groups, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 16000}))
    assert read_limits().available == 15000


@pytest.mark.parametrize(
    ("limit", "capabilities", "lockable"),
    [(65536, "0000000000000000", 65536), (65536, "0000000000004000", None), (65536, "000001ffffffffff", None),
     (65536, "00000000a80425fb", 65536), (resource.RLIM_INFINITY, "0000000000000000", None)],
)  # fmt: skip
def test_the_lock_limit_binds_who_may_not_lock(groups, monkeypatch, limit, capabilities, lockable):
    """The fourth is what a container is given by default."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    groups(".", status=f"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{capabilities}")
    assert read_limits().lockable == lockable


def test_sentences_name_both_numbers_and_the_setting():
    require_memory(5, Limits(5, None))
    with pytest.raises(DeviceError, match=r"2,000 bytes .* and 1,999 are available .* table.budget .* table.placement"):
        require_memory(2000, Limits(1999, None))
