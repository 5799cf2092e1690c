"""Seconds of the host for a training step on a GPU, without a GPU: kernels are not launched, and torch computes shapes alone.

Sampled LightGCN, 10 + 10 neighbours, 2,048 positives, a million nodes, rows of 64 values, Adam. Batches are drawn beforehand. The
device is torch's meta device on both sides, so what is left is Python, torch's dispatch, NumPy and the copies into pinned memory,
for which ordinary memory stands. With `--before`, an earlier checkout takes turns with this one:

    python -m jobs.measure.gpu.host_steps --before CHECKOUT [--nodes 1000000] [--rounds 3]

A checkout from before announced steps has another interface; `Before` is its way. Both are processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

META = torch.device("meta")
WARM, TIMED = 4, 12
"""Steps."""
WIDTH, POSITIVES, EDGES_PER_NODE = 64, 2048, 5


class Now:
    """A queue, a mark and an event: over at once."""

    def mark(self) -> Now:
        return self

    def after(self, mark: Now) -> None:
        """Nothing runs."""

    def finish(self) -> None:
        """Nothing is open."""

    def record(self, stream: object = None) -> None:
        """Over already."""

    def query(self) -> bool:
        return True


class ShapesAlone:
    """`gcnrec.queues.Device` of both versions; `pin` is what a copy through pinned memory costs the host."""

    def __init__(self) -> None:
        self.compute, self.reads, self.writes = Now(), Now(), Now()

    def adopt(self, memory: torch.Tensor, length: int) -> None:
        """Nothing reads it."""

    def within(self, queue: Now) -> AbstractContextManager[Any]:
        return nullcontext()

    def place(self, values: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(values).clone().to(META)

    def empty(self, length: int, like: torch.Tensor) -> torch.Tensor:
        return torch.empty(length, dtype=like.dtype, device=META)

    def resident(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(META)

    def close(self) -> None:
        """Nothing is held."""


def worker(nodes: int) -> None:
    """Print the seconds of a step of the checkout in the current folder: of the main thread, and of all threads."""
    from gcnrec.bench.contenders.epoch_task import dense, step_of, task_of
    from gcnrec.bench.graphs import synthetic
    from gcnrec.cuda import module
    from gcnrec.steps import step as steps
    from gcnrec.tables.pipelined import PipelinedTable

    module.launch = lambda *arguments, **named: None
    torch.Tensor.record_stream = lambda tensor, stream: None  # type: ignore[assignment, method-assign]
    torch.Tensor.pin_memory = lambda tensor: tensor.clone()  # type: ignore[assignment, method-assign]
    torch.cuda.Event = Now  # type: ignore[assignment, misc]
    torch.cuda.default_stream = lambda device: None  # type: ignore[assignment, return-value]
    task = task_of(synthetic(nodes // 2, nodes // 2, EDGES_PER_NODE * nodes), WIDTH, POSITIVES, WARM + TIMED + 1)
    host = dense(task)
    way = now if hasattr(steps.Step, "announce") else before
    step = step_of(task, PipelinedTable(host, _device(way is now)))
    batches = [step.sampler.batch(0, index) for index in range(WARM + TIMED + 1)]
    main, whole, marks = [], [], way(step, batches)
    for _ in range(WARM):
        next(marks)
    for _ in range(TIMED):
        begun = time.thread_time(), time.process_time()
        next(marks)
        main.append(time.thread_time() - begun[0])
        whole.append(time.process_time() - begun[1])
    rows = float(np.mean([len(batch.rows_R) for batch in batches]))
    print(json.dumps({"main": statistics.median(main), "whole": statistics.fmean(whole), "rows": rows}))


def now(step: Any, batches: list[Any]) -> Iterator[None]:
    """A step at a time: a thread prepares, the next batch is announced, the current one trains."""
    from dataclasses import replace

    from gcnrec.cuda import ops as cuda_ops
    from gcnrec.device import ops_for
    from gcnrec.sampling.minibatches import IN_TRAINING, Waits, minibatches
    from gcnrec.steps.deferred import Deferred

    cuda_ops.pinned = lambda size, dtype: torch.zeros(size, dtype=dtype)
    cuda_ops.CudaOps.sent = lambda ops, tensors: Known(tensors)  # type: ignore[assignment, method-assign, return-value]
    step = replace(step, check=Deferred(ops_for(META), META, None))
    numbers = range(len(batches))
    for uploaded in minibatches(lambda index: step.prepare(batches[index]), step.announce, numbers, Waits(), IN_TRAINING):
        step.train(uploaded, 0.01)
        yield


def before(step: Any, batches: list[Any]) -> Iterator[None]:
    """The same by a checkout in which a step placed its arrays itself, and waited for its loss."""
    from dataclasses import replace

    from gcnrec.steps import step as steps

    def finite(number: int, loss: torch.Tensor, gradients: dict[str, list[torch.Tensor]]) -> float:
        torch.stack([loss.detach(), *(each.detach().sum() for own in gradients.values() for each in own)])
        return 0.0

    steps.finite = finite  # type: ignore[assignment]
    ticket = step.table.prefetch(batches[0].rows_R)
    for batch, later in pairwise(batches):
        current, ticket = replace(batch, ticket=ticket), step.table.prefetch(later.rows_R)
        step(current, 0.01)
        yield


class Known:
    """A loss and a flag that the host has: two small copies are given to the device."""

    def __init__(self, tensors: tuple[torch.Tensor, ...]) -> None:
        for tensor in tensors:
            torch.empty_like(tensor).copy_(tensor, non_blocking=True)

    def numbers(self) -> list[float]:
        return [0.5, 0.0]


def _device(announced: bool) -> ShapesAlone:
    """The device of a version, with the glue of its kernels."""
    device: Any = ShapesAlone()
    if announced:
        from gcnrec.cuda import spans

        device.copy = lambda queue, pairs: spans.copy_pairs(pairs, max_blocks=3, by_target=queue is device.writes)
        device.patch = spans.patch
        return device  # type: ignore[no-any-return]
    from gcnrec.cuda import slots

    def copy(queue: Now, source: Any, target: Any) -> None:
        slots.copy_spans(source.memory, source.at_R, target.memory, target.at_R, source.length_R, max_blocks=3)

    device.copy = copy
    return device  # type: ignore[no-any-return]


def run(checkouts: dict[str, Path], nodes: int, rounds: int, report: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Medians over rounds, in which the checkouts take turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(rounds):
        for name, folder in checkouts.items():
            command = [sys.executable, str(Path(__file__).resolve()), "--worker", "--nodes", str(nodes)]
            environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            report(f"{name}: {found[name][-1]}")
    return {
        name: {key: statistics.median(each[key] for each in rows) for key in ("main", "whole")} for name, rows in found.items()
    }


def main() -> None:
    """Print the medians of each checkout, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.nodes)
        return
    checkouts = {"now": Path(__file__).resolve().parents[3]}
    if given.before is not None:
        checkouts = {"before": given.before.resolve(), **checkouts}
    medians = run(checkouts, given.nodes, given.rounds, print)
    for name, seconds in medians.items():
        print(f"{name}: main thread {1e3 * seconds['main']:.2f} ms a step, all threads {1e3 * seconds['whole']:.2f} ms")
    if "before" in medians:
        ratios = {key: medians["before"][key] / medians["now"][key] for key in ("main", "whole")}
        print(f"before / now: main thread {ratios['main']:.2f}, all threads {ratios['whole']:.2f}")


if __name__ == "__main__":
    main()
