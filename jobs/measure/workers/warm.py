"""Commands whose workers are forks of a process that has loaded gcnrec: each has its work to do, and no start.

As a program it is that of `jobs.measure.kill.warm`, in which a leader forks its followers instead of starting them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback

from jobs.measure.kill import warm


class WarmWorkers(warm.Warm):
    """The program, as a child process of this one; `fork` one command at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jobs.measure.workers.warm"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0,
        )  # fmt: skip


class _Child:
    """A forked follower, with the methods of `subprocess.Popen` that `gcnrec.workers.launch` needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None
        self._lock = threading.Lock()  # a thread of the leader watches its followers

    def poll(self) -> int | None:
        with self._lock:
            if self._code is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self._code = os.waitstatus_to_exitcode(status) if pid else None
            return self._code

    def wait(self, timeout: float | None = None) -> int:
        begun = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - begun > timeout:
                raise subprocess.TimeoutExpired("a follower", timeout)
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _forked(meeting, rank: int, module: str) -> _Child:  # type: ignore[no-untyped-def]
    """`gcnrec.workers.launch._started` by a fork, which keeps nothing of the leader but loaded code."""
    from gcnrec.workers.world import LEADER, MINUTES, STORE

    leader = os.getpid()
    pid = os.fork()
    if pid:
        return _Child(pid)
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.closerange(3, 4096)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        host, _, port = meeting.address.rpartition(":")
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": meeting.size, "LOCAL_WORLD_SIZE": meeting.size}
        os.environ.update({name: str(number) for name, number in numbers.items()})
        os.environ.update({"TORCH_CPP_LOG_LEVEL": "FATAL", "MASTER_ADDR": host, "MASTER_PORT": port})
        os.environ.update({STORE: meeting.address, LEADER: str(leader), MINUTES: str(meeting.timeout_minutes)})
        from gcnrec.commands.workers import main as follow

        follow()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def main() -> None:
    import gcnrec.commands.workers
    import gcnrec.training.workers.follower  # noqa: F401
    from gcnrec.workers import launch

    launch._started = _forked
    warm.main()


if __name__ == "__main__":
    main()
