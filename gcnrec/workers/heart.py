"""A thread of each worker that says every two seconds that it lives, and notes when others said so last."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from gcnrec.workers.board import Board

BEAT_SECONDS = 2.0
LATE_SECONDS = 2.5 * BEAT_SECONDS
"""A worker without a beat for so long is stopped, ended, or cut off. By itself that is no error: it may be a Ctrl-Z."""


class Heart:
    """The beats of all workers, as worker `rank` sees them by its own clock. Runs within its `with` block.

    `board` is for the thread alone. All workers must have arrived before the block.
    """

    def __init__(self, board: Board, rank: int) -> None:
        self._board, self._rank = board, rank
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gcnrec heart", daemon=True)
        self._contact = time.monotonic()
        self._beats: list[bytes] = []
        self._changed = [self._contact] * board.size

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(timeout=1.0)  # a request may hang where the host of the store is stopped

    def silent(self) -> tuple[int, float]:
        """Another worker, the one with the oldest beat, and the seconds since that beat came.

        Worker 0 where its store has not answered for longer than `LATE_SECONDS`: it is the host.
        """
        now = time.monotonic()
        if self._rank and now - self._contact > LATE_SECONDS:
            return 0, now - self._contact
        age, rank = max((now - at, rank) for rank, at in enumerate(self._changed) if rank != self._rank)
        return rank, age

    def _run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            try:
                self._board.beat(self._rank, number)
                beats = self._board.beats()
            except RuntimeError:  # the host of the store is gone; the main thread meets the same
                return
            self._contact = now = time.monotonic()
            for rank, beat in enumerate(beats):
                if not self._beats or beat != self._beats[rank]:
                    self._changed[rank] = now
            self._beats = beats
            self._over.wait(BEAT_SECONDS)
