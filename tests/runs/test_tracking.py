"""Curves of real, short runs as TensorBoard reads them, and what a stand-in for MLflow is told."""

from __future__ import annotations

import logging
import os
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gcnrec.config import Job
from gcnrec.errors import Terminated, UsageError
from gcnrec.reports.progress import Quiet
from gcnrec.runs import tracking
from gcnrec.runs.contents import RunContents
from gcnrec.runs.events import read_lines
from gcnrec.runs.tracking import curves, require_trackers, tracked
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train


def job(refit=False, epochs=3, **run) -> Job:
    sections = {
        "model": {"width": 4},
        "train": {"epochs": epochs, "batch_size": 64, "threads": 1, "refit": refit},
        "evaluate": {"baselines": [], "metric": "recall@3", "patience": 0},
        "run": run,
    }
    return Job.parse(sections, [], "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(), tmp_path_factory.mktemp("world") / "data")


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of everything that TensorBoard shows of a folder."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def warnings_of(folder) -> dict[str, str]:
    """Kind -> text of every warning in metrics.jsonl, each of which has a kind of its own."""
    said = [event for event in read_lines(folder) if event["event"] == "warning"]
    assert len({event["kind"] for event in said}) == len(said)
    return {event["kind"]: event["text"] for event in said}


class Notes(Quiet):
    """An observer that keeps what it is told; `fail_at` raises at that epoch."""

    def __init__(self, fail_at=0, problem=KeyboardInterrupt):
        self.notes, self.epochs = [], []
        self._fail_at, self._problem = fail_at, problem

    def epoch(self, record):
        if record["epoch"] == self._fail_at:
            raise self._problem("stopped")
        self.epochs.append(record["epoch"])

    def note(self, text):
        self.notes.append(text)


def test_tensorboard_shows_what_metrics_jsonl_has(dataset, tmp_path):
    run = train(job(refit="train+valid", tensorboard=True), dataset, tmp_path / "run")
    for stage in ("fit", "refit"):
        shown = scalars(run.folder / "tensorboard" / stage)
        records = RunContents(run.folder).epochs(stage)
        assert {"loss", "rows_per_second", "stalled_share", "learning_rate", "values", "seconds"} <= set(shown)
        assert ("valid/recall_at_3" in shown) == (stage == "fit")
        for name in ("loss", "learning_rate", "values"):
            assert [step for step, _ in shown[name]] == [record.epoch for record in records]
            assert [value for _, value in shown[name]] == pytest.approx([getattr(record, name) for record in records])
    assert shown["values"][-1][1] == 48 * 4  # 24 users, 24 items, width 4


@pytest.mark.serial
def test_nothing_is_left_behind(dataset, tmp_path):
    before = threading.active_count(), dict(os.environ), list(logging.root.handlers)
    train(job(epochs=1, tensorboard=True), dataset, tmp_path / "run")
    assert (threading.active_count(), dict(os.environ), list(logging.root.handlers)) == before


def test_without_trackers_the_observer_is_the_callers(tmp_path):
    observer = Notes()
    with tracked(job().run, job().model_dump(mode="json", exclude_none=True), tmp_path, observer) as told:
        assert told is observer
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("checkpoint_every", [1, 2])
def test_a_resumed_run_shows_every_epoch_once(dataset, tmp_path, checkpoint_every):
    settings = job(epochs=5, tensorboard=True, checkpoint_every=checkpoint_every)
    with pytest.raises(KeyboardInterrupt):
        # TensorBoard is not told of epoch 3, after which Ctrl-C leaves a checkpoint.
        train(settings, dataset, tmp_path / "run", observer=Notes(fail_at=3))
    assert [step for step, _ in scalars(tmp_path / "run" / "tensorboard" / "fit")["loss"]] == [1, 2]
    observer = Notes()
    run = train(settings, dataset, tmp_path / "run", resume=True, observer=observer)
    assert observer.epochs == [4, 5]
    shown = scalars(run.folder / "tensorboard" / "fit")
    assert [step for step, _ in shown["loss"]] == [1, 2, 3, 4, 5]
    assert [value for _, value in shown["loss"]] == pytest.approx([epoch.loss for epoch in RunContents(run.folder).epochs("fit")])


def test_curves():
    record = {"event": "epoch", "stage": "fit", "epoch": 2, "step": 9, "loss": 0.5, "valid": {"recall@20": 0.25}}
    assert curves(record) == {"loss": 0.5, "valid/recall_at_20": 0.25}
    assert curves({"epoch": 1, "loss": 1}) == {"loss": 1.0}


class FakeClient:
    """The part of MLflow's client that is used, keeping everything in memory."""

    made: ClassVar[list]
    broken = ()
    schemes = ("http", "sqlite")

    def __init__(self, tracking_uri):
        if "open" in self.broken:
            raise OSError("no route")
        if not tracking_uri.startswith(self.schemes):
            raise ValueError("no such scheme")
        self.uri, self.experiments, self.runs = tracking_uri, {}, {}
        self.made.append(self)

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name, artifact_location=None):
        self.experiments[name] = SimpleNamespace(experiment_id="7")
        return "7"

    def create_run(self, experiment_id, run_name, tags):
        run = SimpleNamespace(name=run_name, tags=tags, experiment=experiment_id, status="RUNNING", params={}, metrics=[])
        self.runs["r1"] = run
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def update_run(self, run_id, status):
        self.runs[run_id] = SimpleNamespace(status=status, params={}, metrics=[])

    def log_batch(self, run_id, metrics=(), params=()):
        if "log" in self.broken and metrics:
            raise OSError("server gone")
        assert len(params) <= 100
        self.runs[run_id].params |= {param.key: param.value for param in params}
        self.runs[run_id].metrics += metrics

    def set_terminated(self, run_id, status):
        self.runs[run_id].status = status


@pytest.fixture
def mlflow(monkeypatch):
    """A stand-in for MLflow; returns the client class, whose `made` lists the clients."""

    class Client(FakeClient):
        made: ClassVar[list] = []

    root, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    root.MlflowClient = Client
    entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)
    entities.Param = lambda key, value: SimpleNamespace(key=key, value=value)
    monkeypatch.setitem(sys.modules, "mlflow", root)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return Client


def test_mlflow_gets_settings_and_metrics(dataset, tmp_path, mlflow):
    run = train(job(refit="train+valid", mlflow=str(tmp_path / "store")), dataset, tmp_path / "run")
    (client,) = mlflow.made
    logged = client.runs["r1"]
    assert (logged.name, logged.status, logged.experiment) == ("run", "FINISHED", "7")
    assert client.uri == f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}" and (tmp_path / "store").is_dir()
    assert logged.tags["gcnrec.digest"] == dataset.digest
    assert (logged.params["train.epochs"], logged.params["model.name"]) == ("3", "lightgcn")
    losses = [(each.step, each.value) for each in logged.metrics if each.key == "loss"]
    assert losses == [(epoch.epoch, epoch.loss) for epoch in RunContents(run.folder).epochs("fit")]
    assert {"valid/recall_at_3", "refit/loss", "values"} <= {each.key for each in logged.metrics}


@pytest.mark.parametrize(("problem", "status"), [(KeyboardInterrupt, "KILLED"), (Terminated, "KILLED"), (SystemExit, "FAILED")])
def test_mlflow_is_told_how_it_ended_and_a_resumed_run_goes_on(dataset, tmp_path, mlflow, problem, status):
    settings = job(mlflow="http://store")
    with pytest.raises(problem):
        train(settings, dataset, tmp_path / "run", observer=Notes(fail_at=2, problem=problem))
    assert mlflow.made[0].runs["r1"].status == status
    train(settings, dataset, tmp_path / "run", resume=True)
    resumed = mlflow.made[1].runs
    assert list(resumed) == ["r1"] and resumed["r1"].status == "FINISHED" and resumed["r1"].params == {}


def test_a_tracker_that_fails_costs_no_training(dataset, tmp_path, mlflow):
    mlflow.broken = ("log",)
    observer = Notes()
    run = train(job(mlflow="http://store"), dataset, tmp_path / "run", observer=observer)
    assert [note for note in observer.notes if "Mlflow" in note] == [
        "Mlflow failed and gets no more of this run, which continues (server gone)"
    ]
    assert observer.epochs == [1, 2, 3] and (run.folder / "memory.json").is_file()
    assert warnings_of(run.folder) == {"tracker": "Mlflow failed and gets no more of this run, which continues (server gone)"}


def test_a_tracker_that_does_not_answer_costs_no_training(dataset, tmp_path, mlflow, monkeypatch):
    monkeypatch.setattr(tracking, "_CALL_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "_STOP_SECONDS", 0.1)
    answer = threading.Event()
    monkeypatch.setattr(mlflow, "log_batch", lambda self, run_id, metrics=(), params=(): answer.wait())
    observer = Notes()
    run = train(job(mlflow="http://store"), dataset, tmp_path / "run", observer=observer)
    assert observer.epochs == [1, 2, 3] and (run.folder / "memory.json").is_file()
    assert "(no answer within 0.1 s)" in warnings_of(run.folder)["tracker"]
    answer.set()


def test_a_store_that_does_not_answer_is_a_sentence_before_the_run(dataset, tmp_path, mlflow, monkeypatch):
    monkeypatch.setattr(tracking, "_OPEN_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "_STOP_SECONDS", 0.1)
    answer = threading.Event()
    monkeypatch.setattr(mlflow, "get_experiment_by_name", lambda self, name: answer.wait())
    with pytest.raises(UsageError, match=r"Mlflow cannot be opened \(no answer within 0.1 s\)"):
        train(job(mlflow="http://x"), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    answer.set()


def test_an_observer_that_fails_costs_no_training(dataset, tmp_path, caplog):
    run = train(job(), dataset, tmp_path / "run", observer=Notes(fail_at=2, problem=ValueError))
    assert [line for line in caplog.messages if "raised ValueError (stopped); it gets no more reports" in line]
    assert (run.folder / "memory.json").is_file() and len(RunContents(run.folder).epochs("fit")) == 3
    assert warnings_of(run.folder) == {
        "observer": "the observer Notes raised ValueError (stopped) and gets no more reports; the work continued"
    }


@pytest.mark.parametrize(
    ("module", "settings", "sentence"),
    [
        ("mlflow", {"mlflow": "http://x"}, "run.mlflow needs MLflow, which is not installed"),
        ("torch.utils.tensorboard", {"tensorboard": True}, r"needs TensorBoard.*pip install '.\[tracking\]'"),
    ],
)
def test_absent_packages_are_told_of_before_anything_is_written(dataset, tmp_path, monkeypatch, module, settings, sentence):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=sentence):
        train(job(**settings), dataset, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_opened(dataset, tmp_path, mlflow):
    mlflow.broken = ("open",)
    with pytest.raises(UsageError, match=r"run.mlflow = 'http://x' cannot be opened \(no route\)"):
        train(job(mlflow="http://x"), dataset, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("file.txt", "is no folder"), ("file.txt/store", "is no folder"), ("sqlite:///file.txt/x.db", "is no folder"),
        ("odd://x", "no such scheme"), ("a" * 300, "name too long"),
    ],
)  # fmt: skip
def test_a_store_that_cannot_be_opened_is_known_before_and_nothing_is_made(tmp_path, monkeypatch, mlflow, uri, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    mlflow.schemes = ("http",)
    with pytest.raises(UsageError, match=f"(?i)run.mlflow = .*cannot be opened.*{sentence}.*name a folder or a server"):
        require_trackers(job(mlflow=uri).run)
    require_trackers(job(mlflow="new/store").run)
    require_trackers(job(mlflow="http://x").run)
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"] and mlflow.made[-1].experiments == {}


def test_a_model_without_epochs_has_nothing_to_track():
    with pytest.raises(UsageError, match=r"follow epochs, and model.name = 'ease' has none"):
        Job.parse({"model": {"name": "ease"}, "run": {"tensorboard": True}}, [], "test")


def test_values_are_counted_with_every_checkpoint(dataset, tmp_path):
    run = train(job(checkpoint_every=2), dataset, tmp_path / "run")
    assert [epoch.values for epoch in RunContents(run.folder).epochs("fit")] == [None, 192, 192]
