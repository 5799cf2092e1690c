"""The epochs of a stage: steps, their records, and checkpoints wherever they are due or a signal asks for one.

What an epoch leaves behind is written in the order `best`, metrics.jsonl, trackers, `last`. The last checkpoint says what is
done: what was written for later steps is taken back or written again, the same, when the run is resumed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnrec.config import Job
from gcnrec.errors import Terminated
from gcnrec.loaders.schema import Dataset
from gcnrec.runs.checkpoints import Checkpoints, Tensors
from gcnrec.runs.events import append_event, keep_events
from gcnrec.sampling.minibatches import Waits, minibatches
from gcnrec.steps.explore import Explorer
from gcnrec.steps.state import Progress, Sums, captured, restore
from gcnrec.steps.step import Step
from gcnrec.system.signals import Stop
from gcnrec.tables.placement import moved, traffic_of, traffic_since
from gcnrec.tables.rules import learning_rate

if TYPE_CHECKING:
    from gcnrec.system.observer import Observer

REPORT_SECONDS = 0.2
"""At most so often is the observer told about a step."""


@dataclass(frozen=True)
class Work:
    """What every stage of a run has in common."""

    job: Job
    dataset: Dataset
    folder: Path
    checkpoints: Checkpoints
    stop: Stop
    observer: Observer


class Epochs:
    """Trains epoch after epoch of the stage of `progress`, which is where it is: `steps`, `record`, `close` until it is `over`.

    `tensors` are those of the checkpoint that `progress` is from, none at a start; they are put back and let go of. Lines of
    metrics.jsonl about what is done again are taken back.
    """

    def __init__(self, work: Work, step: Step, explorer: Explorer | None, tensors: Tensors, progress: Progress) -> None:
        restore(step, explorer, tensors)
        self._work, self._step, self._explorer = work, step, explorer
        self._epochs = work.job.train.epochs if progress.stage == "fit" else progress.best_epoch
        self._whole = True  # `progress` is where the table is
        self._saved_at = time.monotonic()
        self._told_at = -REPORT_SECONDS  # so that the first step is told, and with it how many epochs there are
        self.progress = progress
        keep_events(work.folder, progress.stage, progress.epoch, progress.epoch * self._per_epoch + progress.step)
        if tensors and not self.over:
            where = {"stage": progress.stage, "epoch": progress.epoch, "step": progress.step}
            now = datetime.now(UTC).isoformat(timespec="seconds")
            append_event(work.folder, {"event": "resume", **where, "time": now})
        tensors.clear()

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or those of a fit that validation stopped."""
        patience = self._work.job.evaluate.patience if self.progress.stage == "fit" else 0
        return self.progress.epoch >= self._epochs or 0 < patience <= self.progress.waited

    @contextmanager
    def saved(self) -> Iterator[None]:
        """A first signal within the block leaves with a checkpoint of where it came."""
        try:
            yield
        except (KeyboardInterrupt, Terminated):
            if self._whole and not self._work.stop.at_once:
                self._save()
            raise

    def steps(self) -> None:
        """All steps of the epoch that are left."""
        with self._work.stop.deferred():
            begun, waits = time.perf_counter(), Waits()
            first, traffic = self.progress, traffic_of(self._step.table)
            loss, rows, trend = first.sums.loss, first.sums.rows, first.trend
            batches = minibatches(self._step.sampler, first.epoch, self._step.table, waits, first.step)
            with closing(batches):
                for index, batch in enumerate(batches, first.step + 1):
                    self._whole = False
                    value = self._step(batch, self._rate(batch.step))
                    loss, trend = loss + value, trend.after(value, first.epoch == 0)
                    trend.check(batch.step, self._work.job.train.loss_limit)
                    rows += len(batch.rows_R)
                    self._explore(batch.step)
                    due = self._due(batch.step)
                    if due or self._work.stop.asked or index == self._per_epoch:
                        seconds = first.sums.seconds + time.perf_counter() - begun
                        crossed = traffic_since(self._step.table, traffic, first.sums.traffic)
                        sums = Sums(loss, rows, seconds, first.sums.stalled_seconds + waits.seconds, crossed)
                        self.progress = replace(first, step=index, sums=sums, trend=trend)
                        self._whole = True
                    if due or self._work.stop.asked:
                        self._save()
                    if self._work.stop.asked:
                        break
                    self._report(index, loss, rows - first.sums.rows, begun)

    def record(self) -> dict[str, Any]:
        """What metrics.jsonl says of the epoch whose steps are done."""
        progress, sums = self.progress, self.progress.sums
        step = (progress.epoch + 1) * self._per_epoch
        return {
            "event": "epoch", "stage": progress.stage, "epoch": progress.epoch + 1, "step": step,
            "seconds": round(progress.seconds + sums.seconds, 3), "loss": sums.loss / self._per_epoch,
            "rows_per_second": sums.rows / sums.seconds, "learning_rate": self._rate(step),
            "stalled_share": sums.stalled_seconds / sums.seconds, **moved(sums.traffic, sums.seconds),
        }  # fmt: skip

    def close(self, record: dict[str, Any], judged: Progress | None = None) -> None:
        """End the epoch: write its record, the last checkpoint if it is due, and the best one if `judged` says so.

        `judged` is the progress with what validation said; None when there was none.
        """
        work, before = self._work, self.progress
        with work.stop.deferred():
            self._whole = False  # as long as not all that this progress implies is on disk
            done = judged or before
            self.progress = replace(
                done, epoch=before.epoch + 1, step=0, sums=Sums(), seconds=before.seconds + before.sums.seconds
            )
            if judged and judged.best_epoch == self.progress.epoch:
                work.checkpoints.save_best(captured(self._step, self._explorer), self.progress.saved())
            due = self.over or self.progress.epoch % work.job.run.checkpoint_every == 0
            if due:
                record["values"] = self._step.table.drained().num_values
            append_event(work.folder, record)
            self._whole = True
            work.observer.epoch(record)
            if due or work.stop.asked:
                self._save()

    @property
    def _per_epoch(self) -> int:
        return self._step.sampler.steps_per_epoch

    def _rate(self, step: int) -> float:
        # Refits walk the learning-rate schedule of the fit, so its length is that of the fit too.
        return learning_rate(self._work.job.optimizer, step, self._per_epoch * self._work.job.train.epochs)

    def _explore(self, step: int) -> None:
        changed = self._explorer.after(self._step, step) if self._explorer else None
        if changed:
            append_event(self._work.folder, {**changed, "stage": self.progress.stage, "epoch": self.progress.epoch + 1})

    def _report(self, step: int, loss: float, rows: int, begun: float) -> None:
        """Tell the observer of `step` of this epoch, its mean loss so far, and its rows since `begun`."""
        observer, now = self._work.observer, time.perf_counter()
        if now - self._told_at >= REPORT_SECONDS:
            epoch = self.progress.epoch + 1
            observer.step(epoch, self._epochs, step, self._per_epoch, loss / step, rows / (now - begun))
            self._told_at = now

    def _due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` (1 .., over the epochs of the stage)."""
        settings = self._work.job.run
        every = settings.checkpoint_steps
        return (every is not None and step % every == 0) or (
            time.monotonic() - self._saved_at >= 60 * settings.checkpoint_minutes
        )

    def _save(self) -> None:
        saved = self.progress.saved()
        if not self._work.checkpoints.has(saved):
            self._work.checkpoints.save(captured(self._step, self._explorer), saved)
        self._saved_at = time.monotonic()
