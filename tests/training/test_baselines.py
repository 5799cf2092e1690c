"""Baselines beside a run on validation: what is compared, what is skipped and why, and when a run is warned of."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gcnrec.closed_forms import closed_form
from gcnrec.config import Job, Model
from gcnrec.graph import BipartiteGraph
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.runs.contents import RunContents
from gcnrec.runs.events import append_event, read_lines
from gcnrec.testing import World, write_dataset
from gcnrec.training.baselines import AUTO, VALID, Rivals, baseline_names, compare_with_baselines, compares
from gcnrec.training.costs.baselines import Load, bytes_of, seconds_of
from gcnrec.training.fit_validation import keep_validation
from gcnrec.training.train import train
from tests.helpers.heard import Heard

USERS, ITEMS = 60, 40


def job(**evaluate):
    return Job.parse({"evaluate": {"metric": "recall@5", "bootstrap": 200, **evaluate}}, [], "here")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two halves: users of one parity like the items of that parity; two of each user's items are held out, one each."""
    rng = np.random.default_rng(0)
    train, valid, test = [], [], []
    for user in range(USERS):
        liked = [(user, int(2 * item + user % 2)) for item in rng.permutation(ITEMS // 2)[:10]]
        train, valid, test = train + liked[2:], [*valid, liked[0]], [*test, liked[1]]
    return write_dataset(
        World("halves", USERS, ITEMS, sorted(train), sorted(valid), sorted(test)), tmp_path_factory.mktemp("d") / "d"
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """2,500 items, whose matrix takes ease 75 MB and half a second or more."""
    train = [(user, 25 * user + item) for user in range(100) for item in range(25)]
    world = World("wide", 100, 2500, train, [(user, 25 * user + 25) for user in range(99)], [])
    return write_dataset(world, tmp_path_factory.mktemp("w") / "data")


def guessing(dataset):
    """A model that ranks at random."""
    rng = np.random.default_rng(1)
    return EmbeddingScorer(*(torch.from_numpy(rng.normal(size=(size, 4)).astype(np.float32)) for size in (USERS, ITEMS)))


def knowing(dataset):
    """A model that ranks what validation holds out first."""
    likes = np.zeros((USERS, ITEMS), np.float32)
    likes[dataset.valid.users_E, dataset.valid.items_E] = 1.0
    return EmbeddingScorer(torch.from_numpy(likes), torch.eye(ITEMS))


def nothing(dataset):
    """A model that knows nothing."""
    return EmbeddingScorer(*(torch.zeros(len(ids), 1) for ids in (dataset.user_ids, dataset.item_ids)))


def rivals(settings):
    return Rivals(settings.model, settings.evaluate, settings.train.seed, bool(settings.mixture.partners))


def compared(folder, settings, dataset, scorer, seconds=1000.0):
    """Events of baselines beside a fit of so many seconds whose best epoch ranks as `scorer`, and what was told."""
    folder.mkdir(exist_ok=True)
    append_event(folder, {"event": "epoch", "stage": "fit", "epoch": 1, "seconds": seconds, "loss": 1.0})
    if compares(rivals(settings), dataset, folder):
        keep_validation(settings.evaluate, dataset, folder, scorer)
    told = Heard()
    compare_with_baselines(rivals(settings), dataset, folder, told)
    return [event for event in read_lines(folder) if event["event"] == VALID], told


def test_a_model_worse_than_closed_forms_is_warned_of_by_default(dataset, tmp_path):
    events, told = compared(tmp_path / "run", job(), dataset, guessing(dataset))
    assert [event["name"] for event in events] == [*AUTO]
    best = max(events, key=lambda event: event["difference"])
    (warning,) = told.warnings
    assert warning.startswith(
        f"{best['name']}, which needs no training, is better on validation: recall@5 {best['metrics']['recall@5']:.4f}"
    )
    assert (
        f"--set model.name={best['name']}, mix closed forms in by --set mixture.with=auto, or" in warning
        and "60 users" in warning
    )
    assert [event["text"] for event in read_lines(tmp_path / "run") if event["event"] == "warning"] == [warning]
    assert len(told.notes) == len(AUTO) and all("this run" in note for note in told.notes)


@pytest.mark.parametrize("partners", [(), ("itemknn",)])
def test_what_the_warning_says_to_set_is_a_valid_job(dataset, tmp_path, partners):
    mixture = {"mixture": {"with": list(partners)}} if partners else {}
    settings = Job.parse({"evaluate": {"metric": "recall@5", "bootstrap": 200}, **mixture}, [], "here")
    _, heard = compared(tmp_path / "run", settings, dataset, guessing(dataset))
    (warning,) = heard.warnings
    words = shlex.split(warning.rpartition("; ")[2].replace(",", ""))
    typed = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    assert Job.parse({**mixture}, typed if partners else typed[:1], "warning").model.closed_form
    assert partners or Job.parse({}, typed[1:], "warning").mixture.partners == "auto"


def test_figures_are_those_of_the_model_fitted_on_train(dataset, tmp_path):
    scorer = guessing(dataset)
    (event,), _ = compared(tmp_path / "run", job(baselines=["popularity"]), dataset, scorer)
    train = {*zip(dataset.graph.user_items.row_numbers().tolist(), dataset.graph.user_items.indices.tolist(), strict=True)}
    wanted = dict(zip(dataset.valid.users_E.tolist(), dataset.valid.items_E.tolist(), strict=True))
    degrees = dataset.graph.item_users.degrees

    def found(score):
        ranked = [sorted((-score(u, i), i) for i in range(ITEMS) if (u, i) not in train)[:5] for u in range(USERS)]
        return np.array([float(wanted[u] in {item for _, item in ranked[u]}) for u in range(USERS)])

    products = (scorer.users_UD.double() @ scorer.items_ID.double().T).numpy()
    theirs, own = found(lambda u, i: degrees[i]), found(lambda u, i: products[u, i])
    assert event["metrics"]["recall@5"] == pytest.approx(theirs.mean()) and event["own"] == pytest.approx(own.mean())
    assert event["difference"] == pytest.approx((theirs - own).mean()) and event["users"] == USERS
    error = (theirs - own).std() / np.sqrt(USERS)
    assert event["low"] == pytest.approx(event["difference"] - 1.96 * error, abs=0.03)
    assert event["high"] == pytest.approx(event["difference"] + 1.96 * error, abs=0.03)


def test_a_model_better_than_all_is_not_warned_of(dataset, tmp_path):
    events, told = compared(tmp_path / "run", job(), dataset, knowing(dataset))
    assert told.warnings == [] and all(event["own"] == 1.0 and event["high"] <= 0.0 for event in events)


def test_a_resumed_run_repeats_nothing_and_finishes_what_is_left(dataset, tmp_path):
    first, _ = compared(tmp_path / "run", job(), dataset, guessing(dataset))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines[:3]))  # an epoch and two baselines
    told = Heard()
    compare_with_baselines(rivals(job()), dataset, tmp_path / "run", told)
    again = [event for event in read_lines(tmp_path / "run") if event["event"] == VALID]
    times = {"seconds": 0.0}
    assert [event | times for event in again] == [event | times for event in first]
    assert len(told.notes) == len(AUTO) - 2 and len(told.warnings) == 1
    compare_with_baselines(rivals(job()), dataset, tmp_path / "run", told)
    assert len(told.notes) == len(AUTO) - 2 and len(told.warnings) == 1


def test_what_a_tenth_of_the_fit_does_not_allow_is_skipped_with_a_line(wide, tmp_path):
    events, told = compared(tmp_path / "run", job(), wide, nothing(wide), seconds=1.0)
    foreseen = {event["name"]: event["skipped"] for event in events if event.get("skipped", "").startswith("about")}
    assert [*foreseen] == ["ease"] and len(events) == len(AUTO)  # a busy machine may give up others on the way
    assert re.match(r"about 0\.\d s, a tenth of the fit's time is 0\.1 s; name it in evaluate\.baselines", foreseen["ease"])
    assert f"baseline ease skipped: {foreseen['ease']}" in told.notes


def test_one_that_is_slower_than_foreseen_is_given_up_between_fit_and_ranking(dataset, tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 60))  # every look at it is a minute later
    monkeypatch.setattr("gcnrec.training.baselines.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    events, told = compared(tmp_path / "run", job(), dataset, guessing(dataset), seconds=100.0)
    assert [event["skipped"].partition(",")[0] for event in events] == ["not done in time"] * len(AUTO)
    assert told.warnings == []


def test_what_does_not_fit_the_memory_limit_is_skipped(wide, tmp_path):
    events, _ = compared(tmp_path / "run", job(memory_limit="64MB"), wide, nothing(wide))
    skipped = {event["name"]: event["skipped"] for event in events if "skipped" in event}
    assert [*skipped] == ["ease"] and "75,000,000 bytes, evaluate.memory_limit = '64MB'" in skipped["ease"]


def test_named_ones_have_no_limit(dataset, tmp_path):
    events, _ = compared(
        tmp_path / "run", job(baselines=["ease", "popularity"], memory_limit="64MB"), dataset, guessing(dataset), 0.01
    )
    assert [event["name"] for event in events] == ["ease", "popularity"] and not [event for event in events if "skipped" in event]


def test_a_fit_of_less_than_a_second_is_compared_with_nothing_and_says_so(dataset, tmp_path):
    events, told = compared(tmp_path / "run", job(), dataset, guessing(dataset), seconds=0.5)
    assert events == [] and len(told.notes) == 1 and "less than 1 s" in told.notes[0]
    assert not (tmp_path / "run" / "per_user.fit.parquet").exists()


def test_a_lost_file_of_the_fit_is_said(dataset, tmp_path):
    run, settings = tmp_path / "run", job(baselines=["popularity"])
    run.mkdir()
    append_event(run, {"event": "epoch", "stage": "fit", "epoch": 1, "seconds": 9.0, "loss": 1.0})
    told = Heard()
    compare_with_baselines(rivals(settings), dataset, run, told)
    assert told.notes == [f"no baselines: {run / 'per_user.fit.parquet'} is missing, which they are compared with"]


def test_no_baselines_and_closed_forms_are_compared_with_nothing(dataset, tmp_path):
    events, told = compared(tmp_path / "run", job(baselines=[]), dataset, guessing(dataset))
    assert (events, told.notes, told.warnings) == ([], [], [])
    closed = Job.parse({"model": {"name": "itemknn"}}, [], "here")
    assert baseline_names(rivals(closed), dataset) == () and not compares(rivals(closed), dataset, tmp_path / "run")


def test_many_users_are_sampled_and_the_runs_own_figure_is_theirs(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("gcnrec.training.baselines.MOST_USERS", 25)
    (event,), _ = compared(tmp_path / "run", job(baselines=["itemknn"]), dataset, knowing(dataset))
    assert event["users"] == 25 and event["own"] == 1.0 and event["metrics"]["recall@5"] < 1.0


QUICK = {
    "model": {"width": 4, "popularity": "theory"},
    "train": {"epochs": 3, "batch_size": 64, "threads": 1, "refit": "train+valid"},
}


def test_a_refitted_run_is_compared_by_the_best_epoch_of_its_fit_and_resumes(dataset, tmp_path):
    settings = Job.parse(
        {**QUICK, "evaluate": {"metric": "recall@5", "baselines": ["popularity", "itemknn"], "tilt": 0.5}}, [], "here"
    )
    run = train(settings, dataset, tmp_path / "run")
    events = read_lines(run.folder)
    best = RunContents(run.folder).best_validation("recall@5")
    beside = [event for event in events if event["event"] == VALID]
    assert run.refitted and [event["own"] for event in beside] == [pytest.approx(best["recall@5"])] * 2
    assert "ndcg_tilted@5" in best and all("ndcg_tilted@5" in event["metrics"] for event in beside)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "metrics.jsonl").write_text("".join(line for line in lines if '"itemknn"' not in line))  # killed before it
    again = train(settings, dataset, tmp_path / "run", resume=True)
    times = {"seconds": 0.0}
    assert [event | times for event in read_lines(again.folder)] == [event | times for event in events]


def test_a_split_by_time_is_refitted_unless_it_was_begun_without(dataset, tmp_path):
    temporal = replace(dataset, info={**dataset.info, "split": "temporal"})
    open_job = Job.parse({**QUICK, "train": {"epochs": 1, "batch_size": 64, "threads": 1}}, [], "here")
    told = Heard()
    run = train(open_job, temporal, tmp_path / "run", observer=told)
    assert run.refitted and run.job.train.refit == "train+valid"
    assert any(note.startswith("train.refit=train+valid: the split is temporal") for note in told.notes)
    assert train(open_job, temporal, tmp_path / "run", resume=True).refitted
    early = {"train": {**QUICK["train"], "refit": False}, "model": QUICK["model"], "evaluate": {"baselines": []}}
    begun = Job.parse(early, [], "an earlier version's")
    assert not train(begun, temporal, tmp_path / "early").refitted
    asked = Job.parse({"model": QUICK["model"], "train": {"epochs": 3, "batch_size": 64, "threads": 1}}, [], "here")
    assert not train(asked, temporal, tmp_path / "early", resume=True).refitted


@pytest.mark.parametrize("name", AUTO)
def test_costs_grow_with_the_data(name):
    """Doubling the users and their items never costs less, and four times the threads never more."""
    small, large = (Load(users=n, items=n, edges=20 * n, pairs=400.0 * n, ranked=n, ranked_edges=20 * n) for n in (1000, 2000))
    assert seconds_of(name, small, Model()) <= seconds_of(name, large, Model())
    assert bytes_of(name, small, Model()) < bytes_of(name, large, Model())


def test_bytes_are_at_least_those_of_the_fitted_model(dataset):
    load = Load.of(dataset.graph, np.arange(USERS))
    for name in AUTO:
        fitted = closed_form.fit(name, dataset.graph, Model(), 0)
        assert bytes_of(name, load, Model()) >= sum(tensor.nbytes for tensor in fitted.tensors().values()) - 8 * (ITEMS + 2), name


def test_the_load_counts_pairs_of_items_and_edges_of_ranked_users():
    graph = BipartiteGraph.from_edges(np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32), 2, 3)
    assert Load.of(graph, np.array([1])) == Load(users=2, items=3, edges=3, pairs=5.0, ranked=1, ranked_edges=1)
