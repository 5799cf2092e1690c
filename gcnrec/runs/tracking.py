"""Epochs of a run in TensorBoard and MLflow, where its job asks for them; metrics.jsonl has all of it in any case.

A curve's x is the epoch. Names are as in metrics.jsonl, with "valid/" before validation metrics and "_at_" for "@".
Nothing of either tool is imported, opened or left behind unless it was asked for; no global setting of theirs is changed.
A tracker works in a thread of its own. If it raises or does not answer, it is dropped, and costs no training.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from gcnrec.config import Run
from gcnrec.errors import Terminated, UsageError, first_line, install, shown
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
_PARAMS_AT_ONCE = 100
"""MLflow takes no more in one request."""


@contextmanager
def tracked(settings: Run, params: dict[str, dict[str, Any]], folder: Path, observer: Observer) -> Iterator[Observer]:
    """`observer`, which also reports every epoch of the run in `folder` to the trackers that `settings` names.

    `params`: sections of the job, as JSON has them.

    Raises UsageError, before the run folder is begun, when a tracker is not installed or cannot be reached.
    """
    wanted: list[partial[TensorBoard] | partial[Mlflow]] = []
    if settings.tensorboard:
        wanted.append(partial(TensorBoard, folder))
    if settings.mlflow:
        wanted.append(partial(Mlflow, settings.mlflow, folder, params))
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


def require_trackers(settings: Run) -> None:
    """Raise, for trackers that `settings` names, what `tracked` would, as far as that is known without making anything.

    A database is opened by training alone, which makes its tables.
    """
    if settings.tensorboard:
        TensorBoard(Path())
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

    def open(self, opened: partial[TensorBoard] | partial[Mlflow]) -> None:
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

    def _each(self, act: Callable[[TensorBoard | Mlflow], None], seconds: float) -> None:
        for aside in list(self._trackers):
            try:
                aside.call(act, seconds)
            except Exception as problem:
                self._trackers.remove(aside)
                aside.end()
                text = f"{aside.name} failed and gets no more of this run, which continues ({first_line(problem)})"
                if self._folder.is_dir():
                    append_event(self._folder, {"event": "warning", "kind": "tracker", "text": text})
                self.note(text)


class _Aside:
    """A tracker in a thread of its own, which alone calls it; what it raises is raised here.

    Raises UsageError when it cannot be opened within a minute.
    """

    def __init__(self, opened: partial[Any]) -> None:
        self.name = opened.func.__name__
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

    def call(self, act: Callable[[TensorBoard | Mlflow], None], seconds: float) -> None:
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
    """Scalars in `tensorboard/fit` and `tensorboard/refit` of a run folder. A resumed run replaces what was there."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                f"run.tensorboard needs TensorBoard, which is not installed; {install('tracking')}, or set it to false"
            ) from None
        self._open = SummaryWriter
        self._folder = folder
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

    def __init__(self, uri: str, folder: Path, params: dict[str, dict[str, Any]]) -> None:
        client = _mlflow()
        self._uri = uri
        self._folder = folder
        self._params = params
        self._run = ""
        try:
            self._client = client(tracking_uri=_store(uri))
            found = self._client.get_experiment_by_name(_EXPERIMENT)
            self._experiment = found.experiment_id if found else self._client.create_experiment(_EXPERIMENT)
        except Exception as problem:
            raise _no_store(uri, problem) from None

    def epoch(self, record: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        self._run = self._run or self._begun()
        stage = "" if record["stage"] == "fit" else f"{record['stage']}/"
        now = time.time_ns() // 1_000_000
        metrics = [Metric(stage + name, value, now, record["epoch"]) for name, value in curves(record).items()]
        self._client.log_batch(self._run, metrics=metrics)

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
        params = [
            Param(f"{section}.{key}", value if isinstance(value, str) else json.dumps(value))
            for section, settings in self._params.items()
            for key, value in settings.items()
        ]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(begun, params=params[first : first + _PARAMS_AT_ONCE])
        write_json(path, {"uri": self._uri, "run_id": begun})
        return begun


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
