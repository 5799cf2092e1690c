"""`study.json`: what a search knows of each trial, and what it was asked. A search goes on from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gcnrec.config.tuning import Search
from gcnrec.errors import DataError, UsageError
from gcnrec.storage.documents import Document, checked, read_object, write_json

STUDY = "study.json"
FORMAT = 1


class Record(Document):
    """An ended trial. `curve`: each validated epoch with its metric, up to the epoch at which it was pruned."""

    number: int = Field(ge=0)
    params: dict[str, Any]
    state: Literal["complete", "pruned", "failed"]
    curve: list[tuple[int, float]] = Field(default_factory=list)
    problem: str = ""

    @property
    def best(self) -> tuple[int, float] | None:
        """The epoch of the highest metric, the first of equals, and that metric."""
        return max(self.curve, key=lambda point: point[1], default=None)


class _File(Document):
    format: Literal[1]
    asked: dict[str, Any]
    trials: list[Record]


@dataclass
class Study:
    """The trials of a search that have ended, by number; `asked` is what decides them."""

    path: Path
    metric: str
    asked: dict[str, Any]
    records: dict[int, Record] = field(default_factory=dict)

    @property
    def ended(self) -> list[Record]:
        """By number."""
        return [self.records[number] for number in sorted(self.records)]

    @property
    def best(self) -> Record | None:
        """The complete trial of the highest metric, the first of equals; None without one."""
        complete = [record for record in self.ended if record.state == "complete" and record.best]
        return max(complete, key=lambda record: record.best[1] if record.best else 0.0, default=None)

    @property
    def summary(self) -> dict[str, Any]:
        """How many trials ended how, and the best."""
        states = [record.state for record in self.ended]
        counts = {"trials": len(states), "pruned": states.count("pruned"), "failed": states.count("failed")}
        if self.best is None or self.best.best is None:
            return counts
        epoch, value = self.best.best
        return counts | {"best": self.best.number, "epoch": epoch, self.metric: value, "params": self.best.params}

    def add(self, record: Record) -> None:
        """Keep an ended trial, also on disk."""
        self.records[record.number] = record
        trials = [one.model_dump(mode="json") for one in self.ended]
        write_json(self.path, {"format": FORMAT, "asked": self.asked, "trials": trials})


def opened(folder: Path, search: Search, digest: str) -> Study:
    """The study in `folder`, or a new one. UsageError where it was asked for something else, or of other data (`digest`).

    More trials than before are no other question.
    """
    job = search.job.model_dump(mode="json", exclude_none=True, exclude={"data"})
    settings = search.settings.model_dump(exclude={"trials"})
    asked = {"job": job, "settings": settings, "space": search.space.plain(), "digest": digest}
    study = Study(folder / STUDY, search.job.evaluate.metric, asked)
    if not study.path.is_file():
        return study
    remedy = "choose another --out, or remove the folder"
    content = read_object(study.path, remedy)
    if content.get("format") != FORMAT:
        raise DataError(f"{study.path} must have format {FORMAT}, has {content.get('format')!r}; {remedy}")
    file = checked(_File, content, str(study.path), remedy)
    for key, value in asked.items():
        if file.asked.get(key) != value:
            raise UsageError(f"{study.path} is a search with another {_NAMES[key]} than {search.path} has now; {remedy}")
    study.records = {record.number: record for record in file.trials}
    return study


_NAMES = {"job": "job", "settings": "sampler, seed or generation", "space": "space", "digest": "dataset"}
