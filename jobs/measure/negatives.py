"""What `loss.negative_weight` is worth on dataset folders with negative pairs: recall, and how many low ratings lists hold.

    python -m jobs.measure.negatives DATASET... --runs FOLDER --out RECORD.json [--seeds 0 1] [--epochs 9]

Each weight is a run per seed in the folder; a finished run is used again. A row has means over seeds of one dataset, split and
weight: `recall@20` and `ndcg@20`, and `low@20`, the share of low ratings of that split's time that lists of 20 hold. Splits by
time alone know such ratings. `above 0` is the difference of users' mean recall to weight 0 with its 95 % interval (bootstrap over
users). All arms leave the same items out of lists.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gcnrec.bench.harness import write_record
from gcnrec.config import Job
from gcnrec.graph import csr_from_edges
from gcnrec.loaders.schema import Dataset, open_dataset
from gcnrec.ops.topk import ItemLists, contained
from gcnrec.ranking import metrics
from gcnrec.ranking.evaluate import HeldOutSplit, Measures, evaluate
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.seen import judged_pairs, seen_items
from gcnrec.ranking.top_k import top_k
from gcnrec.runs.folder import open_run
from gcnrec.training.train import train

WEIGHTS = (0.0, 0.03, 0.1, 1.0)
SPLITS: tuple[Literal["valid", "test"], ...] = ("valid", "test")
K, RESAMPLES = 20, 2000

Values = dict[str, NDArray[np.float64]]
"""Of each user, means over seeds; of `low` one number for each seed."""


def main() -> int:
    """Make the runs that are missing, judge them and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="RECORD.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=9)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in given.datasets:
        dataset = open_dataset(folder)
        for split in SPLITS:
            values = {weight: _judged(dataset, weight, split, given) for weight in WEIGHTS}
            rows += [_row(dataset, split, weight, values) for weight in WEIGHTS]
    for row in rows:
        print(json.dumps(row))
    command = f"python -m jobs.measure.negatives DATASET... --runs FOLDER --out {given.out.name} --epochs {given.epochs}"
    write_record(given.out, command, rows)
    return 0


def _judged(dataset: Dataset, weight: float, split: Literal["valid", "test"], given: argparse.Namespace) -> Values:
    found: dict[str, list[NDArray[np.float64]]] = {"recall": [], "ndcg": [], "low": []}
    pairs, seen = judged_pairs("target", dataset, split), seen_items("target", dataset, split)
    for seed in given.seeds:
        scorer = _run(dataset, weight, seed, given)
        per_user = evaluate(scorer, HeldOutSplit.of(pairs, dataset.graph, seen), Measures([K])).per_user
        for name in ("recall", "ndcg"):
            found[name].append(per_user.column(f"{name}@{K}").to_numpy())
        found["low"].append(np.array([_low(scorer, dataset, split)]))
    return {name: np.mean(each, axis=0) for name, each in found.items()}


def _run(dataset: Dataset, weight: float, seed: int, given: argparse.Namespace) -> Scorer:
    """The scorer of a run, which is trained first where it is missing."""
    folder = given.runs / f"{dataset.digest[:8]}-{weight:g}-{seed}"
    if not (folder / "memory.json").is_file():
        sections = {
            "train": {"epochs": given.epochs, "seed": seed, "refit": False, "threads": 1},
            "evaluate": {"baselines": [], "bootstrap": 0, "every": 3},
            "loss": {"negative_weight": weight},
        }
        train(Job.parse(sections, [], "negatives"), dataset, folder)
    return open_run(folder).scorer()


def _low(scorer: Scorer, dataset: Dataset, split: Literal["valid", "test"]) -> float:
    """The share of low ratings of the time of `split` that lists of K hold; nan without any."""
    later = dataset.later_negatives[SPLITS.index(split)]
    low = csr_from_edges(later.users_E, later.items_E, dataset.graph.num_users, dataset.graph.num_items)
    users = np.flatnonzero(low.degrees).astype(np.int32)
    lists = top_k(scorer, users, K, seen_items("target", dataset, split)) if len(users) else ()
    hits = sum(int(contained(each.items_BK, ItemLists(low, each.users_B)).sum()) for each in lists)
    return hits / low.num_edges if low.num_edges else float("nan")


def _row(dataset: Dataset, split: str, weight: float, values: dict[float, Values]) -> dict[str, Any]:
    own, difference = values[weight], values[weight]["recall"] - values[0.0]["recall"]
    low, high = metrics.bootstrap_intervals(difference[:, None], RESAMPLES, 0)
    row: dict[str, Any] = {"dataset": dataset.name, "made by": dataset.info["split"], "digest": dataset.digest, "split": split}
    row |= {"weight": weight, "users": len(difference)}
    row |= {f"{name}@{K}": float(own[name].mean()) for name in ("recall", "ndcg")}
    row[f"low@{K}"] = None if np.isnan(own["low"][0]) else float(own["low"][0])
    return row | {"above 0": [float(difference.mean()), float(low[0]), float(high[0])]}


if __name__ == "__main__":
    raise SystemExit(main())
