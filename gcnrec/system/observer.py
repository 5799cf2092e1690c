"""What long work reports while it runs."""

from __future__ import annotations

from typing import Any


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
