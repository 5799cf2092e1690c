"""What `check` predicts of memory: a table on disk may be larger than it."""

from __future__ import annotations

import pytest

from gcnrec.config import Job
from gcnrec.errors import DeviceError
from gcnrec.system.limits import Limits
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training import build
from gcnrec.training import check as checked


@pytest.fixture
def predicted(tmp_path, monkeypatch):
    """Checks a job on a machine with so many bytes free."""
    dataset = write_dataset(checkerboard(), tmp_path / "data")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(available, **table):
        monkeypatch.setattr(build, "read_limits", lambda: Limits(available, None))
        return checked.check(Job.parse({"model": {"width": 8, "start": "normal"}, "table": table}, [], "test"), dataset)

    return call


def test_an_epoch_of_one_step_is_timed_without_compilation(tmp_path, monkeypatch):
    """Steps of later epochs are timed: the first step of a process compiles kernels, here ten seconds long."""
    dataset, clock = write_dataset(checkerboard(), tmp_path / "data"), iter(range(10**6))
    steps, plain = [], checked.Step.__call__

    def slow_at_first(self, batch, rate):
        steps.append(batch.step)
        for _ in range(1000 if len(steps) == 1 else 0):
            next(clock)
        return plain(self, batch, rate)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checked.Step, "__call__", slow_at_first)
    monkeypatch.setattr(checked.time, "perf_counter", lambda: next(clock) / 100)
    job = Job.parse({"model": {"width": 8, "start": "normal"}, "train": {"batch_size": 100_000}}, [], "test")
    prediction = checked.check(job, dataset)
    assert prediction["steps_per_epoch"] == 1 and len(steps) == checked.WARM_STEPS + checked.TIMED_STEPS
    assert prediction["step_seconds"] == pytest.approx(0.01)


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
