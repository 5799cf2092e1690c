"""Command lines forked from a process that has loaded gcnrec and its libraries: each has its work to do, and no start.

As a program it reads lines of JSON, [arguments, working directory, variables, stdout, stderr, limit of a file's bytes], and
answers each with the fork's process number and, at its end, its exit code.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path


class Warm:
    """The program, as a child process of this one; `fork` one command line at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        )

    def fork(
        self, arguments: list[str], folder: Path, variables: dict[str, str], streams: list[int], limit: int | None
    ) -> Forked:
        """`gcnrec` with `arguments`, which writes to the descriptors `streams` of this process."""
        assert self._process.stdin and self._process.stdout
        files = [f"/proc/{os.getpid()}/fd/{number}" for number in streams]
        self._process.stdin.write(json.dumps([arguments, str(folder), variables, *files, limit]).encode() + b"\n")
        return Forked(self._process.stdout.fileno())

    def close(self) -> None:
        """End the program."""
        self._process.communicate()


class Forked:
    """A forked command line, with the methods of `subprocess.Popen` that trials need."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._code: int | None = None
        self.pid = self._line(None) or 0

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._line(0)
        return self._code

    def wait(self, timeout: float) -> int:
        """The exit code; subprocess.TimeoutExpired when it has not ended by then."""
        if self._code is None:
            self._code = self._line(timeout)
        if self._code is None:
            raise subprocess.TimeoutExpired("gcnrec", timeout)
        return self._code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _line(self, timeout: float | None) -> int | None:
        """A number that the program answers; lines are short, so that they come whole."""
        if not select.select([self._answers], [], [], timeout)[0]:
            return None
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._answers, 1) or b"-99\n"
        return int(line)


def main() -> None:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch loads
    import gcnrec.pipeline
    import gcnrec.reports.run_report
    import gcnrec.results.evaluate
    import gcnrec.results.export
    import gcnrec.results.recommend
    import gcnrec.training.check
    import gcnrec.training.train  # noqa: F401

    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if not child:
            _become(*json.loads(line))
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(arguments: list[str], folder: str, variables: dict[str, str], out: str, err: str, limit: int | None) -> None:
    """This process becomes a command line; does not return."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    files = [os.open(os.devnull, os.O_RDONLY), os.open(out, os.O_WRONLY), os.open(err, os.O_WRONLY)]
    os.write(1, f"{os.getpid()}\n".encode())
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from gcnrec.__main__ import main as command_line

    sys.stdin, sys.argv = open(0), ["gcnrec", *arguments]  # noqa: SIM115
    command_line()
    sys.exit(0)


if __name__ == "__main__":
    main()
