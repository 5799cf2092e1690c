"""Batches of an epoch, drawn ahead by threads while earlier ones train, and announced one step before they are handed out.

A batch depends on its number alone, so drawing ahead changes nothing but the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numba

Drawn = TypeVar("Drawn")
Announced = TypeVar("Announced")


@dataclass
class Waits:
    """Seconds that training stood still for batches that were not drawn yet."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Drawing:
    """`workers` batches are drawn at a time, each on `threads` cores."""

    workers: int = 1
    threads: int = 1

    @property
    def ahead(self) -> int:
        """Batches drawn ahead of the current one: rows of the next are read while those after it are drawn."""
        return 1 + self.workers


IN_TRAINING = Drawing()
"""One batch at a time, on one core: training on the CPU has the others."""


def beside_a_gpu() -> Drawing:
    """Two batches at a time, on all cores but two: a core gives the GPU its work, and one serves what else the machine does.

    Draws of neighbours wait for each other, so that one batch is drawn while another is prepared.
    """
    return Drawing(2, max(1, numba.get_num_threads() - 2))


def minibatches(
    draw: Callable[[int], Drawn], announce: Callable[[Drawn], Announced], numbers: range, waits: Waits, drawing: Drawing
) -> Generator[Announced]:
    """The batches of `numbers` in order, as `draw` and then `announce` give them.

    `draw` runs in threads, `announce` in the calling thread: the next batch is announced before one is handed out.
    The threads end with the last batch, or when the iterator is closed.
    """
    with ThreadPoolExecutor(drawing.workers, "gcnrec-sampler", numba.set_num_threads, (drawing.threads,)) as threads:
        drawn: list[Future[Drawn]] = []
        announced: list[Announced] = []
        try:
            for place in range(len(numbers)):
                for ahead in range(place + len(announced) + len(drawn), min(place + drawing.ahead + 1, len(numbers))):
                    drawn.append(threads.submit(draw, numbers[ahead]))
                while len(announced) < min(2, len(numbers) - place):
                    announced.append(announce(_arrived(drawn.pop(0), waits)))
                yield announced.pop(0)
        finally:
            for future in drawn:
                future.cancel()


def _arrived(future: Future[Drawn], waits: Waits) -> Drawn:
    """The drawn batch."""
    begun = time.perf_counter()
    drawn = future.result()
    waits.seconds += time.perf_counter() - begun
    return drawn
