"""What a worker does that another leads: it builds what the leader publishes at the beginning of a stage, and takes its steps.
Between them, where it is the first worker of its machine, it ranks users.

It writes no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcnrec.config import Job
from gcnrec.errors import DataError
from gcnrec.loaders.schema import Dataset, open_dataset
from gcnrec.ranking.machines.asked import Asked
from gcnrec.ranking.machines.follower import follow_ranking
from gcnrec.steps.follower import Follower, SharedStep
from gcnrec.system.scratch import keep_freed_memory
from gcnrec.tables.features.sides import with_codes
from gcnrec.tables.placement import released, shared_features
from gcnrec.training.build import features_read, shared_step
from gcnrec.training.plan import plan_of
from gcnrec.training.train import features_of, refit_data, train_data, use_threads
from gcnrec.training.workers.export import follow_export
from gcnrec.workers.world import World


def follow(world: World) -> None:
    """Take part in the stages and rankings of a run until its leader ends. Raises PeerLostError where a worker is lost."""
    keep_freed_memory()
    follower, threads, command = None, None, world.awaited()
    with ExitStack() as stage:
        while True:
            match command["do"]:
                case "begin":
                    follower = None
                    stage.close()  # or two shares of a table would be in memory
                    threads = command["job"].get("train", {}).get("threads")
                    with use_threads(threads, world.local_size):
                        follower = Follower(stage.enter_context(_step(command, world)))
                case "rank":
                    asked = Asked.of(command)
                    with use_threads(asked.threads):  # the other workers of this machine wait
                        command = follow_ranking(world, asked)
                    continue
                case "export" if follower is not None:
                    with use_threads(command["threads"]):
                        command = follow_export(world, command["rankers"], follower.step.encoder)
                    continue
                case "ranked" | "exported":
                    pass
                case _:
                    return
            with use_threads(threads, world.local_size):
                command = world.awaited() if follower is None else follower.follow()


@contextmanager
def _step(command: dict[str, Any], world: World) -> Iterator[SharedStep]:
    """The step of a stage, as the leader builds it, with a table that the leader fills; until the end of the block."""
    job = Job.parse(command["job"], [], "the leader's job")
    dataset = _dataset(command).reading(job.model.behaviours)
    plan = plan_of(job, dataset.graph.num_nodes)
    data = train_data(dataset) if command["stage"] == "fit" else refit_data(dataset)
    features = features_of(dataset)
    if job.model.needs_codes and features.any:  # what int8 codes stand for is the fit's, in a refit too
        features = with_codes(features, dataset.graph.union, job.model.feature_dtype, job.train.seed)
    with plan.placement.taken(world):
        sides = features_read(job, features, data.graph.union, plan.placement.memory(Path()), plan.placement.on_gpu)
        with shared_features(plan.placement, sides) as there:
            step = shared_step(job, plan, replace(data, features=there), world, None)
            with released(step.table):
                yield step


def _dataset(command: dict[str, Any]) -> Dataset:
    """The leader's dataset. DataError where this machine has another one."""
    dataset = open_dataset(Path(command["data"]))
    if dataset.digest != command["digest"]:
        raise DataError(f"{dataset.folder} is not the dataset of the worker that leads; give all machines the same folder")
    return dataset
