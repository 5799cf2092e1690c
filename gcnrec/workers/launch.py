"""One command, several workers on this machine: this process leads, and starts the others.

Followers have a session of their own, so that Ctrl-C reaches the leader alone, and end with it whatever ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from gcnrec.errors import UsageError
from gcnrec.system.machine import available_cores
from gcnrec.system.programs import import_paths, program
from gcnrec.workers.board import Board
from gcnrec.workers.world import LEADER, MINUTES, STORE, Alone, Meeting, RowsOf, World, from_environment, given_size, joined, span

FOLLOWER = "gcnrec.commands.workers"
_MOST_A_CORE = 4
"""Workers that share a core: each takes its own memory, and more of them only wait for each other."""
_POLL_SECONDS = 0.25
_PATIENCE_SECONDS = 10.0
"""From the last command to the end of a follower that does not end."""


def threads_of_a_worker(local_size: int) -> int:
    """How many threads each of `local_size` workers of this machine should use: its share of the cores, at least one."""
    return max(available_cores() // local_size, 1)


def require_count(workers: int | None) -> None:
    """Raise UsageError where it is no number of workers; None is for whoever started them to say."""
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    most = _MOST_A_CORE * available_cores()
    if workers is not None and workers > most:
        raise UsageError(f"--workers must be at most {most} on this machine, {_MOST_A_CORE} a core, got {workers}")


@contextmanager
def led(workers: int | None, timeout_minutes: float = 10.0, module: str = FOLLOWER) -> Iterator[World]:
    """The world of this process: worker 0 of `workers`, whose others run `module`; alone where `workers` is 1 or None.

    Where workers were started from outside (torchrun, Ray, SLURM), the world of this one of them, whose rank may be any;
    `workers` must then be None or their number. Raises UsageError where it is not, PeerLostError where a worker is lost.
    At the end of the block followers get the last command and are waited for; after an error they are killed, since they
    write nothing.
    """
    with led_later(workers, timeout_minutes, module) as world:
        yield world.connected() if isinstance(world, Later) else world


@contextmanager
def led_later(workers: int | None, timeout_minutes: float = 10.0, module: str = FOLLOWER) -> Iterator[World]:
    """As `led`, but followers of this process start when `World.start` is called, or a call needs them: what is refused before
    starts nobody."""
    require_count(workers)
    span(timeout_minutes)
    if from_environment():
        if workers not in (None, given_size()):
            raise UsageError(
                f"--workers is {workers}, but this process is one of {given_size()} workers that were started from outside "
                "(torchrun, Ray or SLURM); leave --workers out"
            )
        with joined(timeout_minutes) as world:
            yield world
    elif workers in (None, 1):
        yield Alone()
    else:
        with ExitStack() as stack:
            later = Later(workers, timeout_minutes, module, stack)
            yield later
            later.close()


class Later:
    """Worker 0 of `size` workers of this machine, of which the others run `module` once `stack` has started them."""

    rank = local_rank = 0

    def __init__(self, size: int, timeout_minutes: float, module: str, stack: ExitStack) -> None:
        self.size = self.local_size = size
        self.machines: tuple[int, ...] = (0,) * size
        self._timeout_minutes, self._module, self._stack = timeout_minutes, module, stack
        self._meeting: Meeting | None = None
        self._world: World | None = None

    def start(self) -> None:
        self._met()

    def connected(self) -> World:
        """The world, with all workers in it. Raises PeerLostError where a worker does not come."""
        if self._world is None:
            self._world = self._stack.enter_context(self._met().led())
        return self._world

    def exchange(self, sent: torch.Tensor, outs: Sequence[int], ins: Sequence[int]) -> torch.Tensor:
        return self.connected().exchange(sent, outs, ins)

    def borrow(self, rows: Sequence[Sequence[RowsOf]], width: int, ins: Sequence[int]) -> Sequence[torch.Tensor]:
        return self.connected().borrow(rows, width, ins)

    def counts(self, outs: Sequence[int]) -> list[int]:
        return self.connected().counts(outs)

    def publish(self, command: Mapping[str, Any]) -> None:
        self.connected().publish(command)

    def awaited(self) -> dict[str, Any]:
        return self.connected().awaited()

    def connect(self, device: torch.device) -> None:
        self.connected().connect(device)

    def report(self) -> None:
        self.connected().report()

    def await_reports(self, count: int) -> None:
        self.connected().await_reports(count)

    def close(self) -> None:
        if self._meeting is not None:
            self.connected().close()

    def _met(self) -> Meeting:
        if self._meeting is None:
            self._meeting = Meeting(self.size, self._timeout_minutes)
            self._stack.enter_context(_followers(self._meeting, self._module))
        return self._meeting


@contextmanager
def _followers(meeting: Meeting, module: str) -> Iterator[None]:
    """The other workers, while a thread notes the end of any."""
    followers: dict[int, subprocess.Popen[bytes]] = {}
    over, patience = threading.Event(), 0.0
    watch = threading.Thread(target=_watch, args=(followers, meeting.board(), over), name="gcnrec followers", daemon=True)
    try:
        for rank in range(1, meeting.size):
            followers[rank] = _started(meeting, rank, module)
        watch.start()
        yield
        patience = _PATIENCE_SECONDS
    finally:
        _end(followers, time.monotonic() + patience)
        over.set()
        if watch.ident is not None:
            watch.join()


def inherited() -> dict[str, str]:
    """The environment of this process, as a program of this package takes it over."""
    return {**os.environ, **import_paths()}


def _started(meeting: Meeting, rank: int, module: str) -> subprocess.Popen[bytes]:
    host, _, port = meeting.address.rpartition(":")
    size, leader = str(meeting.size), str(os.getpid())
    environment = {
        "TORCH_CPP_LOG_LEVEL": "FATAL",  # a lost leader is a sentence of ours, not forty lines of torch's
        **inherited(),
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": host, "MASTER_PORT": port,
        STORE: meeting.address, LEADER: leader, MINUTES: str(meeting.timeout_minutes),
    }  # fmt: skip
    command = program("gcnrec.workers.started", leader, module)
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)


def _watch(followers: dict[int, subprocess.Popen[bytes]], board: Board, over: threading.Event) -> None:
    """Note the first follower that ends before it was asked to."""
    while not over.wait(_POLL_SECONDS):
        for rank, follower in followers.items():
            code = follower.poll()
            if code is not None and not board.has_departed(rank):
                board.lose(rank, _ended(code))
                return


def _ended(code: int) -> str:
    """How a process ended, by the exit code that `subprocess` gives it."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    with suppress(ValueError):  # signals without a name
        memory = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{memory}"
    return f"its process was ended by signal {-code}"


def _end(followers: dict[int, subprocess.Popen[bytes]], deadline: float) -> None:
    """Wait for followers until `deadline`, and kill what is left."""
    for follower in followers.values():
        with suppress(subprocess.TimeoutExpired):
            follower.wait(max(deadline - time.monotonic(), 0))
    for follower in followers.values():
        if follower.poll() is None:
            follower.kill()
        follower.wait()
