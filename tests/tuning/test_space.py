"""`[tune]` of a job file: which settings are searched, the job of a trial, and the sentences for what cannot be."""

from __future__ import annotations

import tomllib

import pytest

from gcnrec.config import Job
from gcnrec.config.tuning import Range, load_search
from gcnrec.errors import UsageError

JOB = """
[data]
card = "card.toml"
[model]
width = 8
[tune]
trials = 5
[tune.space]
optimizer.learning_rate = { low = 1e-4, high = 1e-1, log = true }
model.layers = [1, 3]
"sampler.fanouts" = [[4], [2]]
"""


@pytest.fixture
def write(tmp_path):
    def written(text):
        path = tmp_path / "job.toml"
        path.write_text(text)
        return path

    return written


def test_a_job_file_says_what_to_search(write):
    search = load_search(write(JOB), ["train.epochs=2"], {"seed": 3, "trials": None})
    assert (search.settings.trials, search.settings.sampler, search.settings.seed) == (5, "tpe", 3)
    assert dict(search.space.dimensions) == {
        "optimizer.learning_rate": Range(low=1e-4, high=0.1, log=True), "model.layers": [1, 3], "sampler.fanouts": [[4], [2]],
    }  # fmt: skip
    assert Job.load(write(JOB)).model.width == 8  # other commands leave the section aside


def test_a_trial_is_validated_and_nothing_else(write):
    search = load_search(write(JOB), ["train.epochs=2"], {})
    trial = search.trial(7, {"model.layers": 3, "optimizer.learning_rate": 0.01})
    job = trial.job
    assert trial.name == "trial-0007"
    assert (job.model.layers, job.model.width, job.optimizer.learning_rate, job.train.epochs) == (3, 8, 0.01, 2)
    assert (job.train.refit, job.evaluate.baselines, job.mixture.partners, job.train.threads) == (False, (), (), 1)
    assert load_search(write(JOB), ["train.threads=2"], {}).trial(0, {}).job.train.threads == 2


def test_the_best_job_is_a_job_file_for_any_folder(write, tmp_path):
    (tmp_path / "card.toml").write_text("")
    search = load_search(write(JOB), ["train.epochs=2"], {})
    text = search.best_toml({"model.layers": 3, "optimizer.learning_rate": 0.01}, "the best of 5")
    assert text.startswith("# the best of 5\n")
    assert tomllib.loads(text) == {
        "data": {"card": str(tmp_path / "card.toml")}, "model": {"width": 8, "layers": 3},
        "optimizer": {"learning_rate": 0.01}, "train": {"epochs": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"job.toml \[tune.space\] must list settings to search, such as optimizer.learning_rate = .*, got {}"),
        ("tune = 3", r"\[tune\] must be a table of settings, got 3"),
        ("[tune]\ntrails = 3\n[tune.space]\nmodel.layers = [1]", "unknown key 'trails'; did you mean 'trials'"),
        ("[tune.space]\nmodel.layers = 3", "model.layers must be a list of different values or a range { low, high }, got 3"),
        ("[tune.space]\nmodel.layers = []", r"model.layers must be a list of different values .*, got \[\]"),
        ("[tune.space]\nmodel.layers = [1, 1]", "model.layers must be a list of different values"),
        ("[tune.space]\nlayers = [1]", "expected settings such as train.seed, got 'layers'"),
        ("[tune.space]\nmodel.layers = {low = 3, high = 3}", "model.layers: low must be below high, got 3 and 3"),
        ("[tune.space]\nmodel.layers = {low = 0, high = 3, log = true}", "logarithmic range must begin above 0, got low = 0"),
        ("[tune.space]\nmodel.layers = {low = 0, high = 3, step = 1}", "model.layers: unknown key 'step'"),
        ("[tune]\nsampler = 'grid'\n[tune.space]\nmodel.layers = {low = 1, high = 3}", "layers is a range, and sampler = 'grid'"),
        ("[tune]\nsampler = 'best'\n[tune.space]\nmodel.layers = [1]", "should be 'tpe', 'random' or 'grid', got 'best'"),
        ("[model]\nname = 'ease'\n[tune.space]\nmodel.shrink = [1]", "'ease' has no epochs to validate; 'gcnrec run'"),
        (f"[tune]\nsampler = 'grid'\n[tune.space]\ntrain.seed = {list(range(101))}\ntrain.epochs = {list(range(1, 101))}",
         "has 10,100 combinations, at most 10,000 are possible"),
    ],
)  # fmt: skip
def test_a_search_of_no_use_is_refused(write, text, problem):
    with pytest.raises(UsageError, match=problem):
        load_search(write(text), [], {})


def test_a_setting_that_is_searched_cannot_be_set(write):
    with pytest.raises(UsageError, match=r"--set model.layers: the search varies it; change it in .*job.toml \[tune.space\]"):
        load_search(write(JOB), ["model.layers=2"], {})


def test_combinations_take_the_last_setting_fastest(write):
    text = "[tune]\nsampler = 'grid'\n[tune.space]\nmodel.layers = [1, 2]\ntrain.seed = [5, 6]"
    found = load_search(write(text), [], {}).space.combinations()
    assert [tuple(each.values()) for each in found] == [(1, 5), (1, 6), (2, 5), (2, 6)]
