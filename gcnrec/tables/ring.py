"""Memory of a device that holds the copies of one batch after another, without a call to an allocator and without a host wait.

A slot goes back with the marks after which it is unused; whoever takes it next waits for them in a queue, never on the host.
A slot also holds what work on its copies reads: numbers of rows and places. Their memory belongs to the queue that made them, and
work of other queues reads them long after the batch is forgotten, so they are let go only when all of it is ordered before what
that queue is given next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from gcnrec.queues import Device, Mark, Queue

SLOTS = 5
"""Batches in memory: two on their way home, the third trains, the fourth arrives. The fifth is free by the time it is taken, so
that the read after next need not wait for the step before it."""
_SLACK = 8
"""A buffer is made larger than asked for by one part in so many: batches differ."""


@dataclass(slots=True, eq=False)
class Slot:
    """Flat buffers of the device, one a plane. `held`: see above."""

    buffers: list[torch.Tensor] = field(default_factory=list)
    held: object = None
    users: tuple[Mark, ...] = ()


class Ring:
    """At least `slots` slots of one table, by default `SLOTS`. What went back first is taken first."""

    def __init__(self, device: Device, slots: int | None = None) -> None:
        self._device, self._slots = device, slots or SLOTS
        self._free: deque[Slot] = deque()
        self._made = 0

    def take(self, queue: Queue, sizes: Sequence[int], like: torch.Tensor) -> Slot:
        """A slot with a buffer of the dtype of `like` and at least so many values for each size.

        What `queue` is given from now on comes after all users of the slot. Call it within `queue`.
        """
        if self._made < self._slots or not self._free:
            self._made += 1
            slot = Slot()
        else:
            slot = self._free.popleft()
        for mark in slot.users:
            queue.after(mark)
        slot.users = ()
        kept = [*slot.buffers, *[None] * (len(sizes) - len(slot.buffers))]
        slot.buffers = [
            buffer if buffer is not None and len(buffer) >= size else self._device.empty(size + size // _SLACK, like)
            for buffer, size in zip(kept, sizes, strict=True)
        ]
        return slot

    def give_back(self, slot: Slot, *users: Mark) -> None:
        """`slot` may be used again after `users`."""
        slot.users = users
        self._free.append(slot)
