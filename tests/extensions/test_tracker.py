"""The Weights & Biases tracker of docs/extending.md on a stand-in, and what TensorBoard and MLflow get after the training."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.reports.progress import Quiet
from gcnrec.reports.run_report import write_report
from gcnrec.results.evaluate import evaluate_run
from gcnrec.runs.contents import RunContents
from gcnrec.runs.tracking import require_trackers
from gcnrec.testing import check_own_tracker, checkerboard, write_dataset
from gcnrec.training.train import train

WRITTEN = """
from pathlib import Path

class Base:
    def __init__(self, settings):
        if settings: raise ValueError("none is known")
    def begin(self, folder, job): self.folder = folder
    def epoch(self, stage, epoch, figures): pass
    def results(self, split, metrics): pass
    def report(self, page): pass
    def close(self, status): pass

class Takes(Base):
    def results(self, split, metrics): metrics.clear()

class Writes(Base):
    def report(self, page): page.write_text("mine")

class Logs(Base):
    def begin(self, folder, job):
        import logging
        logging.basicConfig()

class Fails(Base):
    def results(self, split, metrics): raise OSError("no route")

class Half:
    def __init__(self, settings): pass
    def begin(self, folder, job): pass
"""


class Notes(Quiet):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def job(**run) -> Job:
    sections = {
        "model": {"width": 4},
        "train": {"epochs": 2, "batch_size": 64, "threads": 1},
        "evaluate": {"baselines": [], "metric": "recall@3", "k": [3], "bootstrap": 0},
        "run": run,
    }
    return Job.parse(sections, [], "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(), tmp_path_factory.mktemp("world") / "data")


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for Weights & Biases; `runs` has what each run was told, by its id."""
    fake, runs = ModuleType("wandb"), {}

    def init(*, id, name, config, resume, project, mode, dir):
        assert resume == "allow"
        run = runs.setdefault(
            id, SimpleNamespace(name=name, config=config, project=project, mode=mode, logged=[], summary={}, ends=[])
        )
        run.log, run.finish = run.logged.append, lambda exit_code: run.ends.append(exit_code)
        return run

    fake.init, fake.Html, fake.runs = init, lambda text: ("html", text), runs
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def mlflow(monkeypatch):
    """A stand-in for the part of MLflow that is used after the training."""
    kept = SimpleNamespace(metrics=[], artifacts=[], status=[], experiments={}, runs=0)

    class Client:
        def __init__(self, tracking_uri):
            pass

        def get_experiment_by_name(self, name):
            return kept.experiments.get(name)

        def create_experiment(self, name, artifact_location=None):
            kept.experiments[name] = SimpleNamespace(experiment_id="7", location=artifact_location)
            return "7"

        def create_run(self, experiment_id, run_name, tags):
            kept.runs += 1
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        def update_run(self, run_id, status):
            kept.status.append(status)

        def log_batch(self, run_id, metrics=(), params=()):
            kept.metrics += metrics

        def log_artifact(self, run_id, path):
            kept.artifacts.append(path)

        def set_terminated(self, run_id, status):
            kept.status.append(status)

    root, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    root.MlflowClient = Client
    entities.Metric = lambda key, value, timestamp, step: (key, value, step)
    entities.Param = lambda key, value: (key, value)
    monkeypatch.setitem(sys.modules, "mlflow", root)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return kept  # fmt: skip


def test_the_example_passes_the_check(extras, wandb):
    check_own_tracker("wandb", {"mode": "offline"})
    (run,) = wandb.runs.values()
    assert run.ends == [1, 0, 0] and run.summary == {"test/loss": 0.5, "test/valid/recall_at_20": 0.25}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Takes", "a tracker must leave what it is given"),
        ("Writes", "a tracker must leave the files of the run as they are"),
        ("Logs", "must leave working directory, output and loggers as they are"),
    ],
)
def test_the_check_finds_what_is_wrong(module, monkeypatch, name, says):
    import logging

    monkeypatch.setattr(logging.root, "handlers", [])
    module(WRITTEN)
    with pytest.raises(AssertionError, match=says):
        check_own_tracker(f"written:{name}")


def test_one_run_of_the_tracker_has_epochs_test_metrics_and_report(extras, wandb, dataset, tmp_path, charts_take_no_time):
    settings = job(tracker="wandb", tracker_settings={"project": "shop", "mode": "offline"})
    require_trackers(settings.run)
    run = train(settings, dataset, tmp_path / "run")
    document = evaluate_run(run)
    page = write_report(run)
    (told,) = wandb.runs.values()
    assert (told.name, told.project, told.mode, told.ends) == ("run", "shop", "offline", [0, 0, 0])
    assert told.config["run"]["tracker"] == "wandb_runs:Wandb" and told.config["train"]["epochs"] == 2
    epochs = RunContents(run.folder).epochs("fit")
    assert [each["fit/loss"] for each in told.logged[:2]] == [epoch.loss for epoch in epochs]
    assert [each["fit/epoch"] for each in told.logged[:2]] == [1, 2] and "fit/valid/recall_at_3" in told.logged[0]
    assert told.summary["test/recall_at_3"] == document["recall@3"]
    assert told.logged[2:] == [{"report": ("html", page.read_text(encoding="utf-8"))}]


def test_mlflow_gets_test_metrics_and_the_page(mlflow, dataset, tmp_path, charts_take_no_time):
    run = train(job(mlflow=str(tmp_path / "store")), dataset, tmp_path / "run")
    document, before = evaluate_run(run), len(mlflow.artifacts)
    page = write_report(run)
    assert ("test/recall_at_3", document["recall@3"], 2) in mlflow.metrics
    assert (before, mlflow.artifacts, mlflow.runs) == (0, [str(page)], 1)
    assert mlflow.status == ["FINISHED", "RUNNING", "FINISHED", "RUNNING", "FINISHED"]
    assert mlflow.experiments["gcnrec"].location == (tmp_path / "store" / "artifacts").as_uri()


def test_tensorboard_gets_test_metrics_once_as_scalars_text_and_hyperparameters(dataset, tmp_path):
    run = train(job(tensorboard=True), dataset, tmp_path / "run")
    evaluate_run(run)
    document = evaluate_run(run)
    events = EventAccumulator(str(run.folder / "tensorboard" / "test"))
    events.Reload()
    (scalar,) = events.Scalars("test/recall_at_3")
    assert (scalar.step, scalar.value) == (2, pytest.approx(document["recall@3"]))
    (text,) = events.Tensors("report/text_summary")
    assert f"| test/recall_at_3 | {document['recall@3']:.6g} |" in text.tensor_proto.string_val[0].decode()
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_a_tracker_that_fails_costs_no_metrics(module, dataset, tmp_path):
    module(WRITTEN)
    run, notes = train(job(tracker="written:Fails"), dataset, tmp_path / "run"), Notes()
    document = evaluate_run(run, observer=notes)
    assert json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))["recall@3"] == document["recall@3"]
    assert "written:Fails failed and gets no more of this run, which continues (no route)" in notes.notes


def test_metrics_are_written_where_the_tracker_is_not_installed(extras, wandb, dataset, tmp_path, monkeypatch):
    run, notes = train(job(tracker="wandb"), dataset, tmp_path / "run"), Notes()
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(extras)])
    del sys.modules["wandb_runs"]
    evaluate_run(run, observer=notes)
    assert (run.folder / "metrics.json").is_file()
    assert "wandb_runs:Wandb failed and gets no more of this run" in notes.notes[-1]
    assert "needs the package 'wandb_runs'" in notes.notes[-1]


def test_what_cannot_track_is_one_sentence(module, extras, dataset, tmp_path):
    module(WRITTEN)
    with pytest.raises(UsageError, match=r"run\.tracker = 'written:Half' lacks epoch and results and report and close"):
        train(job(tracker="written:Half"), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=r"'wandb_runs:Wandb' cannot be imported .*No module named 'wandb'"):
        require_trackers(job(tracker="wandb").run)
    with pytest.raises(UsageError, match=r"trackers of \[run\] follow epochs, and model\.name = 'ease' has none"):
        Job.parse({"model": {"name": "ease"}, "run": {"tracker": "wandb"}}, [], "test")
