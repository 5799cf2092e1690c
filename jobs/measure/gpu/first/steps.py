"""Where the time of a training step goes: its pieces by the host's clock, its operations by torch's profiler.

LightGCN, and graphsage with features, on drawn neighbourhoods; batches are drawn beforehand. Rows and features lie in host
memory, announced or not, or on the device.
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
from gcnrec.models.node_encoder import NodeEncoder
from gcnrec.queues import Device
from gcnrec.sampling.sampler import Batch
from gcnrec.steps.step import Step, Uploaded
from gcnrec.tables.features.pipelined import PipelinedFeatures
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.rules import Adam
from jobs.measure.gpu.bed import Bed
from jobs.measure.gpu.epochs.epoch import Announced, Drawn, drawn_for
from jobs.measure.gpu.epochs.resident import ResidentLightGcn
from jobs.measure.gpu.epochs.sage_step import features_behind, sage_step
from jobs.measure.gpu.epochs.tasks import task_on
from jobs.measure.gpu.summary import OVERLAP, RESIDENT

WAYS = (OVERLAP, SERIAL, "gcnrec-device")
SAGE_SHARES = {OVERLAP: 0.0, "gcnrec-device": 1.0}
"""Ways of graphsage: the share of features that the device keeps."""
COLUMNS = 602
PIECES = (
    (PipelinedTable, "prefetch"), (PipelinedTable, "read"), (PipelinedTable, "decode"), (PipelinedTable, "stored"),
    (PipelinedTable, "write"), (PipelinedFeatures, "prefetch"), (PipelinedFeatures, "read"), (SampledLightGcn, "encode"),
    (NodeEncoder, "encode"), (Adam, "update"), (Step, "announce"),
)  # fmt: skip
"""Methods of a step that the main thread calls; `encode` has reads and `decode` in it, `announce` has `prefetch`."""
WARM, TIMED, PROFILED = 5, 10, 4
"""Steps."""
OPERATIONS = 12
"""Operations of the host that are reported, by their own time."""


def run(bed: Bed) -> None:
    """Time the pieces of each way's step."""
    task = task_on(bed)
    with closing(bed.queues(lambda reason: None)) as queues:
        try:
            tables = tables_of(task, bed.device, queues)
            batches = _drawn(bed, step_of(task, dense(task)))
            for name in WAYS:
                _way(bed, name, step_of(task, tables[name]()), drawn_for(name)(batches))
                bed.finish()
            _peer(bed, task, batches)
            _sage(bed, task, queues)
        finally:
            bed.finish()


def _sage(bed: Bed, task: Task, queues: Device) -> None:
    """The same for graphsage: rows are where features are."""
    tables = tables_of(task, bed.device, queues)
    for name, share in SAGE_SHARES.items():
        if time.monotonic() > bed.until:
            return
        features = features_behind(bed, queues, task, COLUMNS, share)
        step = sage_step(task, tables[name](), features)
        _way(bed, f"graphsage-{name}", step, Announced(_drawn(bed, step)))
        bed.finish()


def _drawn(bed: Bed, step: Step) -> list[Batch]:
    """All batches of a way, and the seconds that drawing one takes on all cores."""
    sampler = step.sampler
    drawn = [sampler.batch(0, 0)]  # compiles
    begun = time.perf_counter()
    drawn += [sampler.batch(0, index) for index in range(1, min(WARM + TIMED + PROFILED, sampler.steps_per_epoch))]
    seconds = (time.perf_counter() - begun) / max(1, len(drawn) - 1)
    bed.report({"bench": "steps", "variant": "drawing a batch", "host_seconds": seconds, "rows": len(drawn[-1].rows_R)})
    return drawn


def _way(bed: Bed, name: str, step: Step, order: Drawn) -> None:
    coming = order(step, 0)
    _train(step, coming, WARM)
    bed.finish()
    with clocked(PIECES) as spent:
        begun = time.perf_counter()
        taken = _train(step, coming, TIMED)
        host = time.perf_counter() - begun
        bed.finish()
    seconds = {"wall_seconds": time.perf_counter() - begun, "host_seconds": host, **spent}
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
    """Seconds that this thread spends in methods, by class and name."""
    spent: Counter[str] = Counter()
    with ExitStack() as stack:
        for owner, name in pieces:
            label = f"{owner.__name__}.{name}"
            stack.enter_context(patch.object(owner, name, _clocked(label, getattr(owner, name), spent)))
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
