"""The encoder of docs/extending.md passes its check and trains, resumes and serves; wrong ones are found."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import ENCODERS
from gcnrec.models.hops import Hop
from gcnrec.models.lightgcn import LightGcn
from gcnrec.models.whole_graph.own import OwnEncoder
from gcnrec.reports.progress import Quiet
from gcnrec.runs.contents import RunContents
from gcnrec.tables.dense import DenseTable
from gcnrec.testing import check_own_encoder, checkerboard, write_dataset
from gcnrec.training.open_keys import commented
from gcnrec.training.train import train

ROOT = Path(__file__).parents[2]
WRONG = """
import torch

class Base:
    def __init__(self, settings):
        if settings: raise ValueError("none is known")
    def build(self, graph, width): return type(self).Module(graph, width)

class Remembers(Base):
    class Module(torch.nn.Module):
        def __init__(self, graph, width):
            super().__init__()
            self.calls = 0
        def forward(self, rows):
            self.calls += 1
            return rows * (1 + 0.1 * (self.calls % 7))

class Detached(Base):
    class Module(torch.nn.Module):
        def __init__(self, graph, width): super().__init__()
        def forward(self, rows): return rows + rows.detach()

class Infinite(Base):
    class Module(torch.nn.Module):
        def __init__(self, graph, width): super().__init__()
        def forward(self, rows): return rows / (rows.abs() > 9)

class Deaf(Base):
    class Module(torch.nn.Module):
        def __init__(self, graph, width): super().__init__()
        def forward(self, rows): return rows

class Narrow(Base):
    class Module(torch.nn.Module):
        def __init__(self, graph, width): super().__init__()
        def forward(self, rows): return rows[:3]

class Fails(Base):
    class Module(torch.nn.Module):
        def __init__(self, graph, width): super().__init__()
        def forward(self, rows): return rows @ rows

class NoModule(Base):
    def build(self, graph, width): return lambda rows: rows

class Writes(Base):
    class Module(torch.nn.Module):
        def __init__(self, graph, width): super().__init__()
        def forward(self, rows): return rows if rows.requires_grad else rows.mul_(2.0)
"""


class Stops(Quiet):
    """Ctrl-C after an epoch."""

    def __init__(self, epoch):
        self._at = epoch

    def epoch(self, record):
        if record["epoch"] == self._at:
            raise KeyboardInterrupt


def own(name, **settings) -> Own:
    return Own("model.name", ENCODERS, name, settings)


def job(epochs=3, **model) -> Job:
    sections = {
        "model": {"name": "gate", "width": 8, **model},
        "train": {"epochs": epochs, "batch_size": 64, "threads": 1},
        "evaluate": {"baselines": [], "metric": "recall@3", "patience": 0},
    }
    return Job.parse(sections, [], "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(), tmp_path_factory.mktemp("world") / "data")


def test_the_example_passes_the_check(extras):
    check_own_encoder("gate", {"hops": 2})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Remembers", "equal seeds|one batch must give one loss|the gradient of"),
        ("Detached", "the gradient of the rows misses"),
        ("Infinite", "embeddings must be finite"),
        ("Writes", "forward must not change the rows that it gets"),
    ],
)
def test_the_check_finds_what_is_wrong(module, name, says):
    module(WRONG)
    with pytest.raises((AssertionError, UsageError), match=says):
        check_own_encoder(f"written:{name}")


def test_a_class_that_takes_any_setting_is_found(module):
    module(WRONG.replace("if settings: raise", "if False: raise"))
    with pytest.raises(AssertionError, match="must raise ValueError for settings that it does not know"):
        check_own_encoder("written:Deaf")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Narrow", r"float32 embeddings of all 48 nodes, a row each, got torch.float32 \(3, 8\) on cpu"),
        ("Fails", r"forward fails \(RuntimeError: "),
        ("NoModule", "build must give a torch.nn.Module, got function"),
    ],
)
def test_a_module_of_no_embeddings_is_one_sentence(module, name, says):
    module(WRONG)
    with pytest.raises(UsageError, match=says):
        OwnEncoder(own(f"written:{name}"), checkerboard().graph, 8, 0)


def test_one_hop_of_equal_weights_is_lightgcn(extras):
    graph = checkerboard().graph
    rows_ND = torch.randn(graph.num_nodes, 8, generator=torch.Generator().manual_seed(3))
    found, expected = (torch.empty(graph.num_nodes, 8) for _ in range(2))
    OwnEncoder(own("gate:Gate", hops=2), graph, 8, 0).export(DenseTable(rows_ND, 0), found)
    LightGcn(Hop(graph), 2, 8, True).export(DenseTable(rows_ND, 0), expected)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_stopped_run_goes_on_to_the_same_bits(extras, dataset, tmp_path):
    whole = train(job(), dataset, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(job(), dataset, tmp_path / "stopped", observer=Stops(2))
    resumed = train(job(), dataset, tmp_path / "stopped", resume=True)
    for name in ("users", "items"):
        one, other = (pq.read_table(run.folder / "embeddings" / f"{name}.parquet") for run in (whole, resumed))
        assert one.equals(other)
    losses = [[epoch.loss for epoch in RunContents(run.folder).epochs("fit")] for run in (whole, resumed)]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]
    assert 'name = "gate:Gate"' in (whole.folder / "job.toml").read_text(encoding="utf-8")
    lineage = json.loads((whole.folder / "lineage.json").read_text(encoding="utf-8"))
    assert lineage["extensions"] == {"gate:Gate": {"distribution": "shop-extras", "version": "1.2"}}


def test_the_resolved_job_names_the_release(extras, dataset):
    text = commented(job(settings={"hops": 2}), dataset)
    assert 'name = "gate:Gate"  # shop-extras 1.2\nsettings = {"hops" = 2}\n' in text
    assert Job.parse(tomllib.loads(text), [], "resolved").model.own == job(settings={"hops": 2}).model.own


def test_a_sparse_table_keeps_its_budget(extras, dataset, tmp_path):
    sparse = job(epochs=2).model_copy()
    sections = sparse.model_dump(exclude_unset=True, by_alias=True) | {"table": {"budget": 0.5}}
    run = train(Job.parse(sections, [], "test"), dataset, tmp_path / "run")
    memory = json.loads((run.folder / "memory.json").read_text(encoding="utf-8"))
    assert memory["values_max_seen"] <= memory["budget_values"] == 48 * 8 // 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["train.device=cuda"], "a model of another package computes all rows in each step"),
        (["model.propagation=sampled"], "'gate:Gate' is trained with model.propagation = 'full', got 'sampled'"),
        (["model.behaviours=cascade"], "model.behaviours = 'cascade' is for lightgcn"),
    ],
)
def test_what_no_other_package_offers_is_refused(extras, changes, says):
    with pytest.raises(UsageError, match=says):
        Job.parse({"model": {"name": "gate:Gate"}}, changes, "test")


def test_parts_are_refused(extras, dataset, tmp_path):
    shared = job().model_copy(update={"train": job().train.model_copy(update={"parts": 2})})
    with pytest.raises(
        UsageError, match=r"cannot share this job: model.name = 'gate:Gate' computes with all columns of all rows"
    ):
        train(shared, dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


SERVES = """
import sys
import gcnrec
from gcnrec.results.export import export
run, out = sys.argv[1:]
assert gcnrec.recommend(run, k=3).num_rows == 24 * 3
assert 0.0 <= gcnrec.evaluate(run)["recall@10"] <= 1.0
export(gcnrec.open_run(run), "bundle", __import__("pathlib").Path(out))
assert "gate" not in sys.modules and "torch.nn" in sys.modules
"""


@pytest.mark.slow
def test_a_finished_run_serves_in_a_process_without_the_package(extras, dataset, tmp_path, monkeypatch):
    run = train(job(epochs=1), dataset, tmp_path / "run")
    monkeypatch.delenv("PYTHONPATH")
    words = [sys.executable, "-c", SERVES, str(run.folder), str(tmp_path / "shop.safetensors")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shop.safetensors").stat().st_size > 4 * 48 * 8


def test_to_go_on_without_the_package_is_one_sentence(extras, dataset, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(job(), dataset, tmp_path / "run", observer=Stops(1))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(extras)])
    del sys.modules["gate"]
    with pytest.raises(UsageError, match=r"model\.name = 'gate:Gate' needs the package 'gate'"):
        train(Job.load(tmp_path / "run" / "job.toml"), dataset, tmp_path / "run", resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_commands_refuse_a_class_before_they_read_data(gcnrec, module, tmp_path):
    module("1 / 0", "broken")
    path = tmp_path / "job.toml"
    path.write_text('[data]\ntrain = "nowhere"\nuser = "u"\nitem = "i"\n[model]\nname = "broken:Gate"\n', encoding="utf-8")
    grid = tmp_path / "grid.toml"
    grid.write_text('job = "job.toml"\n[grid]\ntrain.seed = [0, 1]\n', encoding="utf-8")
    out = ("--out", str(tmp_path / "out"))
    for words in (
        ("run", path, *out), ("check", path), ("train", path, "--data", "nowhere", *out), ("sweep", grid, *out),
        ("backtest", path, "--cuts", "2", "--every", "7d", *out),
    ):  # fmt: skip
        code, text, problem = gcnrec(*map(str, words))
        assert (code, text) == (2, "") and "model.name = 'broken:Gate' cannot be imported (ZeroDivisionError" in problem, words
    assert not (tmp_path / "out").exists()
