"""Epochs of a run in TensorBoard and MLflow, where its job asks for them; metrics.jsonl has all of it in any case.

A curve's x is the epoch. Names are as in metrics.jsonl, with "valid/" before validation metrics and "_at_" for "@".
Nothing of either tool is imported, opened or left behind unless it was asked for; no global setting of theirs is changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from gcnrec.config import Run
from gcnrec.errors import Interrupted, Terminated, UsageError, install
from gcnrec.runs.contents import RunContents
from gcnrec.runs.documents import read_json
from gcnrec.system.documents import write_json
from gcnrec.system.observer import Observer

T = TypeVar("T")

_NO_CURVE = ("event", "stage", "epoch", "step", "seen", "valid", "exports")
_PARAMS_AT_ONCE = 100
"""MLflow takes no more in one request."""


@contextmanager
def tracked(settings: Run, params: dict[str, dict[str, Any]], folder: Path, observer: Observer) -> Iterator[Observer]:
    """`observer`, which also reports every epoch of the run in `folder` to the trackers that `settings` names.

    `params`: sections of the job, as JSON has them.

    Raises UsageError, before the run folder is begun, when a tracker is not installed or cannot be reached.
    """
    trackers: list[TensorBoard | Mlflow] = []
    if settings.tensorboard:
        trackers.append(TensorBoard(folder))
    if settings.mlflow:
        trackers.append(Mlflow(settings.mlflow, folder, params))
    if not trackers:
        yield observer
        return
    both = _Tracked(observer, trackers)
    try:
        yield both
    except BaseException as problem:
        both.close("KILLED" if isinstance(problem, (KeyboardInterrupt, Interrupted, Terminated)) else "FAILED")
        raise
    both.close("FINISHED")


class _Tracked(Observer):
    """An observer in front of trackers. A tracker that fails is reported and left out: it must not cost the training.

    `close` ends all with "FINISHED", "FAILED" or "KILLED".
    """

    def __init__(self, observer: Observer, trackers: list[TensorBoard | Mlflow]) -> None:
        self._observer = observer
        self._trackers = trackers

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        self._observer.step(epoch, epochs, step, steps, loss, rows_per_second)

    def epoch(self, record: dict[str, Any]) -> None:
        self._observer.epoch(record)
        for tracker in list(self._trackers):
            self._try(tracker, tracker.epoch, record)

    def work(self, what: str, done: int, total: int) -> None:
        self._observer.work(what, done, total)

    def note(self, text: str) -> None:
        self._observer.note(text)

    def warn(self, text: str) -> None:
        self._observer.warn(text)

    def close(self, status: str) -> None:
        for tracker in list(self._trackers):
            self._try(tracker, tracker.close, status)

    def _try(self, tracker: TensorBoard | Mlflow, act: Callable[[T], None], argument: T) -> None:
        try:
            act(argument)
        except Exception as problem:
            self._trackers.remove(tracker)
            self.note(f"{type(tracker).__name__} failed and gets no more of this run, which continues ({problem})")


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


class Mlflow:
    """One MLflow run of experiment "gcnrec" for a run folder: the job as parameters, every epoch's figures as metrics.

    `mlflow.json` in the run folder names it, so that a resumed run continues it (and logs epochs that it does again twice).
    """

    def __init__(self, uri: str, folder: Path, params: dict[str, dict[str, Any]]) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise UsageError("run.mlflow needs MLflow, which is not installed; pip install mlflow, or leave it out") from None
        self._uri = uri
        self._folder = folder
        self._params = params
        self._run = ""
        try:
            self._client = MlflowClient(tracking_uri=_store(uri))
            found = self._client.get_experiment_by_name("gcnrec")
            self._experiment = found.experiment_id if found else self._client.create_experiment("gcnrec")
        except Exception as problem:
            raise UsageError(f"run.mlflow = {uri!r} cannot be opened ({problem}); name a folder or a server that runs") from None

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
        if path.is_file() and read_json(path)["uri"] == self._uri:
            begun = str(read_json(path)["run_id"])
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
