"""LightGCN steps with the table in host memory, brought in every way, and in the GPU's own memory.

`epoch`: drawn neighbourhoods as training runs them, a thread drawing ahead. `epoch-drawn`: the same with batches drawn
beforehand, so that transfers and compute are all there is. The peer `torch-device` has its table, and in `epoch-drawn` its
batches too, on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np

from gcnrec.bench.contenders.epoch_task import SERIAL, Batches, Ours, Task, ahead, dense, step_of, tables_of
from gcnrec.device import arrays_of, ops_for
from gcnrec.queues import Device
from gcnrec.sampling.minibatches import Waits, minibatches
from gcnrec.sampling.sampler import Batch
from gcnrec.steps.step import Prepared, Step, Uploaded
from jobs.measure.gpu.bed import Bed, Work, report_timings, rounds
from jobs.measure.gpu.epochs.resident import ResidentLightGcn
from jobs.measure.gpu.epochs.tasks import task_on
from jobs.measure.gpu.summary import OVERLAP, RESIDENT

DRAWN_AHEAD = (OVERLAP, "gcnrec-device")
STALE = "cpu-gather-prefetch"
"""Its rows come one step old."""
DRAWN_BEFORE = (*DRAWN_AHEAD, SERIAL, "gcnrec-host-cache", "cpu-gather-pinned", STALE)
"""Ways of the two benches: drawing hides what the others would show."""
TOLERANCE = 0.01
"""Losses of all ways may differ by this share, since sums are added in other orders; of `STALE` the first alone."""

Stretch = Callable[[], list[float]]


def run(bed: Bed) -> None:
    """Race epochs of all ways."""
    with closing(bed.queues(lambda reason: None)) as queues:
        try:
            _epochs(bed, task_on(bed), queues)
        finally:
            bed.finish()


def _epochs(bed: Bed, task: Task, queues: Device) -> None:
    step = step_of(task, dense(task))
    batches = list(step.sampler.epoch(0))
    rows = float(np.mean([len(batch.rows_R) for batch in batches]))
    facts = {"nodes": task.graph.num_nodes, "rows_per_step": rows, "steps": len(batches), "width": task.width}
    moved = 2 * len(batches) * rows * 4 * 3 * task.width
    peer, peer_drawn = ResidentLightGcn(bed, task), ResidentLightGcn(bed, task)
    placed = [peer_drawn.placed(batch) for batch in batches]
    benches: dict[str, dict[str, Stretch]] = {
        "epoch": {
            RESIDENT: lambda: peer.train(peer.drawn_ahead(step.sampler, 0)),
            **_ours(bed, task, queues, {name: ahead for name in DRAWN_AHEAD}),
        },
        "epoch-drawn": {
            RESIDENT: lambda: peer_drawn.train(placed),
            **_ours(bed, task, queues, {name: drawn_for(name)(batches) for name in DRAWN_BEFORE}),
        },
    }
    for bench, stretches in benches.items():
        losses: dict[str, list[float]] = {}
        works: dict[str, Work] = {name: partial(_stretch, stretch, losses, name) for name, stretch in stretches.items()}
        for timings in rounds(bed, works, runs=3):
            report_timings(bed, bench, timings, task.positives, moved, **facts)
        require_alike(losses, TOLERANCE)


def drawn_for(name: str) -> type[Drawn]:
    """How batches reach the way `name`."""
    return Drawn if name == SERIAL else Announced


def _ours(bed: Bed, task: Task, queues: Device, orders: dict[str, Batches]) -> dict[str, Stretch]:
    """Tables are new, so that losses can be compared."""
    tables = tables_of(task, bed.device, queues)

    def stretch(name: str) -> Stretch:
        contender = Ours(task, tables[name](), orders[name])
        return lambda: contender().losses

    return {name: stretch(name) for name in orders}


def _stretch(stretch: Stretch, losses: dict[str, list[float]], name: str, run: int) -> None:
    losses.setdefault(name, stretch())  # of the first stretch


class Drawn:
    """The same batches in every epoch of a step, prepared once. One comes after the other, without announcement."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches, self._kept = batches, dict[int, Prepared]()

    def __call__(self, step: Step, epoch: int) -> Iterator[Uploaded]:
        return (step.upload(self._packed(step, epoch, number)) for number in range(len(self._batches)))

    def _packed(self, step: Step, epoch: int, number: int) -> Prepared:
        """Ready for one upload: pinned memory is used again after it."""
        kept = self._kept.get(number)
        if kept is None:
            kept = self._kept[number] = step.prepare(self._batches[number])
        packed = ops_for(step.table.device).pack(arrays_of((kept.batch.rows_R, kept.encoder, kept.objective)))
        return replace(kept, batch=replace(kept.batch, step=kept.batch.step + epoch * len(self._batches)), packed=packed)


class Announced(Drawn):
    """The same, packed ahead by a thread and announced one step before, as in training."""

    def __call__(self, step: Step, epoch: int) -> Iterator[Uploaded]:
        def announce(prepared: Prepared) -> Uploaded:
            return step.announce(prepared)  # looked up at each step, so that a clock may be put around it

        numbers = range(len(self._batches))
        return minibatches(partial(self._packed, step, epoch), announce, numbers, Waits(), step.drawing)


def require_alike(losses: dict[str, list[float]], tolerance: float) -> None:
    """RuntimeError where losses differ from the first way's by more than a share `tolerance`."""
    expected = next(iter(losses.values()))
    for name, found in losses.items():
        size = 1 if name == STALE else len(expected)
        if not np.allclose(found[:size], expected[:size], rtol=tolerance, atol=0.0):
            raise RuntimeError(f"{name} must have the losses {expected[:3]} .. in its first steps, got {found[:3]} ..")
