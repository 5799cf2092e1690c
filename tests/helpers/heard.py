"""Observers: one keeps what it hears, one interrupts a run."""

from __future__ import annotations

from gcnrec.reports.progress import Quiet
from gcnrec.system.observer import Observer


class Heard(Observer):
    """Notes and warnings, in their order."""

    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)


class Cut(Quiet):
    """An observer that interrupts a run in the epoch after `count` of them."""

    def __init__(self, count):
        self.left = count

    def step(self, *figures):
        if self.left == 0:
            raise KeyboardInterrupt

    def epoch(self, record):
        self.left -= 1
