"""Runs the parts in worker processes: a part that hangs, or takes its device with it, does not take the others along."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
SETUP_SECONDS = 100
"""For a worker to start, before its first part."""
SLACK_SECONDS = 25
"""For a part to take the device, pin its memory and compile kernels, which the first in a worker does for the others."""
GRACE = 1.5
"""A part that takes this many times its `SECONDS` hangs."""


class Foreman:
    """Keeps every row: as a line of `log` at once, and in `rows`. `until` ends everything (time.monotonic); `ended` is called
    whenever a part has."""

    def __init__(
        self, worker: list[str], log: Path, until: float, allowed: Callable[[str], float], ended: Callable[[Foreman], object]
    ) -> None:
        self._worker, self._log, self._until, self._allowed, self._ended = worker, log, until, allowed, ended
        self.rows: list[Row] = []
        self.outcomes: dict[str, Row] = {}
        self.machine: Row = {}

    @property
    def left(self) -> float:
        return self._until - time.monotonic()

    def run(self, parts: list[str]) -> None:
        """Every part is tried once; a worker that ends early is followed by another for the parts after."""
        waiting = list(parts)
        while waiting:
            if self.left < 5:
                for part in waiting:
                    self.note({"event": "skipped", "part": part, "problem": "the time was up"})
                return
            self._shift(waiting)

    def note(self, row: Row) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        if row.get("event") == "machine":
            self.machine = {key: value for key, value in row.items() if key != "event"}
        elif "event" in row:
            self.outcomes[row["part"]] = row
            if row["event"] != "start":
                self._ended(self)
        else:
            self.rows.append(row)

    def _shift(self, waiting: list[str]) -> None:
        """Run a worker to its end, or end it; parts that it began leave the list."""
        given = ["--parts", ",".join(waiting), "--seconds", f"{self.left:.0f}"]
        process = subprocess.Popen([*self._worker, *given], stdout=subprocess.PIPE, text=True)
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_forward, args=(process, lines), daemon=True)
        reader.start()
        current, before, limit = None, len(waiting), time.monotonic() + SETUP_SECONDS
        try:
            while (line := lines.get(timeout=max(0.1, min(limit, self._until) - time.monotonic()))) is not None:
                row = _parsed(line)
                if row is None:
                    continue
                self.note(row)
                if row.get("event") == "start":
                    current = row["part"]
                    waiting.remove(current)
                    limit = time.monotonic() + GRACE * self._allowed(current) + SLACK_SECONDS
                elif row.get("event") == "skipped":
                    waiting.remove(row["part"])
                elif "event" in row and row["event"] != "machine":
                    current, limit = None, time.monotonic() + SETUP_SECONDS
            problem = f"the worker ended with exit code {process.wait()}"
        except queue.Empty:
            problem = "the part hung or the time was up; its worker was ended"
        finally:
            process.kill()
            process.wait()
            reader.join(timeout=5.0)  # a process that keeps the pipe open must not block
        if current is not None:
            self.note({"event": "failed", "part": current, "problem": problem})
        elif len(waiting) == before:  # it began no part, and the next worker would not either
            while waiting:
                self.note({"event": "failed", "part": waiting.pop(0), "problem": f"{problem}, before its first part"})


def _forward(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    with process.stdout as printed:
        for line in printed:
            lines.put(line)
    lines.put(None)


def _parsed(line: str) -> Row | None:
    """A row, or None for what libraries print."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
