"""Guards fire where something is wrong, and nowhere else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gcnrec.config import Job
from gcnrec.errors import DivergedError
from gcnrec.models.mf import MatrixFactorisation
from gcnrec.ranking.popularity import PopularityScorer
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.reports.progress import Quiet
from gcnrec.results.evaluate import evaluate_run
from gcnrec.runs.events import read_lines
from gcnrec.steps.guards import RUNNING_STEPS, LossTrend, finite, one_list_for_everyone
from gcnrec.steps.state import Progress
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train

NONE = {"gradient of a": []}


def test_a_finite_step_gives_its_loss():
    gradients = {"gradient of a": [torch.tensor([1.0, -2.0])], "gradient of b": [torch.zeros(0), torch.ones(2, 2)]}
    assert finite(7, torch.tensor(0.5, requires_grad=True), gradients) == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named_with_its_step(bad):
    with pytest.raises(DivergedError, match=r"the loss is not finite at step 7 .*learning_rate"):
        finite(7, torch.tensor(bad), NONE)
    rows, layers = [torch.ones(3)], [torch.ones(2), torch.tensor([1.0, bad])]
    with pytest.raises(DivergedError, match=r"the gradient of the layers is not finite at step 7 \(loss 0.5\)"):
        finite(7, torch.tensor(0.5), {"gradient of the rows": rows, "gradient of the layers": layers})


def followed(losses, epoch_steps, limit=3.0):
    """The trend after all losses; DivergedError where `train` would raise it."""
    trend = LossTrend()
    for number, loss in enumerate(losses):
        trend = trend.after(float(loss), number < epoch_steps)
        trend.check(number + 1, limit)
    return trend


def test_the_trend_by_hand():
    trend = followed([4.0, 2.0, 3.0], 2)
    assert trend == LossTrend(3, 3.0, 3.0, 3.0)  # means 4, 3 and 3; the third is of the second epoch
    steady = followed([2.0] * 100, 50)
    assert steady == LossTrend(100, 2.0, 2.0, 2.0)
    moved = steady.after(2.0 + RUNNING_STEPS, False)
    assert moved.running == pytest.approx(3.0) and moved.lowest == 2.0


NOISE = np.random.default_rng(0).standard_normal(3000)


@pytest.mark.parametrize(
    "losses",
    [
        0.69 * np.exp(-np.arange(3000) / 400) + 0.05 * np.abs(NOISE),  # bpr: falls to nothing, then noise
        7.0 - 3.0 * np.arange(3000) / 3000 + 0.5 * NOISE,  # softmax
        -2.0 - np.arange(3000) / 3000 + 0.2 * NOISE,  # directau: below zero
        4.0 + 2.5 * (np.arange(3000) > 500) + 0.2 * NOISE,  # worse than its start, and bounded: that is for validation to see
        0.001 + 0.3 * (NOISE > 2),  # a warm start with nothing left to learn
    ],
)
def test_no_alarm(losses):
    assert followed(losses, 600).count == len(losses)


@pytest.mark.parametrize(
    "losses",
    [
        0.69 + 0.0005 * np.maximum(np.arange(3000) - 700, 0) ** 1.5,
        np.where(np.arange(3000) < 100, 6.3, 6.3 + 0.5 * np.arange(3000)),
        np.where(np.arange(3000) == 900, 1e20, -2.0),
    ],
)
def test_alarm(losses):
    with pytest.raises(DivergedError, match=r"the loss explodes: .* at step \d+, and was .* train.loss_limit = 0"):
        followed(losses, 600)
    followed(losses, 600, limit=0.0)


def scorer_of(users_UD, items_ID):
    return EmbeddingScorer(torch.from_numpy(users_UD.astype(np.float32)), torch.from_numpy(items_ID.astype(np.float32)))


def test_one_list_for_everyone():
    rng = np.random.default_rng(0)
    items = rng.standard_normal((200, 8))
    said = one_list_for_everyone(scorer_of(np.ones((50, 8)) + 1e-4 * rng.standard_normal((50, 8)), items))
    assert said is not None and "of the top 10 of 50 users, 100% are the same 10 items" in said
    assert one_list_for_everyone(scorer_of(rng.standard_normal((50, 8)), items)) is None
    assert one_list_for_everyone(PopularityScorer(300, torch.arange(100.0))) is not None


def test_nothing_is_said_of_a_few_users_or_items():
    items = np.random.default_rng(0).standard_normal((200, 8))
    assert one_list_for_everyone(scorer_of(np.ones((9, 8)), items)) is None
    assert one_list_for_everyone(scorer_of(np.ones((50, 8)), items[:19])) is None
    assert one_list_for_everyone(scorer_of(np.ones((50, 8)), items[:20])) is not None


SECTIONS = {
    "model": {"width": 4, "name": "mf", "propagation": "none"},
    "loss": {"name": "bpr", "score": "inner"},
    "sampler": {"negatives": "uniform"},
    "optimizer": {"rule": "adam", "learning_rate": 0.01},
    "train": {"epochs": 40, "batch_size": 16, "threads": 1},
    "evaluate": {"baselines": [], "metric": "recall@3", "patience": 0, "every": 40, "k": [3], "bootstrap": 0},
}


def job(**changes):
    return Job.parse({name: {**SECTIONS[name], **changes.get(name, {})} for name in SECTIONS}, [], "here")


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(checkerboard(24), tmp_path / "data")


def events(folder, kind):
    return [event for event in read_lines(folder) if event["event"] == kind]


def test_a_run_that_explodes_ends_with_code_5_and_stays_resumable(dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        uphill_from_60 = "gcnrec.training.plan.learning_rate", lambda settings, step, steps: 0.01 if step < 60 else -0.1
        patch.setattr(*uphill_from_60)
        with pytest.raises(DivergedError, match=r"the loss explodes: .* at step \d+") as ended:
            train(job(), dataset, tmp_path / "run")
        assert ended.value.exit_code == 5 and not (tmp_path / "run" / "embeddings").exists()
        with pytest.raises(DivergedError) as again:  # at the same step, from the last checkpoint on
            train(job(), dataset, tmp_path / "run", resume=True)
        assert str(again.value) == str(ended.value)
        assert train(job(train={"loss_limit": 0.0}), dataset, tmp_path / "on").refitted is False
    assert train(job(), dataset, tmp_path / "tame").refitted is False


def test_a_trend_survives_a_checkpoint():
    trend = followed(0.7 + 0.1 * NOISE[:40], 100)
    progress = Progress(trend=trend)
    assert Progress.of(json.loads(json.dumps(progress.saved())), "last", "again") == progress
    assert Progress.of(json.loads(json.dumps(Progress().saved())), "last", "again") == Progress()


def test_embeddings_that_are_not_finite_are_not_exported(dataset, tmp_path, monkeypatch):
    def export(self, table, out_NF):
        out_NF.fill_(torch.inf)

    monkeypatch.setattr(MatrixFactorisation, "export", export)
    with pytest.raises(DivergedError, match="not finite, so nothing is exported"):
        train(job(train={"epochs": 1}), dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "embeddings").exists()


def test_a_run_with_one_list_for_everyone_is_warned_of_once(dataset, tmp_path, monkeypatch, capsys):
    def export(self, table, out_NF):
        out_NF.fill_(1.0)
        out_NF[24:] *= torch.arange(24.0)[:, None]

    monkeypatch.setattr(MatrixFactorisation, "export", export)
    run = train(job(train={"epochs": 1}), dataset, tmp_path / "run", observer=Quiet())
    evaluate_run(run, observer=Quiet())
    (warning,) = events(run.folder, "warning")
    assert "the same items for everyone" in warning["text"]
    assert capsys.readouterr().err == f"warning: {warning['text']}\n"


def test_popularity_is_meant_to(dataset, tmp_path):
    run = train(Job.parse({"model": {"name": "popularity"}, "evaluate": {"bootstrap": 0}}, [], "here"), dataset, tmp_path / "run")
    evaluate_run(run)
    assert events(run.folder, "warning") == []
