"""`--log-json`: the reports of a command as one JSON object a line on stderr, for machines that watch jobs.

Every object has `time` (ISO, UTC), `level` ("info", "warning", "error") and `event`; the other fields belong to the event:
"step", "work", "epoch" (as in metrics.jsonl), "note", "warning" (`text`), "run" (of a sweep), "error" (`text`, `exit_code`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gcnrec.reports.figures import LINE_SECONDS
from gcnrec.system.observer import Observer

if TYPE_CHECKING:
    from gcnrec.reports.trials import Ended


def log(level: str, event: str, fields: dict[str, Any]) -> None:
    """Write one line. NaN becomes null, which is JSON where NaN is not."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, "level": level, "event": event, **_finite(fields)}, default=str, allow_nan=False)
    print(line, file=sys.stderr, flush=True)


class JsonLines(Observer):
    """Every epoch, note and warning; progress within an epoch or other long work at most once a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = clock()

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        place = {"epoch": epoch, "epochs": epochs, "step": step, "steps": steps}
        self._progress("step", {**place, "loss": loss, "rows_per_second": rows_per_second})

    def epoch(self, record: dict[str, Any]) -> None:
        log("info", "epoch", {key: value for key, value in record.items() if key != "event"})

    def work(self, what: str, done: int, total: int) -> None:
        self._progress("work", {"what": what, "done": done, "total": total})

    def note(self, text: str) -> None:
        log("info", "note", {"text": text})

    def warn(self, text: str) -> None:
        log("warning", "warning", {"text": text})

    def ended(self, run: Ended, done: int, of: int) -> None:
        """A run of a sweep ended, `done` of `of` have."""
        log("error" if run.code else "info", "run", {**asdict(run), "done": done, "of": of})

    def _progress(self, event: str, fields: dict[str, Any]) -> None:
        if self._clock() >= self._due:
            self._due = self._clock() + LINE_SECONDS
            log("info", event, fields)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0.0 else value
