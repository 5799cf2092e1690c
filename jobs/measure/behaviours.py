"""What other behaviours are worth on a dataset folder: a job that reads them all against the target alone and one merged graph.

    python -m jobs.measure.behaviours DATASET --runs FOLDER --out RECORD.json [--seeds 0 1 2] [--epochs 20] [--split test]

Each arm is a run per seed in the folder; a finished run is used again. All arms rank for the same held-out pairs and users, by
two rules: `all` leaves out the target's items, `new` everything met, and judges no pair that its user has met. A row has the mean
over seeds; `both` has the difference of users' means to each other arm with its 95 % interval (bootstrap over users).
`pending first` lists what is pending, then itemknn's items. Test data is read here: choose on validation before.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcnrec.bench.harness import write_record
from gcnrec.closed_forms import closed_form
from gcnrec.closed_forms.known_first.scorer import KnownFirstScorer
from gcnrec.closed_forms.mixture import MixtureScorer, Shares
from gcnrec.config import Job
from gcnrec.config.job import Model
from gcnrec.graph import BipartiteGraph
from gcnrec.loaders.schema import Dataset, open_dataset
from gcnrec.ranking import metrics
from gcnrec.ranking.evaluate import HeldOutSplit, Measures, evaluate
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.seen import SeenRule, judged_pairs, seen_items
from gcnrec.runs.folder import open_run
from gcnrec.training.train import train

ARMS: dict[str, dict[str, Any]] = {
    "both": {},
    "target": {"model": {"behaviours": "none"}, "mixture": {"with": "auto"}},
    "merged": {"mixture": {"with": ["linkprop", "gfcf", "itemknn", "ease"]}},
    "both, trained alone": {"mixture": {"with": []}},
    "target, trained alone": {"model": {"behaviours": "none"}},
}
"""By name: the keys that an arm adds to a job of defaults. `both` is what data with behaviours gets without a word."""
FORMS = ("popularity", "pending", "itemknn", "targetknn")
RULES: dict[str, SeenRule] = {"all": "target", "new": "all"}
METRIC, RESAMPLES = "recall@20", 2000
_BEHIND = 1e-4
"""The weight of what comes after all pending items."""


def main() -> int:
    """Make the runs that are missing, judge all arms and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="RECORD.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    given = parser.parse_args()
    dataset = open_dataset(given.dataset)
    values = {name: _trained(name, dataset, given) for name in ARMS}
    graph = open_run(_place("both", given.seeds[0], given)).train_graph  # closed forms know what the runs were trained on
    values |= {name: _judged(closed_form.fit(name, graph, Model(), 0), dataset, given.split) for name in FORMS}
    values["pending first"] = _judged(_pending_first(graph), dataset, given.split)
    rows = [_row(rule, name, values) for rule in RULES for name in values]
    facts = {"dataset": dataset.name, "digest": dataset.digest, "split": given.split, "metric": METRIC}
    command = f"python -m jobs.measure.behaviours DATASET --runs FOLDER --out {given.out.name} --epochs {given.epochs} --split "
    write_record(given.out, command + given.split, [facts, *rows])
    for row in rows:
        print(json.dumps(row))
    return 0


def _trained(name: str, dataset: Dataset, given: argparse.Namespace) -> dict[str, NDArray[np.float64]]:
    """By rule, the metric of every user in its mean over seeds; runs that are missing are made."""
    found: dict[str, list[NDArray[np.float64]]] = {rule: [] for rule in RULES}
    for seed in given.seeds:
        folder = _place(name, seed, given)
        refit = {"refit": False} if given.split == "valid" else {}  # a model that was trained on validation is not judged there
        sections = {"train": {"epochs": given.epochs, "seed": seed, **refit}, "evaluate": {"baselines": []}, **ARMS[name]}
        if not folder.exists():
            train(Job.parse(sections, [], name), dataset, folder)
        for rule, values_H in _judged(open_run(folder).scorer(), dataset, given.split).items():
            found[rule].append(values_H)
    return {rule: np.mean(each, axis=0) for rule, each in found.items()}


def _place(name: str, seed: int, given: argparse.Namespace) -> Path:
    folder: Path = given.runs / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    return folder


def _judged(scorer: Scorer, dataset: Dataset, split: Any) -> dict[str, NDArray[np.float64]]:
    values = {}
    for rule, seen in RULES.items():
        held = HeldOutSplit.of(judged_pairs(seen, dataset, split), dataset.graph, seen_items(seen, dataset, split))
        values[rule] = evaluate(scorer, held, Measures((20,))).per_user.column(METRIC).to_numpy()
    return values


def _pending_first(graph: BipartiteGraph) -> Scorer:
    pending, near = (closed_form.fit(name, graph, Model(), 0) for name in ("pending", "itemknn"))
    assert isinstance(pending, KnownFirstScorer)
    return MixtureScorer((Shares(pending.alone), Shares(near)), (1.0, _BEHIND))


def _row(rule: str, name: str, values: dict[str, dict[str, NDArray[np.float64]]]) -> dict[str, Any]:
    own_H = values[name][rule]
    row: dict[str, Any] = {"rule": rule, "arm": name, "users": len(own_H), "value": float(own_H.mean())}
    if name == "both":
        for other in values:
            changes_H = own_H - values[other][rule]
            low, high = metrics.bootstrap_intervals(changes_H[:, None], RESAMPLES, 0)
            row[f"above {other}"] = [float(changes_H.mean()), float(low[0]), float(high[0])]
    return row


if __name__ == "__main__":
    raise SystemExit(main())
