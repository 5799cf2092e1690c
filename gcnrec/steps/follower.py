"""What the other workers do while one leads: the steps that it publishes, on their own parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import suppress
from typing import Any

from gcnrec.errors import DivergedError
from gcnrec.sampling.minibatches import Waits
from gcnrec.sampling.parts import PartedBatch
from gcnrec.steps.parted import AnnouncedParts, PartedStep


class Follower:
    """Takes the steps that the leader publishes, on this worker's parts of them."""

    def __init__(self, step: PartedStep) -> None:
        self._step = step
        self._batches: Generator[AnnouncedParts] | None = None
        self._current: AnnouncedParts | None = None
        self._fresh: deque[PartedBatch] = deque()

    def follow(self) -> dict[str, Any]:
        """Until something is published that is no part of a step, which it returns."""
        while True:
            command = self._step.world.awaited()
            if not self._done(command):
                return command

    def _done(self, command: dict[str, Any]) -> bool:
        """Do what belongs to a step; whether it does."""
        step = self._step
        match command["do"]:
            case "deal":
                step.deal()
            case "collect":
                step.table.collect()
            case "epoch":
                self._batches = step.announced(command["epoch"], Waits(), command["first"])
            case "next" if self._batches is not None:
                self._current = next(self._batches)
            case "train" if self._current is not None:
                with suppress(DivergedError):  # nothing was updated, and the leader raises it too
                    step.trained(self._current, command["rate"])
            case "close":
                if self._batches is not None:
                    self._batches.close()
                self._batches = self._current = None
            case "fresh":
                self._fresh.append(step.drawn_with_rows(command["epoch"], command["index"]))
            case "gradient":
                with suppress(DivergedError):
                    step.whole_gradient(self._fresh.popleft())
            case _:
                return False
        return True
