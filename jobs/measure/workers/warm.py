"""Commands whose workers are forks of a process that has loaded gcnrec: each has its work to do, and no start.

As a program it is that of `jobs.measure.kill.warm`, in which a command forks its followers before anything else, and starts them
when a leader would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress

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


_waiting: list[tuple[int, int]] = []
"""Forks that no leader has started yet: the process, and the pipe that says who it is to be."""


def _fork_followers() -> None:
    """Fork as many followers as the command line names, before threads of this process compute: a fork is unsafe by then."""
    for _ in range(int(sys.argv[sys.argv.index("--workers") + 1]) - 1):
        said, says = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(says)
            _follow(said)
        os.close(said)
        _waiting.append((pid, says))


def _follow(said: int) -> None:
    """This process becomes a follower once a leader starts it, and ends where none does; does not return."""
    try:
        os.setsid()
        for _, says in _waiting:
            os.close(says)
        with os.fdopen(said) as pipe:
            line = pipe.readline()
        if not line:
            os._exit(0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.closerange(3, 4096)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(json.loads(line))
        from gcnrec.commands.workers import main as follow

        follow()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _started(meeting, rank: int, module: str) -> _Child:  # type: ignore[no-untyped-def]
    """`gcnrec.workers.launch._started` by a fork that waits."""
    from gcnrec.workers.world import LEADER, MINUTES, STORE

    host, _, port = meeting.address.rpartition(":")
    numbers = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": meeting.size,
        "LOCAL_WORLD_SIZE": meeting.size,
        LEADER: os.getpid(),
    }
    texts = {"TORCH_CPP_LOG_LEVEL": "FATAL", "MASTER_ADDR": host, "MASTER_PORT": port, STORE: meeting.address}
    environment = {name: str(value) for name, value in {**numbers, **texts, MINUTES: meeting.timeout_minutes}.items()}
    pid, says = _waiting.pop(0)
    with suppress(BrokenPipeError), os.fdopen(says, "w") as pipe:  # broken: it was ended while it waited
        pipe.write(json.dumps(environment) + "\n")
    return _Child(pid)


def main() -> None:
    import gcnrec.__main__ as entry
    import gcnrec.commands.workers
    import gcnrec.training.workers.follower  # noqa: F401
    from gcnrec.workers import launch

    command_line, launch._started = entry.main, _started
    entry.main = lambda: (_fork_followers(), command_line())[1]
    warm.main()


if __name__ == "__main__":
    main()
