"""Commands of the leader, read by a thread of a follower: a request to a store may hang with its host, and who waits must not."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from gcnrec.workers.board import END, Board


class Orders:
    """Commands for worker `rank`, in order. `board` is for the thread alone, which ends after the last command."""

    def __init__(self, board: Board, rank: int) -> None:
        self._board, self._rank = board, rank
        self._found: SimpleQueue[dict[str, Any] | RuntimeError] = SimpleQueue()
        Thread(target=self._run, name="gcnrec orders", daemon=True).start()

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next command, or None where none comes within `seconds`. Raises the store's RuntimeError, once."""
        try:
            found = self._found.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(found, RuntimeError):
            raise found
        return found

    def _run(self) -> None:
        number, command = 0, dict[str, Any]()
        try:
            while command != END:
                command = self._board.take(number, self._rank)
                self._found.put(command)
                number += 1
        except RuntimeError as problem:
            self._found.put(problem)
