"""What the files of a run folder say, as objects: for reports, sweeps and `gcnrec info`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, field_validator

from gcnrec.closed_forms.mixture_files import Mixture
from gcnrec.config import Job
from gcnrec.errors import DataError, reading
from gcnrec.loaders.ingest.leakage import leaks, sentences
from gcnrec.ranking.metrics import measured
from gcnrec.runs.documents import read_json, remedy
from gcnrec.runs.events import Baseline, Epoch, Event, ValidBaseline, Warned, read_events
from gcnrec.runs.lineage import Lineage, Source
from gcnrec.runs.paths import JOB, LINEAGE, MEMORY, MIXTURE, metrics_path
from gcnrec.storage.documents import Document, checked
from gcnrec.storage.remote.upload import BROUGHT
from gcnrec.storage.streams import check_regular

E = TypeVar("E", bound=Event)


class Metrics(Document):
    """metrics.json or metrics.valid.json; empty where it is missing."""

    split: str = "test"
    seen: str = ""
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    deciles: list[dict[str, int | float | None]] = Field(default_factory=list)
    cold_start: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    segments: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    per: dict[str, list[dict[str, str | int | float | None]]] = Field(default_factory=dict)

    @field_validator("deciles")
    @classmethod
    def _alike(cls, deciles: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if any(each.keys() != deciles[0].keys() for each in deciles):
            raise ValueError("its entries must have the same keys")
        return deciles

    @field_validator("cold_start")
    @classmethod
    def _counted(cls, groups: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
        if any(values.get("users") is None for values in groups.values()):
            raise ValueError("each group must count its users")
        return groups

    @property
    def values(self) -> dict[str, float]:
        """The metrics of the split by name."""
        return measured(self.model_extra or {})


@dataclass(frozen=True)
class RunContents:
    """The files of a run folder. All may be missing but job.toml; DataError, naming file and key, when one is damaged."""

    folder: Path

    @cached_property
    def job_text(self) -> str:
        path = self.folder / JOB
        with reading(path, "restore it, or train again"):
            return path.read_text(encoding="utf-8")

    @cached_property
    def job(self) -> Job:
        if (self.folder / JOB).exists():
            check_regular(self.folder / JOB, "the job file of a run")  # a pipe may stay silent
        return Job.load(self.folder / JOB)

    def document(self, name: str) -> dict[str, Any]:
        """The JSON object in a file, keys in its order; empty when the file is missing."""
        path = self.folder / name
        return read_json(path) if os.path.lexists(path) else {}

    def metrics_of(self, split: str) -> Metrics:
        """The metrics of "test" or "valid"."""
        path = metrics_path(self.folder, split)
        return checked(Metrics, self.document(path.name), str(path), remedy(path))

    @cached_property
    def metrics(self) -> Metrics:
        """The metrics of test, else of validation; a model that was trained on validation shows none of it."""
        on_test = self.metrics_of("test")
        return on_test if on_test.model_fields_set or self.job.train.refit else self.metrics_of("valid")

    @cached_property
    def memory(self) -> dict[str, int]:
        """The counts of memory.json by name; not its list of arrays."""
        counts = {name: count for name, count in self.document(MEMORY).items() if name != "arrays"}
        wrong = next((name for name, count in counts.items() if type(count) is not int or count < 0), None)
        if wrong is not None:
            path = self.folder / MEMORY
            raise DataError(f"{path} is damaged ({wrong!a}: it must be a count); {remedy(path)}")
        return counts

    @cached_property
    def mixture(self) -> Mixture | None:
        """The closed forms that the run mixes in, and the weights; None without a mixture.

        DataError where a finished run of a job with a mixture has lost the file.
        """
        document = self.document(MIXTURE)
        if not document and self.job.mixture.partners and (self.folder / MEMORY).is_file():
            raise DataError(
                f"{self.folder / MIXTURE} is missing, and the job has a mixture; restore it, or train into another folder"
            )
        return Mixture.of(document, self.folder / MIXTURE) if document else None

    @cached_property
    def lineage(self) -> Lineage:
        """lineage.json; empty where it is missing."""
        document = self.document(LINEAGE)
        if not document:
            return Lineage(data=Source())
        path = self.folder / LINEAGE
        return checked(Lineage, document, str(path), remedy(path))

    @property
    def trained_on(self) -> Source:
        """The dataset that lineage.json names. DataError where it does not."""
        source, path = self.lineage.data, self.folder / LINEAGE
        if not source.folder or not source.digest:
            raise DataError(f"{path} must name folder and digest of the run's data, lacks one; {remedy(path)}")
        return source

    @property
    def dataset_folder(self) -> Path:
        """Where the run's dataset lies: where it was trained, or in `dataset` of a run that was fetched to another machine."""
        trained, brought = Path(self.trained_on.folder), self.folder / BROUGHT
        return brought.resolve() if not trained.exists() and brought.is_dir() else trained

    @cached_property
    def events(self) -> list[Event]:
        return read_events(self.folder)

    def of_kind(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def epochs(self, stage: str) -> list[Epoch]:
        """The epochs of `stage` (`fit` or `refit`)."""
        return [epoch for epoch in self.of_kind(Epoch) if epoch.stage == stage]

    def validations(self, metric: str) -> list[Epoch]:
        """The epochs of the fit after which `metric` was measured."""
        return [epoch for epoch in self.epochs("fit") if metric in epoch.valid]

    def best_validation(self, metric: str) -> dict[str, Any]:
        """The validation metrics of the epoch with the highest `metric`, the first of equals; empty when none was measured."""
        best = max(self.validations(metric), key=lambda epoch: epoch.valid[metric], default=None)
        return {"split": "valid", "epoch": best.epoch, **best.valid} if best else {}

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        """The metrics of each baseline on test, where lists leave out what the run's do; earlier versions left out "all"."""
        rule = self.metrics_of("test").seen or self.job.evaluate.seen or "all"
        return {baseline.name: baseline.metrics for baseline in self.of_kind(Baseline) if (baseline.seen or "all") == rule}

    @property
    def valid_baselines_in_brief(self) -> list[dict[str, Any]]:
        """The baselines on validation, by `evaluate.metric` alone."""
        metric = self.job.evaluate.metric
        return [
            baseline.model_dump(exclude_unset=True, exclude={"event", "metrics"})
            | {name: value for name, value in baseline.metrics.items() if name == metric}
            for baseline in self.of_kind(ValidBaseline)
        ]

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the figures: warnings of the run, and leakage of time in the data."""
        said = [f"{warning.text[0].upper()}{warning.text[1:]}." for warning in self.of_kind(Warned)]
        data = self.lineage.data.model_extra or {}
        return said + ([f"Data: {sentence}." for sentence in sentences(data)] if leaks(data) else [])

    @property
    def headline(self) -> str:
        """The metric that charts compare by: `evaluate.metric`, if it was measured."""
        chosen, values = self.job.evaluate.metric, self.metrics.values
        return chosen if chosen in values else next(iter(values), chosen)
