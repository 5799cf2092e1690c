"""Exports of several machines, in threads: every value is that of one process, to the bit; and where machines share one."""

from __future__ import annotations

from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from fake_world import run_workers

from gcnrec.config.job import Model
from gcnrec.errors import PeerLostError, UsageError
from gcnrec.models import hops
from gcnrec.models.hops import Hop
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.models.mf import MatrixFactorisation
from gcnrec.models.weighted_hop import WeightedHop
from gcnrec.ops.weighted import union_weights
from gcnrec.storage.blocks import unreported
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import checkerboard, dense_hop
from gcnrec.training.workers import export
from gcnrec.training.workers.export import by_leader, by_machines, exporter_of, follow_export

GRAPH = checkerboard(24).graph
NODES = GRAPH.num_nodes
SAMPLED, FULL = Model(name="lightgcn", propagation="sampled", layers=2), Model(name="lightgcn", propagation="full", layers=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


@pytest.fixture
def blocks_of(monkeypatch):
    """Lets an export have blocks of so many columns."""
    return lambda columns: monkeypatch.setattr(hops, "block_columns", lambda *_: columns)


def step_of(hop, layers, width):
    table = DenseTable(torch.randn(NODES, width, generator=torch.Generator().manual_seed(width)), 0)
    return SimpleNamespace(table=SimpleNamespace(drained=lambda: table), encoder=SampledLightGcn(hop, layers, width))


def weighted():
    weights_E = np.linspace(0.1, 4.0, GRAPH.num_edges, dtype=np.float32)
    return WeightedHop(GRAPH, union_weights(GRAPH, weights_E))


def exported(machines, step, folder):
    """What the leader writes where workers of `machines` take part."""

    def work(world):
        numba.set_num_threads(1)
        if world.rank == 0:
            blocks = by_machines(world, sorted({*machines}), 1, step, folder, unreported)
            world.close()
            return blocks
        command = world.awaited()
        assert follow_export(world, command["rankers"], step.encoder) == {"do": "exported"}
        return world.awaited()

    blocks, *others = run_workers(len(machines), work, machines)
    assert others == [{"do": "end"}] * (len(machines) - 1)
    return blocks.joined()


@pytest.mark.parametrize("machines", [(0, 1), (0, 0, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize(("layers", "width", "columns"), [(2, 40, 16), (3, 37, 5), (1, 9, 4), (0, 12, 7)])
def test_values_are_those_of_one_process(machines, layers, width, columns, blocks_of, tmp_path):
    blocks_of(columns)
    for hop in (Hop(GRAPH), weighted()):
        step = step_of(hop, layers, width)
        alone_NF = by_leader(step, tmp_path, unreported).joined()
        assert exported(machines, step, tmp_path).numpy().tobytes() == alone_NF.numpy().tobytes()
    step = step_of(Hop(GRAPH), layers, width)
    expected = power = step.table.drained().columns(0, width).double()
    for _ in range(layers):
        power = dense_hop(GRAPH).double() @ power
        expected = expected + power
    assert torch.allclose(exported(machines, step, tmp_path).double(), expected / (layers + 1), atol=1e-6)


def test_machines_share_exports_that_read_far_more_than_travels(blocks_of, monkeypatch):
    def of(world, model=SAMPLED):
        return exporter_of(world, 3, model, GRAPH, 12)

    def by_two(machines=(0, 1), model=SAMPLED):
        return run_workers(2, lambda world: of(world, model), machines)[0]

    reads = GRAPH.num_edges * 2 / NODES
    blocks_of(6)
    monkeypatch.setattr(export, "LEAST_READS", reads)
    shared = by_two()
    assert shared.func is by_machines and shared.args[1:] == ((0, 1), 3)
    assert by_two((0, 0)) is by_leader and by_two(model=FULL) is by_leader
    monkeypatch.setattr(export, "LEAST_READS", reads + 0.01)
    assert by_two() is by_leader
    monkeypatch.setattr(export, "LEAST_READS", reads)
    blocks_of(12)
    assert by_two() is by_leader


def test_an_encoder_that_does_not_treat_columns_alike_is_refused(tmp_path):
    step = SimpleNamespace(table=step_of(Hop(GRAPH), 1, 8).table, encoder=MatrixFactorisation(8))
    with pytest.raises(UsageError, match="machines share exports of sampled LightGCN, got MatrixFactorisation"):
        run_workers(1, lambda world: by_machines(world, (0,), 1, step, tmp_path, unreported))


def test_a_worker_that_is_lost_while_it_propagates_ends_the_export(blocks_of, tmp_path):
    blocks_of(4)
    step = step_of(Hop(GRAPH), 1, 8)

    def work(world):
        if world.rank == 0:
            by_machines(world, (0, 1), 1, step, tmp_path, unreported)
        else:
            world.awaited(), world.awaited()  # the export, and its first block

    with pytest.raises(PeerLostError, match="worker 1 was lost") as caught:
        run_workers(2, work, (0, 1))
    assert caught.value.exit_code == 6
