"""The policy of docs/extending.md passes its check; RigL of another package stores what ours does; the budget always holds."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.config import Job
from gcnrec.config.unused import unused_settings
from gcnrec.errors import UsageError
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import POLICIES
from gcnrec.sparsity.first_support import fill, random_keys
from gcnrec.sparsity.own import Foreign
from gcnrec.sparsity.policy import Moment
from gcnrec.tables.slots import SlotTable
from gcnrec.testing import check_own_policy, checkerboard, write_dataset
from gcnrec.training.train import train

WRITTEN = """
import math
import numpy as np

class Base:
    batches = 1
    def __init__(self, settings):
        if settings: raise ValueError("none is known")
    def share(self, moment): return 0.3
    def scores(self, rows, width, gradient, moment): return np.abs(gradient)

class Rigl(Base):
    def share(self, moment): return 0.15 * (1.0 + math.cos(math.pi * (moment.progress / 0.75)))

class Draws(Base):
    generator = np.random.default_rng(0)
    def scores(self, rows, width, gradient, moment):
        return self.generator.random((len(rows), width), np.float32)

class Centred(Base):
    def scores(self, rows, width, gradient, moment): return np.abs(gradient - gradient.mean(0))

class Counts(Base):
    calls = 0
    def share(self, moment):
        self.calls += 1
        return 0.1 * (self.calls % 3)

class Remembers(Base):
    seen = 0
    def share(self, moment): return 0.2 if self.seen % 2 else 0.4
    def scores(self, rows, width, gradient, moment):
        self.seen = moment.number if len(rows) == 48 else 0
        return np.abs(gradient)

class All(Base):
    def share(self, moment): return 1.0

class None_(Base):
    batches = 0
    def scores(self, rows, width, gradient, moment):
        assert gradient is None
        return np.full((len(rows), width), -1.0, np.float32)

class TooMuch(Base):
    def share(self, moment): return 1.5

class Double(Base):
    def scores(self, rows, width, gradient, moment): return np.abs(gradient).astype(float)

class Undefined(Base):
    def scores(self, rows, width, gradient, moment): return gradient * np.float32("nan")

class Half(Base):
    batches = 0.5
"""


class Ones:
    """The gradient of every cell is 1."""

    def tile(self, first, last):
        return np.ones((last - first, 8), np.float32)


def job(policy, **sparsity) -> Job:
    sections = {
        "model": {"width": 8},
        "table": {"budget": 0.25},
        "sparsity": {"policy": policy, "interval": 0.5, **sparsity},
        "train": {"epochs": 3, "batch_size": 64, "threads": 1},
        "evaluate": {"baselines": [], "metric": "recall@3", "patience": 0},
    }
    return Job.parse(sections, [], "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(checkerboard(), tmp_path_factory.mktemp("world") / "data")


def memory_of(folder):
    return json.loads((folder / "memory.json").read_text(encoding="utf-8"))


def test_the_example_passes_the_check(extras):
    check_own_policy("steepest", {"ratio": 0.5})


@pytest.mark.parametrize("name", ["All", "None_"])
def test_any_share_and_any_scores_keep_the_budget(module, name):
    module(WRITTEN)
    check_own_policy(f"written:{name}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Draws", "equal rows, gradients and moments must give equal scores"),
        ("Centred", "a row's scores must not depend on the block that it is in"),
        ("Counts", "equal moments must give equal shares"),
        ("Remembers", "explorations after a checkpoint must be those without one"),
    ],
)
def test_the_check_finds_what_is_wrong(module, name, says):
    module(WRITTEN)
    with pytest.raises(AssertionError, match=says):
        check_own_policy(f"written:{name}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("TooMuch", r"share must be from 0 to 1, got 1\.5 at progress"),
        ("Double", r"scores must be a float32 array \(6, 8\), a cell each, got float64 \(6, 8\)"),
        ("Undefined", "scores must be numbers, got NaN"),
    ],
)
def test_what_is_no_share_and_no_score_is_one_sentence(module, name, says):
    module(WRITTEN)
    table = SlotTable(6, 8, 24, (2, 0))
    fill(table, np.full(6, 4), lambda first, last: torch.ones(last - first, 8), random_keys(0), None)
    policy = Foreign.of(Own("sparsity.policy", POLICIES, f"written:{name}", {}), 1.0)
    with pytest.raises(UsageError, match=says):
        policy.explore(table, Moment(0.5, 0), Ones())


def test_what_is_no_number_of_batches_is_refused_before_there_is_a_run(module, dataset, tmp_path):
    module(WRITTEN)
    with pytest.raises(UsageError, match=r"batches must be a whole number from 0 to 10,000, got 0\.5"):
        train(job("written:Half"), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rigl_of_another_package_is_ours(module, dataset, tmp_path):
    module(WRITTEN)
    ours, other = (train(job(name), dataset, tmp_path / str(at)) for at, name in enumerate(("rigl", "written:Rigl")))
    for name in ("users", "items"):
        one, two = (pq.read_table(run.folder / "embeddings" / f"{name}.parquet") for run in (ours, other))
        assert one.equals(two)
    assert memory_of(other.folder)["values_max_seen"] == memory_of(ours.folder)["values_max_seen"] <= 48 * 8 // 4
    pruned = [json.loads(line).get("pruned", 0) for line in (other.folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(pruned) > 0


def test_keys_of_other_policies_are_named_as_unused(extras):
    given = job("steepest", ratio=0.1, batches=3)
    said = " ".join(unused_settings(given, False, False))
    assert given.sparsity.policy == "steepest:Steepest" and "sparsity.ratio = 0.1" in said and "sparsity.batches = 3" in said
