"""A whole job on a small shop: what lists leave out, what is judged, and what each command makes of other behaviours."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.api.judging import compare
from gcnrec.api.lists import recommend
from gcnrec.closed_forms import closed_form
from gcnrec.config import Data, Job
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.parquet import ingest
from gcnrec.ranking.seen import judged_pairs, seen_items, seen_rule
from gcnrec.results.evaluate import evaluate_run
from gcnrec.results.fold_in import with_new_nodes
from gcnrec.results.memory_bounds import evaluation_bytes
from gcnrec.training.check import check
from gcnrec.training.open_keys import notes
from gcnrec.training.train import train

K = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """120 users of three tastes view what they like and buy some of it; some purchases were viewed before, some were not."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    parts = {"train": [], "valid": [], "test": []}
    for user in range(120):
        liked = rng.permutation([item for item in range(30) if item % 3 == user % 3])
        parts["train"] += [(user, int(item), "view") for item in liked[:5]] + [(user, int(rng.integers(30)), "view")]
        parts["train"] += [(user, int(item), "buy") for item in (liked[0], liked[6])] if user else []
        parts["valid"] += [(user, int(liked[at]), "buy") for at in (1, 7)]
        parts["test"] += [(user, int(liked[at]), "buy") for at in (2, 8)]
    files = {}
    for name, rows in parts.items():
        users, items, kinds = zip(*rows, strict=True)
        pq.write_table(pa.table({"user": users, "item": items, "kind": kinds}), folder / f"{name}.parquet")
        files[name] = str(folder / f"{name}.parquet")
    data = Data.model_validate({**files, "user": "user", "item": "item", "behaviour": "kind", "target": "buy"})
    return ingest(data, folder / "data", data_root=None, name="shop")


def job(**sections):
    given = {
        "train": {"epochs": 3, "batch_size": 64, "threads": 1},
        "evaluate": {"k": [K], "metric": f"recall@{K}", "bootstrap": 0, "baselines": []},
        "model": {"width": 8},
    }  # fmt: skip
    return Job.parse({key: given.get(key, {}) | sections.get(key, {}) for key in {**given, **sections}}, [], "t")


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return train(job(), dataset, tmp_path_factory.mktemp("runs") / "both")


def sets(csr):
    return [set(csr.row(row).tolist()) for row in range(csr.rows)]


def known(dataset, rule):
    """User -> items that test lists leave out, as plain sets."""
    found = [set() for _ in range(dataset.graph.num_users)]
    if rule == "none":
        return found
    graphs = [dataset.graph, *(other.graph for other in dataset.others if rule == "all")]
    for graph in graphs:
        found = [one | more for one, more in zip(found, sets(graph.user_items), strict=True)]
    for user, item in zip(dataset.valid.users_E.tolist(), dataset.valid.items_E.tolist(), strict=True):
        found[user].add(item)
    return found


@pytest.mark.parametrize("rule", ["target", "all", "none"])
def test_recall_is_of_lists_without_what_the_rule_leaves_out(dataset, run, rule):
    """Scored by hand: all scores of the run's scorer, what is left out at -inf, hits over the held-out pairs that are judged."""
    metrics = evaluate_run(run, seen=rule)
    scorer, left_out = run.scorer(), known(dataset, rule)
    users = np.arange(dataset.graph.num_users, dtype=np.int32)
    out = np.empty((len(users), dataset.graph.num_items), np.float32)
    scores = torch.from_numpy(out)
    scorer.score(scorer.prepare(users), 0, scorer.num_items, scores)
    held = [set() for _ in users]
    met = [set.union(*(sets(other.graph.user_items)[user] for other in dataset.others)) for user in users]
    for user, item in zip(dataset.test.users_E.tolist(), dataset.test.items_E.tolist(), strict=True):
        if rule != "all" or item not in met[user]:
            held[user].add(item)
    recalls = []
    for user in users:
        if held[user]:
            ranked = [item for item in np.argsort(-out[user], kind="stable").tolist() if item not in left_out[user]]
            recalls.append(len(set(ranked[:K]) & held[user]) / len(held[user]))
    assert metrics["seen"] == rule and metrics["users"] == len(recalls)
    assert metrics[f"recall@{K}"] == pytest.approx(np.mean(recalls))
    if rule == "target":
        new = metrics["cold_start"]["new"]
        assert new[f"recall@{K}"] == evaluate_run(run, seen="all")[f"recall@{K}"]
        assert new["pairs"] == len(judged_pairs("all", dataset, "test"))


def test_a_job_without_a_word_reads_all_behaviours_and_mixes(dataset, run):
    lines = notes(job(), dataset)
    assert any(line.startswith("mixture.with=auto: what users met by other behaviours") for line in lines)
    assert run.job.mixture.partners == "auto" and run.job.evaluate.seen == "target"
    assert seen_rule(None, dataset) == "target"
    chosen = json.loads((run.folder / "mixture.json").read_text())["chosen"]
    assert {"pending", "targetknn", "itemknn"} <= set(chosen["alone"])


def test_without_other_behaviours_a_model_is_that_of_the_target_alone(dataset, tmp_path):
    """`none` gives what a dataset of the target's rows alone gives, for users that these have."""
    blind = train(job(model={"behaviours": "none"}), dataset, tmp_path / "blind")
    assert blind.dataset.graph.others == () and len(blind.dataset.others) == 1
    assert not blind.job.mixture.partners
    first = train(job(model={"behaviours": "none"}), dataset.reading("none"), tmp_path / "again")
    one, two = (each.embeddings(tmp_path).users_UF for each in (blind, first))
    assert np.array_equal(one, two)


def test_runs_of_one_rule_are_compared_and_others_are_not(dataset, run, tmp_path):
    blind = train(job(model={"behaviours": "none"}), dataset, tmp_path / "blind")
    for rule in ("target", "all"):
        for each in (run, blind):
            evaluate_run(each, seen=rule)
        found = compare(blind, [run])
        assert found
    evaluate_run(blind, seen="target")
    with pytest.raises(DataError, match=r"evaluate.seen is 'target' and 'all'; evaluate both with one --seen"):
        compare(blind, [run])


def test_lists_leave_out_what_was_met_where_that_is_asked(dataset, run, tmp_path):
    numbers = {}
    for seen in ("all", "met"):
        recommend(run, 30, tmp_path / f"{seen}.parquet", seen=seen)
        table = pq.read_table(tmp_path / f"{seen}.parquet")
        users, items = dataset.user_ids.numbers(table["user"]), dataset.item_ids.numbers(table["item"])
        numbers[seen] = set(zip(users.tolist(), items.tolist(), strict=True))
    views = dataset.others[0].graph.user_items
    viewed = set(zip(views.row_numbers().tolist(), views.indices.tolist(), strict=True))
    assert viewed & numbers["all"] and not viewed & numbers["met"] and numbers["met"] == numbers["all"] - viewed


def test_new_users_join_a_run_of_several_behaviours(dataset, run, tmp_path):
    pq.write_table(pa.table({"user": [900, 900, 901], "item": [3, 6, 4]}), tmp_path / "new.parquet")
    wider = with_new_nodes(run, tmp_path / "new.parquet", None, tmp_path)
    assert wider.dataset.graph.num_users == dataset.graph.num_users + 2
    assert all(other.graph.num_users == dataset.graph.num_users + 2 for other in wider.dataset.graph.others)
    known_before = run.dataset.graph.union.item_users
    assert np.array_equal(wider.dataset.graph.union.item_users.indices, known_before.indices), "no item reads a new user"
    out = recommend(run, 5, tmp_path / "new-lists.parquet", new_users=tmp_path / "new.parquet")
    assert out.users == 2


def test_new_users_leave_known_users_as_they_are(tmp_path):
    """Rows between validation and test belong to a refit alone."""
    rng = np.random.default_rng(3)
    rows = [(int(rng.integers(30)), int(rng.integers(20)), int(rng.integers(100)), kind) for kind in ("view", "buy") * 200]
    users, items, times, kinds = zip(*rows, strict=True)
    pq.write_table(pa.table({"user": users, "item": items, "t": times, "kind": kinds}), tmp_path / "x.parquet")
    keys = {
        "train": str(tmp_path / "x.parquet"),
        "user": "user",
        "item": "item",
        "time": "t",
        "behaviour": "kind",
        "target": "buy",
    }
    given = ingest(Data.model_validate(keys), tmp_path / "data", data_root=None, name="x")
    assert given.others[0].later is not None
    pq.write_table(pa.table({"user": [777, 777], "item": [3, 6]}), tmp_path / "new.parquet")
    for refit in (False, "train+valid"):
        sections = {"train": {"refit": refit}, "mixture": {"with": ["targetknn", "itemknn"], "weights": [1, 1, 1]}}
        made = train(job(**sections), given, tmp_path / f"run-{refit}")
        known = np.arange(given.graph.num_users, dtype=np.int32)
        one, two = made.scorer(), with_new_nodes(made, tmp_path / "new.parquet", None, tmp_path).scorer
        assert np.array_equal(one.prepare(known), two.prepare(known))


@pytest.mark.parametrize("sections", [
    {"model": {"name": "mf", "propagation": "none"}},
    {"model": {"propagation": "sampled"}, "sampler": {"fanouts": [3]}},
    {"model": {"name": "graphsage", "propagation": "sampled"}, "sampler": {"fanouts": [3]}},
    {"model": {"name": "ngcf"}},
    {"table": {"budget": 0.5}, "sparsity": {"policy": "set"}},
])  # fmt: skip
def test_every_trained_model_reads_the_union(dataset, tmp_path, sections):
    made = train(job(**sections, mixture={"with": []}), dataset, tmp_path / "run")
    metrics = evaluate_run(made)
    assert 0.0 <= metrics[f"recall@{K}"] <= 1.0
    predicted = check(job(**sections), dataset)
    assert predicted["graph_bytes"] > 16 * dataset.graph.union.num_edges


@pytest.mark.parametrize("name", closed_form.OF_BEHAVIOURS)
def test_models_of_behaviours_are_refused_without_any(dataset, tmp_path, name):
    blind = {"name": name, "behaviours": "none"}
    with pytest.raises(DataError, match="ingest with --behaviour"):
        train(job(model=blind), dataset, tmp_path / "run")
    with pytest.raises(UsageError, match=f"mixture.with names {name}, and the model reads one behaviour"):
        train(job(model={"behaviours": "none"}, mixture={"with": [name]}), dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pairs_met_by_other_behaviours_are_judged_but_with_all(dataset):
    views = dataset.others[0].graph.user_items
    judged = judged_pairs("all", dataset, "test")
    assert 0 < len(judged) < len(dataset.test)
    assert all(item not in views.row(user) for user, item in zip(judged.users_E, judged.items_E, strict=True))
    assert judged_pairs("target", dataset, "test") is dataset.test
    assert len(seen_items("all", dataset, "test").parts) == len(seen_items("target", dataset, "test").parts) + 1


def test_memory_bounds_count_the_union_where_partners_read_it(dataset, run, tmp_path):
    blind = train(job(model={"behaviours": "none"}, mixture={"with": ["itemknn"]}), dataset, tmp_path / "blind")
    both, alone = (evaluation_bytes(each, dataset.test, (K,), 0) for each in (run, blind))
    edges = dataset.graph.num_edges + dataset.others[0].graph.num_edges
    assert both - alone >= 16 * edges
