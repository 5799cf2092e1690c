"""A process of its own for a contender, so that its memory and its threads are its own.

`multiprocessing.Pool` is not used: a worker of it that is killed while it waits for work keeps the queue's lock, and the
pool then waits for that lock for ever (a SIGTERM to the whole process group, as `timeout` sends it, does so every time).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from gcnrec.errors import DeviceError
from gcnrec.system.signals import end_with_parent

_END_SECONDS = 2.0


class Worker:
    """A fresh interpreter that makes one call at a time; `with` ends it, whatever it is doing, and so does the parent's end."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._calls, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(_END_SECONDS)
        self._process.kill()
        self._process.join()
        self._calls.close()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)` over there; all three and the result must be picklable. Its exception is raised here.

        Raises DeviceError when the process has ended.
        """
        try:
            self._calls.send((function, arguments))
            done, outcome = self._calls.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(_END_SECONDS)
            raise DeviceError(
                f"the process that was to run {function.__name__} ended by itself (exit code {self._process.exitcode}); "
                "if the system killed it for want of memory, bench something smaller"
            ) from None
        if not done:
            raise outcome
        return outcome


def _serve(calls: Connection, parent: int) -> None:
    end_with_parent(parent, signal.SIGKILL)  # also in the middle of a call that ignores signals
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    while True:
        try:
            function, arguments = calls.recv()
        except EOFError:
            return  # the parent is gone
        try:
            outcome = True, function(*arguments)
        except Exception as problem:
            outcome = False, problem
        calls.send(outcome)
