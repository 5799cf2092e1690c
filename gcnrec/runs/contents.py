"""The files of a run folder, parsed, for pages about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gcnrec.config import Job
from gcnrec.errors import DataError
from gcnrec.loaders.ingest.leakage import leaks, sentences
from gcnrec.runs.events import epochs_of, read_events


@dataclass(frozen=True)
class RunContents:
    """What a run folder says; only job.toml must be there."""

    folder: Path

    @cached_property
    def job_text(self) -> str:
        return (self.folder / "job.toml").read_text(encoding="utf-8")

    @cached_property
    def job(self) -> Job:
        return Job.load(self.folder / "job.toml")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Those of the test split, else of validation, which says nothing about a model that was trained on it as well."""
        on_test = _read_json(self.folder / "metrics.json")
        return on_test or ({} if self.job.train.refit else _read_json(self.folder / "metrics.valid.json"))

    @cached_property
    def memory(self) -> dict[str, Any]:
        return _read_json(self.folder / "memory.json")

    @cached_property
    def mixture(self) -> dict[str, Any]:
        return _read_json(self.folder / "mixture.json")

    @cached_property
    def lineage(self) -> dict[str, Any]:
        return _read_json(self.folder / "lineage.json")

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return read_events(self.folder)

    def epochs(self, stage: str) -> list[dict[str, Any]]:
        return epochs_of(self.events, stage)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The events `kind` of metrics.jsonl, in order."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def baselines(self) -> dict[str, dict[str, Any]]:
        return {event["name"]: event["metrics"] for event in self.of_kind("baseline")}

    @property
    def valid_baselines(self) -> list[dict[str, Any]]:
        """What became of each baseline on validation: compared with the best epoch, or why not (`gcnrec.training.baselines`)."""
        return self.of_kind("baseline.valid")

    @property
    def valid_baselines_in_brief(self) -> list[dict[str, Any]]:
        """The same by `evaluate.metric` alone."""
        metric, keys = self.job.evaluate.metric, ("name", "skipped", "own", "difference", "low", "high", "users", "seconds")
        value = {event["name"]: {metric: event["metrics"][metric]} for event in self.valid_baselines if "metrics" in event}
        return [
            {key: event[key] for key in keys if key in event} | value.get(event["name"], {}) for event in self.valid_baselines
        ]

    @property
    def warnings(self) -> list[str]:
        """Why figures may not mean what they seem to: what guards said, and leakage of time in the data."""
        said = [f"{event['text'][0].upper()}{event['text'][1:]}." for event in self.of_kind("warning")]
        data = self.lineage.get("data", {})
        return said + ([f"Data: {sentence}." for sentence in sentences(data)] if leaks(data) else [])

    @property
    def headline(self) -> str:
        """The metric that charts compare by: the one that validation chose by, if it was measured."""
        chosen = self.job.evaluate.metric
        return chosen if chosen in self.metrics else next(iter(scalars(self.metrics)), chosen)


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics proper, in their order: names such as `recall@20`."""
    return {name: float(value) for name, value in metrics.items() if "@" in name and isinstance(value, (int, float))}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as problem:
        raise DataError(f"{path} must be JSON, cannot be read ({problem}); write it again with 'gcnrec evaluate'") from None
    return dict(document)
