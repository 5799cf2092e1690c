"""The workers of a command: this process leads, or follows where it was started as one of several and another leads.

A follower is `python -m gcnrec.commands.workers`, which the leader starts, or the same command, started from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gcnrec.errors import GcnrecError
from gcnrec.workers.launch import led_later
from gcnrec.workers.world import World, joined, leave, started_again


@contextmanager
def leading(workers: int | None, timeout_minutes: float) -> Iterator[World]:
    """The world that a command leads, as `gcnrec.workers.launch.led_later` has it. A process that is to follow does so, and
    ends."""
    with led_later(workers, timeout_minutes) as world:
        if not world.rank:
            yield world
            return
        from gcnrec.training.workers.follower import follow  # half a second that who leads need not wait

        follow(world)
    leave(0)


def resumes(asked: bool, out: Path | None) -> bool:
    """Whether a command goes on with the run in `out`: where it is asked to, or where torchrun starts it once more.

    Without `out` a command that is started once more begins a new run: its own may be any of the name.
    """
    return asked or (out is not None and started_again())


def main() -> None:
    """Follow the leader that the environment names; the exit code is that of an error's class. The leader alone says what
    happened, in the form that its command asks for."""
    from gcnrec.training.workers.follower import follow

    try:
        with joined() as world:
            follow(world)
    except GcnrecError as problem:
        leave(problem.exit_code)
    leave(0)


if __name__ == "__main__":
    main()
