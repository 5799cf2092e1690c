"""Where the time of a training step goes: its pieces by the host's clock, its operations by torch's profiler.

LightGCN on drawn neighbourhoods, batches drawn beforehand. The table lies in host memory, announced or not, or on the device.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import islice
from typing import Any
from unittest.mock import patch

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gcnrec.bench.contenders.epoch_task import RATE, SERIAL, Task, dense, step_of, tables_of
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.sampling.sampler import Batch
from gcnrec.steps.step import Step, Uploaded
from gcnrec.tables.dense import StepTable
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.rules import Adam
from jobs.measure.gpu.bed import Bed
from jobs.measure.gpu.epochs.epoch import drawn_for
from jobs.measure.gpu.epochs.resident import ResidentLightGcn
from jobs.measure.gpu.epochs.tasks import task_on
from jobs.measure.gpu.summary import OVERLAP, RESIDENT

WAYS = (OVERLAP, SERIAL, "gcnrec-device")
PIECES = (
    (PipelinedTable, "prefetch"), (PipelinedTable, "read"), (PipelinedTable, "decode"), (PipelinedTable, "stored"),
    (PipelinedTable, "write"), (SampledLightGcn, "encode"), (Adam, "update"),
)  # fmt: skip
"""Methods of a step that the main thread calls; `encode` has `read` and `decode` in it."""
WARM, TIMED, PROFILED = 5, 10, 4
"""Steps."""
OPERATIONS = 12
"""Operations of the host that are reported, by their own time."""


def run(bed: Bed) -> None:
    task = task_on(bed)
    with closing(bed.queues(lambda reason: None)) as queues:
        try:
            tables = tables_of(task, bed.device, queues)
            batches = _drawn(bed, task)
            for name in WAYS:
                _way(bed, name, task, tables[name](), batches)
                bed.finish()
            _peer(bed, task, batches)
        finally:
            bed.finish()


def _drawn(bed: Bed, task: Task) -> list[Batch]:
    """All batches of a way, and the seconds that drawing one takes on all cores."""
    sampler = step_of(task, dense(task)).sampler
    drawn = [sampler.batch(0, 0)]  # compiles
    begun = time.perf_counter()
    drawn += [sampler.batch(0, index) for index in range(1, min(WARM + TIMED + PROFILED, sampler.steps_per_epoch))]
    seconds = (time.perf_counter() - begun) / max(1, len(drawn) - 1)
    bed.report({"bench": "steps", "variant": "drawing a batch", "host_seconds": seconds, "rows": len(drawn[-1].rows_R)})
    return drawn


def _way(bed: Bed, name: str, task: Task, table: StepTable, batches: list[Batch]) -> None:
    step = step_of(task, table)
    coming = drawn_for(name)(batches)(step, 0)
    _train(step, coming, WARM)
    bed.finish()
    with clocked(PIECES) as spent:
        begun = time.perf_counter()
        taken = _train(step, coming, TIMED)
        host = time.perf_counter() - begun
        bed.finish()
    seconds = {"wall_seconds": time.perf_counter() - begun, "host_seconds": host, **{f"host_{k}": v for k, v in spent.items()}}
    bed.report({"bench": "steps", "variant": name, "steps": taken, **{k: v / max(1, taken) for k, v in seconds.items()}})
    _profile(bed, name, partial(_train, step, coming, PROFILED))
    for _ in coming:
        break  # a batch that was announced is read, so that nothing is on its way when memory is given back


def _train(step: Step, coming: Iterator[Uploaded], count: int) -> int:
    """Train on the next batches; returns their number."""
    taken = 0
    for batch in islice(coming, count):
        step.train(batch, RATE)
        taken += 1
    step.check.settled()
    return taken


@contextmanager
def clocked(pieces: tuple[tuple[type, str], ...]) -> Iterator[Counter[str]]:
    """Seconds that this thread spends in methods, by the name of each."""
    spent: Counter[str] = Counter()
    with ExitStack() as stack:
        for owner, name in pieces:
            stack.enter_context(patch.object(owner, name, _clocked(name, getattr(owner, name), spent)))
        yield spent


def _clocked(name: str, method: Callable[..., Any], spent: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            spent[name] += time.perf_counter() - begun

    return call


def _profile(bed: Bed, name: str, train: Callable[[], int]) -> None:
    """A row of the device's work in groups, and a row for each of the host's costliest operations; seconds of a step."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bed.device.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        taken = max(1, train())
        bed.finish()
    groups: Counter[str] = Counter()
    for event in seen.events():
        if event.device_type == DeviceType.CUDA:
            groups[group_of(event.name)] += event.time_range.elapsed_us() / 1e6 / taken
            groups["launches"] += 1 / taken
    bed.report({"bench": "steps-device", "variant": name, **groups})
    costly = sorted(seen.key_averages(), key=lambda each: -each.self_cpu_time_total)[:OPERATIONS]
    for each in costly:
        facts = {"host_seconds": each.self_cpu_time_total / 1e6 / taken, "calls": each.count / taken}
        bed.report({"bench": "steps-host", "variant": name, "operation": each.key, **facts})


def group_of(kernel: str) -> str:
    """Whose work a name of the device's profile is."""
    if "gcnrec" in kernel:
        return "transfers" if "copy" in kernel or "gather" in kernel else "gcnrec's kernels"
    return "copies by engines" if kernel.startswith("Mem") else "torch's kernels"


def _peer(bed: Bed, task: Task, batches: list[Batch]) -> None:
    """The same steps with table and batches on the device, by torch alone."""
    peer = ResidentLightGcn(bed, task)
    placed = [peer.placed(batch) for batch in batches]
    peer.train(placed[:WARM])
    timed = placed[WARM : WARM + TIMED] or placed
    bed.finish()
    begun = time.perf_counter()
    peer.train(timed)
    bed.finish()
    seconds = (time.perf_counter() - begun) / len(timed)
    bed.report({"bench": "steps", "variant": RESIDENT, "steps": len(timed), "wall_seconds": seconds})
