"""The training steps of jobs.measure.gpu on the CPU: peers train what we train, and clocks start and stop where they should."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from gcnrec.bench.contenders.epoch_task import RATE, dense, step_of, task_of
from gcnrec.bench.graphs import synthetic
from gcnrec.graph import Csr
from gcnrec.tables.pipelined import PipelinedTable
from jobs.measure.gpu.bed import TINY, Bed
from jobs.measure.gpu.epochs import curve, sage, transfers
from jobs.measure.gpu.epochs.epoch import Announced, Drawn, drawn_for
from jobs.measure.gpu.epochs.feature_ways import LoaderGather, OnDevice, SerialGather
from jobs.measure.gpu.epochs.products import Hop
from jobs.measure.gpu.epochs.resident import ResidentLightGcn, ResidentRows
from jobs.measure.gpu.plain import PlainDevice

USERS, ITEMS, EDGES, WIDTH = 60, 50, 900, 16


@pytest.fixture
def bed():
    bed = Bed(torch.device("cpu"), TINY, lambda row: None)
    bed.until = time.monotonic() + 60
    return bed


@pytest.fixture(scope="module")
def task():
    return task_of(synthetic(USERS, ITEMS, EDGES), WIDTH, 100, 3)


def draws(seed=0):
    return np.random.default_rng(seed)


def test_products_bring_compute_to_every_ratio():
    """Transfers of 4 ms over 1 ms of compute: a fourth of it needs 16 ms, so 15 ms of products of 0.1 ms."""
    assert transfers.products_for(4e-3, 1e-3, 1e-4, (0.25, 1.0, 4.0)) == [0, 30, 150]
    assert transfers.products_for(4e-3, 5e-3, 1e-4, (1.0, 2.0, 4.0)) == [0]  # a step that is longer without any
    assert transfers.products_for(4e-3, 1e-3, 1e-12, (1.0,)) == [transfers.MOST_PRODUCTS]


def test_both_directions_are_under_way_at_once():
    assert transfers.Transfers(3.0, 2.0, 10.0).seconds == transfers.Transfers(1.0, 3.0, 10.0).seconds == 3.0


def test_transfers_are_timed_on_their_queues_with_nothing_else_under_way(bed, task, monkeypatch):
    """The clock of a queue starts after a wait for the device and holds one batch's announcement, or its way back."""
    log, device = [], PlainDevice()
    device.reads, device.writes = (type(device.reads)() for _ in range(2))
    names = {id(device.reads): "reads", id(device.writes): "writes"}
    monkeypatch.setattr(bed, "finish", lambda: log.append("finish"))
    monkeypatch.setattr(bed, "instant", lambda queue: log.append(names[id(queue)]) or len(log))
    monkeypatch.setattr(bed, "between", lambda first, last: float(last - first))
    table = PipelinedTable(dense(task), device)
    for name in ("prefetch", "write"):
        method = getattr(table, name)
        monkeypatch.setattr(table, name, lambda *given, name=name, method=method: (log.append(name), method(*given))[1])
    sets = [np.arange(5, dtype=np.int64), np.arange(3, 8)]
    moved = transfers.of_table(bed, device, table, sets)
    of_a_batch = ["finish", "reads", "prefetch", "reads", "finish", "writes", "write", "writes"]
    assert log == [*of_a_batch, *of_a_batch, "finish"]
    assert moved == transfers.Transfers(2.0, 2.0, 5 * 4 * 3 * WIDTH)


def walk_of(bed, task, sets, early=True):
    matrix = torch.ones(2, 2)
    return curve.Walk(bed, PipelinedTable(dense(task), PlainDevice()), sets, curve.Compute(matrix), early)


def test_the_clock_of_a_walk_stops_after_its_last_rows_are_home(bed, task, monkeypatch):
    log = []
    walk = walk_of(bed, task, [np.arange(4), np.arange(2, 6)])
    write = walk.table.write
    monkeypatch.setattr(walk.table, "write", lambda rows: (log.append("write"), write(rows)))
    monkeypatch.setattr(bed, "finish", lambda: log.append("finish"))
    walk(1)
    assert log == ["write", "write", "finish"]
    log.clear()
    rows = torch.arange(4)
    curve.ResidentWalk(bed, ResidentRows(task.start_ND, bed.device), [rows], walk.compute)(1)
    assert log == ["finish"]


def test_the_resident_peer_updates_rows_as_we_do(bed, task):
    """Every row once: torch's SparseAdam and ours then have the same formula, but for epsilon, which no value here is near."""
    start_ND = task.start_ND.sign() * (task.start_ND.abs() + 0.1)
    task = replace(task, start_ND=start_ND)
    order = draws().permutation(USERS + ITEMS)[:100]
    sets = [np.sort(part) for part in np.split(order, 4)]
    walk = walk_of(bed, task, sets)
    peer = ResidentRows(task.start_ND, bed.device)
    walk(1)
    curve.ResidentWalk(bed, peer, [torch.from_numpy(rows) for rows in sets], walk.compute)(1)
    ours = walk.table.drained().tensors()["weights"]
    assert not torch.equal(ours[order], task.start_ND[order])
    assert torch.allclose(peer.rows_ND.detach(), ours, rtol=1e-5, atol=1e-6)


def test_compute_is_as_many_products_as_were_asked_for(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "mm", lambda left, right, out: calls.append(out))
    curve.Compute(torch.ones(2, 2), 3)()
    assert len(calls) == 3


def test_seconds_of_a_step_and_of_a_product(bed):
    """Four seconds for every step, and half a second for each product of it."""
    compute = curve.Compute(torch.ones(2, 2))
    bed.clock = lambda work: (0.0, curve.STEPS * (4.0 + 0.5 * compute.products))
    assert curve.compute_alone(bed, lambda run: None, compute) == (4.0, 0.5)


def test_every_ratio_occurs(bed, task, monkeypatch):
    """On a machine whose transfers take 4 ms a step, and whose steps take 0.5 ms and 20 us a product."""
    rows, matrices = [], []

    class Compute(curve.Compute):
        def __init__(self, matrix):
            super().__init__(matrix)
            matrices.append(self)

    monkeypatch.setattr(curve, "Compute", Compute)
    monkeypatch.setattr(curve, "of_table", lambda *given: transfers.Transfers(4e-3, 3e-3, 1e8))
    for way in (curve.Walk, curve.ResidentWalk):
        monkeypatch.setattr(way, "__call__", lambda self, run: None)
    monkeypatch.setattr(bed, "clock", lambda work: (curve.STEPS * (5e-4 + 2e-5 * matrices[0].products),) * 2)
    bed.report = rows.append
    curve._curve(bed, task, PlainDevice())
    last = [row for row in rows if row["variant"] == "torch-device" and row["runs"] == 3]
    assert [row["ratio"] for row in last] == pytest.approx(sorted(transfers.RATIOS, reverse=True), rel=0.02)
    assert {row["variant"] for row in rows} == {"torch-device", *curve.HOST_WAYS} and rows[0]["read_seconds"] == 4e-3


def test_the_resident_lightgcn_trains_what_we_train(bed, task):
    """The same batches: the loss at the start, and after one update of rows. Later ones differ, since ours age moments."""
    step = step_of(task, dense(task))
    batches = list(step.sampler.epoch(0))[:2]
    expected = [step(batch, RATE) for batch in batches]
    peer = ResidentLightGcn(bed, task)
    found = peer.train(peer.placed(batch) for batch in batches)
    assert np.allclose(found, expected, rtol=1e-5) and expected[0] != expected[1]


def test_drawn_batches_train_the_same_however_they_come_and_are_prepared_once(bed, task, monkeypatch):
    from gcnrec.bench.contenders.epoch_task import SERIAL, Ours
    from gcnrec.steps.step import Step

    prepared = []
    prepare = Step.prepare
    monkeypatch.setattr(Step, "prepare", lambda step, batch: prepared.append(batch) or prepare(step, batch))
    batches = list(step_of(task, dense(task)).sampler.epoch(0))
    losses = {}
    for name in (SERIAL, "gcnrec-host-overlap"):
        prepared.clear()
        contender = Ours(task, PipelinedTable(dense(task), PlainDevice()), drawn_for(name)(batches))
        losses[name] = [contender().losses for _ in range(3)]
        assert prepared == batches
    assert losses[SERIAL] == losses["gcnrec-host-overlap"]
    assert losses[SERIAL][0] == Ours(task, dense(task))().losses and losses[SERIAL][0] != losses[SERIAL][1]
    assert drawn_for(SERIAL) is Drawn and issubclass(Announced, Drawn)


def test_batches_drawn_ahead_are_the_batches_of_the_sampler(bed, task):
    peer, sampler = ResidentLightGcn(bed, task), step_of(task, dense(task)).sampler
    found = [placed.index_R.tolist() for placed in peer.drawn_ahead(sampler, 0)]
    assert found == [batch.rows_R.tolist() for batch in sampler.epoch(0)] and len(found) == 3


def test_a_hop_and_its_gradient():
    """Against dense matrices; an edge that is drawn twice counts twice."""
    csr = Csr(np.array([0, 3, 3, 4]), np.array([1, 1, 3, 0], np.int32), 4)
    dense_TS = np.zeros((3, 4))
    np.add.at(dense_TS, (csr.row_numbers(), csr.indices), 1.0)
    scale_T, scale_S = draws().random(3).astype(np.float32), draws(1).random(4).astype(np.float32)
    matrix = torch.from_numpy(scale_T[:, None] * dense_TS * scale_S)
    source_SD, grad_TD = torch.randn(4, 5, requires_grad=True), torch.randn(3, 5)
    found_TD = Hop(csr, scale_T, scale_S, torch.from_numpy)(source_SD)
    found_TD.backward(grad_TD)
    assert torch.allclose(found_TD.double(), matrix @ source_SD.double(), atol=1e-6)
    assert torch.allclose(source_SD.grad.double(), matrix.T @ grad_TD.double(), atol=1e-6)


def test_sage_pools_means_of_drawn_neighbours(bed, task):
    """Against loops over the edges of every hop."""
    (drawn,) = sage.batches(bed, task.graph, 8, 1)
    model, features_RF = sage.Sage(7), torch.randn(len(drawn.index_R), 7)
    current = (features_RF @ model.projection.weight.T).detach()
    for own, pooled, hop in zip(model.own, model.pooled, reversed(drawn.hops), strict=True):
        means_TS = hop.mean._matrix.to_dense()
        assert torch.allclose(means_TS.sum(1), torch.ones(len(means_TS)))  # every node here has neighbours
        own_TD = current[hop.own_T] @ own.weight.T + own.bias
        current = torch.relu(own_TD + (means_TS @ current) @ pooled.weight.T)
    rows_VD = current / current.norm(dim=1, keepdim=True).clamp_min(1e-12)
    scores_BB = rows_VD[drawn.users_B] @ rows_VD[drawn.items_B].T / sage.TEMPERATURE
    expected = -torch.log_softmax(scores_BB, 1).diagonal().mean()
    assert torch.allclose(model(features_RF, drawn), expected, rtol=1e-4)


def test_a_batch_of_pairs_is_what_the_graph_has(bed, task):
    """Pairs are edges, users and items by their places among the nodes of the nearest hop."""
    graph = task.graph
    edges = set(zip(graph.user_items.row_numbers().tolist(), graph.user_items.indices.tolist(), strict=True))
    (drawn,) = sage.batches(bed, graph, 8, 1)
    nodes_V = drawn.index_R.numpy()
    for hop in reversed(drawn.hops):
        nodes_V = nodes_V[hop.own_T.numpy()]
    pairs = {(int(nodes_V[user]), int(nodes_V[item]) - USERS) for user, item in zip(drawn.users_B, drawn.items_B, strict=True)}
    assert len(pairs) == 8 and pairs <= edges


@pytest.mark.parametrize("way", [OnDevice, SerialGather, LoaderGather])
def test_ways_bring_the_rows_that_were_asked_for(bed, task, way):
    """Rows one after the other and with gaps, announced one step before as training does; buffers are used again."""
    drawn = list(sage.batches(bed, task.graph, 8, 4))
    rows_NF = torch.randn(USERS + ITEMS, 9)[:, :7]
    given = {each.ticket: each.index_R for each in drawn} if way is OnDevice else max(len(each.index_R) for each in drawn)
    features = way(bed, rows_NF, given)
    features.prefetch(drawn[0].ticket, drawn[0].ticket.rows_R, drawn[0].index_R)
    for each, later in zip(drawn, [*drawn[1:], None], strict=True):
        if later is not None:
            features.prefetch(later.ticket, later.ticket.rows_R, later.index_R)
        found_RF = features.read(each.ticket, each.ticket.rows_R)
        assert torch.equal(found_RF, rows_NF[each.index_R])


def test_a_loader_fills_a_buffer_after_its_last_upload(bed, task, monkeypatch):
    """Marks are numbered as they are made: two at the start, then one behind each batch's upload."""
    from jobs.measure.gpu.epochs import feature_ways

    log, marks = [], iter(range(10))
    gathered = feature_ways._gathered
    monkeypatch.setattr(bed, "mark", lambda: partial(log.append, next(marks)))
    monkeypatch.setattr(feature_ways, "_gathered", lambda *given: (log.append("gathered"), gathered(*given))[1])
    drawn = list(sage.batches(bed, task.graph, 8, 4))
    features = LoaderGather(bed, torch.randn(USERS + ITEMS, 7), USERS + ITEMS)
    features.prefetch(drawn[0].ticket, drawn[0].ticket.rows_R, drawn[0].index_R)
    for each, later in zip(drawn, [*drawn[1:], None], strict=True):
        if later is not None:
            features.prefetch(later.ticket, later.ticket.rows_R, later.index_R)
        features.read(each.ticket, each.ticket.rows_R)
    assert log == [1, "gathered", 0, "gathered", 2, "gathered", 3, "gathered"]


def test_a_serial_gather_begins_when_the_step_before_is_over(bed, task, monkeypatch):
    from jobs.measure.gpu.epochs import feature_ways

    log = []
    monkeypatch.setattr(bed, "mark", lambda: lambda: log.append("the device is waited for"))
    monkeypatch.setattr(feature_ways, "_gathered", lambda *given: log.append("gathered") or torch.zeros(1))
    (drawn,) = sage.batches(bed, task.graph, 8, 1)
    SerialGather(bed, torch.randn(USERS + ITEMS, 7), USERS + ITEMS).read(drawn.ticket, drawn.ticket.rows_R)
    assert log == ["the device is waited for", "gathered"]


def test_losses_that_differ_end_the_part():
    from jobs.measure.gpu.epochs.epoch import STALE, require_alike

    require_alike({"ours": [1.0, 2.0], "theirs": [1.0005, 2.0], STALE: [1.0, 9.0]}, 1e-3)
    with pytest.raises(RuntimeError, match="theirs must have the losses"):
        require_alike({"ours": [1.0, 2.0], "theirs": [1.0, 2.1]}, 1e-3)
