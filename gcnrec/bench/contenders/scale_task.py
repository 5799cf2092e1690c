"""A lane of bench `scale`: sampled LightGCN trained by some workers, and what a step costs each of them.

The leader publishes the lane; followers, started as `python -m gcnrec.bench.contenders.scale_task`, build the same step and take
their parts of each batch, as in training. CPU seconds are those of all threads of a process. Letters: W workers.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from gcnrec.bench.graphs import graph_of
from gcnrec.bench.harness import use_threads
from gcnrec.config import Job
from gcnrec.errors import GcnrecError
from gcnrec.graph import BipartiteGraph
from gcnrec.sampling.minibatches import Waits
from gcnrec.steps.follower import Follower
from gcnrec.steps.parted import PartedStep
from gcnrec.steps.protocol import TrainingStep
from gcnrec.steps.step import Step
from gcnrec.system.scratch import keep_freed_memory
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.tables.dense import StepTable
from gcnrec.training.build import TrainData, build_step, first_table, parted, shards_of
from gcnrec.training.plan import Plan, plan_of
from gcnrec.workers.launch import led
from gcnrec.workers.metered import Metered
from gcnrec.workers.world import World, joined, leave

_MODULE = "gcnrec.bench.contenders.scale_task"
_WARM_STEPS = 20
"""Kernels are read from their cache by then, and pages of the table are there. The heap of a new process grows during its first
steps: on Gowalla in 15 of them."""
_RATE = 1e-3


@dataclass(frozen=True)
class Lane:
    """`workers` processes of `threads` threads train `steps` batches of `batch_size` pairs in `parts` parts.

    `data` is a dataset folder; None is a synthetic graph of `size` (users, items, edges).
    """

    workers: int
    parts: int
    batch_size: int
    steps: int
    width: int
    threads: int
    data: str | None
    size: tuple[int, int, int]


@dataclass(frozen=True)
class Cost:
    """Of a lane: median wall seconds of a step; CPU seconds and bytes sent to others a step, of each worker (W); the losses."""

    seconds: float
    cpu_W: list[float]
    bytes_W: list[float]
    losses: list[float]


class Meter:
    """CPU seconds of this process, and bytes that its worker has sent, since `start`."""

    def __init__(self, world: Metered) -> None:
        self._world, self._cpu, self._bytes = world, 0.0, 0

    def start(self) -> None:
        self._cpu, self._bytes = cpu_seconds(), self._world.bytes

    def shared(self) -> torch.Tensor:
        """Both of every worker, float64 (W, 2). All workers call it together."""
        row, size = (
            torch.tensor([[cpu_seconds() - self._cpu, self._world.bytes - self._bytes]], dtype=torch.float64),
            self._world.size,
        )
        return self._world.exchange(row.repeat(size, 1), [1] * size, [1] * size)


def cpu_seconds() -> float:
    """Of all threads of this process, of the program and of the system for it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cost_of(lane: Lane, follower: str = _MODULE) -> Cost:
    """Train the lane with workers of this machine, which run the module `follower`, and say what its steps cost."""
    with led(lane.workers, module=follower) as given:
        return led_cost(lane, Metered(given))


def led_cost(lane: Lane, world: Metered) -> Cost:
    """The cost of a lane as its leader."""
    world.publish({"do": "begin", "lane": asdict(lane)})
    use_threads(lane.threads)
    keep_freed_memory()
    step, meter = step_of(lane, world), Meter(world)
    wall, losses = [], []
    with closing(_batches(step)) as batches:
        for number in range(_WARM_STEPS + lane.steps):
            if number == _WARM_STEPS:
                world.publish({"do": "mark"})
                meter.start()
            begun = time.perf_counter()
            losses += [loss.value for loss in step.train(next(batches), _RATE)]
            wall.append(time.perf_counter() - begun)
        world.publish({"do": "count"})
        cpu_W, bytes_W = (meter.shared() / lane.steps).T.tolist()
    return Cost(statistics.median(wall[_WARM_STEPS:]), cpu_W, bytes_W, losses)


def follow(world: World) -> None:
    """Take part in lanes until their leader ends."""
    command = world.awaited()
    while command["do"] == "begin":
        command = followed(Lane(**command["lane"]), Metered(world))


def followed(lane: Lane, world: Metered) -> dict[str, Any]:
    """Take part in a lane; returns the first command that is none of it."""
    use_threads(lane.threads)
    keep_freed_memory()
    meter, follower = Meter(world), Follower(parted_step(lane, world))
    while (command := follower.follow())["do"] in ("mark", "count"):
        if command["do"] == "mark":
            meter.start()
        else:
            meter.shared()
    return command


def step_of(lane: Lane, world: World) -> TrainingStep:
    """The step of a lane's leader: as training takes it, so the plain one for one part."""
    if lane.parts > 1:
        return parted_step(lane, world)
    graph, plan, built = _planned(lane)
    return built(first_table(plan, graph))


def parted_step(lane: Lane, world: World) -> PartedStep:
    """A worker's step of a lane of several parts; the leader alone has a table at first."""
    graph, plan, built = _planned(lane)
    table = ExchangedTable(world, shards_of(plan), None if world.rank else first_table(plan, graph))
    return parted(built(table), table, world, lane.parts)


def _planned(lane: Lane) -> tuple[BipartiteGraph, Plan, Callable[[StepTable], Step]]:
    """The graph, the table to make, and what makes the step: two hops of ten drawn neighbours, softmax in the batch of cosines,
    Adam on the rows that a batch reads."""
    sections = {
        "model": {"name": "lightgcn", "propagation": "sampled", "layers": 2, "width": lane.width, "start": "normal"},
        "sampler": {"negatives": "in_batch", "fanouts": [10, 10]},
        "loss": {"name": "softmax", "score": "cosine", "temperature": 0.12},
        "optimizer": {"rule": "adam", "learning_rate": _RATE},
        "train": {"batch_size": lane.batch_size, "parts": lane.parts, "device": "cpu"},
    }
    job, graph = Job.parse(sections, [], "bench scale"), graph_of(None if lane.data is None else Path(lane.data), lane.size)
    plan = plan_of(job, graph.num_nodes)
    return graph, plan, partial(build_step, job, plan, TrainData(graph))


def _batches(step: TrainingStep) -> Generator[Any]:
    """Batches of one epoch after another, without end."""
    for epoch in count():
        yield from step.batches(epoch, Waits())


def main() -> None:
    """Follow the leader that the environment names."""
    try:
        with joined() as world:
            follow(world)
    except GcnrecError as problem:
        leave(problem.exit_code)
    leave(0)


if __name__ == "__main__":
    main()
