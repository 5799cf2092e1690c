"""A world that counts the bytes which its worker sends to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch

from gcnrec.workers.world import RowsOf, World


class Metered:
    """`world`, and in `bytes` what its worker has sent to other workers by exchanges, without what gloo adds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.rank, self.size, self.machines = world.rank, world.size, world.machines
        self.local_rank, self.local_size = world.local_rank, world.local_size
        self.bytes = 0

    def start(self) -> None:
        self._world.start()

    def exchange(self, sent: torch.Tensor, outs: Sequence[int], ins: Sequence[int]) -> torch.Tensor:
        rows = sum(int(count) for worker, count in enumerate(outs) if worker != self.rank)
        self.bytes += rows * sent.element_size() * prod(sent.shape[1:])
        return self._world.exchange(sent, outs, ins)

    def borrow(self, rows: Sequence[Sequence[RowsOf]], width: int, ins: Sequence[int]) -> Sequence[torch.Tensor]:
        others = (pieces for worker, pieces in enumerate(rows) if worker != self.rank)
        self.bytes += 4 * width * sum(len(rows_R) for pieces in others for _, rows_R in pieces)
        return self._world.borrow(rows, width, ins)

    def counts(self, outs: Sequence[int]) -> list[int]:
        self.bytes += 8 * (self.size - 1)
        return self._world.counts(outs)

    def connect(self, device: torch.device) -> None:
        self._world.connect(device)

    def publish(self, command: Mapping[str, Any]) -> None:
        self._world.publish(command)

    def awaited(self) -> dict[str, Any]:
        return self._world.awaited()

    def report(self) -> None:
        self._world.report()

    def await_reports(self, count: int) -> None:
        self._world.await_reports(count)

    def close(self) -> None:
        self._world.close()
