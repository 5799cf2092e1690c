"""Workers that Ray Train starts, on one machine or many: they connect, and gcnrec trains one run on them.

    python jobs/examples/ray_train.py JOB.toml DATASET RUN WORKERS

Ray Train makes a process group of its workers, which gcnrec adopts. Worker 0 leads and writes RUN; all workers open DATASET. So
both folders must be there on each machine, at the same absolute path. Where a worker is lost, Ray starts all of them once
more, and the run goes on from its last checkpoint. Needs Ray: pip install 'ray[train]'.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

TRIES_MORE = 1


def work(paths: dict[str, Any]) -> None:
    """What each worker does: the one that leads trains, the others follow it."""
    from gcnrec import open_dataset, train
    from gcnrec.config import Job
    from gcnrec.training.workers.follower import follow
    from gcnrec.workers.launch import led

    job, out = Job.load(Path(paths["job"])), Path(paths["out"])
    with led(None, job.run.timeout_minutes) as world:
        if world.rank:
            follow(world)
        else:
            train(job, open_dataset(paths["data"]), out, resume=out.exists(), world=world)


def folders_of_ray(out: str) -> str:
    """Where Ray keeps its own files: beside the run."""
    return str(Path(out).resolve().parent / "ray")


def main(job: str, data: str, out: str, workers: str) -> None:
    folders = {"job": job, "data": data, "out": out}
    TorchTrainer(
        work,
        train_loop_config={name: str(Path(each).resolve()) for name, each in folders.items()},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=int(workers)),
        run_config=RunConfig(storage_path=folders_of_ray(out), failure_config=FailureConfig(max_failures=TRIES_MORE)),
    ).fit()


if __name__ == "__main__":
    main(*sys.argv[1:])
