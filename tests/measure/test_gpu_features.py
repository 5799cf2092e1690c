"""Steps of GraphSAGE in jobs.measure.gpu: every way of bringing features trains the same model, and its clock stops last."""

from __future__ import annotations

import time

import pytest
import torch

from gcnrec.bench.contenders.epoch_task import RATE, dense, task_of
from gcnrec.bench.graphs import synthetic
from gcnrec.sampling.minibatches import Waits
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.pipelined import PipelinedTable
from jobs.measure.gpu.bed import TINY, Bed
from jobs.measure.gpu.epochs import feature_tables, features, sage
from jobs.measure.gpu.epochs.curve import Compute
from jobs.measure.gpu.epochs.sage_step import features_behind, sage_step
from jobs.measure.gpu.plain import PlainDevice

USERS, ITEMS, COLUMNS = 60, 50, 9


@pytest.fixture
def bed():
    bed = Bed(torch.device("cpu"), TINY, lambda row: None)
    bed.until = time.monotonic() + 60
    return bed


@pytest.fixture
def drawn(bed):
    return list(sage.batches(bed, synthetic(USERS, ITEMS, 900), 8, 3))


def table_of(pitch):
    table = feature_tables.table_of(USERS + ITEMS, COLUMNS, pitch)
    values = torch.from_numpy(table.stored.values)
    values.copy_(torch.randn(values.shape, generator=torch.Generator().manual_seed(0)))
    return table, values.view(USERS + ITEMS, -1)[:, :COLUMNS]


@pytest.mark.parametrize("pitch", [4 * COLUMNS, 64])
def test_every_way_trains_the_same(bed, drawn, pitch):
    table, rows_NF = table_of(pitch)
    ways = features._ways(bed, PipelinedFeatures(table, PlainDevice()), rows_NF, drawn)
    losses = {}
    for name, way in ways.items():
        training = features.Training(bed, way, drawn, sage.Sage(COLUMNS), Compute(torch.ones(2, 2)), name in features.EARLY)
        for run in range(2):
            training(run)
        losses[name] = training.losses
    assert len(losses) == 5 and len({*map(tuple, losses.values())}) == 1
    assert len({*losses[features.RESIDENT]}) == 3  # each step of the first epoch has a loss of its own


def test_features_are_announced_one_step_before_and_the_clock_stops_after_all_work(bed, drawn, monkeypatch):
    log = []

    class Way:
        def prefetch(self, ticket, nodes_R, index_R):
            log.append(("announced", ticket))

        def read(self, ticket, nodes_R):
            log.append(("read", ticket))
            return torch.ones(len(nodes_R), COLUMNS)

    monkeypatch.setattr(bed, "finish", lambda: log.append(("finish", None)))
    first, second, third = (each.ticket for each in drawn)
    early = [
        ("announced", first),
        ("announced", second),
        ("read", first),
        ("announced", third),
        ("read", second),
        ("read", third),
    ]
    for announce, expected in ((True, early), (False, [("read", each) for each in (first, second, third)])):
        log.clear()
        features.Training(bed, Way(), drawn, sage.Sage(COLUMNS), Compute(torch.ones(2, 2)), announce)(0)
        assert log == [*expected, ("finish", None)]


def test_features_are_timed_alone_on_the_queue_of_reads(bed, drawn, monkeypatch):
    """The clock holds one announcement, and starts after a wait for the device."""
    log, device = [], PlainDevice()

    class Way:
        def prefetch(self, ticket, nodes_R, index_R):
            log.append("announced")

        def read(self, ticket, nodes_R):
            log.append("read")

    monkeypatch.setattr(bed, "finish", lambda: log.append("finish"))
    monkeypatch.setattr(bed, "instant", lambda queue: log.append("clock") or (queue, len(log)))
    monkeypatch.setattr(bed, "between", lambda first, last: float(last[1] - first[1]) if first[0] is device.reads else -1.0)
    assert features.read_seconds(bed, device, Way(), drawn) == 2.0
    assert log == ["finish", "clock", "announced", "clock", "read"] * 3 + ["finish"]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_step_of_graphsage_reads_features_wherever_they_are(bed, share):
    """The losses of the job's own order, rows and features in place; each side's features by the numbers of its nodes."""
    of, queues = task_of(synthetic(USERS, ITEMS, 900), 16, 300, 3), PlainDevice()
    torch.manual_seed(0)
    behind = features_behind(bed, queues, of, COLUMNS, share)
    step = sage_step(of, PipelinedTable(dense(of), queues), behind)
    losses = [loss.value for batch in step.batches(0, Waits()) for loss in step.train(batch, RATE)]
    plain = sage_step(of, dense(of), behind.host)
    assert losses == [plain(batch, RATE) for batch in plain.sampler.epoch(0)] and losses[0] > losses[2]
    assert step.features.widths == (COLUMNS, COLUMNS)
    assert [side.host.first_node for side in behind.sides] == [0, USERS]


def test_tables_that_have_no_time_are_named(bed, monkeypatch):
    rows = []
    bed.report, bed.until = rows.append, time.monotonic() - 1
    features.run(bed)
    pitches = {(row["columns"], row["pitch"]) for row in rows if row["skipped"]}
    assert pitches == {(602, 2432), (100, 512), (1024, 4096), (300, 1280), (602, 2408), (100, 400), (300, 1200)}
