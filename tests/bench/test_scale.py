"""Bench `scale`: its lanes train what training trains, and the rows part agrees with NumPy; the peer itself is not needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from fake_world import run_workers

from gcnrec.bench import scale
from gcnrec.bench.catalogue import Workers, rows_of
from gcnrec.bench.contenders import scale_rows
from gcnrec.bench.contenders.scale_rows import RowsCost, RowsTask, of_torchrec, taken
from gcnrec.bench.contenders.scale_task import Cost, Lane, follow, led_cost
from gcnrec.bench.scale import lanes_of, require_equal, run
from gcnrec.errors import DeviceError, UsageError
from gcnrec.reports.text import bench_line
from gcnrec.workers.metered import Metered

SMALL = Lane(1, 2, 256, 2, 8, 1, None, (120, 90, 1500))


@pytest.fixture(autouse=True)
def threads_are_restored():
    before = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


def cost_by_threads(lane):
    """The cost of a lane whose workers are threads of this process."""

    def work(world):
        if world.rank:
            return follow(world)
        found = led_cost(lane, Metered(world))
        world.close()
        return found

    return run_workers(lane.workers, work)[0]


def test_a_lane_has_the_losses_of_one_worker():
    one, two = cost_by_threads(SMALL), cost_by_threads(replace(SMALL, workers=2))
    assert one.losses == two.losses and len(one.losses) == 20 + SMALL.steps  # the warm steps too
    assert all(np.isfinite(one.losses)) and one.losses[-1] != one.losses[0]
    assert (len(one.cpu_W), one.bytes_W) == (1, [0.0])
    assert len(two.cpu_W) == 2 and min(two.cpu_W) >= 0 and min(two.bytes_W) > 0
    plain = cost_by_threads(replace(SMALL, parts=1))  # the step without parts: other pairs, the same objective
    assert plain.losses[0] == pytest.approx(one.losses[0], rel=0.1)


def test_lanes():
    lanes = lanes_of((1, 2, 4), SMALL)
    strong = {name: (lane.workers, lane.parts, lane.batch_size) for name, lane in lanes.items() if "strong" in name}
    weak = {name: (lane.workers, lane.parts, lane.batch_size) for name, lane in lanes.items() if "weak" in name}
    assert list(strong.values()) == [(1, 4, 256), (2, 4, 256), (4, 4, 256)]
    assert list(weak.values()) == [(1, 1, 256), (2, 2, 512), (4, 4, 1024)]


@pytest.mark.parametrize("numbers", [(), (2, 1), (1, 1), (1, 3), (0, 1), (1, 128)])
def test_numbers_of_workers_that_no_parts_have_are_refused(numbers):
    with pytest.raises(UsageError, match="powers of two up to 64, ascending"):
        list(run(workers=numbers))


def test_unequal_losses_do_not_count():
    require_equal({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    with pytest.raises(RuntimeError, match="the losses of 'b' must equal those of 'a'"):
        require_equal({"a": [1.0, 2.0], "b": [1.0, np.nextafter(2.0, 3.0)]})


COSTS = [
    Cost(0.1, [0.04, 0.06], [1e6, 2e6], [1.0]),
    Cost(0.3, [0.08, 0.02], [1e6, 2e6], [1.0]),
    Cost(0.2, [0.05, 0.05], [1e6, 2e6], [1.0]),
]


def test_rows_of_the_bench_without_its_peer(monkeypatch):
    costs = iter(COSTS * 4)
    monkeypatch.setattr(scale, "cost_of", lambda lane: next(costs) if lane.workers == 2 else Cost(0.2, [0.1], [0.0], [1.0]))
    *rows, closing = run(size=(20, 20, 50), batch_size=100)
    assert [row["variant"] for row in rows] == ["gcnrec-strong-1", "gcnrec-strong-2", "gcnrec-weak-1", "gcnrec-weak-2"]
    assert [row["units"] for row in rows] == [100, 100, 100, 200]
    assert rows[0]["bytes_exchanged"] == 0 and rows[0]["cpu_seconds"] == 0.1
    assert rows[1]["cpu_seconds_a_worker"] == pytest.approx(0.06)  # of 0.06, 0.08, 0.05
    assert rows[1]["cpu_seconds"] == pytest.approx(0.1) and rows[1]["bytes_exchanged"] == 3e6
    assert closing["speedup"] is None and "--torchrec-python" in closing["left_out"] and closing["absent"] == []
    assert "60.0 CPU ms a worker" in bench_line(rows[1]) and "3.00 MB sent" in bench_line(rows[1])
    assert "TorchRec is left out" in bench_line(closing)


def test_the_command_leaves_the_peer_out_and_ends_well(gcnrec, monkeypatch):
    seen = []
    monkeypatch.setattr(scale, "cost_of", lambda lane: seen.append(lane) or Cost(0.2, [0.1] * lane.workers, [0.0], [1.0]))
    code, out, _ = gcnrec("bench", "scale", "--workers", "1,2,4")
    assert code == 0 and "TorchRec is left out" in out and {lane.workers for lane in seen} == {1, 2, 4}
    assert gcnrec("bench", "scale", "--workers", "two")[0] == gcnrec("bench", "propagate", "--workers", "1,2")[0] == 2


def test_workers_are_for_scale_alone():
    with pytest.raises(UsageError, match="bench gather runs in one process"):
        rows_of("gather", None, Workers((1, 2)))


def test_rows_are_those_of_row_wise_adagrad():
    task = RowsTask(workers=2, rows=40, asked=25, width=4, threads=1, steps=3)
    found = run_workers(2, lambda world: taken(task, Metered(world)))
    table_ND, sums_N = task.start_ND().astype(np.float64), np.zeros(task.rows)
    drawn = [task.drawn(rank) for rank in range(2)]
    for rows in zip(*drawn, strict=True):
        last = [table_ND[rows_R].copy() for rows_R in rows]
        grad_ND = np.zeros_like(table_ND)
        for rows_R in rows:
            grad_ND[rows_R] += table_ND[rows_R]  # the gradient of half the sum of squares, from each that asked
        asked = np.union1d(*rows)
        sums_N[asked] += (grad_ND[asked] ** 2).mean(1)
        table_ND[asked] -= task.rate * grad_ND[asked] / (np.sqrt(sums_N[asked])[:, None] + task.epsilon)
    for cost, expected in zip(found, last, strict=True):
        assert np.abs(cost.last_RD - expected).max() < 1e-5
        assert cost.cost.bytes_W[0] > 0


def test_a_peer_that_cannot_run_is_named(tmp_path):
    task = RowsTask(workers=2, rows=40, asked=25, width=4, threads=1, steps=1)
    with pytest.raises(DeviceError, match="cannot be run by /nowhere/python"):
        of_torchrec(task, Path("/nowhere/python"))
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torchrec'\" >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(DeviceError, match="No module named 'torchrec'"):
        of_torchrec(task, python)


def test_the_peer_is_compared_by_wall_and_cpu_seconds(monkeypatch):
    rows = np.ones((2, 4), np.float32)
    monkeypatch.setattr(scale_rows, "ours", lambda task: RowsCost(COSTS[0], rows))
    monkeypatch.setattr(scale_rows, "of_torchrec", lambda task, python: RowsCost(Cost(0.4, [0.12, 0.09], [], []), rows))
    task = RowsTask(workers=2, rows=40, asked=25, width=4, threads=1, steps=1)
    *_, closing = scale.of_rows(task, Path("python"), 2)
    assert closing["speedup"] == pytest.approx(4) and closing["cpu_speedup"] == pytest.approx(2)
    assert "by CPU seconds of a worker 2.00x" in bench_line(closing)
    monkeypatch.setattr(scale_rows, "of_torchrec", lambda task, python: RowsCost(COSTS[0], rows + 1e-3))
    with pytest.raises(RuntimeError, match=r"must agree within 1e-05, differ by 0\.001"):
        scale.of_rows(task, Path("python"), 1)
