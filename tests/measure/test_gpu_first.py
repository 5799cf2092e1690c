"""The first parts of jobs.measure.gpu on the CPU: what is right passes, what is wrong is found and named."""

from __future__ import annotations

import time

import pytest
import torch

from jobs.measure.gpu.bed import TINY, Bed
from jobs.measure.gpu.first import light, steps, versions
from jobs.measure.gpu.plain import PlainDevice


def bed_of(rows):
    bed = Bed(torch.device("cpu"), TINY, rows.append)
    bed.until = time.monotonic() + 60
    return bed


def test_first_light():
    rows = []
    light.run(bed_of(rows))
    assert [row["right"] for row in rows] == [True] * 5


class Forgetful(PlainDevice):
    """Nothing comes home."""

    def copy(self, queue, *spans):
        if queue is not self.writes:
            super().copy(queue, *spans)


def test_first_light_finds_updates_that_do_not_come_home(monkeypatch):
    rows = []
    bed = bed_of(rows)
    device = Forgetful()
    device.writes = type(device.writes)()  # a queue of its own
    monkeypatch.setattr(bed, "queues", lambda warn: device)
    with pytest.raises(RuntimeError, match="wrong: updates come back"):
        light.run(bed)
    assert [row["variant"] for row in rows if not row["right"]] == ["updates come back"]


def test_first_light_names_the_reason_for_staged_memory(monkeypatch):
    rows = []
    bed = bed_of(rows)
    monkeypatch.setattr(bed, "queues", lambda warn: warn("no memory may be locked") or PlainDevice())
    with pytest.raises(RuntimeError, match="no memory may be locked"):
        light.run(bed)
    assert rows[-1]["reasons"] == ["no memory may be locked"]


def test_versions_name_what_fails(monkeypatch):
    def breaks():
        raise ImportError("Numba needs NumPy 2.3 or less")

    rows = []
    monkeypatch.setattr(versions, "TRIALS", {"works": lambda: "1.0", "breaks": breaks})
    with pytest.raises(RuntimeError, match=r"cannot be used: breaks$"):
        versions.tell(rows.append)
    trials = {row["variant"]: row.get("value") or row["error"] for row in rows if "right" in row}
    assert trials == {"works": "1.0", "breaks": "ImportError: Numba needs NumPy 2.3 or less"}


def test_an_unsafe_threading_layer_is_refused(monkeypatch):
    import numba

    assert versions._threads_of_numba().split(",")[0] in ("omp", "tbb")
    monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    with pytest.raises(RuntimeError, match="must not be workqueue"):
        versions._threads_of_numba()


def test_pieces_of_a_step_are_clocked_and_put_back():
    class Table:
        def read(self):
            time.sleep(0.002)
            return "rows"

        def write(self):
            raise KeyError

    before = Table.read
    with steps.clocked(((Table, "read"), (Table, "write"))) as spent:
        assert Table().read() == "rows"
        with pytest.raises(KeyError):
            Table().write()
    assert spent["Table.read"] >= 0.002 > spent["Table.write"] > 0 and Table.read is before


@pytest.mark.parametrize(
    ("name", "group"),
    [("gcnrec_copy_spans_4", "transfers"), ("gcnrec_adam", "gcnrec's kernels"), ("Memcpy HtoD (Pinned)", "copies by engines"),
     ("void at::native::index_select", "torch's kernels")],
)  # fmt: skip
def test_kernels_by_whose_they_are(name, group):
    assert steps.group_of(name) == group
