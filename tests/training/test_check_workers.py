"""What `check` predicts of several workers, against the bytes that workers send, and refused as training refuses it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_world import run_workers

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.sampling.minibatches import Waits
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.build import build_step, first_table, parted, planned, shards_of, shared_step
from gcnrec.training.check import check
from gcnrec.training.train import train, train_data
from gcnrec.training.workers.share import Echo, predicted
from gcnrec.workers.metered import Metered

SAMPLED = {"model": {"propagation": "sampled", "width": 8, "layers": 2, "start": "normal"}, "optimizer": {"rule": "adam"}}
FULL = {"model": {"propagation": "full", "width": 32, "layers": 2, "start": "normal"}, "optimizer": {"rule": "adam"}}
SAGE = {"model": {"name": "graphsage", "width": 8, "layers": 2}, "sampler": {"fanouts": [2, 2]}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(), tmp_path_factory.mktemp("check") / "data")


def job_of(sections, **train):
    return Job.parse({**sections, "train": {"batch_size": 10**6, "device": "cpu", **train}}, [], "test")


def a_step(job, dataset, world, parts):
    """What worker `world.rank` predicts of its share, and the bytes that it sends in the only step of an epoch."""
    plan, data = planned(job, dataset), train_data(dataset)
    table = ExchangedTable(world, shards_of(plan), None if world.rank else first_table(plan, dataset.graph))
    step = parted(build_step(job, plan, data, table), table, world, parts)
    step.deal()
    dealt = table.local
    before = world.bytes
    (batch,) = step.announced(0, Waits(), 0)
    step.trained(batch, 0.01)
    owned = dealt.value_bytes + dealt.index_bytes + dealt.state_bytes
    return predicted(step, plan), world.bytes - before, owned


@pytest.mark.parametrize(("sections", "negatives"), [(SAMPLED, "in_batch"), (SAMPLED, "uniform"), (SAGE, "in_batch")])
@pytest.mark.parametrize(("workers", "parts"), [(1, 2), (2, 2), (2, 4), (4, 4)])
def test_predicted_bytes_are_sent(dataset, sections, negatives, workers, parts):
    """Workers ask each other unevenly, so that sums over all of them are equal: a byte sent by one comes to another."""
    job = job_of({**sections, "sampler": {**sections.get("sampler", {}), "negatives": negatives}})
    found = run_workers(workers, lambda world: a_step(job, dataset, Metered(world), parts))
    own = parts // workers
    counted = 8 * (own + 1 + own + 1) * (workers - 1)  # how many rows each part asks for, and all; losses of parts and a sum
    sent = sum(each - counted for _, each, _ in found)
    said = [share["network_bytes_per_step"] for share, _, _ in found]
    assert abs(sum(said) - sent) <= workers  # each share of the pool is rounded down
    assert all(share["workers"] == workers and share["parts"] == parts for share, _, _ in found)
    assert (sent > 0) == (workers > 1)
    assert [share["bytes_per_worker"] for share, _, _ in found] == [max(owned for *_, owned in found)] * workers


@pytest.mark.parametrize(("dtype", "record"), [("float32", 24), ("bfloat16", 16)])
def test_of_sparse_rows_what_they_store_is_predicted(dataset, dtype, record):
    """Each row stores 4 of 16 columns: of a row an id, a count and a record travel, and a gradient of 4 values."""
    sections = {
        "model": {"propagation": "sampled", "width": 16, "layers": 2, "start": "normal"}, "optimizer": {"rule": "adam"},
        "table": {"budget": 0.25, "dtype": dtype}, "sparsity": {"policy": "static"}, "sampler": {"negatives": "uniform"},
    }  # fmt: skip
    found = run_workers(2, lambda world: a_step(job_of(sections), dataset, Metered(world), 2))
    row, counted = 4 + 1 + record + 4 * 4, 8 * (1 + 1 + 1 + 1)
    sent = [each - counted for _, each, _ in found]
    said = [share["network_bytes_per_step"] for share, _, _ in found]
    assert sum(said) == sum(sent) > 0 and all(each % row == 0 for each in said)


def test_rows_asked_are_those_of_a_workers_parts(dataset):
    job = job_of(SAMPLED, parts=2)
    plan, data = planned(job, dataset), train_data(dataset)
    table = ExchangedTable(Echo(2), shards_of(plan), first_table(plan, dataset.graph))
    step = parted(build_step(job, plan, data, table), table, Echo(2), 2)
    batch = step.sampler.batch(0, 0)
    assert predicted(step, plan)["rows_asked_per_step"] == len(batch.rows_R) > 0
    rowless = replace(step, table=ExchangedTable(Echo(2), shards_of(plan), first_table(plan, dataset.graph), reads_rows=False))
    asked = len(batch.rows_R), (batch.rows_R % 2 == 1).sum() * (4 + 8 * 8)
    less = predicted(rowless, plan)
    assert less["rows_asked_per_step"] == 0
    assert predicted(step, plan)["network_bytes_per_step"] - less["network_bytes_per_step"] == asked[1]


def test_the_leader_has_the_whole_table_and_its_own_rows(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = check(job_of(SAMPLED), dataset), check(job_of(SAMPLED), dataset, workers=2)
    assert not {"workers", "parts", "bytes_per_worker"} & one.keys()
    assert two["leader_table_bytes"] == two["table_bytes"] == one["table_bytes"]
    assert two["bytes_per_worker"] == two["table_bytes"] // 2  # 44 nodes
    assert two["ram_bytes"] == one["ram_bytes"] + two["bytes_per_worker"]
    assert (two["workers"], two["parts"]) == (2, 2) and two["step_seconds"] > 0
    alone = check(job_of(SAMPLED, parts=4), dataset)
    assert (alone["workers"], alone["parts"], alone["network_bytes_per_step"]) == (1, 4, 0)
    assert alone["ram_bytes"] == one["ram_bytes"]
    assert list(tmp_path.iterdir()) == []


def test_a_sparse_table_is_tried(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = check(job_of({**SAMPLED, "table": {"budget": 0.25}, "sparsity": {"policy": "static"}}), dataset, workers=4)
    assert found["workers"] == 4 and found["bytes_per_worker"] == -(-found["table_bytes"] // 4)


def test_workers_that_share_columns(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = job_of(FULL)
    found = check(job, dataset, workers=2)
    assert (found["workers"], found["parts"], found["rows_asked_per_step"]) == (2, 1, 0)

    def share(world):
        plan, host = planned(job, dataset), None
        if not world.rank:
            host = first_table(plan, dataset.graph)
        step = shared_step(job, plan, train_data(dataset), world, host)
        step.deal()
        before, local = world.bytes, step.table.local
        (batch,) = step.announced(0, Waits(), 0)
        step.trained(batch, 0.01)
        return world.bytes - before, local.value_bytes + local.index_bytes + local.state_bytes

    for sent, owned in run_workers(2, lambda world: share(Metered(world))):
        assert found["network_bytes_per_step"] == sent - 8  # a loss and a sum
        assert found["bytes_per_worker"] == owned


REFUSED = {
    "columns of a sparse table": ({**FULL, "table": {"budget": 0.5}}, 2, {}, "rows of a sparse table have columns of their own"),
    "too few columns": (FULL, 4, {}, "cannot share 32 columns"),
    "parts of one worker": (FULL, 1, {"parts": 2}, "train.parts = 2 cannot share"),
    "ngcf": ({"model": {"name": "ngcf", "propagation": "full"}}, 2, {}, "ngcf mixes the columns of all rows"),
    "directau": ({**SAMPLED, "loss": {"name": "directau"}}, 2, {}, "compares all pairs of a batch"),
    "a table on disk": ({**SAMPLED, "table": {"placement": "disk"}}, 2, {}, "a table on disk is not dealt out"),
    "batches below their parts": (
        SAMPLED,
        2,
        {"parts": 8, "batch_size": 7},
        "batch_size must be at least train.parts = 8, got 7",
    ),
    "too many workers": (SAMPLED, 4, {"parts": 2}, "2 parts, which 4 workers cannot share"),
    "three workers": (SAMPLED, 3, {}, "must be 1, 2, 4, 8"),
    "a closed form": ({"model": {"name": "popularity"}}, 2, {}, "which one process computes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_check_and_train_refuse_the_same(dataset, tmp_path, name):
    sections, workers, settings, words = REFUSED[name]
    job, said = job_of(sections, **settings), []
    for act in (
        lambda: check(job, dataset, workers=workers),
        lambda: train(job, dataset, tmp_path / "run", world=Echo(workers)),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            act()
        said.append(str(caught.value))
    assert said[0] == said[1] and list(tmp_path.iterdir()) == []


def test_no_worker_is_refused(dataset):
    with pytest.raises(UsageError, match="--workers must be at least 1, got 0"):
        check(job_of(SAMPLED), dataset, workers=0)
