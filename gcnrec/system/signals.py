"""SIGTERM and Ctrl-C while a run trains: the step in hand is finished and saved first; a second one leaves at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from gcnrec.errors import Terminated


class Stop:
    """What was asked of this process. Outside of `deferred`, a signal raises where it finds the main thread: KeyboardInterrupt
    for Ctrl-C, Terminated for SIGTERM, each with a sentence on how the run in `folder` continues, or that it has not begun."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._deferred = 0
        self.asked: signal.Signals | None = None
        self.at_once = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of both signals."""
        self.at_once = self.asked is not None
        self.asked = self.asked or signal.Signals(number)
        if self.at_once or not self._deferred:
            raise self._problem()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A first signal raises at the end of the block; `asked` has it before."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        if self.asked is not None and not self._deferred:
            raise self._problem()

    def _problem(self) -> BaseException:
        name = "Ctrl-C" if self.asked is signal.SIGINT else "SIGTERM"
        text = f"stopped by {name}; continue {self._folder} with --resume (from Python: resume=True)"
        if not self._folder.exists():
            text = f"stopped by {name} before {self._folder} was begun; start the same command again"
        return KeyboardInterrupt(text) if self.asked is signal.SIGINT else Terminated(text)


@contextmanager
def stops(folder: Path) -> Iterator[Stop]:
    """Catches both signals while the run in `folder` trains, and restores the previous handlers.

    Only the main thread can; a signal that was ignored stays ignored.
    """
    stop, earlier = Stop(folder), {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    earlier[number] = signal.signal(number, stop.handle)
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
