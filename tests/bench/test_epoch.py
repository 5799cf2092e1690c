"""The epoch bench on a small graph: every contender trains the same model, and a wrong one does not count."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gcnrec.bench import epoch as bench
from gcnrec.bench.contenders import epoch_task
from gcnrec.bench.contenders.epoch_task import (
    FANOUTS,
    L2,
    TEMPERATURE,
    Ours,
    Stretch,
    dense,
    difference,
    serially,
    slots,
    softmax,
    step_of,
    task_of,
)
from gcnrec.bench.contenders.gathered import Pageable, Pinned, Prefetched
from gcnrec.bench.contenders.peer_loss import Labels, softmax_loss
from gcnrec.bench.graphs import synthetic
from gcnrec.graph import BipartiteGraph
from gcnrec.models.hops import Hop
from gcnrec.models.lightgcn import LightGcn
from gcnrec.rows import Ticket
from gcnrec.sampling.minibatches import IN_TRAINING, beside_a_gpu
from gcnrec.steps.guards import Immediate

SIZE = (60, 50, 900)
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("quick_bench")


def task(steps=8, batch_size=100):
    return task_of(synthetic(*SIZE), 16, batch_size, steps)


@pytest.mark.parametrize(("steps", "positives"), [(3, 300), (8, 800), (20, 900)])
def test_a_stretch_has_the_steps_that_were_asked_for(steps, positives):
    of = task(steps)
    assert of.positives == positives
    assert len(Ours(of, dense(of))().losses) == min(steps, 9)


def test_announced_or_not_ours_trains_the_same():
    of = task(3)
    ahead, serial = Ours(of, dense(of)), Ours(of, dense(of), serially)
    for _ in range(2):
        assert ahead() == serial()


def test_steps_on_a_gpu_wait_no_more_than_in_training(monkeypatch):
    """There the check is on the device, and batches are drawn on idle cores; on the CPU neither."""
    checks = []
    monkeypatch.setattr(epoch_task, "ops_for", lambda device: f"kernels of {device}")
    monkeypatch.setattr(epoch_task, "Deferred", lambda *given: checks.append(given) or "deferred")
    of, gpu = task(3), torch.device("cuda", 0)
    step = step_of(of, SimpleNamespace(device=gpu))
    assert (step.check, step.drawing) == ("deferred", beside_a_gpu()) and checks == [("kernels of cuda:0", gpu, None)]
    step = step_of(of, dense(of))
    assert isinstance(step.check, Immediate) and step.drawing == IN_TRAINING


@pytest.mark.parametrize("peer", [Pageable, Pinned, Prefetched])
def test_tables_gathered_by_the_cpu(peer):
    """Rows that come one step old train a little otherwise: only the first step is the same."""
    of = task(3)
    host, kept = dense(of), dense(of)
    moved, expected = Ours(of, peer(host, CPU))(), Ours(of, kept)()
    assert moved.losses[0] == expected.losses[0]
    if peer is not Prefetched:
        assert moved == expected and torch.equal(host.tensors()["weights"], kept.tensors()["weights"])


@pytest.mark.parametrize("name", ["dgl-neighborsampler", "torch"])
def test_a_peer_embeds_as_we_do_where_nothing_is_left_out(name):
    """Degrees of at most ten: every neighbour is drawn, so that a peer's embeddings are those of the full propagation."""
    if name.startswith("dgl"):
        pytest.importorskip("dgl")
    users, steps = np.repeat(np.arange(60, dtype=np.int32), 4), np.tile(np.arange(4, dtype=np.int32), 60)
    graph = BipartiteGraph.from_edges(users, (users + steps**2) % 50, 63, 55)  # and nodes without edges
    assert max(graph.user_items.degrees.max(), graph.item_users.degrees.max()) <= FANOUTS[0]
    of = task_of(graph, 16, 100, 1)
    peer = bench.on_host(of, 1)[name]()
    nodes_V = np.sort(np.random.default_rng(0).choice(graph.num_nodes, 30, replace=False))
    drawn = peer._draw(torch.from_numpy(nodes_V))
    full_ND = torch.empty(graph.num_nodes, of.width)
    LightGcn(Hop(graph), len(FANOUTS), of.width, False).export(dense(of), full_ND)
    torch.testing.assert_close(drawn.final(of.start_ND[drawn.rows_R]), full_ND[nodes_V], rtol=1e-4, atol=1e-5)


def test_the_peers_loss_is_ours():
    of = task()
    step = step_of(of, dense(of))
    batch = step.sampler.batch(0, 0)
    rows_VD = torch.randn(len(batch.nodes_V), 16, generator=torch.Generator().manual_seed(0))
    labels = Labels.of(batch.nodes_V, batch.num_users, batch.users_B, batch.positives_B)
    found = softmax_loss(labels, rows_VD, torch.zeros_like(rows_VD), TEMPERATURE, L2)
    given = step.upload(step.prepare(batch)).objective
    torch.testing.assert_close(found, softmax(of.graph)(rows_VD, torch.zeros_like(rows_VD), given))


def test_slots_hold_a_quarter_of_the_start():
    of = task()
    table = slots(of)
    rows_ND = table.decode(table.read(Ticket(np.arange(table.num_rows)), with_state=False))
    stored = rows_ND != 0
    assert (stored.sum(1) == 4).all() and torch.equal(rows_ND[stored], of.start_ND[stored])


def test_difference_by_hand():
    expected = Stretch([4.0, 3.0, 2.0, 2.0])
    assert difference(expected, Stretch([4.5, 9.0, 9.0, 1.5])) == 0.25
    assert difference(expected, Stretch([4.0, 4.0, 4.0, 4.0])) == 1.0
    assert difference(expected, Stretch([4.1, 9.0, 9.0, 3.5], whole=False)) == pytest.approx(0.05)
    assert difference(expected, Stretch([4.0, 9.0, 9.0, 3.9], whole=False)) == np.inf
    assert difference(Stretch([4.0, 4.0]), expected) == np.inf


def test_rows(monkeypatch):
    monkeypatch.setattr(bench, "device_or_none", lambda: None)
    monkeypatch.setattr(bench, "TOLERANCE", 5.0)  # eight steps are mostly noise
    rows = list(bench.run(width=16, batch_size=500, steps=8, threads=1, runs=1, size=(300, 200, 4000)))
    assert json.loads(json.dumps(rows)) == rows
    timed = [row["variant"] for row in rows if "variant" in row]
    assert timed[:3] == ["gcnrec", "gcnrec-serial", "gcnrec-slots"] and rows[0]["units"] == 4000
    assert rows[-1]["summary"] and rows[-1]["ours"] in ("gcnrec", "gcnrec-serial")


def test_rows_of_a_device(fake_device):
    """The same functions as on a GPU, on the only device that is always there and queues that lag."""
    of = task(2)
    stretches = {name: build()() for name, build in bench.on_device(of, CPU, fake_device.LazyDevice(0)).items()}
    expected = Ours(of, dense(of))()
    for name, stretch in stretches.items():
        assert name == "cpu-gather-prefetch" or stretch == expected, name
