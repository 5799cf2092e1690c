"""Runs whose files are damaged, or whose job has changed: what a sentence advises works when it is done."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from gcnrec.config import Job
from gcnrec.errors import DataError
from gcnrec.reports.progress import Quiet
from gcnrec.runs.checkpoints import load_checkpoint, save_checkpoint
from gcnrec.runs.contents import RunContents
from gcnrec.runs.folder import final_table
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train


def job(**sections):
    """Two epochs of four steps on one thread."""
    defaults = {
        "model": {"width": 4, "layers": 1},
        "train": {"epochs": 2, "batch_size": 64, "threads": 1},
        "evaluate": {"baselines": [], "metric": "recall@3", "patience": 0},
        "run": {"checkpoint_steps": 1},
    }
    return Job.parse({name: {**defaults.get(name, {}), **sections.get(name, {})} for name in {*defaults, *sections}}, [], "test")


SLOTS = {"table": {"budget": 0.5}, "sparsity": {"policy": "dynamic", "batches": 1}}
NGCF = {"model": {"name": "ngcf", "width": 4, "layers": 1}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(24), tmp_path_factory.mktemp("world") / "data")


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    return train(job(), dataset, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def run(whole, tmp_path):
    """A copy of a whole run."""
    shutil.copytree(whole.folder, tmp_path / "run")
    return tmp_path / "run"


def embeddings(folder):
    return [(folder / "embeddings" / f"{side}.parquet").read_bytes() for side in ("users", "items")]


def test_keys_that_change_no_number_do_not_block_a_resume(run, whole, dataset):
    (run / "memory.json").unlink()
    for path in (run / "checkpoints").glob("earlier-*"):
        path.replace(run / "checkpoints" / "last.safetensors")  # a step before the end
    others = {"train": {"epochs": 2, "batch_size": 64, "threads": 1, "loss_limit": 0.0, "transfer_blocks": 8}}
    others |= {"table": {"placement": "disk", "cache_bytes": 4096}, "run": {"keep_checkpoints": 5, "checkpoint_minutes": 3.0}}
    train(job(**others), dataset, run, resume=True)
    assert embeddings(run) == embeddings(whole.folder)
    kept, begun = Job.load(run / "job.toml"), Job.load(whole.folder / "job.toml")
    assert (kept.run.keep_checkpoints, kept.table.placement, kept.train.loss_limit) == (5, "disk", 0.0)
    assert (kept.data, kept.model, kept.run.checkpoint_steps) == (begun.data, begun.model, 1)


@pytest.mark.parametrize("damage", ["{", '{"values": "many"}', ""])
def test_a_run_whose_last_file_is_damaged_is_exported_again(run, whole, dataset, damage):
    (run / "memory.json").write_text(damage)
    with pytest.raises(DataError, match=rf"memory\.json .* remove it and resume {run}, which is then exported again"):
        _ = RunContents(run).memory
    (run / "memory.json").unlink()
    for path in (run / "embeddings").iterdir():
        path.unlink()
    train(job(), dataset, run, resume=True)
    assert embeddings(run) == embeddings(whole.folder)
    assert RunContents(run).memory["values"] == RunContents(whole.folder).memory["values"]


@pytest.mark.parametrize("names", [["last", "earlier"], ["best"]])
def test_where_no_checkpoint_is_whole_the_sentence_leads_on(run, whole, dataset, names):
    (run / "memory.json").unlink()
    for path in (run / "checkpoints").iterdir():
        if path.name.startswith(tuple(names)):
            path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(
        DataError, match=rf"1 bytes follow .*; to train again .*, remove the folder {run / 'checkpoints'} and resume"
    ):
        train(job(), dataset, run, resume=True)
    shutil.rmtree(run / "checkpoints")
    train(job(), dataset, run, resume=True)
    assert embeddings(run) == embeddings(whole.folder)


def other_tensors(run, change):
    """Rewrite the last checkpoint, with a digest that is right."""
    path = run / "checkpoints" / "last.safetensors"
    tensors, progress = load_checkpoint(path)
    change(tensors, progress)
    (run / "memory.json").unlink()
    save_checkpoint(path, tensors, progress)


def without(name):
    return lambda tensors, progress: tensors.pop(name)


def as_other(name, make):
    return lambda tensors, progress: tensors.update({name: make(tensors[name])})


CHANGES = {
    "table lacks a tensor": (job(), without("table.last"), r"last\.safetensors .* cannot take what was saved from another"),
    "another width": (job(), as_other("table.weights", lambda each: each[:, :3].clone()), r"weights \(48, 3\)"),
    "another dtype": (job(), as_other("table.weights", torch.Tensor.double), r"cannot take what was saved from another"),
    "slots lack a tensor": (job(**SLOTS), without("table.columns"), r"last\.safetensors .* must hold 'columns'"),
    "slots of other columns": (job(**SLOTS), as_other("table.columns", lambda each: each + 200), r"cannot be put into"),
    "slots without an explorer": (job(**SLOTS), without("explorer.ever_active"), r"the explorer 'ever_active'"),
    "an optimizer of other shapes": (job(**NGCF), as_other("adam.0.exp_avg", lambda each: each[:, :3].clone()), r"'0\.exp_avg'"),
    "an optimizer of less": (job(**NGCF), without("adam.1.step"), r"'1\.step' float32 \(\), holds nothing"),
    "progress of another type": (job(), lambda tensors, progress: progress.update(seconds="long"), r"\(seconds: "),
    "progress without trend": (job(), lambda tensors, progress: progress.update(trend=[]), r"\(trend: "),
    "more steps than there are": (job(), lambda tensors, progress: progress.update(epoch=1, step=10**6), "at a step up to"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_of_another_job_is_one_sentence(name, dataset, tmp_path):
    settings, change, says = CHANGES[name]
    train(settings, dataset, tmp_path / "run")
    other_tensors(tmp_path / "run", change)
    with pytest.raises(DataError, match=says) as caught:
        train(settings, dataset, tmp_path / "run", resume=True, observer=Quiet())
    assert "\n" not in str(caught.value)


def test_a_table_to_start_from_is_checked(run, whole, dataset):
    path = run / "checkpoints" / "best.safetensors"
    opened = type(whole)(run, whole.job, whole.lineage, whole.dataset)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=rf"best\.safetensors is damaged .*; start from another run, or train {run} anew"):
        final_table(opened)
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(DataError, match=r"best\.safetensors is damaged"):
        final_table(opened)
    path.unlink()
    with pytest.raises(DataError, match=r"best\.safetensors is missing"):
        final_table(opened)
    save_checkpoint(path, {"table.weights": torch.zeros(3, 4)}, {"stage": "fit", "epoch": 1, "step": 0})
    with pytest.raises(DataError, match="holds rows of another"):
        final_table(opened)
