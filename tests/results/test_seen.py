"""Figures that lists reach: what `evaluate` writes is what the lists of `recommend` give, counted in plain Python."""

from __future__ import annotations

import json
from collections import Counter
from math import ceil, log2

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.api.judging import compare
from gcnrec.api.lists import recommend
from gcnrec.closed_forms import closed_form
from gcnrec.config import Data, Job, Model
from gcnrec.config.grid import load_grid
from gcnrec.config.toml import to_toml
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.parquet import ingest
from gcnrec.ops.topk import Seen
from gcnrec.reports.progress import Quiet
from gcnrec.results.evaluate import evaluate_run, measure_baselines
from gcnrec.results.export import export
from gcnrec.runs.contents import RunContents
from gcnrec.runs.events import read_lines
from gcnrec.runs.folder import open_run
from gcnrec.runs.paths import JOB
from gcnrec.sweep import sweep
from gcnrec.training.train import train
from jobs.examples import serve

USERS, ITEMS, KS, TILT = 40, 24, (1, 3, 8), 0.5


class Listening(Quiet):
    def __init__(self):
        self.warned, self.noted = [], []

    def warn(self, text):
        self.warned.append(text)

    def note(self, text):
        self.noted.append(text)


def written(path, pairs):
    users, items = zip(*sorted(pairs), strict=True)
    pq.write_table(pa.table({"user": users, "item": items}), path)
    return str(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Train, valid and test pairs that overlap: most users come back to something they had. Item i90 and user u90 are cold."""
    rng = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("repeats")
    owned = {u: rng.choice(ITEMS, 6, p=np.arange(ITEMS, 0, -1) / 300, replace=False).tolist() for u in range(USERS)}
    train_pairs = {(f"u{u:02}", f"i{i:02}") for u, items in owned.items() for i in items}
    parts = {}
    for name in ("valid", "test"):
        again = {(f"u{u:02}", f"i{rng.choice(items):02}") for u, items in owned.items() if u % 4}
        fresh = {(f"u{u:02}", f"i{rng.integers(ITEMS):02}") for u in owned if u % 3}
        parts[name] = again | fresh | {("u01", "i90"), ("u90", "i03"), ("u90", "i05")}
    files = {name: written(folder / f"{name}.parquet", pairs) for name, pairs in {"train": train_pairs, **parts}.items()}
    keys = {"user": "user", "item": "item", "split": "given", "repeats": "keep", "keep_cold": True}
    dataset = ingest(Data.model_validate({**files, **keys}), folder / "data", data_root=None, name="repeats")
    return folder, dataset, {"train": train_pairs, **parts}


def run_of(world, name, seen, folder, **sections):
    """A run of `name` judged by `seen`; None leaves it to the data."""
    evaluate = {"k": KS, "metric": "recall@3", "bootstrap": 0, "tilt": TILT, "baselines": ["popularity"]}
    job = {"model": {"name": name, "width": 8, "popularity": "inner"}, "train": {"epochs": 1, "batch_size": 64, "threads": 1}}
    if name in closed_form.NAMES:
        job["model"] = {"name": name}
    given = {} if seen is None else {"seen": seen}
    return train(Job.parse({**job, **sections, "evaluate": {**evaluate, **given}}, [], "t"), world[1], folder, observer=Quiet())


def lists_of(run, world, seen, split, out, items=None):
    """User -> list, as `recommend` writes it with the same items left out."""
    exclude = world[0] / "valid.parquet" if (seen, split) == ("all", "test") else None
    shown = "train" if seen == "all" else "none"
    recommend(run, max(KS), out, seen=shown, exclude=exclude, items=items)
    found: dict[str, list[str]] = {}
    for row in pq.read_table(out).to_pylist():
        found.setdefault(row["user"], []).append(row["item"])
    return found


def counted(lists, held_pairs, degree, num_users, num_items):
    """Every metric by name@k, as docs/ranking-and-metrics.md defines it."""
    held: dict[str, set] = {}
    for user, item in held_pairs:
        held.setdefault(user, set()).add(item)
    mean_weight = {u: sum(max(degree[i], 1) ** TILT for i in items) / len(items) for u, items in held.items()}
    overall = sum(mean_weight.values()) / len(held)
    figures = {}
    for k in KS:
        rows, exposure = [], Counter()
        for user, items in held.items():
            best = lists.get(user, [])[:k]
            exposure.update(best)
            hits = [item in items for item in best]
            most, dcg = min(k, len(items)), sum(1 / log2(r + 2) for r, hit in enumerate(hits) if hit)
            weights = sorted((max(degree[i], 1) ** TILT for i in items), reverse=True)
            gained = [max(degree[i], 1) ** TILT if hit else 0.0 for i, hit in zip(best, hits, strict=True)]
            ideal = sum(w / log2(r + 2) for r, w in enumerate(weights[:k]))
            share = mean_weight[user] / overall
            rows.append({
                "recall": sum(hits) / len(items), "recall_capped": sum(hits) / most, "precision": sum(hits) / k,
                "hit_rate": float(any(hits)), "mrr": 1 / (hits.index(True) + 1) if any(hits) else 0.0,
                "map": sum(sum(hits[: r + 1]) / (r + 1) for r in range(len(hits)) if hits[r]) / most,
                "ndcg": dcg / sum(1 / log2(r + 2) for r in range(most)),
                "novelty": sum(-log2(max(degree[i], 1) / num_users) for i in best) / max(len(best), 1),
                "recall_tilted": sum(gained) / sum(weights) * share,
                "ndcg_tilted": sum(g / log2(r + 2) for r, g in enumerate(gained)) / ideal * share,
            })  # fmt: skip
        figures |= {f"{name}@{k}": sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        listed = [exposure[item] for item in exposure] + [0] * (num_items - len(exposure))
        figures[f"coverage@{k}"] = len(exposure) / num_items
        spread = sum(abs(a - b) for a in listed for b in listed)
        figures[f"gini@{k}"] = spread / (2 * num_items * sum(listed))
        head = sorted(degree, key=lambda item: (-degree[item], item))[: ceil(0.2 * num_items)]
        figures[f"long_tail@{k}"] = 1 - sum(exposure[item] for item in head) / sum(listed)
    return figures


def by_hand(run, world, seen, split, out):
    degree = Counter(item for _, item in world[2]["train"])
    return counted(lists_of(run, world, seen, split, out), world[2][split], degree, USERS + 1, ITEMS + 1)


@pytest.fixture(scope="module")
def runs(world):
    """What evaluates lists: a trained model in a mixture, by either rule; its baselines are measured on test as well."""
    mixture = {"mixture": {"with": ["linkprop"]}}
    made = {seen: run_of(world, "lightgcn", seen, world[0] / f"run-{seen}", **mixture) for seen in ("all", "none")}
    for run in made.values():
        measure_baselines(run)
    return made


@pytest.mark.parametrize("seen", ["all", "none"])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_every_metric_is_what_the_lists_give(world, runs, seen, split, tmp_path):
    run = runs[seen]
    metrics = evaluate_run(run, split)
    expected = by_hand(run, world, seen, split, tmp_path / "recs.parquet")
    found = {name: value for name, value in metrics.items() if "@" in name}
    assert found == pytest.approx(expected, abs=1e-9) and metrics["seen"] == seen
    lists = lists_of(run, world, seen, split, tmp_path / "again.parquet")
    hits = sum(item in lists.get(user, []) for user, item in world[2][split])
    assert sum(row["hits@8"] for row in metrics["deciles"]) == hits > 0
    assert json.loads((run.folder / ("metrics.json" if split == "test" else "metrics.valid.json")).read_text())["seen"] == seen


def cold_by_hand(run, world, seen, tmp_path):
    """Recall of the groups that `cold_start` names, from lists of `recommend`: of all items, and of cold items alone."""
    held, items = world[2]["test"], tmp_path / "items.csv"
    items.write_text("item\ni90\n")
    whole = lists_of(run, world, seen, "test", tmp_path / "whole.parquet")
    apart = lists_of(run, world, seen, "test", tmp_path / "apart.parquet", items)

    def recall(lists, pairs):
        by_user: dict[str, set] = {}
        for user, item in pairs:
            by_user.setdefault(user, set()).add(item)
        return sum(len(own & set(lists.get(user, [])[:8])) / len(own) for user, own in by_user.items()) / len(by_user)

    return {
        "warm": recall(whole, [(u, i) for u, i in held if u != "u90" and i != "i90"]),
        "cold_users": recall(whole, [(u, i) for u, i in held if u == "u90"]),
        "cold_items": recall(whole, [(u, i) for u, i in held if i == "i90"]),
        "cold_items_apart": recall(apart, [(u, i) for u, i in held if i == "i90"]),
    }


@pytest.mark.parametrize("seen", ["all", "none"])
def test_cold_groups_are_what_the_lists_give(world, runs, seen, tmp_path):
    found = evaluate_run(runs[seen])["cold_start"]
    for group, value in cold_by_hand(runs[seen], world, seen, tmp_path).items():
        assert found[group]["recall@8"] == pytest.approx(value, abs=1e-12), group


@pytest.mark.parametrize("seen", ["all", "none"])
def test_segments_are_what_the_lists_give(world, runs, seen, tmp_path):
    path = tmp_path / "segments.csv"
    path.write_text("user,segment\n" + "".join(f"u{u:02},{'ab'[u % 2]}\n" for u in range(USERS)))
    found = evaluate_run(runs[seen], segments=path)["segments"]["a"]["recall@3"]
    lists = lists_of(runs[seen], world, seen, "test", tmp_path / "recs.parquet")
    held = {(u, i) for u, i in world[2]["test"] if int(u[1:]) % 2 == 0 and u != "u90"}
    users = {u for u, _ in held}
    recalls = [len({i for v, i in held if v == u} & set(lists[u][:3])) / sum(v == u for v, _ in held) for u in users]
    assert found == pytest.approx(sum(recalls) / len(recalls), abs=1e-12)


@pytest.mark.parametrize("seen", ["all", "none"])
def test_validations_of_training_and_baselines_are_what_the_lists_give(world, runs, seen, tmp_path):
    """The record of the epoch, the choice of the mixture and baselines on both splits; each says what lists leave out."""
    plain = run_of(world, "lightgcn", seen, tmp_path / "plain")
    (epoch,) = RunContents(plain.folder).epochs("fit")
    lists = by_hand(plain, world, seen, "valid", tmp_path / "plain.parquet")
    assert epoch.seen == seen
    assert epoch.valid["recall@3"] == pytest.approx(lists["recall@3"], abs=1e-9)
    assert epoch.valid["ndcg_tilted@3"] == pytest.approx(lists["ndcg_tilted@3"], abs=1e-9)
    chooses = run_of(world, "lightgcn", seen, tmp_path / "auto", model={"name": "lightgcn", "width": 8, "popularity": "auto"})
    (judged,) = RunContents(chooses.folder).epochs("fit")
    assert judged.exports["inner"].value == pytest.approx(lists["recall@3"], abs=1e-9)  # the other export, of the same rows
    run = runs[seen]
    expected = by_hand(run, world, seen, "valid", tmp_path / "mixed.parquet")["recall@3"]
    assert run.mixture.chosen["value"] == pytest.approx(expected, abs=1e-9) and run.mixture.chosen["seen"] == seen
    kept = pq.read_table(run.folder / "per_user.fit.parquet").column("recall@3").to_numpy()
    assert kept.mean() == pytest.approx(expected, abs=1e-9)
    popular = run_of(world, "popularity", seen, tmp_path / "popularity")
    events = {line["event"]: line for line in read_lines(run.folder) if line.get("name") == "popularity"}
    for kind, split in (("baseline.valid", "valid"), ("baseline", "test")):
        expected = by_hand(popular, world, seen, split, tmp_path / f"{split}.parquet")["ndcg@3"]
        assert events[kind]["metrics"]["ndcg@3"] == pytest.approx(expected, abs=1e-9) and events[kind]["seen"] == seen


def test_the_data_decides_and_its_decision_is_noted_and_kept(world, tmp_path):
    listening = Listening()
    job = Job.parse({"model": {"name": "popularity"}}, [], "t")
    run = train(job, world[1], tmp_path / "run", observer=listening)
    assert run.job.evaluate.seen == "none" and any(line.startswith("evaluate.seen=none: ") for line in listening.noted)
    assert 'seen = "none"' in (run.folder / JOB).read_text()
    metrics = evaluate_run(run, observer=listening)
    assert metrics["seen"] == "none" and listening.warned == []


def test_held_out_pairs_that_no_list_can_hold_are_counted(world, tmp_path):
    listening = Listening()
    job = Job.parse({"model": {"name": "itemknn"}, "evaluate": {"seen": "all", "bootstrap": 0}}, [], "t")
    run = train(job, world[1], tmp_path / "run", observer=listening)
    lost = len(world[2]["valid"] & world[2]["train"])
    assert listening.warned[0].startswith(f"{lost} of {len(world[2]['valid'])} valid pairs are seen already")
    evaluate_run(run, observer=listening)
    lost = len(world[2]["test"] & (world[2]["train"] | world[2]["valid"]))
    assert listening.warned[1].startswith(f"{lost} of {len(world[2]['test'])} test pairs are seen already")
    assert "train with evaluate.seen = 'none'" in listening.warned[1]
    assert [text.rstrip(".") for text in RunContents(run.folder).warnings] == listening.warned  # a report shows them
    evaluate_run(run, observer=listening)
    assert len(listening.warned) == 3 and len(RunContents(run.folder).warnings) == 2


def test_pairs_that_a_user_rated_low_are_no_repeats_of_the_warning(tmp_path):
    """Views and purchases with ratings, in three times; `--seen target` leaves out what was bought, and what was rated low."""
    rng = np.random.default_rng(1)
    rows = sorted({(u, i, t): (u, i, t, rng.integers(1, 6)) for u, i, t in rng.integers(0, [30, 12, 60], (900, 3))}.values())
    users, items, times, ratings = (np.array(column) for column in zip(*rows, strict=True))
    kinds = np.where(rng.random(len(rows)) < 0.4, "view", "buy")
    columns = {"user": users, "item": items, "t": times, "r": np.where(kinds == "buy", ratings, 5), "kind": kinds}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    keys = {"time": "t", "rating": "r", "min_rating": 3, "negative_below": 2.5, "behaviour": "kind", "target": "buy"}
    keys |= {"train": str(tmp_path / "x.parquet"), "repeats": "keep", "valid_size": 0.1, "test_from": 50}
    dataset = ingest(Data.model_validate(keys | {"user": "user", "item": "item"}), tmp_path / "data", data_root=None, name="x")
    ids = dataset.user_ids.ids.to_pylist(), dataset.item_ids.ids.to_pylist()
    held = {(ids[0][u], ids[1][i]) for u, i in zip(dataset.test.users_E, dataset.test.items_E, strict=True)}
    buys = sorted((row for row, kind in zip(rows, kinds, strict=True) if kind == "buy" and row[2] < 50), key=lambda row: row[2])
    latest = {row[:2]: row[3] for row in buys}
    bought, low = ({pair for pair, rating in latest.items() if (rating < 3) == is_low} for is_low in (False, True))
    job = Job.parse({"model": {"name": "popularity"}, "evaluate": {"bootstrap": 0, "baselines": []}}, [], "t")
    run, heard = train(job, dataset, tmp_path / "run"), Listening()
    evaluate_run(run, seen="target", observer=heard)
    assert held & bought and held & low
    assert heard.warned[0] == (
        f"{len(held & (bought | low))} of {len(held)} test pairs are seen already, {len(held & low)} of them as items that their "
        "user rated low, and --seen target leaves them out, so that no list can hold them and each counts as a miss; "
        "--seen none ranks them"
    )
    evaluate_run(run, seen="all", observer=heard)
    assert "--seen all leaves them out" in heard.warned[1]
    evaluate_run(run, observer=heard)
    assert len(heard.warned) == 2 == len(RunContents(run.folder).warnings)


def test_lists_that_leave_out_more_than_judged_ones_are_noted(world, runs, tmp_path):
    listening = Listening()
    recommend(runs["none"], 3, tmp_path / "a.parquet", observer=listening)
    assert [line for line in listening.noted if "--seen none gives such lists" in line]
    quiet = Listening()
    recommend(runs["none"], 3, tmp_path / "b.parquet", seen="none", observer=quiet)
    recommend(runs["all"], 3, tmp_path / "c.parquet", observer=quiet)
    assert quiet.noted == []


def test_a_report_shows_no_baselines_of_other_lists(world, runs):
    contents = RunContents(runs["none"].folder)
    evaluate_run(runs["none"])
    assert list(contents.baselines) == ["popularity"]
    path = runs["none"].folder / "metrics.jsonl"
    text = path.read_text()
    events = [json.loads(line) for line in text.splitlines()]
    for event in events:  # as earlier versions wrote it
        for key in ("seen", "crc32"):
            event.pop(key, None)
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    assert RunContents(runs["none"].folder).baselines == {}
    path.write_text(text)


def test_a_sweep_measures_alike(world, tmp_path):
    (tmp_path / "grid.toml").write_text('[model]\nname = "popularity"\n[grid]\nevaluate.seen = ["all", "none"]\n')
    with pytest.raises(UsageError, match=r"several values of evaluate\.seen; set one in \[evaluate\]"):
        sweep(load_grid(tmp_path / "grid.toml"), world[1].folder, tmp_path / "out", report=lambda *_: None)
    (tmp_path / "grid.toml").write_text('[model]\nname = "popularity"\n[grid]\ntrain.seed = [1, 2]\n')
    grid = load_grid(tmp_path / "grid.toml")
    earlier = tmp_path / "out" / "runs" / grid.runs[0].name
    run_of(world, "popularity", "none", earlier)
    path = earlier / JOB
    path.write_text(path.read_text().replace('seen = "none"\n', ""))
    with pytest.raises(UsageError, match=r"was made by an earlier version, .* choose another --out, or remove that run"):
        sweep(grid, world[1].folder, tmp_path / "out", report=lambda *_: None)


def test_a_search_for_exponents_sees_what_lists_hold(world):
    """Where each validation pair is also in train, no exponents are better by lists without train; others are by whole lists."""
    graph, valid = world[1].graph, world[1].valid
    owned = np.array([item in graph.user_items.row(user) for user, item in zip(valid.users_E, valid.items_E, strict=True)])
    again = type(valid)(valid.users_E[owned], valid.items_E[owned], None, None, valid.user_ids, valid.item_ids)
    settings = Model(name="linkprop", exponents="auto", source_power=-1.0, target_power=1.5)
    blind = closed_form.tuned("linkprop", graph, again, settings, Seen((graph.user_items,)))
    assert (blind.source_power, blind.target_power) == (-1.0, 1.5)
    assert closed_form.tuned("linkprop", graph, again, settings, Seen(())).target_power < 1.5


def test_a_run_of_an_earlier_version_on_such_data_is_not_resumed(world, runs, tmp_path):
    run = run_of(world, "popularity", None, tmp_path / "run")
    without = run.job.model_copy(update={"evaluate": run.job.evaluate.model_copy(update={"seen": None})})
    (run.folder / JOB).write_text(to_toml(without))
    (run.folder / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"begun by an earlier version, .* train it anew: leave --resume out"):
        train(Job.load(run.folder / JOB), world[1], run.folder, resume=True, observer=Quiet())


def test_runs_that_differ_in_it_are_not_compared(world, runs, tmp_path):
    for run in runs.values():
        evaluate_run(run)
    with pytest.raises(DataError, match=r"must be measured by lists that leave the same items out, evaluate\.seen is 'all' and"):
        compare(runs["all"], [runs["none"]])
    assert len(compare(runs["none"], [runs["none"]], bootstrap=10, permutations=10).rows)
    other = run_of(world, "popularity", None, tmp_path / "other")
    evaluate_run(other)
    path = other.folder / "per_user.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({"split": "test"}), path)  # as earlier versions wrote it
    (other.folder / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"was evaluated by an earlier version, .* run 'gcnrec evaluate .*other' again"):
        compare(runs["none"], [other])
    evaluate_run(open_run(other.folder))
    assert compare(runs["none"], [other], bootstrap=10, permutations=10).num_users == len(pq.read_table(path))


@pytest.mark.parametrize("seen", ["all", "none"])
def test_a_bundle_serves_the_lists_of_either_rule(world, runs, seen, tmp_path):
    run = runs[seen]
    export(run, "bundle", tmp_path / "shop.safetensors")
    with (tmp_path / "shop.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    assert header["evaluate_seen"] == seen
    bundle = serve.open_bundle(tmp_path / "shop.safetensors")
    users, items = serve.ids_of(bundle, "user_ids"), serve.ids_of(bundle, "item_ids")
    recommend(run, 5, tmp_path / "recs.parquet", seen=seen)
    expected = pq.read_table(tmp_path / "recs.parquet").to_pylist()
    trained = {row["user"] for row in expected} - {"u90"}
    served = [(users[u], items[i]) for u in range(len(users)) for i in serve.recommend(bundle, u, 5, seen) if users[u] in trained]
    assert served == [(row["user"], row["item"]) for row in expected if row["user"] in trained]


def test_a_polynomial_filter_ranks_what_was_seen(world, tmp_path):
    run = run_of(world, "gfcf", "none", tmp_path / "run", model={"name": "gfcf", "response": "polynomial"})
    found = {name: value for name, value in evaluate_run(run).items() if "@" in name}
    assert found == pytest.approx(by_hand(run, world, "none", "test", tmp_path / "recs.parquet"), abs=1e-9)
    assert torch.isfinite(torch.tensor(list(found.values()))).all()


def test_a_sample_of_users_has_the_figures_of_these_users(world, tmp_path):
    """All of a run on a sample: validation, test, baselines and cold pairs, against the rows of the run on all users."""
    _, dataset, pairs = world
    found = {}
    for users in (None, 9):
        own = {"users": users} if users else {}
        job = Job.model_validate({"model": {"name": "popularity"}, "evaluate": {"k": [3], "baselines": ["popularity"], **own}})
        run = train(job, dataset, tmp_path / f"run-{users}")
        measure_baselines(run)
        found[users] = evaluate_run(run), pq.read_table(run.folder / "per_user.parquet"), run
    (all_of, rows, whole), (document, chosen, run) = found[None], found[9]
    people = len({user for user, _ in pairs["test"]})
    assert (all_of["users"], document["users"], document["sampled_from"]) == (people, 9, people) and "sampled_from" not in all_of
    same = rows.filter(pa.compute.is_in(rows["user"], value_set=chosen["user"]))
    assert same.to_pydict() == chosen.to_pydict() and len(chosen) == 9
    assert document["recall@3"] == pytest.approx(np.mean(same["recall@3"].to_numpy()))
    assert document["cold_start"]["repeats"]["users"] <= 9 < all_of["cold_start"]["repeats"]["users"]
    assert RunContents(run.folder).baselines["popularity"]["recall@3"] == document["recall@3"]
    compared = compare(whole, [run])
    assert (compared.num_users, {row.difference for row in compared.rows}) == (9, {0.0})
