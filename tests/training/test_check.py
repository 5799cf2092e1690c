"""What `check` predicts of memory: a table on disk may be larger than it."""

from __future__ import annotations

import shutil
import sys

import pyarrow as pa
import pytest

from gcnrec.config import Job
from gcnrec.errors import DataError, DeviceError, UsageError
from gcnrec.loaders.schema import open_dataset, seal, write_vocabulary
from gcnrec.reports.progress import Quiet
from gcnrec.system.limits import Limits
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training import build
from gcnrec.training import check as checked
from gcnrec.training.costs import stages as costs
from gcnrec.training.train import train

QUICK = {"train": {"epochs": 1, "batch_size": 64}, "evaluate": {"baselines": [], "metric": "recall@3"}}


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


REFUSED = {
    "init_from: no run": ({"train": {"init_from": "nowhere"}}, DataError, "not a run folder"),
    "init_from: not finished": ({"train": {"init_from": "unfinished"}}, UsageError, "is not finished"),
    "init_from: a closed form": ({"train": {"init_from": "closed"}}, UsageError, "has no table to start from"),
    "init_from: another width": ({"train": {"init_from": "earlier"}, "model": {"width": 6}}, UsageError, "set model.width = 4"),
    "init_from: other ids": ({"train": {"init_from": "others"}}, UsageError, "user ids of type int64, this data string"),
    "features": ({"model": {"name": "graphsage", "inputs": "features"}}, UsageError, "needs features"),
    "features of a closed form": ({"model": {"name": "contentknn"}}, DataError, "ingest with --item-features"),
    "features of a baseline": ({"evaluate": {"baselines": ["contentknn"]}}, UsageError, "evaluate.baselines names contentknn"),
    "features of a partner": ({"mixture": {"with": ["contentknn"]}}, UsageError, "mixture.with names contentknn"),
    "weights": (
        {"model": {"propagation": "sampled"}, "sampler": {"neighbours": "weighted"}}, UsageError, "ingest with --weight",
    ),
    "threads": ({"train": {"threads": 4000}}, UsageError, "train.threads must be at most"),
    "threads of a closed form": (
        {"model": {"name": "popularity"}, "train": {"threads": 4000}}, UsageError, "train.threads must be at most",
    ),
    "columns": ({"table": {"budget": 0.5}, "model": {"width": 300}}, UsageError, "at most 256 columns"),
    "no value": ({"table": {"budget": 1e-9}, "model": {"width": 4}}, UsageError, "leaves no value"),
    "memory": ({"model": {"width": 65536}, "train": {"batch_size": 1}}, DeviceError, "bytes, 1,000,000 are free"),
    "a tracker that is absent": ({"run": {"mlflow": "http://x"}}, UsageError, "needs MLflow, which is not installed"),
    "another tracker": ({"run": {"tensorboard": True}}, UsageError, "needs TensorBoard"),
}  # fmt: skip


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A dataset, and earlier runs of which none suits."""
    folder = tmp_path_factory.mktemp("there")
    dataset = write_dataset(checkerboard(), folder / "data")
    for name, model in (("earlier", {"width": 4}), ("closed", {"name": "popularity"}), ("unfinished", {"width": 4})):
        train(Job.parse({"model": model, **QUICK}, [], "test"), dataset, folder / name)
    (folder / "unfinished" / "memory.json").unlink()
    numbered = shutil.copytree(folder / "data", folder / "numbered")
    (numbered / "users.parquet").unlink()
    degrees = dataset.graph.user_items.degrees
    write_vocabulary(numbered / "users.parquet", pa.int64(), [(pa.array(range(len(degrees)), pa.int64()), degrees)])
    seal(numbered, {key: dataset.info[key] for key in ("name", "num_users", "num_items")})
    train(Job.parse({"model": {"width": 4}, **QUICK}, [], "test"), open_dataset(numbered), folder / "others")
    return dataset


@pytest.mark.parametrize("name", REFUSED)
def test_check_and_train_refuse_the_same_before_there_is_a_folder(there, tmp_path, monkeypatch, name):
    sections, error, sentence = REFUSED[name]
    monkeypatch.chdir(there.folder.parent)
    monkeypatch.setattr(build, "read_limits", lambda: Limits(10**6, None))
    for module in ("mlflow", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    job = Job.parse({**sections, "model": {"width": 4, **sections.get("model", {})}}, [], "test")
    said = []
    for act in (checked.check, lambda job, dataset: train(job, dataset, tmp_path / "run")):
        with pytest.raises(error, match=sentence) as caught:
            act(job, there)
        said.append(str(caught.value))
    assert said[0] == said[1] and list(tmp_path.iterdir()) == []


def test_check_says_where_missed_steps_are_replayed(there):
    """Moves that fade too slowly are replayed step by step."""
    for beta2, expected in ((0.999, 0), (0.5, 1)):
        said, observer = [], Quiet()
        observer.warn = said.append
        sections = {"model": {"width": 4, "propagation": "sampled"}, "optimizer": {"rule": "adam_dense", "beta2": beta2}}
        checked.check(Job.parse({**QUICK, **sections}, [], "test"), there, observer)
        found = [sentence for sentence in said if "each step that a row missed is replayed" in sentence]
        assert len(found) == expected and all("optimizer.beta2 = 0.5" in sentence for sentence in found)


def test_what_check_accepts_train_accepts(there, tmp_path, monkeypatch):
    monkeypatch.chdir(there.folder.parent)
    for number, sections in enumerate(
        ({"train": {"init_from": "earlier"}}, {"run": {"tensorboard": True}}, {"model": {"name": "ease"}})
    ):
        job = Job.parse({"model": {"width": 4}, **QUICK} | sections, [], "test")
        assert checked.check(job, there)["users"] == 24
        assert train(job, there, tmp_path / str(number)).job.model.name == job.model.name


def test_a_finished_run_needs_the_run_that_it_began_with_no_more(there, tmp_path, monkeypatch):
    monkeypatch.chdir(there.folder.parent)
    shutil.copytree("earlier", tmp_path / "before")
    job = Job.parse({"model": {"width": 4}, "train": {**QUICK["train"], "init_from": str(tmp_path / "before")}}, [], "test")
    train(job, there, tmp_path / "run")
    shutil.rmtree(tmp_path / "before")
    assert train(job, there, tmp_path / "run", resume=True).folder == tmp_path / "run"


def test_stages_by_hand(monkeypatch):
    """1,000 nodes, 100 items, 8 wide: a table of 5,000 bytes, two checkpoints; writing at 1 MB/s to half the size."""
    monkeypatch.setattr(costs, "_parquet_rates", lambda width: (1e6, 2e6, 0.5))
    monkeypatch.setattr(costs, "ranking_seconds", lambda judged, items, width: judged * items * 1e-3)
    monkeypatch.setattr(costs, "_lists_bytes", lambda sizes: 77)
    table = {"table_bytes": 5000, "kept": 2, "plane_bytes": 64_000, "mapped_bytes": 900, "aside_bytes": 600}
    sizes = costs.Sizes(1000, 100, judged=40, lengths=3, width=8, **table)
    found = costs.stages(sizes, costs.Measured(launch=2.0, train=30.0, propagate=7.0, private_bytes=10_000))
    saved, exported = 5000 / 1e9, 32_000
    assert found["train"] == {"seconds": pytest.approx(32 + 4 * saved), "private_bytes": 10_000, "disk_bytes": 900 + 15_000}
    assert found["export"]["seconds"] == pytest.approx(7 + exported / 1e6 + exported / 1e9 + 2 * saved + 600 / 1e9)
    assert found["export"]["private_bytes"] == 10_000 - 600 + 64_000
    assert found["export"]["disk_bytes"] == 900 + 600 + 2 * 5000 + 32_000
    assert found["evaluate"]["seconds"] == pytest.approx(2 + exported / 2e6 + exported / 1e9 + 4)
    assert found["evaluate"]["private_bytes"] == 270 * 10**6 + (36 + 24) * 100 + 77
    assert found["evaluate"]["disk_bytes"] == 3 * 5000 + 16_000 + 32_000  # pages of 40 users take more than all rows


def test_one_block_of_a_large_export_is_timed_for_all(tmp_path, monkeypatch):
    """The rows of the whole are not made: a scratch of none would be refused."""
    dataset = write_dataset(checkerboard(), tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    sections = {"model": {"width": 8, "start": "normal", "propagation": "sampled"}, "evaluate": {"users": 5}}
    job, made = Job.parse({**sections, "sampler": {"fanouts": [2]}}, [], "test"), []
    monkeypatch.setattr(checked.SampledLightGcn, "export", lambda _, table, out_NF: made.append(out_NF.zero_()))
    whole = checked.check(job, dataset)
    monkeypatch.setattr(checked, "WHOLE_EXPORT_BYTES", 0)
    block = checked.check(job, dataset)
    assert len(made) == 1 and block["stages"].keys() == whole["stages"].keys() == {"train", "export", "evaluate"}
    for name in ("train", "export", "evaluate"):
        assert block["stages"][name]["disk_bytes"] == whole["stages"][name]["disk_bytes"] > 0
        assert block["stages"][name]["seconds"] > 0
