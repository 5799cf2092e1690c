"""Epochs, test metrics and report of a run in TensorBoard, MLflow or a tracker of another package, where its job asks for them.

The run folder has all of it in any case. A curve's x is the epoch. Names are as in metrics.jsonl, with "valid/" before validation
metrics, "test/" before those of `gcnrec evaluate`, and "_at_" for "@".
Nothing of either tool is imported, opened or left behind unless it was asked for; no global setting of theirs is changed.
A tracker works in a thread of its own. If it raises or does not answer, it is dropped, and costs no training.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from gcnrec.config import Run
from gcnrec.errors import Terminated, UsageError, first_line, install, shown
from gcnrec.extensions.load import Own
from gcnrec.ranking.metrics import measured
from gcnrec.runs.contents import RunContents
from gcnrec.runs.documents import read_json
from gcnrec.runs.events import append_event
from gcnrec.storage.documents import Document, checked, write_json
from gcnrec.system.observer import Observer

_OPEN_SECONDS = 60.0
_CALL_SECONDS = 30.0
"""How long training waits for a tracker, once."""
_STOP_SECONDS = 1.0
"""How long a run that was stopped waits for a tracker to note it."""
_NO_CURVE = ("event", "stage", "epoch", "step", "seen", "valid", "exports")
_EXPERIMENT = "gcnrec"
_DATABASES = ("sqlite", "mysql", "postgresql", "mssql", "file:")
_PARAMS_AT_ONCE, _METRICS_AT_ONCE = 100, 1000
"""MLflow takes no more in one request."""


class OwnTracker(Protocol):
    """What `run.tracker` names; the class is made of one dict, `run.tracker_settings`.

    Each process that has something to say calls `begin` first and `close` last, so that one run has several: training, a resume,
    `gcnrec evaluate`. A thread of its own makes all calls. What raises, or does not answer within 30 s, ends the tracking alone.
    """

    def begin(self, folder: Path, job: dict[str, dict[str, Any]]) -> None:
        """The run in `folder`, which has a lineage.json, and the sections of its job, as JSON has them."""
        ...

    def epoch(self, stage: str, epoch: int, figures: dict[str, float]) -> None:
        """An epoch (1 ..) of stage "fit" or "refit", and its figures by name. A resumed run may send one again."""
        ...

    def results(self, split: str, metrics: dict[str, float]) -> None:
        """What `gcnrec evaluate` measured on "test" or "valid", by name such as recall_at_20."""
        ...

    def report(self, page: Path) -> None:
        """The page of the run, report.html, as it lies in the folder now."""
        ...

    def close(self, status: str) -> None:
        """The process ends: "FINISHED", "FAILED" or "KILLED"."""
        ...


class _Tracker(Protocol):
    """TensorBoard, MLflow and `_Foreign`, which turns these calls into those of an `OwnTracker`."""

    def epoch(self, record: dict[str, Any]) -> None: ...
    def results(self, split: str, metrics: dict[str, float]) -> None: ...
    def report(self, page: Path) -> None: ...
    def close(self, status: str) -> None: ...


Params = dict[str, dict[str, Any]]
"""Sections of a job, as JSON has them."""


def _wanted(settings: Run, params: Params, folder: Path) -> list[partial[Any]]:
    """The trackers that `settings` names, to be opened."""
    wanted: list[partial[Any]] = []
    if settings.tensorboard:
        wanted.append(partial(TensorBoard, folder, params))
    if settings.mlflow:
        wanted.append(partial(Mlflow, settings.mlflow, folder, params))
    if settings.own:
        wanted.append(partial(_Foreign, settings.own, folder, params))
    return wanted


@contextmanager
def tracked(settings: Run, params: Params, folder: Path, observer: Observer) -> Iterator[Observer]:
    """`observer`, which also reports every epoch of the run in `folder` to the trackers that `settings` names.

    Raises UsageError, before the run folder is begun, when a tracker is not installed or cannot be reached.
    """
    wanted = _wanted(settings, params, folder)
    if not wanted:
        yield observer
        return
    both = _Tracked(observer, folder)
    for opened in wanted:
        both.open(opened)
    try:
        yield both
    except (KeyboardInterrupt, Terminated):
        both.close("KILLED", _STOP_SECONDS)
        raise
    except BaseException:
        both.close("FAILED", _CALL_SECONDS)
        raise
    both.close("FINISHED", _CALL_SECONDS)


def track_results(settings: Run, params: Params, folder: Path, split: str, metrics: dict[str, Any], observer: Observer) -> None:
    """Send the trackers that `settings` names what was measured on `split`; `metrics` as metrics.json has them.

    A tracker that fails is noted, here and in metrics.jsonl: the run is whole without it.
    """
    figures = {name.replace("@", "_at_"): value for name, value in measured(metrics).items()}
    _send(_wanted(settings, params, folder), folder, observer, lambda tracker: tracker.results(split, figures))


def track_report(settings: Run, params: Params, folder: Path, page: Path, observer: Observer) -> None:
    """Give the trackers that `settings` names the page of the run. A tracker that fails is noted as by `track_results`."""
    _send(_wanted(settings, params, folder), folder, observer, lambda tracker: tracker.report(page))


def _send(wanted: list[partial[Any]], folder: Path, observer: Observer, act: Callable[[_Tracker], None]) -> None:
    for opened in wanted:
        each = _Tracked(observer, folder)
        try:
            each.open(opened)
        except UsageError as problem:
            each.dropped(_name_of(opened), problem)
            continue
        each.send(act)
        each.close("FINISHED", _CALL_SECONDS)


def require_trackers(settings: Run) -> None:
    """Raise, for trackers that `settings` names, what `tracked` would, as far as that is known without making anything.

    A database is opened by training alone, which makes its tables.
    """
    if settings.tensorboard:
        TensorBoard(Path(), {})
    if settings.own:
        settings.own.make()
    if settings.mlflow is None:
        return
    client, uri = _mlflow(), settings.mlflow
    if "://" not in uri and uri != "databricks":
        _require_folder(uri, Path(uri))
    elif uri.startswith("sqlite:///"):
        _require_folder(uri, Path(uri.removeprefix("sqlite:///")).parent)
    elif not uri.startswith(_DATABASES):
        _Aside(partial(mlflow_server, client, uri)).end()


def _require_folder(uri: str, path: Path) -> None:
    """UsageError where `path` neither is a folder nor can be made."""
    try:
        nearest = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
        if nearest.is_dir():
            return
        problem = OSError(f"{nearest} is no folder")
    except OSError as one:
        problem = one
    raise _no_store(uri, problem)


def mlflow_server(client: Any, uri: str) -> None:
    """Ask the server at `uri`. UsageError where it is none."""
    try:
        client(tracking_uri=uri).get_experiment_by_name(_EXPERIMENT)
    except Exception as problem:
        raise _no_store(uri, problem) from None


class _Tracked(Observer):
    """An observer in front of trackers. A tracker that fails is reported and left out: it must not cost the training."""

    def __init__(self, observer: Observer, folder: Path) -> None:
        self._observer, self._folder = observer, folder
        self._trackers: list[_Aside] = []

    def open(self, opened: partial[Any]) -> None:
        """Open another tracker. UsageError, after all others have ended, where that fails."""
        try:
            self._trackers.append(_Aside(opened))
        except BaseException:
            self.close("FAILED", _STOP_SECONDS)
            raise

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        self._observer.step(epoch, epochs, step, steps, loss, rows_per_second)

    def epoch(self, record: dict[str, Any]) -> None:
        self._observer.epoch(record)
        self._each(lambda tracker: tracker.epoch(record), _CALL_SECONDS)

    def work(self, what: str, done: int, total: int) -> None:
        self._observer.work(what, done, total)

    def note(self, text: str) -> None:
        self._observer.note(text)

    def warn(self, text: str) -> None:
        self._observer.warn(text)

    def close(self, status: str, seconds: float) -> None:
        """End all trackers with "FINISHED", "FAILED" or "KILLED"."""
        self._each(lambda tracker: tracker.close(status), seconds)
        for aside in self._trackers:
            aside.end()

    def send(self, act: Callable[[_Tracker], None]) -> None:
        """Let all trackers do `act`."""
        self._each(act, _CALL_SECONDS)

    def dropped(self, name: str, problem: BaseException) -> None:
        """Note, also in the run folder, that a tracker gets no more."""
        text = f"{name} failed and gets no more of this run, which continues ({first_line(problem)})"
        if self._folder.is_dir():
            append_event(self._folder, {"event": "warning", "kind": "tracker", "text": text})
        self.note(text)

    def _each(self, act: Callable[[_Tracker], None], seconds: float) -> None:
        for aside in list(self._trackers):
            try:
                aside.call(act, seconds)
            except Exception as problem:
                self._trackers.remove(aside)
                aside.end()
                self.dropped(aside.name, problem)


def _name_of(opened: partial[Any]) -> str:
    """What sentences call a tracker."""
    func: Any = opened.func
    name: str = opened.args[0].name if func is _Foreign else func.__name__
    return name


class _Aside:
    """A tracker in a thread of its own, which alone calls it; what it raises is raised here.

    Raises UsageError when it cannot be opened within a minute.
    """

    def __init__(self, opened: partial[Any]) -> None:
        self.name = _name_of(opened)
        self._calls: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"gcnrec {self.name}", daemon=True)
        self._thread.start()
        try:
            self._tracker = self._answer(opened, _OPEN_SECONDS)
        except BaseException as problem:
            self.end()
            if isinstance(problem, TimeoutError):
                raise UsageError(
                    f"{self.name} cannot be opened ({problem}); see that it runs, or leave it out of [run]"
                ) from None
            raise

    def call(self, act: Callable[[_Tracker], None], seconds: float) -> None:
        """Let the tracker do `act`. Raises TimeoutError after `seconds`."""
        self._answer(partial(act, self._tracker), seconds)

    def end(self) -> None:
        """Let the thread end when it can."""
        self._calls.put(None)
        self._thread.join(_STOP_SECONDS)

    def _answer(self, act: Callable[[], Any], seconds: float) -> Any:
        answers: SimpleQueue[Any] = SimpleQueue()
        self._calls.put((act, answers))
        try:
            is_done, answer = answers.get(timeout=seconds)
        except Empty:
            raise TimeoutError(f"no answer within {seconds:g} s") from None
        if not is_done:
            raise answer
        return answer

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            act, answers = call
            try:
                answers.put((True, act()))
            except Exception as problem:
                answers.put((False, problem))
            except BaseException as problem:  # SystemExit of a library ends no training
                answers.put((False, RuntimeError(repr(problem))))


class TensorBoard:
    """Scalars in `tensorboard/fit`, `refit` and `test` of a run folder. A resumed run replaces what was there."""

    def __init__(self, folder: Path, params: Params) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                f"run.tensorboard needs TensorBoard, which is not installed; {install('tracking')}, or set it to false"
            ) from None
        self._open = SummaryWriter
        self._folder, self._params = folder, params
        self._stage = ""
        self._writer: Any = None

    def epoch(self, record: dict[str, Any]) -> None:
        if record["stage"] != self._stage:
            self.close("FINISHED")
            self._stage = record["stage"]
            self._writer = self._open(str(self._folder / "tensorboard" / self._stage), purge_step=0)
            for earlier in RunContents(self._folder).epochs(self._stage):
                self._add(earlier.model_dump(exclude_unset=True))
        else:
            self._add(record)
        self._writer.flush()

    def results(self, split: str, metrics: dict[str, float]) -> None:
        """Scalars at the last epoch, settings with them as hyperparameters, and a table as text; a repetition replaces them."""
        folder = self._folder / "tensorboard" / split
        shutil.rmtree(folder, ignore_errors=True)
        writer, figures = self._open(str(folder)), {f"{split}/{name}": value for name, value in metrics.items()}
        settings = {name: value if isinstance(value, (bool, int, float)) else _text(value) for name, value in _flat(self._params)}
        writer.add_hparams(settings, figures, run_name=".", global_step=_last_epoch(self._folder))
        rows = [f"| {name} | {value:.6g} |" for name, value in figures.items()]
        writer.add_text("report", "\n".join(["| metric | value |", "|---|---|", *rows]), _last_epoch(self._folder))
        writer.close()

    def report(self, page: Path) -> None:
        """It shows no pages: `results` has the figures of the report."""

    def _add(self, record: dict[str, Any]) -> None:
        for name, value in curves(record).items():
            self._writer.add_scalar(name, value, record["epoch"])

    def close(self, status: str) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None


class _Begun(Document):
    """mlflow.json: the run of MLflow that a run folder writes to."""

    uri: str
    run_id: str


class Mlflow:
    """One MLflow run of experiment "gcnrec" for a run folder: the job as parameters, every epoch's figures as metrics.

    `mlflow.json` in the run folder names it, so that a resumed run continues it (and logs epochs that it does again twice).
    """

    def __init__(self, uri: str, folder: Path, params: Params) -> None:
        client = _mlflow()
        self._uri = uri
        self._folder = folder
        self._params = params
        self._run = ""
        try:
            self._client = client(tracking_uri=_store(uri))
            found = self._client.get_experiment_by_name(_EXPERIMENT)
            made = partial(self._client.create_experiment, _EXPERIMENT, artifact_location=_artifacts(uri))
            self._experiment = found.experiment_id if found else made()
        except Exception as problem:
            raise _no_store(uri, problem) from None

    def epoch(self, record: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        self._run = self._run or self._begun()
        stage = "" if record["stage"] == "fit" else f"{record['stage']}/"
        now = time.time_ns() // 1_000_000
        metrics = [Metric(stage + name, value, now, record["epoch"]) for name, value in curves(record).items()]
        self._client.log_batch(self._run, metrics=metrics)

    def results(self, split: str, metrics: dict[str, float]) -> None:
        from mlflow.entities import Metric

        self._run = self._run or self._begun()
        now, epoch = time.time_ns() // 1_000_000, _last_epoch(self._folder)
        metrics_of_run = [Metric(f"{split}/{name}", value, now, epoch) for name, value in metrics.items()]
        for first in range(0, len(metrics_of_run), _METRICS_AT_ONCE):
            self._client.log_batch(self._run, metrics=metrics_of_run[first : first + _METRICS_AT_ONCE])

    def report(self, page: Path) -> None:
        self._run = self._run or self._begun()
        self._client.log_artifact(self._run, str(page))

    def close(self, status: str) -> None:
        if self._run:
            self._client.set_terminated(self._run, status)

    def _begun(self) -> str:
        """The MLflow run that this run folder names, else a new one."""
        from mlflow.entities import Param

        path = self._folder / "mlflow.json"
        if (
            path.is_file()
            and (known := checked(_Begun, read_json(path), str(path), "remove it, a new one follows")).uri == self._uri
        ):
            begun = known.run_id
            self._client.update_run(begun, status="RUNNING")
            return begun
        data = RunContents(self._folder).lineage.data
        tags = {"gcnrec.folder": str(self._folder.resolve()), "gcnrec.data": data.name, "gcnrec.digest": data.digest}
        begun = str(self._client.create_run(self._experiment, run_name=self._folder.name, tags=tags).info.run_id)
        params = [Param(name, _text(value)) for name, value in _flat(self._params)]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(begun, params=params[first : first + _PARAMS_AT_ONCE])
        write_json(path, {"uri": self._uri, "run_id": begun})
        return begun


class _Foreign:
    """A tracker of another package: begun at its first call, when the folder of the run exists."""

    def __init__(self, own: Own, folder: Path, params: Params) -> None:
        self._tracker: OwnTracker = own.make()
        self._folder, self._params, self._is_begun = folder, params, False

    def epoch(self, record: dict[str, Any]) -> None:
        self._begun().epoch(record["stage"], record["epoch"], curves(record))

    def results(self, split: str, metrics: dict[str, float]) -> None:
        self._begun().results(split, dict(metrics))

    def report(self, page: Path) -> None:
        self._begun().report(page)

    def close(self, status: str) -> None:
        if self._is_begun:
            self._tracker.close(status)

    def _begun(self) -> OwnTracker:
        if not self._is_begun:
            self._is_begun = True
            self._tracker.begin(self._folder, self._params)
        return self._tracker


def _flat(params: Params) -> Iterator[tuple[str, Any]]:
    """Settings by `section.key`."""
    for section, settings in params.items():
        for key, value in settings.items():
            yield f"{section}.{key}", value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _last_epoch(folder: Path) -> int:
    """The epoch that a run's training ended with, 0 where metrics.jsonl has none."""
    contents = RunContents(folder)
    return max((each.epoch for each in contents.epochs("refit") or contents.epochs("fit")), default=0)


def _artifacts(uri: str) -> str | None:
    """Where the files of runs go that MLflow keeps in a folder; None where a server or a store of its own decides."""
    return None if "://" in uri or uri == "databricks" else (Path(uri).resolve() / "artifacts").as_uri()


def _mlflow() -> Any:
    """MLflow's client. UsageError where MLflow is not installed."""
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise UsageError("run.mlflow needs MLflow, which is not installed; pip install mlflow, or leave it out") from None
    return MlflowClient


def _no_store(uri: str, problem: Exception) -> UsageError:
    return UsageError(f"run.mlflow = {shown(uri)} cannot be opened ({first_line(problem)}); name a folder or a server that runs")


def _store(uri: str) -> str:
    """The URI of MLflow's database in a folder, which is made; a URI itself. MLflow 3 opens no folder of files."""
    if "://" in uri or uri == "databricks":
        return uri
    Path(uri).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{Path(uri).resolve() / 'mlflow.db'}"


def curves(record: dict[str, Any]) -> dict[str, float]:
    """The figures of an epoch's record by the names that both tools take."""
    figures = {name: float(value) for name, value in record.items() if name not in _NO_CURVE}
    valid = {f"valid/{name}": float(value) for name, value in (record.get("valid") or {}).items()}
    exports = {f"valid/exports/{name}": float(each["value"]) for name, each in (record.get("exports") or {}).items()}
    return {name.replace("@", "_at_"): value for name, value in (figures | valid | exports).items()}
