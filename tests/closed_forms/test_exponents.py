"""The search for linkprop's exponents, in worlds where one exponent is known to matter."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from gcnrec.closed_forms import closed_form, exponents
from gcnrec.config import Job, Model
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.interactions import Interactions, MemoryVocabulary
from gcnrec.ops.topk import Seen
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train

USERS, ITEMS = 300, 60


def world(seed=0):
    """Groups of users and items that belong together, and two items that everybody has: popularity says nothing here."""
    draw = np.random.default_rng(seed)
    group_U, group_I = draw.integers(0, 6, USERS), draw.integers(0, 6, ITEMS)
    liked = (group_U[:, None] == group_I) & (draw.random((USERS, ITEMS)) < 0.6) | (draw.random((USERS, ITEMS)) < 0.03)
    liked[:, :2] = True
    held = liked & (draw.random((USERS, ITEMS)) < 0.2)
    held[:, :2] = False
    users, items = (each.astype(np.int32) for each in np.nonzero(liked & ~held))
    return BipartiteGraph.from_edges(users, items, USERS, ITEMS), interactions(*np.nonzero(held))


def interactions(users, items):
    ids = (MemoryVocabulary(pa.array(range(count))) for count in (USERS, ITEMS))
    return Interactions(users.astype(np.int32), items.astype(np.int32), None, None, *ids)


def test_the_search_leaves_bad_exponents_and_repeats_itself():
    graph, valid = world()
    bad = Model(name="linkprop", source_power=-0.5, target_power=-0.5, exponents="auto")
    found = closed_form.tuned("linkprop", graph, valid, bad, Seen((graph.user_items,)))
    assert found.exponents == "given"
    assert found.source_power > -0.5
    assert found == closed_form.tuned("linkprop", graph, valid, bad, Seen((graph.user_items,)))
    assert found.neighbours == bad.neighbours


def test_nothing_is_searched_for_where_nothing_is_left_open():
    graph, valid = world()
    settings = Model(name="gfcf", exponents="auto")
    assert closed_form.tuned("gfcf", graph, valid, settings, Seen(())) is settings
    assert closed_form.tuned("linkprop", graph, valid, Model(name="linkprop"), Seen(())) == Model(name="linkprop")


def test_a_run_takes_the_exponents_that_validation_chose_and_notes_them(tmp_path):
    dataset = write_dataset(checkerboard(24), tmp_path / "data")
    job = Job.model_validate({"model": {"name": "linkprop", "exponents": "auto", "source_power": -1.0}})
    run = train(job, dataset, tmp_path / "run")
    chosen = closed_form.tuned("linkprop", dataset.graph, dataset.valid, job.model, Seen((dataset.graph.user_items,)))
    expected = closed_form.fit("linkprop", dataset.graph, chosen, 0)
    users = np.arange(dataset.graph.num_users, dtype=np.int32)
    assert torch.equal(run.scorer().prepare(users), expected.prepare(users))
    assert exponents.in_words(chosen) in (run.folder / "metrics.jsonl").read_text()


def test_the_search_needs_validation_pairs():
    graph, _ = world()
    none = interactions(np.empty(0, np.int64), np.empty(0, np.int64))
    with pytest.raises(UsageError, match=r"the data has none; ingest with --valid-size"):
        closed_form.tuned("linkprop", graph, none, Model(name="linkprop", exponents="auto"), Seen(()))
