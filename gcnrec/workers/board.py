"""What workers write for each other in a key-value store: commands, reports, beats, arrivals, departures, losses.

None of it is a collective: a reader waits for days, so worker 0 may validate for hours between two commands. Whether a key is
there is asked by counters (`add` of zero), which every version of torch's store answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

END = {"do": "end"}
"""The last command."""


class Store(Protocol):
    """The part of torch's TCPStore that is used. Each method raises RuntimeError where the host of the store is gone; `get` waits
    for its key until the client's timeout."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def add(self, key: str, value: int) -> int: ...

    def delete_key(self, key: str) -> bool: ...

    def multi_get(self, keys: list[str]) -> list[bytes]: ...

    def multi_set(self, keys: list[str], values: list[str]) -> None: ...


class Board:
    """The keys of a world of `size` workers, through one client of its store.

    A client serves one request at a time, so a thread has a board of its own.
    """

    def __init__(self, store: Store, size: int) -> None:
        self._store = store
        self.size = size

    def arrive(self, rank: int) -> None:
        """Say that worker `rank` runs; its first beat is there from now on."""
        self.beat(rank, 0)
        self._store.add(f"here/{rank}", 1)

    def missing(self) -> list[int]:
        """Workers that have not arrived."""
        return [rank for rank in range(self.size) if not self._store.add(f"here/{rank}", 0)]

    def depart(self, rank: int) -> None:
        """Say that worker `rank` has done what it was asked for, and ends."""
        self._store.add(f"gone/{rank}", 1)

    def has_departed(self, rank: int) -> bool:
        return self._store.add(f"gone/{rank}", 0) > 0

    def beat(self, rank: int, number: int) -> None:
        """Say that worker `rank` lives: the number differs from the one before."""
        self._store.set(f"beat/{rank}", str(number))

    def beats(self) -> list[bytes]:
        """The latest beat of each worker; every worker must have arrived."""
        return self._store.multi_get([f"beat/{rank}" for rank in range(self.size)])

    def publish(self, number: int, command: Mapping[str, Any]) -> None:
        """Leave `command` for each other worker, as JSON; `number` counts commands from 0."""
        keys = [f"command/{number}/{rank}" for rank in range(1, self.size)]
        self._store.multi_set(keys, [json.dumps(dict(command))] * len(keys))

    def take(self, number: int, rank: int) -> dict[str, Any]:
        """Command `number`, which is waited for; its key of worker `rank` is deleted."""
        key = f"command/{number}/{rank}"
        command: dict[str, Any] = json.loads(self._store.get(key))
        self._store.delete_key(key)
        return command

    def report(self) -> None:
        """Say that one more worker has done what the latest command asks."""
        self._store.add("reports", 1)

    def reports(self) -> int:
        """How often workers have said so since the start."""
        return self._store.add("reports", 0)

    def lose(self, rank: int, why: str) -> None:
        """Say that worker `rank` is lost. The first to say so is right: the loss of one ends the others."""
        if self._store.add("losing", 1) == 1:
            self._store.set("loss", json.dumps([rank, why]))
            self._store.add("lost", 1)

    def loss(self) -> tuple[int, str] | None:
        """The worker that is lost, and why; None while no loss is known."""
        if not self._store.add("lost", 0):
            return None
        rank, why = json.loads(self._store.get("loss"))
        return rank, why
