"""An observer that keeps what it hears."""

from __future__ import annotations

from gcnrec.system.observer import Observer


class Heard(Observer):
    """Notes and warnings, in their order."""

    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)
