"""One command as a process: ended at a moment of its CPU time, with its streams kept or lost."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from jobs.measure.kill.endings import Course, Ending, Moment
from jobs.measure.kill.place import Place
from jobs.measure.kill.warm import Forked, Warm

Process = subprocess.Popen[bytes] | Forked
PROGRAM = ["-m", "gcnrec"]
"""What Python runs."""
POLL_S = 0.002
PATIENCE_S = 120.0
"""After the last signal, or for a whole command: what takes longer is killed, and reported as a fault."""
_TICKS = os.sysconf("SC_CLK_TCK")
_STOPPED_S = 0.3


@dataclass
class Ended:
    """The end of a process. `signals` counts what was sent; `took_s`: from the last signal to the end.

    `printed`: whether it had written its result, or its error, before the first signal. `orphans`: processes of its session that
    lived on. `course` is of an uninterrupted command.
    """

    code: int = 0
    out: str = ""
    err: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0
    signals: int = 0
    took_s: float = 0.0
    printed: bool = False
    hung: bool = False
    orphans: int = 0
    course: Course = field(default_factory=lambda: Course(0, 0, 0, 0))


def launch(
    arguments: list[str], place: Place, ending: Ending | None = None, at: Moment | None = None, warm: Warm | None = None
) -> Ended:
    """Run `gcnrec` with `arguments` in a place; with an `ending`, end it or take a stream `at` a moment.

    `warm`: as a fork of a process that has loaded all, where no stream is lost.
    """
    streams = {number: _Stream(ending.loss if ending and ending.stream == number else "") for number in (1, 2)}
    closed = [number for number, stream in streams.items() if stream.loss == "closed"]
    limit = at.limit if ending and at and ending.limited else None
    started = time.perf_counter()
    process: Process
    if warm:
        process = warm.fork(arguments, place.work, place.environment, [streams[1].child, streams[2].child], limit)
    else:
        process = subprocess.Popen(
            [sys.executable, *PROGRAM, *arguments], cwd=place.work, env=place.environment, stdin=subprocess.DEVNULL,
            stdout=streams[1].child, stderr=streams[2].child, start_new_session=True, preexec_fn=lambda: _prepare(closed, limit),
        )  # fmt: skip
    for stream in streams.values():
        stream.begin()
    ended = Ended()
    _watch(process, ended, place if ending is None else None, at)
    if ending and at and process.poll() is None and (ending.signals or ending.loss == "leaves"):
        ended.printed = bool(streams[1].parts) or b"gcnrec: " in b"".join(streams[2].parts)
        if ending.loss == "leaves":
            streams[2].leaving = True
        _signal(process, ended, ending, at)
    asked = time.perf_counter()
    try:
        ended.code = process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        ended.hung = True
        process.send_signal(signal.SIGKILL)
        ended.code = process.wait(PATIENCE_S)
    ended.took_s, ended.seconds = time.perf_counter() - asked, time.perf_counter() - started
    ended.orphans = _await_session(process.pid)
    ended.out, ended.err = (streams[number].end() for number in (1, 2))
    return ended


def _prepare(closed: list[int], limit: int | None) -> None:
    """In the child, before it becomes gcnrec: signals as a terminal's shell has them, lost streams, the limit of files."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for descriptor in closed:
        os.close(descriptor)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _watch(process: Process, ended: Ended, place: Place | None, at: Moment | None) -> None:
    """Until the process has used the CPU seconds `at` a moment, or has ended; in a `place`, note its course.

    CPU seconds, as they depend little on the load of the machine. A process that handles no SIGTERM yet is waited for.
    """
    before = place.names() if place else set()
    ready = writes = 0.0
    begun = time.perf_counter()
    while process.poll() is None and time.perf_counter() - begun < PATIENCE_S:
        ended.cpu_s = max(ended.cpu_s, cpu_seconds(process.pid))
        if not ready and handles(process.pid, signal.SIGTERM):
            ready = ended.cpu_s
        if place and not writes and place.names() != before:
            writes = ended.cpu_s
        if at and ended.cpu_s >= at.cpu_s and (ready or not at.asks):
            break
        time.sleep(POLL_S if place or not at or not ready else max(POLL_S, min(0.02, (at.cpu_s - ended.cpu_s) / 4)))
    if place:
        sizes = [path.stat().st_size for path in place.work.rglob("*") if path.is_file()]
        ended.course = Course(ready, writes or ready, ended.cpu_s, max(sizes, default=0))


def _signal(process: Process, ended: Ended, ending: Ending, at: Moment) -> None:
    for number, each in enumerate(ending.signals):
        if number:
            try:
                process.wait(_STOPPED_S if each == signal.SIGCONT else at.between_s)
                return
            except subprocess.TimeoutExpired:
                pass
        if each == signal.SIGINT:  # as a terminal sends it
            os.killpg(process.pid, each)
        else:
            process.send_signal(each)
        ended.signals += 1


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process catches a signal by now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def cpu_seconds(pid: int) -> float:
    """Of a process and of its children, 0 when it has ended; in steps of the system's clock, 10 ms."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS + sum(cpu_seconds(int(child)) for child in children)


def _await_session(session: int) -> int:
    """Processes that live on in an ended process's session; they are waited for, and killed when they stay."""
    alive = first = _members(session)
    begun = time.perf_counter()
    while alive and time.perf_counter() - begun < PATIENCE_S:
        time.sleep(0.05)
        alive = _members(session)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return len(first)


def _members(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


class _Stream:
    """What a process writes to: a pipe that is read all the time, or a stream that is lost by `loss`."""

    def __init__(self, loss: str) -> None:
        self.loss, self.leaving = loss, False
        self.parts: list[bytes] = []
        self.child = os.open("/dev/full" if loss == "full" else os.devnull, os.O_WRONLY) if loss in ("full", "closed") else -1
        self._reader: threading.Thread | None = None
        if self.child < 0:
            self._reading, self.child = os.pipe()
            if loss == "gone":
                os.close(self._reading)
            else:
                self._reader = threading.Thread(target=self._read, daemon=True)

    def begin(self) -> None:
        """Leave the writing side to the process that has just begun, and read."""
        os.close(self.child)
        if self._reader:
            self._reader.start()

    def end(self) -> str:
        """All that was written; the writers have ended."""
        if self._reader:
            self._reader.join()
        return b"".join(self.parts).decode(errors="replace")

    def _read(self) -> None:
        while not self.leaving:
            if select.select([self._reading], [], [], 0.005)[0]:
                part = os.read(self._reading, 2**16)
                if not part:
                    break
                self.parts.append(part)
        os.close(self._reading)
