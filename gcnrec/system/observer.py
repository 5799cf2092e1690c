"""What long work reports while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gcnrec.errors import first_line

_log = logging.getLogger("gcnrec")


class Observer:
    """What long work reports while it runs; this one ignores all of it. Training calls `step` and `epoch`, other work `work`."""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None: ...

    def epoch(self, record: dict[str, Any]) -> None: ...

    def work(self, what: str, done: int, total: int) -> None:
        """`done` of `total` pieces of `what` (for example "ranking users") are done; a total of 0 is unknown."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None:
        """A result may not mean what it seems to."""


SILENT = Observer()
"""The observer of calls that name none."""


class Kept(Observer):
    """Reports to an observer that may fail: its first exception drops it, and the work that it observes goes on.

    `lost` gives the error that its stream met, if any, and drops it as well. KeyboardInterrupt and other exceptions that are no
    `Exception` pass.
    """

    def __init__(self, observer: Observer, lost: Callable[[], OSError | None] | None = None) -> None:
        self._observer, self._lost = observer, lost
        self._dropped: tuple[str, str] | None = None
        self._records: list[Callable[[str, str], object]] = []

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, rows_per_second: float) -> None:
        self._call(lambda to: to.step(epoch, epochs, step, steps, loss, rows_per_second))

    def epoch(self, record: dict[str, Any]) -> None:
        self._call(lambda to: to.epoch(record))

    def work(self, what: str, done: int, total: int) -> None:
        self._call(lambda to: to.work(what, done, total))

    def note(self, text: str) -> None:
        self._call(lambda to: to.note(text))

    def warn(self, text: str) -> None:
        self._call(lambda to: to.warn(text))

    @contextmanager
    def recorded(self, record: Callable[[str, str], object]) -> Iterator[None]:
        """Call `record(kind, sentence)` when the observer is dropped within the block, or was dropped before."""
        self._records.append(record)
        try:
            if self._dropped:
                record(*self._dropped)
            yield
        finally:
            self._records.remove(record)

    def _call(self, report: Callable[[Observer], None]) -> None:
        if self._dropped:
            return
        try:
            report(self._observer)
        except Exception as problem:
            what = f"the observer {type(self._observer).__name__} raised {type(problem).__name__} ({first_line(problem)})"
            self._drop("observer", what)
            _log.warning("%s; it gets no more reports, the work continues", what)
            _log.debug("where it was raised", exc_info=problem)
            return
        lost = self._lost() if self._lost else None
        if lost:
            self._drop("stream", f"stderr was lost ({lost.strerror or lost})")

    def _drop(self, kind: str, what: str) -> None:
        self._dropped = kind, f"{what} and gets no more reports; the work continued"
        for record in self._records:
            record(*self._dropped)


def kept(observer: Observer) -> Kept:
    """`observer`, which may fail from now on."""
    return observer if isinstance(observer, Kept) else Kept(observer)
