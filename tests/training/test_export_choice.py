"""Which export ranks: theory's, unless another is better on validation by more than two standard errors."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Evaluate, Job
from gcnrec.ops.topk import Seen
from gcnrec.ranking.evaluate import HeldOutSplit, Measures, evaluate
from gcnrec.reports.progress import Quiet
from gcnrec.system.observer import SILENT
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.export_choice import chosen_rule, validate_exports
from gcnrec.training.train import train
from tests.ranking.test_export_rules import rules_of, torch

train_module = importlib.import_module("gcnrec.training.train")
SIZE = 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(SIZE), tmp_path_factory.mktemp("world") / "data")


def noise():
    return torch.from_numpy(np.random.default_rng(5).standard_normal((2 * SIZE, 4)).astype(np.float32))


def test_every_rule_is_judged_as_if_it_were_exported_alone(dataset):
    exports, degrees = rules_of(loss={"temperature": 0.5}), dataset.graph.item_users.degrees
    rules = exports.rules
    trained = exports.exported(noise(), SIZE, degrees, rules[0])
    record = validate_exports(exports, trained, dataset.graph, dataset, Evaluate(metric="ndcg@5"), SILENT)
    values = {}
    for rule in rules:
        scorer = exports.exported(noise(), SIZE, degrees, rule).scorer
        split = HeldOutSplit.of(dataset.valid, dataset.graph, Seen((dataset.graph.user_items,)))
        found = evaluate(scorer, split, Measures((5,)))
        values[rule.name] = found.per_user.column("ndcg@5").to_numpy()
    assert record["seen"] == "all" and record["valid"]["ndcg@5"] == pytest.approx(values["theory"].mean())
    assert list(record["exports"]) == [rule.name for rule in rules[1:]]
    for name, said in record["exports"].items():
        differences = values[name] - values["theory"]
        expected = {"value": values[name].mean(), "gain": differences.mean(), "error": differences.std(ddof=1) / SIZE**0.5}
        assert said == pytest.approx(expected, abs=1e-12)


def recorded(folder, exports):
    known = {"event": "epoch", "stage": "fit", "seconds": 1.0, "loss": 1.0}
    events = [{**known, "epoch": epoch, "exports": each} for epoch, each in exports.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.mark.parametrize(
    ("gains", "name"),
    [
        ({}, "theory"),
        ({"cosine": (0.02, 0.01)}, "theory"),  # two standard errors exactly
        ({"cosine": (0.0201, 0.01)}, "cosine"),
        ({"cosine": (0.03, 0.01), "0.75 theory": (0.04, 0.001), "inner": (-0.2, 0.001)}, "0.75 theory"),
        ({"1.25 theory": (0.03, 0.001), "inner": (0.03, 0.001)}, "inner"),  # equal gains: the first rule
    ],
)
def test_another_rule_needs_two_standard_errors(tmp_path, gains, name):
    said = {rule: {"value": 0.5, "gain": gain, "error": error} for rule, (gain, error) in gains.items()}
    recorded(tmp_path, {1: {"inner": {"value": 1.0, "gain": 0.9, "error": 0.0}}, 2: said})
    assert chosen_rule(rules_of().rules, tmp_path, 2).name == name


class Noting(Quiet):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_refit_exports_by_the_rule_that_the_fit_chose(dataset, tmp_path, monkeypatch):
    """The rule is carried over; its numbers are those of the graph of the refit."""
    chosen = {"value": 0.5, "gain": 0.3, "error": 0.1}
    monkeypatch.setattr(train_module, "validate", lambda *_: {"valid": {"recall@3": 0.5}, "exports": {"0.5 theory": chosen}})
    sections = {
        "model": {"width": 4}, "loss": {"temperature": 0.5}, "evaluate": {"metric": "recall@3", "baselines": []},
        "train": {"epochs": 1, "refit": "train+valid", "threads": 1},
    }  # fmt: skip
    noting = Noting()
    run = train(Job.parse(sections, [], "test"), dataset, tmp_path / "run", observer=noting)
    assert run.export_rule.name == "0.5 theory" and any("export 0.5 theory" in note for note in noting.notes)
    facts = json.loads(pq.read_schema(run.folder / "embeddings" / "users.parquet").metadata[b"gcnrec"])
    assert facts == {"kind": "theory", "factor": 0.5, "popularity_factor": 0.25}
    degrees = run.merged_graph.item_users.degrees
    column = pq.read_table(run.folder / "embeddings" / "items.parquet").column("popularity").to_numpy()
    assert column == pytest.approx(np.log(degrees / degrees.sum()), rel=1e-6)
