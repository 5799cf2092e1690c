"""A window onto a table on disk: runs behind it are serial runs, and places get other rows only when that cannot be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from built import start_table, step_of

from gcnrec.config import Job
from gcnrec.errors import DeviceError
from gcnrec.tables.dense import DenseTable, in_ram
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.window import Window
from gcnrec.testing import checkerboard

PLACES = 21
"""Of 48 rows; three batches of up to 6 rows are on their way."""


def job_of(rule, budget, dtype):
    return Job.model_validate(
        {
            "model": {"propagation": "none", "width": 16, "start": "normal"},
            "table": {"budget": budget, "dtype": dtype},
            "sparsity": {"policy": "static"} if budget < 1 else {},
            "optimizer": {"rule": rule, "learning_rate": 0.05},
            "train": {"batch_size": 3},
        }
    )


def trained(job, device, hot=None, ahead=True, steps=18):
    """Losses, and the table's tensors; drained on the way, and restored to what it was."""
    graph = checkerboard().graph
    table = host = start_table(job, graph)
    if device is not None:
        table = PipelinedTable(host, device, hot, Window(host, device, PLACES, in_ram))
    step = step_of(job, graph, table=table)
    count = step.sampler.steps_per_epoch
    batches = [step.sampler.batch(index // count, index % count) for index in range(steps)]
    losses, ticket = [], batches[0].ticket
    for batch, later in zip(batches, [*batches[1:], None], strict=True):
        current = replace(batch, ticket=ticket)
        if later:
            ticket = table.prefetch(later.rows_R) if ahead else later.ticket
        losses.append(step(current, 0.05))
        if batch.step in (7, 12):
            tensors = table.drained().tensors()
            if batch.step == 12:
                host.restore({name: tensor.clone() for name, tensor in tensors.items()})
    return losses, table.drained().tensors()


CASES = [("adam", 1.0, "float32"), ("adagrad_row", 0.5, "bfloat16"), ("sgd", 1.0, "float32")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_behind_a_window_is_the_same_bit_for_bit(case, fake_device):
    job = job_of(*case)
    losses, tensors = trained(job, None)
    assert not all(torch.equal(tensors[name], start) for name, start in start_table(job, checkerboard().graph).tensors().items())
    for seed, hot in enumerate([None, Prefixes(24, 5, 7), None, Prefixes(24, 24, 24)]):
        device = fake_device.LazyDevice(0) if seed < 1 else fake_device.FakeDevice(seed)
        again, others = trained(job, device, hot, ahead=seed != 2)
        assert again == losses, f"seed {seed}"
        assert all(torch.equal(tensors[name], others[name]) for name in tensors), f"seed {seed}"


def test_a_place_that_is_used_again_too_early_is_seen(fake_device, monkeypatch):
    """Without the wait for the last batch there, some order of transfers must go wrong."""

    class Passed:
        def finish(self):
            """At once."""

    right = Window.leave
    monkeypatch.setattr(Window, "leave", lambda self, stay, over, changed: right(self, stay, Passed(), changed))
    job = job_of("adam", 1.0, "float32")
    losses, _ = trained(job, None)
    assert any(trained(job, fake_device.LazyDevice(seed))[0] != losses for seed in range(3))


def window_of(device, rows=30, places=8):
    values_ND = torch.arange(float(rows * 3)).view(rows, 3)
    table = DenseTable(values_ND, 2)
    return table, Window(table, device, places, in_ram)


def contents(window, stay, width=3):
    """The weights of a stay's rows, as a device finds them."""
    plane = window._planes[0].view(-1, window._pitches[0])
    return plane[stay.index_R, :width]


def test_rows_stay_as_long_as_there_is_room(fake_device):
    """A row that is used again is not brought again, and the place unused for longest gets the next one."""
    device = fake_device.FakeDevice(0)
    table, window = window_of(device)
    mark = device.compute.mark()
    for rows in ([0, 1, 2], [3, 4], [0, 5, 6, 7]):
        stay = window.admit(np.array(rows))
        assert torch.equal(contents(window, stay), table.columns(0, 3)[rows])
        window.leave(stay, mark, changed=False)
    table.columns(0, 3)[:] = -1.0  # what comes now is seen
    again = window.admit(np.array([0, 3, 4, 5]))
    assert torch.equal(contents(window, again)[:, 0], torch.tensor([0.0, 9.0, 12.0, 15.0]))
    fresh = window.admit(np.array([9]))
    assert contents(window, fresh).tolist() == [[-1.0] * 3]
    assert set(fresh.places_R.tolist()) <= {1, 2}  # of rows 1 and 2, the only ones that no later batch used


def test_only_changed_rows_go_home(fake_device):
    device = fake_device.FakeDevice(0)
    table, window = window_of(device)
    stays = [window.admit(np.array(rows)) for rows in ([0, 1], [2, 3])]
    for stay, changed in zip(stays, (True, False), strict=True):
        window._planes[0].view(-1, window._pitches[0])[stay.index_R, :3] = -1.0
        window.leave(stay, device.compute.mark(), changed)
    window.settle()
    assert table.columns(0, 3)[:4, 0].tolist() == [-1.0, -1.0, 6.0, 9.0]


def test_batches_that_do_not_fit_are_refused(fake_device):
    _, window = window_of(fake_device.FakeDevice(0))
    window.admit(np.arange(5))
    with pytest.raises(DeviceError, match=r"more than the 8 places .* lower train\.batch_size"):
        window.admit(np.arange(5, 10))
