"""What every stage of a run has in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gcnrec.config import Job
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.export_rules import ExportRules
from gcnrec.ranking.machines.leader import Rankers
from gcnrec.steps.epochs import Course
from gcnrec.training.plan import Plan
from gcnrec.training.workers.export import Exporter
from gcnrec.workers.world import World

if TYPE_CHECKING:
    from gcnrec.system.observer import Observer


@dataclass(frozen=True)
class Work:
    """The job, what was decided from it, the data, the course of training with the run's folder, the workers that train, and who
    ranks users and propagates exports."""

    job: Job
    plan: Plan
    exports: ExportRules
    dataset: Dataset
    course: Course
    world: World
    rankers: Rankers
    export: Exporter

    @property
    def folder(self) -> Path:
        return self.course.folder

    @property
    def observer(self) -> Observer:
        return self.course.observer
