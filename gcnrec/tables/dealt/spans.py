"""The way between the leader's whole table and the workers' shares, a span at a time: the leader's own share does not travel.

So the leader needs memory for its table, its share and a span.
A span of rows n % W = r is the same places of all workers' tables, which are neighbours in the whole table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.workers.world import World

SPAN_BYTES = 1 << 25
"""Of the rows of a span, and at most a row of each worker more."""
Span = list[slice]
"""A worker's rows, by their places in its own table, for each worker."""


def row_spans(world: World, num_rows: int, plane: torch.Tensor) -> list[Span]:
    """All rows, of which each has the size of a row of `plane`."""
    row_bytes = plane.element_size() * prod(plane.shape[1:])
    return cut_at(world, num_rows, _evenly(-(-num_rows // world.size), world.size * row_bytes))


def cut_at(world: World, num_rows: int, cuts: Iterable[int]) -> list[Span]:
    """All rows, cut at these places of the workers' tables, which ascend."""
    rows = [len(range(worker, num_rows, world.size)) for worker in range(world.size)]
    return [[slice(first, min(end, last)) for last in rows] for first, end in pairwise([0, *cuts, rows[0]])]


def cuts_of(bytes_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where to cut places of the workers' tables, at which all workers' rows together have so many bytes."""
    return np.flatnonzero(np.diff(np.cumsum(bytes_P) // SPAN_BYTES)) + 1


def stretches(num_rows: int, row_bytes: int) -> list[slice]:
    """Rows of the whole table, all in turn, where each worker has some columns of each."""
    return [slice(first, end) for first, end in pairwise([0, *_evenly(num_rows, row_bytes), num_rows])]


def _evenly(places: int, place_bytes: int) -> range:
    step = max(1, SPAN_BYTES // max(1, place_bytes))
    return range(step, places, step)


def numbers_of(span: Span) -> tuple[int, int]:
    """First and end of a span's rows in the whole table."""
    first = span[0].start * len(span)
    return first, first + sum(sizes_of(span))


def sizes_of(slices: Sequence[slice]) -> list[int]:
    """The length of each."""
    return [each.stop - each.start for each in slices]


def give(world: World, others: Sequence[torch.Tensor], sizes: Sequence[int]) -> None:
    """The leader sends each other worker its tensor, one at least; `sizes` are lengths for all workers, itself included."""
    if others:
        world.exchange(torch.cat(list(others)), [0, *sizes[1:]], [0] * world.size)  # copy: a span


def taken(world: World, form: torch.Tensor, size: int) -> torch.Tensor:
    """What the leader gives this worker, so long; `form` has its dtype and further axes."""
    return world.exchange(form[:0], [0] * world.size, [size] + [0] * (world.size - 1))


def bring(world: World, own: torch.Tensor) -> None:
    """Send the leader what this worker has."""
    world.exchange(own, [len(own)] + [0] * (world.size - 1), [0] * world.size)


def fetched(world: World, own: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """On the leader what each worker has, its `own` first; `sizes` are lengths for all workers."""
    came = world.exchange(own[:0], [0] * world.size, [0, *sizes[1:]])
    return [own, *torch.split(came, list(sizes[1:]))]
