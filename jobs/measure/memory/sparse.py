"""Memory that training a sparse table takes, against a dense one, on a made-up graph of 4 million nodes, 64 wide.

    python -m jobs.measure.memory.sparse --out RECORD.json [--nodes 4000000] [--steps 300]

Every variant trains in a fresh process that has made the graph and compiled every kernel on a small world beforehand. Its
resident memory is measured as a difference to what it was just before the table was made: at the peak (VmHWM, reset at that
moment) and after the last step (RssAnon, which leaves mapped files out). What batches take by themselves, with any table, is
in the peak of the same training on a small world of a hundredth of the nodes; the difference of both peaks is that of their
tables. The record also has the allocator's own count.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gcnrec.bench.graphs import synthetic
from gcnrec.bench.harness import write_record
from gcnrec.bench.memory import counters, measured
from gcnrec.bench.worker import Worker
from gcnrec.config import Job
from gcnrec.graph import BipartiteGraph
from gcnrec.random import Stage, normal
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.rules import rule_of
from gcnrec.training.build import TrainData, build_step, explorer_of, first_table
from gcnrec.training.plan import plan_of
from gcnrec.training.train import use_threads

BOUND = 1.35
"""Peak bytes of table, state and exploration, at most so many times budget * dense_bytes."""
BUDGETS = (1.0, 0.25, 0.125)
EXPLORATIONS = 3
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class World:
    """Size of the graph (2 edges a node) and length of the training, which explores `EXPLORATIONS` times."""

    nodes: int
    steps: int
    threads: int

    def graph(self) -> BipartiteGraph:
        return synthetic(self.nodes // 2, self.nodes - self.nodes // 2, 2 * self.nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=4_000_000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    world = World(given.nodes, given.steps, given.threads)
    rows = []
    for budget in BUDGETS:
        with Worker() as worker:
            rows.append(worker(variant, world, budget))
        print(json.dumps(rows[-1]), flush=True)
    write_record(given.out, shlex.join(["python", "-m", "jobs.measure.memory.sparse", *sys.argv[1:]]), rows)
    missed = [row["budget"] for row in rows if not row["within_bound"]]
    if missed:
        sys.exit(f"peak bytes pass {BOUND} x budget x dense bytes at budget {', '.join(map(str, missed))}")


def variant(world: World, budget: float) -> dict[str, Any]:
    """One row of the record; runs in a process of its own."""
    with use_threads(world.threads), tempfile.TemporaryDirectory() as folder:
        small = World(world.nodes // 100, 40, world.threads)
        train(small, budget, Path(folder))
        batches = measured(train, small, budget, Path(folder))
        graph = world.graph()
        before = counters()["RssAnon"]
        outcome = measured(train_on, graph, world.steps, budget, Path(folder))
        row = outcome.result
        peak = {"peak_rss_rise_bytes": outcome.peak_bytes, "rss_anon_rise_bytes": row.pop("rss_anon_bytes") - before}
        dense_bytes = row["dense_bytes"] - batches.result["dense_bytes"]  # the small world has a table too
        share = (outcome.peak_bytes - batches.peak_bytes) / (budget * dense_bytes)
        peak |= {"small_world_rss_bytes": batches.peak_bytes, "rss_share_of_budget": share}
        return {"nodes": world.nodes, "edges": graph.num_edges, "steps": world.steps, **row, **peak}


def train(world: World, budget: float, folder: Path) -> dict[str, Any]:
    return train_on(world.graph(), world.steps, budget, folder)


def train_on(graph: BipartiteGraph, steps: int, budget: float, folder: Path) -> dict[str, Any]:
    """Make a table and train it for `steps` steps with explorations; returns counts of the allocator and of the system."""
    job = job_of(budget, steps, graph.num_edges)
    begun, plan = time.perf_counter(), plan_of(job, graph.num_nodes)
    table = first_table(plan, graph) if budget < 1 else dense_table(job, graph)
    made = time.perf_counter()
    step = build_step(job, plan, TrainData(graph), table)
    explorer = explorer_of(plan, step, job.train.epochs, folder)
    explorations, per_epoch = [], step.sampler.steps_per_epoch
    for index in range(steps):
        batch = step.sampler.batch(index // per_epoch, index % per_epoch)
        step(batch, plan.rate(batch.step, steps))
        changed = explorer.after(step, batch.step) if explorer else None
        if changed:
            explorations.append(changed)
    dense_bytes = table.num_rows * 4 * (3 * table.width + 1)
    return {
        "budget": budget, "policy": job.sparsity.policy, "width": table.width, "rule": job.optimizer.rule,
        "budget_values": plan.budget, "values_max_seen": table.max_values_seen,
        "value_bytes": table.value_bytes, "index_bytes": table.index_bytes, "state_bytes": table.state_bytes,
        "peak_table_bytes": table.peak_bytes, "dense_bytes": dense_bytes,
        "share_of_budget": table.peak_bytes / (budget * dense_bytes),
        "within_bound": table.peak_bytes <= BOUND * budget * dense_bytes,
        "slots_moved": [change["grown"] for change in explorations],
        "scratch_bytes": max((change["scratch_bytes"] for change in explorations), default=0),
        "explore_seconds": [change["seconds"] for change in explorations],
        "seconds_to_make": round(made - begun, 1), "seconds": round(time.perf_counter() - begun, 1),
        "rss_anon_bytes": counters()["RssAnon"],
    }  # fmt: skip


def dense_table(job: Job, graph: BipartiteGraph) -> DenseTable:
    """Normal rows drawn a block at a time: nothing but the table itself is ever allocated."""
    width = int(job.model.width)
    table = DenseTable(torch.zeros(1, 1).expand(graph.num_nodes, width), rule_of(job.optimizer).state_width(width))
    rows_ND = table.columns(0, width)
    for first in range(0, graph.num_nodes, BLOCK_ROWS):
        block_RD = rows_ND[first : first + BLOCK_ROWS]
        block_RD.copy_(torch.from_numpy(normal(job.train.seed, Stage.INIT, first, tuple(block_RD.shape))))
        block_RD.mul_(job.model.start_scale)
    return table


def job_of(budget: float, steps: int, edges: int) -> Job:
    """A job whose epoch is far longer than `steps`, exploring `EXPLORATIONS` times in them."""
    batch_size = 2048
    per_epoch = -(-edges // batch_size)
    sections: dict[str, Any] = {
        "model": {"width": 64, "propagation": "none", "start": "normal"},
        "sampler": {"negatives": "in_batch"},
        "optimizer": {"rule": "adam"},
        "table": {"budget": budget},
        "train": {"batch_size": batch_size, "epochs": 2 + 2 * steps // per_epoch},
    }
    if budget < 1:
        sections["sparsity"] = {"policy": "dynamic", "interval": steps / (EXPLORATIONS * per_epoch)}
    return Job.parse(sections, [], "jobs/measure/memory/sparse.py")


if __name__ == "__main__":
    main()
