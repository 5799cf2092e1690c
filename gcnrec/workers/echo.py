"""The other worker of `gcnrec.workers.probe`: it sends as many bytes as it gets."""

from __future__ import annotations

from gcnrec.errors import GcnrecError
from gcnrec.workers.probe import swap
from gcnrec.workers.world import World, joined, leave


def echo(world: World) -> None:
    """Exchange with the leader as often as it says, until it ends."""
    while (command := world.awaited())["do"] == "swap":
        swap(world, command["bytes"], command["times"])


def main() -> None:
    """Follow the leader that the environment names; nothing is printed."""
    try:
        with joined() as world:
            echo(world)
    except GcnrecError as problem:  # the leader says what went wrong
        leave(problem.exit_code)
    leave(0)


if __name__ == "__main__":
    main()
