"""In which phases of a step the CPU seconds of a worker go, by its own clock of each thread.

A phase has the seconds of the functions that `PHASES` names for it, without phases within. Started as
`python -m jobs.measure.workers.phases`, a follower of `speed`.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gcnrec.bench.contenders.scale_task import Lane, Meter, followed
from gcnrec.errors import GcnrecError
from gcnrec.models.lightgcn_sampled import SampledLightGcn
from gcnrec.sampling.parts import PartedSampler
from gcnrec.sampling.sampler import EdgeSampler
from gcnrec.steps.parted import PartedStep
from gcnrec.steps.step import Step
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.rules import Adam
from gcnrec.workers.metered import Metered
from gcnrec.workers.world import joined, leave

PHASES = {
    "draw": ((EdgeSampler, "batch"), (PartedSampler, "batch")),
    "prepare": ((Step, "prepare"), (PartedStep, "_prepared")),
    "announce": ((Step, "announce"), (PartedStep, "_announced")),
    "fetch": ((ExchangedTable, "fetch"),),
    "encode": ((SampledLightGcn, "encode"),),
    "pool": ((PartedStep, "_pooled"), (PartedStep, "_returned")),
    "loss": ((Step, "_backward"), (PartedStep, "_lost")),
    "pull": (),
    "pushed": ((ExchangedTable, "pushed"),),
    "verdict": ((PartedStep, "_judged"),),
    "update": ((Adam, "update"), (DenseTable, "read"), (DenseTable, "write")),
    "exchange": ((Metered, "exchange"),),
}
"""Functions of a phase, as class and name. "pull" are the functions that `encode` returns."""
_ENCODE = (SampledLightGcn, "encode")


class Clock:
    """CPU seconds of phases; `kept` is for a thread's phases that are under way."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._kept = threading.local()

    def watched(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """`function`, whose CPU seconds in its thread count for `phase`, without those of watched functions within."""

        @functools.wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            inner, self._kept.inner = getattr(self._kept, "inner", 0.0), 0.0
            begun = time.thread_time()
            try:
                return function(*given, **named)
            finally:
                whole = time.thread_time() - begun
                self.seconds[phase] += whole - self._kept.inner
                self._kept.inner = inner + whole

        return call

    def start(self) -> None:
        self.seconds.clear()

    def row(self) -> torch.Tensor:
        """Seconds of all phases in their order, float64 (1, phases)."""
        return torch.tensor([[self.seconds[phase] for phase in PHASES]], dtype=torch.float64)


@contextmanager
def phases_watched(clock: Clock) -> Iterator[None]:
    """Within the block the functions of all phases count."""
    plain = [(owner, name, getattr(owner, name)) for places in PHASES.values() for owner, name in places]
    for phase, places in PHASES.items():
        for owner, name in places:
            setattr(owner, name, clock.watched(getattr(owner, name), phase))
    encode = getattr(*_ENCODE)
    setattr(*_ENCODE, lambda *given: _with_pull(clock, encode(*given)))
    start = Meter.start
    Meter.start = lambda meter: (clock.start(), start(meter))[1]  # type: ignore[method-assign]
    try:
        yield
    finally:
        for owner, name, function in plain:
            setattr(owner, name, function)
        Meter.start = start  # type: ignore[method-assign]


def _with_pull(clock: Clock, encoded: Any) -> Any:
    return type(encoded)(encoded.final_VD, encoded.ego_VD, clock.watched(encoded.pull, "pull"), encoded.pull_whole)


def shared(world: Metered, clock: Clock) -> list[list[float]]:
    """The seconds of all workers' phases. All workers call it together."""
    return world.exchange(clock.row().repeat(world.size, 1), [1] * world.size, [1] * world.size).tolist()


def main() -> None:
    """Follow the leader that the environment names, in one lane."""
    clock = Clock()
    try:
        with joined() as given, phases_watched(clock):
            world = Metered(given)
            command = followed(Lane(**world.awaited()["lane"]), world)
            while command["do"] != "end":
                if command["do"] == "phases":
                    shared(world, clock)
                command = world.awaited()
    except GcnrecError as problem:
        leave(problem.exit_code)
    leave(0)


if __name__ == "__main__":
    main()
