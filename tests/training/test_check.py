"""What `check` predicts of memory: a table on disk may be larger than it."""

from __future__ import annotations

import pytest

from gcnrec.config import Job
from gcnrec.errors import DeviceError
from gcnrec.system.limits import Limits
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training import check as checked


@pytest.fixture
def predicted(tmp_path, monkeypatch):
    """Checks a job on a machine with so many bytes free."""
    dataset = write_dataset(checkerboard(), tmp_path / "data")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(available, **table):
        monkeypatch.setattr(checked, "read_limits", lambda: Limits(available, None))
        return checked.check(Job.parse({"model": {"width": 8, "start": "normal"}, "table": table}, [], "test"), dataset)

    return call


def test_a_table_in_memory_must_fit(predicted):
    with pytest.raises(DeviceError, match=r"need [\d,]+ bytes, 1,000 are free.*table\.placement = 'disk'"):
        predicted(1000)


def test_a_table_on_disk_need_not(predicted, tmp_path):
    host, disk = predicted(10**9), predicted(1000, placement="disk")
    exported = 4 * 8 * (host["users"] + host["items"])
    assert disk["table_bytes"] == host["table_bytes"] == 4 * (host["users"] + host["items"]) * (3 * 8 + 1)
    assert host["ram_bytes"] - disk["ram_bytes"] == host["table_bytes"] + exported
    assert disk["disk_bytes"] - host["disk_bytes"] == host["table_bytes"]
    assert not list((tmp_path / "here").iterdir())
