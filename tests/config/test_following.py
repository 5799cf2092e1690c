"""Keys that follow from another key: the table of them is what jobs do."""

from __future__ import annotations

import pytest

from gcnrec.config import Job
from gcnrec.config.following import following
from gcnrec.errors import UsageError


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        ("model.name=graphsage", {"model.propagation": "sampled", "optimizer.rule": "adam"}),
        ("model.response=plateau", {"model.factors": 512, "model.filter_weight": 0.2}),
        ("model.propagation=sampled", {"optimizer.rule": "adam"}),
        ("loss.name=bpr", {"sampler.negatives": "uniform", "loss.score": "inner"}),
        ("table.budget=0.5", {"sparsity.policy": "dynamic"}),
        ("run.preset=small", {"data.memory_limit": "512MB", "evaluate.memory_limit": "512MB", "run.keep_checkpoints": 1}),
        ("run.preset=large", {"data.memory_limit": "8GB", "evaluate.memory_limit": "8GB"}),
        ("train.epochs=3", {}),
    ],
)
def test_each_key_that_changes_with_its_cause_is_named(cause, expected):
    job, plain = Job.parse({}, [cause], "here"), Job()
    named = following(job)
    assert named.keys() == expected.keys()
    changed = {f"{section}.{key}": value for section, keys in job.model_dump().items() for key, value in keys.items()
               if value != plain.model_dump()[section][key]}  # fmt: skip
    assert {key: value for key, value in changed.items() if key != cause.partition("=")[0]} == expected


def test_the_reason_names_the_cause():
    assert following(Job.parse({}, ["loss.name=bpr"], "here"))["loss.score"] == 'the default with loss.name = "bpr"'


def test_a_value_of_its_own_has_no_reason():
    job = Job.parse({}, ["loss.name=bpr", "sampler.negatives=popularity"], "here")
    assert following(job).keys() == {"loss.score"}
    of_preset = Job.parse({"data": {"memory_limit": "1GB"}, "run": {"preset": "small", "keep_checkpoints": 3}}, [], "here")
    assert (of_preset.data.memory_limit, of_preset.run.keep_checkpoints) == ("1GB", 3)
    assert following(of_preset) == {"evaluate.memory_limit": 'the size limit of run.preset = "small"'}


def test_auto_leaves_a_key_to_the_data():
    fixed = {"loss": {"temperature": 0.1, "negative_weight": 0.2}, "model": {"start_scale": 1.0}, "train": {"refit": False}}
    names = ["loss.temperature", "loss.negative_weight", "model.start_scale", "train.refit", "evaluate.seen"]
    assert Job.parse(fixed, [f"{name}=auto" for name in names], "here") == Job()
    with pytest.raises(UsageError, match=r"here: loss.l2: .* got 'auto'"):
        Job.parse({}, ["loss.l2=auto"], "here")
