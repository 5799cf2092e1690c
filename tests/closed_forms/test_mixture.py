"""Runs with a mixture, from the choice on validation to what they recommend, export and leave behind when they are killed."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.api.lists import recommend
from gcnrec.closed_forms.mixture import BLOCK_USERS, LEAST_USERS, MIXTURE_ROWS, MixtureScorer
from gcnrec.closed_forms.mixture_files import Mixture
from gcnrec.config import Job
from gcnrec.errors import DataError, DeviceError, UsageError
from gcnrec.graph import csr_from_edges
from gcnrec.ops.shares import add_shares
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import ITEMS_PER_TILE
from gcnrec.reports.run_report import write_report
from gcnrec.results.evaluate import evaluate_run
from gcnrec.results.export import export
from gcnrec.results.memory_bounds import users_per_chunk
from gcnrec.runs.events import read_lines
from gcnrec.runs.folder import open_run
from gcnrec.testing import World, write_dataset
from gcnrec.training import mixture_choice
from gcnrec.training.mixture_choice import likeliest_temperature
from gcnrec.training.train import train
from jobs.examples import serve
from jobs.measure.kill import digests

SERVE = Path(__file__).parents[2] / "jobs" / "examples" / "serve.py"
ALL = ["linkprop", "gfcf", "itemknn", "ease"]


def crowd(valid=0.2):
    """150 users with a few of 60 items each, by taste: both sides lie on a circle, and neighbours on it like each other."""
    draw = np.random.default_rng(5)
    tastes, kinds = draw.random(150), np.sort(draw.random(60) ** 2)
    distance = np.abs(tastes[:, None] - kinds)
    chance = np.exp(-8 * np.minimum(distance, 1 - distance)) * np.linspace(1.0, 0.2, 60)
    liked = [np.flatnonzero(draw.random(60) < row) for row in chance]
    liked.sort(key=len, reverse=True)
    edges = [(user, int(item)) for user, items in enumerate(liked) for item in items]
    parts = draw.random(len(edges))
    train_edges = [edge for edge, part in zip(edges, parts, strict=True) if part < 0.7]
    order = np.argsort(-np.bincount([item for _, item in train_edges], minlength=60), kind="stable").argsort()
    renamed = [(user, int(order[item])) for user, item in edges]
    split = [
        [edge for edge, part in zip(renamed, parts, strict=True) if first <= part < last]
        for first, last in ((0, 0.7), (0.7, 0.7 + valid), (0.7 + valid, 1.0))
    ]
    return World("crowd", 150, 60, *split)


def job(mixture, **sections):
    defaults = {
        "model": {"width": 8, "factors": 8},
        "optimizer": {"learning_rate": 0.02},
        "train": {"epochs": 2, "batch_size": 128, "threads": 1},
        "evaluate": {"patience": 0, "metric": "recall@5", "k": [5, 10], "bootstrap": 0, "baselines": []},
    }
    sections = {name: {**defaults.get(name, {}), **part} for name, part in sections.items()}
    return Job.parse({**defaults, **sections, "mixture": mixture}, [], "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(crowd(), tmp_path_factory.mktemp("crowd") / "data")


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """All partners, with the weights of validation."""
    return train(job({"with": ALL}), dataset, tmp_path_factory.mktemp("mixed") / "run")


def lists(path):
    table = pq.read_table(path)
    return list(zip(table.column("user").to_pylist(), table.column("item").to_pylist(), strict=True))


def test_weights_are_the_best_of_a_grid_on_validation(run):
    said = json.loads((run.folder / "mixture.json").read_text())
    chosen = said["chosen"]
    assert list(said["partners"]) == ALL and said["partners"]["linkprop"] == 1.0
    assert {said["weight"], *said["partners"].values()} <= {0.25, 0.5, 1.0, 2.0}
    assert set(chosen["alone"]) == {"trained", *ALL} and chosen["value"] >= max(chosen["alone"].values())
    measured = evaluate_run(run, "valid", ks=[5])
    assert measured["recall@5"] == pytest.approx(chosen["value"], abs=1e-12) and measured["users"] == chosen["users"]
    assert measured["mixture"] == said["name"]


def test_recommend_gives_the_lists_that_were_evaluated(run, tmp_path):
    recommend(run, 5, tmp_path / "recs.parquet", seen="train")
    valid = run.dataset.valid
    named = set(
        zip(valid.user_ids.decode(valid.users_E).to_pylist(), valid.item_ids.decode(valid.items_E).to_pylist(), strict=True)
    )
    counts = {user: [each for each, _ in named].count(user) for user, _ in named}
    hits = [user for user, item in lists(tmp_path / "recs.parquet") if (user, item) in named]
    recall = np.mean([hits.count(user) / count for user, count in counts.items()])
    assert evaluate_run(run, "valid", ks=[5])["recall@5"] == pytest.approx(recall, abs=1e-12)


def test_lists_are_the_sum_of_probabilities(run):
    """From the files of the run alone: embeddings, partners' scores, weights."""
    said, scorer = run.mixture, run.scorer()
    assert isinstance(scorer, MixtureScorer)
    trained = run.embeddings(run.folder).scorer
    users = np.arange(trained.num_users, dtype=np.int32)
    logits = trained.users_UD.double() @ trained.items_ID.double().T + trained.column_I.double()
    scores = said.weight * torch.softmax(logits / said.temperature, 1)
    for part, weight in zip(scorer.parts[1:], said.partners.values(), strict=True):
        own = torch.empty(len(users), trained.num_items)
        part.scorer.score(part.scorer.prepare(users), 0, trained.num_items, own)
        own = own.double().clamp_min(0)
        scores += weight * own / own.sum(1, keepdim=True).clamp_min(1e-300)
    np.testing.assert_allclose(scorer.prepare(users), scores, rtol=1e-5, atol=1e-9)


def test_the_bundle_serves_the_lists_of_recommend(run, tmp_path):
    facts = export(run, "bundle", tmp_path / "shop.safetensors")
    assert facts["ranks_by"] == run.mixture.name
    recommend(run, 10, tmp_path / "recs.parquet")
    bundle = serve.open_bundle(tmp_path / "shop.safetensors")
    users, items = serve.ids_of(bundle, "user_ids"), serve.ids_of(bundle, "item_ids")
    served = [(users[user], int(items[item])) for user in range(len(users)) for item in serve.recommend(bundle, user, 10)]
    assert served == lists(tmp_path / "recs.parquet")


def test_serve_runs_with_numpy_alone(run, tmp_path):
    export(run, "bundle", tmp_path / "shop.safetensors")
    program = f"import sys, runpy; sys.argv = ['serve.py', 'shop.safetensors', 'u3', '4']; runpy.run_path({str(SERVE)!r}, "
    program += "run_name='__main__'); sys.exit(', '.join({'torch', 'numba', 'gcnrec', 'safetensors'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0 and len(done.stdout.split()) == 4, done.stderr


def test_serve_refuses_a_user_that_the_bundle_lacks_in_one_sentence(run, tmp_path, monkeypatch):
    export(run, "bundle", tmp_path / "shop.safetensors")
    monkeypatch.setattr(sys, "argv", ["serve.py", str(tmp_path / "shop.safetensors"), "03"])
    with pytest.raises(SystemExit, match=r"USER must be an id of .*, as the data writes it, for example 'u\d+'; got '03'"):
        runpy.run_path(str(SERVE), run_name="__main__")


def test_an_index_says_that_it_ranks_by_the_trained_part_alone(run, tmp_path):
    facts = export(run, "faiss", tmp_path / "index")
    assert facts["ranks_by"] == f"the trained part alone, the run by {run.mixture.name}"


def test_the_report_names_the_mixture(run):
    evaluate_run(run)
    assert f"mixture of {run.mixture.name}" in write_report(run).read_text()


def test_given_weights_are_taken_and_nothing_is_chosen(dataset, tmp_path):
    run = train(job({"with": ["gfcf", "linkprop"], "weights": [0.5, 0, 2]}), dataset, tmp_path / "run")
    assert (run.mixture.weight, run.mixture.partners) == (0.5, {"linkprop": 2.0})
    assert run.mixture.chosen == {"by": "the job"} and run.mixture.temperature == run.job.loss.temperature
    one = train(job({"with": "gfcf", "weights": 0.5}), dataset, tmp_path / "one")
    assert (one.mixture.weight, one.mixture.partners) == (0.5, {"gfcf": 1.0})


def test_auto_keeps_what_improves_validation_and_may_end_as_a_closed_form(dataset, tmp_path):
    """A table that training hardly moved from noise has nothing to add."""
    noise = {"start": "normal", "width": 8, "factors": 8}
    still = {"epochs": 1, "batch_size": 128, "threads": 1}
    settings = job({"with": "auto"}, model=noise, train=still, optimizer={"learning_rate": 1e-9})
    run = train(settings, dataset, tmp_path / "run")
    assert run.mixture.weight == 0.0 and run.mixture.partners
    assert run.mixture.chosen["value"] >= max(run.mixture.chosen["alone"].values())
    noted = [event["text"] for event in read_lines(run.folder) if event["event"] == "note"]
    assert "the trained model orders ties of the mixture alone; mixture.with=[] ranks by it" in noted
    assert evaluate_run(run, "valid", ks=[5])["recall@5"] == pytest.approx(run.mixture.chosen["value"], abs=1e-12)
    assert {path.stem for path in (run.folder / "mixture").iterdir()} == set(run.mixture.partners)


def test_partners_keep_the_keys_that_the_job_moves_from_their_defaults():
    def settings(**model):
        return mixture_choice.partner_settings(Job.parse({"model": model}, [], "test").model)

    sizes = [(each.response, each.factors, each.filter_weight) for each in (settings(), settings(factors=3, filter_weight=2.0))]
    assert sizes == [("plateau", 512, 0.2), ("plateau", 3, 2.0)]
    assert settings(response="polynomial").response == "polynomial"


def test_a_partner_is_named_once():
    with pytest.raises(UsageError, match=r"name each closed form once, got \['linkprop', 'linkprop'\]"):
        job({"with": ["linkprop", "linkprop"], "weights": [1, 0.5, 2]})


def test_a_mixture_that_is_the_trained_model_alone_leaves_no_partners(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(mixture_choice.mixing, "ERRORS_NEEDED", 1e9)
    monkeypatch.setattr(mixture_choice, "AUTO", ("itemknn",))
    settings = job({"with": "auto"}, model={"neighbours": 1}, train={"epochs": 12})
    run = train(settings, dataset, tmp_path / "run")
    assert not run.mixture.partners and isinstance(run.scorer(), EmbeddingScorer)
    assert not (run.folder / "mixture").exists()


def test_a_refit_fits_partners_again_with_the_weights_of_the_fit(dataset, tmp_path):
    plain = train(job({"with": ["linkprop", "itemknn"]}), dataset, tmp_path / "plain")
    again = train(job({"with": ["linkprop", "itemknn"]}, train={"refit": "train+valid"}), dataset, tmp_path / "again")
    assert again.mixture == plain.mixture
    assert {path.name for path in (again.folder / "mixture").iterdir()} == {"linkprop.safetensors", "itemknn.safetensors"}
    whole = mixture_choice.closed_form.fit("linkprop", again.merged_graph, again.job.model, 0)
    stored = again.scorer().parts[1].scorer
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, stored.tensors()[name])
    assert not torch.equal(stored.rows.values_E[:50], plain.scorer().parts[1].scorer.rows.values_E[:50])


def test_partners_beyond_memory_are_left_out_of_auto_and_refused_by_name(dataset, tmp_path, monkeypatch):
    plain = mixture_choice.closed_form.fit

    def without_room(name, *arguments):
        if name == "ease":
            raise DeviceError("ease needs too much")
        return plain(name, *arguments)

    monkeypatch.setattr(mixture_choice.closed_form, "fit", without_room)
    run = train(job({"with": "auto"}), dataset, tmp_path / "run")
    assert "ease" not in run.mixture.chosen["alone"]
    assert "ease left out of the mixture: ease needs too much" in (run.folder / "metrics.jsonl").read_text()
    with pytest.raises(DeviceError, match="too much"):
        train(job({"with": ["ease"]}), dataset, tmp_path / "named")


def test_a_choice_needs_validation(tmp_path):
    bare = write_dataset(replace(crowd(), valid=[]), tmp_path / "data")
    for mixture in ({"with": "auto"}, {"with": ["gfcf"]}):
        with pytest.raises(UsageError, match=r"chosen on validation.*mixture\.weights as numbers"):
            train(job(mixture), bare, tmp_path / "run")
    run = train(job({"with": ["gfcf"], "weights": [0.5]}), bare, tmp_path / "run")
    assert evaluate_run(run)["mixture"] == "0.5 trained + 1 gfcf"


def test_partners_that_the_data_does_not_allow_are_refused_before_training(dataset, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"contentknn, and .* has no features of items"):
        train(job({"with": ["contentknn"]}), dataset, tmp_path / "run")
    monkeypatch.setattr(mixture_choice.ease, "MAX_ITEMS", 60)
    with pytest.raises(UsageError, match=r"ease, which is for fewer than 60 items, and .* has 60; leave it out"):
        train(job({"with": ["ease"]}), dataset, tmp_path / "run")
    with pytest.raises(UsageError, match=r"\[mixture\] adds closed forms to a trained model"):
        job({"with": ["ease"]}, model={"name": "gfcf"})
    assert not (tmp_path / "run").exists()


def test_a_damaged_partner_is_refused(run, dataset, tmp_path):
    other = train(job({"with": ["itemknn"], "weights": 1}), dataset, tmp_path / "run")
    path = other.folder / "mixture" / "itemknn.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"itemknn.*remove it and .*memory\.json, then continue with .*--resume"):
        open_run(other.folder).scorer()
    (other.folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"itemknn.*fit the model again"):
        open_run(other.folder).scorer()
    (other.folder / "mixture.json").unlink()
    with pytest.raises(DataError, match=r"mixture\.json is missing, and the job has a mixture"):
        open_run(other.folder).scorer()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ({"temperature": 0}, "positive temperature, got temperature 0"), ({"temperature": "a"}, "'a' is no weight"),
        ({"temperature": -1}, "-1 is no weight"), ({"weight": None}, "None is no"), ({"weight": True}, "True is no weight"),
        ({"weight": float("nan")}, "nan is no weight"), ({"weight": 1e300}, "is no weight"), ({"partners": {"gfcf": -1}}, "-1"),
        ({"partners": {"foo": 1}}, "got partner 'foo'"), ({"partners": 3}, "TypeError"), ({"chosen": None}, "TypeError"),
    ],
)  # fmt: skip
def test_a_damaged_mixture_is_one_sentence(damage, found):
    whole = {"name": "", "weight": 1.0, "temperature": 0.1, "partners": {"gfcf": 0.5}, "chosen": {}}
    assert Mixture.of(whole, Path("mixture.json")).partners == {"gfcf": 0.5}
    with pytest.raises(DataError, match=rf"mixture\.json.*{found}.*train again"):
        Mixture.of({**whole, **damage}, Path("mixture.json"))


def test_a_partner_that_knows_nothing_of_a_user_adds_nothing():
    """gfcf's plateau scores a user's only, unshared item below zero, and all others by rounding around zero."""
    scores = torch.tensor([[-0.25, 8e-8, -3e-8, 1e-8], [0.25, 8e-8, -3e-8, 0.75], [-1.0, -2.0, -1.0, -3.0]])
    out = torch.zeros(3, 4)
    add_shares(scores, 2.0, out)
    assert not out[0].any() and not out[2].any()
    np.testing.assert_allclose(out[1], [0.5, 1.6e-7, 0.0, 1.5], rtol=1e-6)


def test_a_limit_of_memory_changes_no_list(run, tmp_path):
    recommend(run, 10, tmp_path / "wide.parquet")
    recommend(run, 10, tmp_path / "narrow.parquet", memory_limit="64MB")
    assert pq.read_table(tmp_path / "wide.parquet").equals(pq.read_table(tmp_path / "narrow.parquet"))


def test_chunks_keep_to_the_limit_or_are_refused(run):
    """Five rows of 60 items a user: no more users than a block, no fewer than matrix products need."""
    assert users_per_chunk("2GB", 0, run, 10, "ranking for") == BLOCK_USERS
    each = 4 * ITEMS_PER_TILE + 4 * MIXTURE_ROWS * 60 + 3 * 40 * 10
    assert users_per_chunk("64MB", 64_000_000 - 20 * each, run, 10, "ranking for") == 20
    with pytest.raises(DeviceError, match=r"ranking for .* needs .* memory_limit = 64MB allows 64,000,000"):
        users_per_chunk("64MB", 64_000_000 - (LEAST_USERS - 1) * each, run, 10, "ranking for")


def test_the_likeliest_temperature_is_that_which_held_out_items_were_drawn_by():
    draw = np.random.default_rng(0)
    rows = torch.from_numpy(draw.standard_normal((1000, 4)).astype(np.float32))
    items = torch.from_numpy(draw.standard_normal((40, 4)).astype(np.float32))
    for temperature in (0.5, 2.0):
        chances = torch.softmax(rows @ items.T / temperature, 1).double().numpy()
        drawn = np.array([draw.choice(40, p=row / row.sum()) for row in chances], np.int32)
        held = csr_from_edges(np.arange(1000, dtype=np.int32), drawn, 1000, 40)
        assert likeliest_temperature(EmbeddingScorer(rows, items), held) == temperature


class Killed(BaseException):
    """What a process does after it was killed: nothing."""


@pytest.mark.parametrize("refit", [False, "train+valid"])
def test_killed_after_any_of_its_files_a_run_goes_on_to_the_same(dataset, tmp_path, refit, monkeypatch):
    settings = job({"with": ["linkprop", "itemknn"]}, train={"refit": refit})
    whole = digests.digests(train(settings, dataset, tmp_path / "whole").folder)
    assert {"mixture.json", "mixture/linkprop.safetensors", "mixture/itemknn.safetensors"} <= set(whole)
    plain, renames = os.replace, 5  # two for the choice, the choice, two for the end
    for at in range(1, renames + 1):
        done = []

        def replace_and_die(source, target, at=at, done=done, **options):
            plain(source, target, **options)
            done.extend([target] * ("mixture" in str(Path(target).relative_to(tmp_path))))
            if len(done) == at:
                raise Killed

        out = tmp_path / f"killed {at}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "replace", replace_and_die)
            train(settings, dataset, out)
        train(settings, dataset, out, resume=True)
        assert digests.differences(whole, digests.digests(out)) == [], at


def test_a_partner_that_takes_far_longer_than_the_training_is_tried_only_by_name(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(mixture_choice, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(mixture_choice, "fit_seconds", lambda folder: 0.0)
    run = train(job({"with": "auto"}), dataset, tmp_path / "auto")
    events = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    said = [event["text"] for event in events if event["event"] == "note"]
    left_out = [text for text in said if "left out of the mixture: about" in text]
    assert left_out and all("name it in mixture.with to have it all the same" in text for text in left_out)
    named = train(job({"with": ["gfcf", "ease"]}), dataset, tmp_path / "named")
    assert {"gfcf", "ease"} <= set(named.mixture.partners)
