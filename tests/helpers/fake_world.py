"""Worlds of several workers in one process, a thread each: collectives without processes, in milliseconds.

Every pair of workers has a queue. A worker that ends, well or not, says so in its queues: who waits for it fails at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch

from gcnrec.errors import PeerLostError
from gcnrec.workers.world import RowsOf, World, check_splits

_ENDED = object()
Queues = list[list["SimpleQueue[Any]"]]
"""[from][to]"""


class FakeWorld:
    """Worker `rank`; `queues`, of rows, commands and reports, are shared with the others. `machines`: as of `World`."""

    def __init__(self, rank: int, queues: tuple[Queues, Queues, SimpleQueue[Any]], machines: Sequence[int]) -> None:
        self._rows, self._commands, self._reports = queues
        self._borrowed: list[torch.Tensor] = []
        self.rank, self.size, self.machines = rank, len(self._rows), tuple(machines)
        self.local_rank, self.local_size = list(machines[:rank]).count(machines[rank]), list(machines).count(machines[rank])

    def start(self) -> None:
        pass

    def exchange(self, sent: torch.Tensor, outs: Sequence[int], ins: Sequence[int]) -> torch.Tensor:
        for rows in self._borrowed:  # whoever still reads them finds other bits
            rows.flatten().view(torch.uint8).bitwise_not_()
        self._borrowed = []
        check_splits(sent, outs, ins, self.size)
        for to, piece in enumerate(sent.detach().split([int(rows) for rows in outs])):
            self._rows[self.rank][to].put(piece.clone())
        pieces = [self._next(self._rows, worker) for worker in range(self.size)]
        shapes = [(tuple(piece.shape), piece.dtype) for piece in pieces]
        wanted = [((rows, *sent.shape[1:]), sent.dtype) for rows in ins]
        if shapes != wanted:
            raise ValueError(f"worker {self.rank} was to get {wanted}, and got {shapes}")
        return torch.cat(pieces)

    def borrow(self, rows: Sequence[Sequence[RowsOf]], width: int, ins: Sequence[int]) -> Sequence[torch.Tensor]:
        tiles = [torch.cat([torch.empty(0, width), *(plane_PD[rows_R] for plane_PD, rows_R in pieces)]) for pieces in rows]
        came = self.exchange(torch.cat(tiles), [len(tile) for tile in tiles], ins).split([int(count) for count in ins])
        self._borrowed = [rows for worker, rows in enumerate(came) if worker != self.rank and rows.numel()]
        return came

    def counts(self, outs: Sequence[int]) -> list[int]:
        ones = [1] * self.size
        return self.exchange(torch.tensor(outs, dtype=torch.int64), ones, ones).tolist()

    def connect(self, device: torch.device) -> None:
        """Threads share all memory."""

    def publish(self, command: Mapping[str, Any]) -> None:
        if self.rank:
            raise ValueError("worker 0 publishes commands")
        for to in range(1, self.size):
            self._commands[0][to].put(json.dumps(dict(command)))

    def awaited(self) -> dict[str, Any]:
        if not self.rank:
            raise ValueError("worker 0 publishes commands")
        return json.loads(self._next(self._commands, 0))

    def report(self) -> None:
        if not self.rank:
            raise ValueError("other workers report to worker 0")
        self._reports.put((self.rank, "done"))

    def await_reports(self, count: int) -> None:
        if self.rank:
            raise ValueError("worker 0 waits for reports")
        for _ in range(count):
            worker, found = self._reports.get()
            self._check_lives(found, worker)

    def close(self) -> None:
        if not self.rank:
            self.publish({"do": "end"})

    def end(self) -> None:
        for queues in (self._rows, self._commands):
            for queue in queues[self.rank]:
                queue.put(_ENDED)
        self._reports.put((self.rank, _ENDED))

    def _next(self, queues: Queues, worker: int) -> Any:
        found = queues[worker][self.rank].get()
        self._check_lives(found, worker)
        return found

    def _check_lives(self, found: Any, worker: int) -> None:
        if found is _ENDED:
            raise PeerLostError(f"worker {worker} was lost (its thread ended)")


def run_workers(size: int, function: Callable[[World], Any], machines: Sequence[int] | None = None) -> list[Any]:
    """What `function(world)` returns in each of `size` threads, in order of workers. Default: all are of one machine.

    An error of a worker is raised again; one that another's loss did not cause comes first.
    """
    rows, commands = ([[SimpleQueue() for _ in range(size)] for _ in range(size)] for _ in range(2))
    queues = rows, commands, SimpleQueue[Any]()
    results: list[Any] = [None] * size
    problems: list[BaseException] = []

    def work(world: FakeWorld) -> None:
        try:
            results[world.rank] = function(world)
        except BaseException as problem:
            problems.append(problem)
        finally:
            world.end()

    threads = [Thread(target=work, args=(FakeWorld(rank, queues, machines or [0] * size),)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for problem in sorted(problems, key=lambda each: isinstance(each, PeerLostError)):
        raise problem
    return results
