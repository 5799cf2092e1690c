"""The epochs of a stage: steps, their records, and checkpoints wherever they are due or a signal asks for one.

An epoch writes `best`, metrics.jsonl, trackers, `last`, in this order. The last checkpoint says which steps are done: a resumed
run removes what was written for later steps, or writes it again, the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnrec.errors import DataError, Terminated
from gcnrec.runs.checkpoints import Checkpoints, Tensors
from gcnrec.runs.events import append_event, keep_events, lost_epochs
from gcnrec.runs.lineage import Here
from gcnrec.runs.paths import EVENTS
from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.explore import Explorer
from gcnrec.steps.guards import Loss, LossTrend
from gcnrec.steps.protocol import AnnouncedBatch, TrainingStep
from gcnrec.steps.state import Progress, Sums, captured, restore
from gcnrec.system.limits import major_faults
from gcnrec.system.signals import Stop
from gcnrec.tables.placement import moved, traffic_since

if TYPE_CHECKING:
    from gcnrec import config
    from gcnrec.system.observer import Observer

REPORT_SECONDS = 0.2
"""Between two reports of steps, at least."""


@dataclass(frozen=True)
class Course:
    """How long a fit trains, at which rates, and where its records and checkpoints go.

    `rate` gives the learning rate of a step (1 ..) out of a total. `patience`: validations without a gain that end the fit, 0 for
    none. `saving`: when checkpoints are due. `stop`: signals of the process. `here`: what a resume event says of it.
    """

    epochs: int
    patience: int
    loss_limit: float
    rate: Callable[[int, int], float]
    saving: config.Run
    folder: Path
    checkpoints: Checkpoints
    stop: Stop
    observer: Observer
    here: Here


@dataclass
class _Losses:
    """The losses of the first `steps` steps of an epoch, as far as they are known: their `total`, and the `trend`."""

    steps: int
    total: float
    trend: LossTrend
    first_epoch: bool
    limit: float

    def add(self, losses: Iterable[Loss]) -> None:
        """Take up the losses of the next steps. DivergedError where they explode."""
        for step, value in losses:
            self.steps, self.total = self.steps + 1, self.total + value
            self.trend = self.trend.after(value, self.first_epoch)
            self.trend.check(step, self.limit)


class Epochs:
    """The epochs of a stage, from where `progress` is: `steps`, `record`, then `close`, until it is `over`.

    `tensors` come from the checkpoint of `progress`, none at a start; they are restored and released. Lines of metrics.jsonl
    about steps after it are removed.
    """

    def __init__(
        self, course: Course, step: TrainingStep, explorer: Explorer | None, tensors: Tensors, progress: Progress
    ) -> None:
        saved, anew = course.checkpoints.last, course.checkpoints.anew
        restore(step, explorer, tensors, saved, anew)
        self._course, self._step, self._explorer = course, step, explorer
        self._epochs = course.epochs if progress.stage == "fit" else progress.best_epoch
        self._whole = True  # see `_changing`
        self._saved_at = time.monotonic()
        self._reported_at = -REPORT_SECONDS  # so that the first step is reported, and with it the number of epochs
        self.progress = progress
        if progress.step > self._per_epoch:
            raise DataError(f"{saved} must be at a step up to {self._per_epoch:,} of an epoch, is at {progress.step:,}; {anew}")
        keep_events(course.folder, progress.stage, progress.epoch, progress.epoch * self._per_epoch + progress.step)
        if tensors and (lost := lost_epochs(course.folder, progress.stage, progress.epoch)):
            course.observer.warn(f"{course.folder / EVENTS} has lost {lost} of {progress.epoch} epochs, which reports then lack")
        if tensors and not self.over:
            where = {"stage": progress.stage, "epoch": progress.epoch, "step": progress.step}
            now = datetime.now(UTC).isoformat(timespec="seconds")
            append_event(course.folder, {"event": "resume", **where, "time": now, **course.here.circumstances})
            _warn_of_changes(course)
        tensors.clear()

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or validation stopped the fit."""
        patience = self._course.patience if self.progress.stage == "fit" else 0
        return self.progress.epoch >= self._epochs or 0 < patience <= self.progress.waited

    @contextmanager
    def saved(self) -> Iterator[None]:
        """A first signal within the block ends it with a checkpoint of where it came."""
        try:
            yield
        except (KeyboardInterrupt, Terminated):
            if self._whole and not self._course.stop.at_once:
                with self._course.stop.deferred():
                    self._save()
            raise

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Nothing may be saved within the block, whose end makes table, files and `progress` agree again."""
        self._whole = False
        yield
        self._whole = True

    def steps(self) -> None:
        """All steps of the epoch that are left, in stretches that end where a checkpoint is due."""
        stop = self._course.stop
        with stop.deferred():
            begun, waits, faults = time.perf_counter(), Waits(), major_faults()
            first, traffic = self.progress, self._step.traffic()
            with closing(self._step.batches(first.epoch, waits, first.step)) as batches:
                while self.progress.step < self._per_epoch and not stop.asked:
                    with self._changing():
                        sums, trend, steps = self._stretch(batches, begun, first.sums.rows)
                        seconds = first.sums.seconds + time.perf_counter() - begun
                        crossed = traffic_since(self._step.traffic(), traffic, first.sums.traffic)
                        stalled = first.sums.stalled_seconds + waits.seconds
                        faulted = first.sums.major_faults + major_faults() - faults
                        sums = replace(sums, seconds=seconds, stalled_seconds=stalled, traffic=crossed, major_faults=faulted)
                        self.progress = replace(self.progress, step=steps, sums=sums, trend=trend)
                    if stop.asked or self._due():
                        self._save()
            if not stop.asked:
                self._step.table.drained().settle()  # what others trained comes while nothing interrupts it

    def _stretch(self, batches: Iterator[AnnouncedBatch], begun: float, rows_before: int) -> tuple[Sums, LossTrend, int]:
        """Train until a checkpoint is due, a signal came or the epoch has no batch left: losses and rows, trend, steps done."""
        sums, step = self.progress.sums, self.progress.step
        losses = _Losses(step, sums.loss, self.progress.trend, self.progress.epoch == 0, self._course.loss_limit)
        rows = sums.rows
        for uploaded in batches:
            batch = uploaded.batch
            step, rows = step + 1, rows + uploaded.num_rows
            losses.add(self._step.train(uploaded, self._rate(batch.step)))
            if self._explorer is not None and self._explorer.is_due(batch.step):
                losses.add(self._step.check.settled())
                self._explore(self._explorer, batch.step)
            self._report(losses, rows - rows_before, begun)
            if self._course.stop.asked or self._due(batch.step):
                break
        losses.add(self._step.check.settled())
        return Sums(losses.total, rows), losses.trend, step

    def record(self) -> dict[str, Any]:
        """What metrics.jsonl says of the epoch whose steps are done."""
        progress, sums = self.progress, self.progress.sums
        step = (progress.epoch + 1) * self._per_epoch
        return {
            "event": "epoch", "stage": progress.stage, "epoch": progress.epoch + 1, "step": step,
            "seconds": round(progress.seconds + sums.seconds, 3), "loss": sums.loss / self._per_epoch,
            "rows_per_second": sums.rows / sums.seconds, "learning_rate": self._rate(step),
            "stalled_share": sums.stalled_seconds / sums.seconds, "major_faults": sums.major_faults / self._per_epoch,
            **moved(sums.traffic, sums.seconds),
        }  # fmt: skip

    def close(self, record: dict[str, Any], judged: Progress | None = None) -> None:
        """End the epoch: write its record, the last checkpoint if it is due, and the best one if `judged` says so.

        `judged` is the progress with what validation said; None when there was none.
        """
        course, before = self._course, self.progress
        with course.stop.deferred():
            with self._changing():
                done, seconds = judged or before, before.seconds + before.sums.seconds
                self.progress = replace(done, epoch=before.epoch + 1, step=0, sums=Sums(), seconds=seconds)
                if judged and judged.best_epoch == self.progress.epoch:
                    course.checkpoints.save_best(captured(self._step, self._explorer), self.progress.saved())
                due = self.over or self.progress.epoch % course.saving.checkpoint_every == 0
                if due:
                    record["values"] = self._step.table.drained().num_values
                append_event(course.folder, record)
            course.observer.epoch(record)
            if due or course.stop.asked:
                self._save()

    @property
    def _per_epoch(self) -> int:
        return self._step.sampler.steps_per_epoch

    def _rate(self, step: int) -> float:
        # Refits walk the learning-rate schedule of the fit, so its length is that of the fit too.
        return self._course.rate(step, self._per_epoch * self._course.epochs)

    def _explore(self, explorer: Explorer, step: int) -> None:
        changed = explorer.after(self._step, step)
        append_event(self._course.folder, {**changed, "stage": self.progress.stage, "epoch": self.progress.epoch + 1})

    def _report(self, losses: _Losses, rows: int, begun: float) -> None:
        """Report the steps of this epoch, their mean loss so far, and its rows since `begun`, some times a second."""
        now = time.perf_counter()
        if losses.steps and now - self._reported_at >= REPORT_SECONDS:
            epoch, mean = self.progress.epoch + 1, losses.total / losses.steps
            self._course.observer.step(epoch, self._epochs, losses.steps, self._per_epoch, mean, rows / (now - begun))
            self._reported_at = now

    def _due(self, step: int | None = None) -> bool:
        """Whether a checkpoint is due after `step` (1 .., over the epochs of the stage; default: the last step done)."""
        settings, step = self._course.saving, step or self.progress.epoch * self._per_epoch + self.progress.step
        every = settings.checkpoint_steps
        by_steps = every is not None and step % every == 0
        return by_steps or time.monotonic() - self._saved_at >= 60 * settings.checkpoint_minutes

    def _save(self) -> None:
        course, saved = self._course, self.progress.saved()
        if not course.checkpoints.has(saved):
            course.checkpoints.save(captured(self._step, self._explorer), saved)
        self._saved_at = time.monotonic()


def _warn_of_changes(course: Course) -> None:
    """Warn, also in the run folder, where the rest of a resumed run may compute other bits than its beginning."""
    if course.here.changes:
        text = (
            f"{course.folder} was begun with {', '.join(course.here.changes)}, so it may end in other bits than uninterrupted; "
            "for equal bits resume it as it was begun"
        )
        append_event(course.folder, {"event": "warning", "kind": "circumstances", "text": text})
        course.observer.warn(text)
