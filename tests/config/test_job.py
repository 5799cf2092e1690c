"""The job file: what it accepts, what it says when it does not, and that it survives a round trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.config import Data, Job, Loss, Model, Table
from gcnrec.config.toml import read_toml, to_toml, validated
from gcnrec.errors import UsageError

JOB = """
[data]
train = "train.parquet"
user = "user_id"
item = "item_id"

[model]
name = "lightgcn"
layers = 2

[sampler]
fanouts = [5, 3]
"""


@pytest.fixture
def job_file(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


def refused(sections, overrides=()):
    with pytest.raises(UsageError) as caught:
        Job.parse(sections, list(overrides), "job.toml")
    return str(caught.value)


def test_load(job_file):
    job = Job.load(job_file)
    assert (job.model.layers, job.sampler.fanouts, job.data.user) == (2, (5, 3), "user_id")
    assert job.train.epochs == Job().train.epochs


def test_fixed_keys_exist():
    """Other tools rely on these names."""
    fixed = {
        "model": {"name", "layers", "width", "propagation"},
        "table": {"budget", "base_width", "placement"},
        "sparsity": {"policy"},
        "sampler": {"fanouts", "negatives", "num_negatives", "popularity_power"},
        "loss": {"name"},
        "train": {"epochs", "batch_size", "seed", "device", "refit", "init_from"},
    }
    assert set(Job.model_fields) == {
        "data", "model", "table", "sampler", "loss", "optimizer", "sparsity", "train", "export", "mixture", "evaluate",
        "run",
    }  # fmt: skip
    for section, keys in fixed.items():
        assert keys <= set(type(getattr(Job(), section)).model_fields)


def test_overrides_win(job_file):
    job = Job.load(job_file, ["model.layers=3", "train.refit=train+valid", "loss.temperature=0.2", "sampler.fanouts=[1]"])
    assert (job.model.layers, job.train.refit, job.loss.temperature, job.sampler.fanouts) == (3, "train+valid", 0.2, (1,))


def test_override_opens_a_section(job_file):
    assert Job.load(job_file, ["run.name=mine"]).run.name == "mine"


@pytest.mark.parametrize("override", ["layers=3", "model.layers", "model.a.b=1", "=3"])
def test_misshaped_override(override):
    assert "--set expects section.key=value" in refused({}, [override])


@pytest.mark.parametrize(
    ("sections", "parts"),
    [
        ({"modl": {}}, ["unknown key 'modl'", "did you mean 'model'?"]),
        ({"model": {"layer": 1}}, ["unknown key 'model.layer'", "did you mean 'layers'?"]),
        ({"train": {"batchsize": 1}}, ["'train.batchsize'", "did you mean 'batch_size'?"]),
        ({"model": {"zzzzzz": 1}}, ["unknown key", "known: ", "propagation"]),
        ({"model": {"name": "lightgcnn"}}, ["model.name", "'lightgcn'", "got 'lightgcnn'"]),
        ({"train": {"epochs": 0}}, ["train.epochs", "greater than or equal to 1", "got 0"]),
        ({"model": {"width": "wide"}}, ["model.width: input should be a valid integer", "or input should be 'auto', got 'wide'"]),
        ({"evaluate": {"k": [5, "x"]}}, ["evaluate.k.1: input should be a valid integer", "got 'x'"]),
        ({"table": {"budget": 0.0}}, ["table.budget", "greater than 0"]),
        ({"sampler": {"fanouts": [0]}}, ["sampler.fanouts.0: input should be greater than or equal to 1, got 0"]),
        ({"data": {"min_rating": 4}}, ["min_rating needs rating"]),
        ({"data": {"split": "given"}}, ["needs test"]),
        ({"data": {"split": "temporal"}}, ["needs time"]),
        ({"loss": {"name": "bpr"}, "sampler": {"negatives": "in_batch"}}, ["sampler.negatives"]),
        (
            {"model": {"propagation": "sampled"}, "optimizer": {"rule": "adam_dense"}, "table": {"budget": 0.5}},
            ["'adam_dense'", "table.budget = 0.5 stores parts", "use 'adam', or set table.budget to 1.0"],
        ),
        (
            {"model": {"propagation": "sampled"}, "optimizer": {"rule": "adam_dense"}, "train": {"device": "cuda"}},
            ["train.device = 'cuda'", "with optimizer.rule = 'adam'"],
        ),
        ({"optimizer": {"learning_rate": float("inf")}}, ["optimizer.learning_rate: input should be a finite number", "got inf"]),
        ({"train": {"seed": 2**63}}, ["train.seed", "less than 9223372036854775808"]),
        ({"evaluate": {"memory_limit": "1MB"}}, ["evaluate.memory_limit: must be at least 64MB"]),
        (
            {"model": {"name": "ngcf", "propagation": "sampled"}, "optimizer": {"rule": "adam"}},
            ["'ngcf'", "'full', got 'sampled'"],
        ),
        ({"table": {"dtype": "bfloat16"}}, ["table.dtype = 'bfloat16'", "set a budget below 1"]),
        ({"table": {"budget": 0.5}, "sparsity": {"policy": "none"}}, ["table.budget = 0.5", '("dynamic")']),
        (
            {"model": {"propagation": "sampled", "layers": 2}, "optimizer": {"rule": "adam"}, "sampler": {"fanouts": [5]}},
            ["sampler.fanouts", "model.layers = 2", "got [5]"],
        ),
        ({"sampler": {"exclude_positives": True}}, ["sampler.exclude_positives", "graphsage", "got model.name = 'lightgcn'"]),
        (
            {"model": {"name": "mf", "propagation": "none"}, "train": {"device": "cuda"}},
            ["optimizer.rule = 'adam_dense'", "with optimizer.rule = 'adam'"],
        ),
        ({"train": {"device": "cuda"}}, ["'full'", "set model.propagation = 'sampled'"]),
    ],
)
def test_one_sentence_names_file_key_and_remedy(sections, parts):
    message = refused(sections)
    assert message.startswith("job.toml: ") and "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        ({}, ("adam_dense", "in_batch", "none")),
        ({"model": {"name": "graphsage"}}, ("adam", "in_batch", "none")),
        ({"model": {"propagation": "sampled"}, "loss": {"name": "bpr"}}, ("adam", "uniform", "none")),
        ({"model": {"propagation": "sampled"}, "optimizer": {"rule": "sgd", "learning_rate": 0.5}}, ("sgd", "in_batch", "none")),
        ({"table": {"budget": 0.25}, "sparsity": {"interval": 2.0}}, ("adam_dense", "in_batch", "dynamic")),
        ({"table": {"budget": 0.25}, "sparsity": {"policy": "set"}}, ("adam_dense", "in_batch", "set")),
        ({"table": {"budget": 1}}, ("adam_dense", "in_batch", "none")),
    ],
)
def test_keys_that_are_not_named_fit_those_that_are(sections, found):
    job = Job.parse(sections, [], "job.toml")
    assert (job.optimizer.rule, job.sampler.negatives, job.sparsity.policy) == found
    for section, keys in sections.items():
        assert {key: getattr(getattr(job, section), key) for key in keys} == keys


def test_they_fit_in_python_as_well():
    job = Job(model=Model(name="pinsage", layers=2), table=Table(budget=0.25))
    assert (job.optimizer.rule, job.sparsity.policy, job.model.layers) == ("adam", "dynamic", 2)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Job.load(tmp_path / "nothing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[model\n")
    with pytest.raises(UsageError, match=r"broken\.toml cannot be read as TOML"):
        read_toml(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        read_toml(broken)


def test_sections_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Job().train.epochs = 3


def test_round_trip_of_a_job_with_everything(tmp_path):
    job = Job.parse(
        {
            "data": {
                "train": 'odd "name"\\here',
                "user": "u",
                "item": "i\n\u00e9",
                "test_from": 1700000000,
                "keep_cold": True,
                "partition_type": {"a b": "int64", '"': "string"},
            },
            "model": {"width": "auto", "layers": 0},
            "loss": {"l2": 1e-7, "temperature": 3.0},
            "train": {"refit": "train+valid"},
            "evaluate": {"k": [1, 100], "baselines": ["popularity"]},
        },
        [],
        "here",
    )
    path = tmp_path / "job.toml"
    path.write_text(to_toml(job), encoding="utf-8")
    assert Job.load(path) == job
    assert Job.load(path, ['data.partition_type={user = "int8"}']).data.partition_type == {"user": "int8"}
    with pytest.raises(UsageError, match=r"data.partition_type.user: input should be 'string', 'int8', .*got 'int'"):
        Job.load(path, ['data.partition_type={user = "int"}'])


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.floats(1e-12, 1e9), st.integers(0, 2**60))
def test_round_trip_of_any_value(text, number, seed):
    import tomllib

    job = Job(data=Data(where=text, seed=seed), loss=Loss(l2=number))
    assert validated(Job, tomllib.loads(to_toml(job)), "here") == job


@pytest.mark.parametrize("name", ["../x", "/abs", "-x", ".h", "a/b", "a\\b", "a\nb", "", "x" * 101])
def test_a_run_stays_below_runs(name):
    with pytest.raises(UsageError, match=r"run\.name: .*expects the name of one folder"):
        Job.parse({"run": {"name": name}}, [], "job.toml")


def test_a_run_may_have_any_other_name():
    assert [Job.parse({"run": {"name": name}}, [], "x").run.name for name in ("a", "a b.c", "ü-1")] == ["a", "a b.c", "ü-1"]


def test_a_byte_order_mark_and_carriage_returns_are_read(tmp_path):
    (tmp_path / "job.toml").write_bytes(b"\xef\xbb\xbf[train]\r\nepochs = 3\r\n")
    assert Job.load(tmp_path / "job.toml").train.epochs == 3


@pytest.mark.parametrize("loss", ["bpr", "softmax", "bsl", "directau"])
@pytest.mark.parametrize("name", ["graphsage", "pinsage", "lightgcn"])
def test_every_sampled_model_and_loss_trains_on_a_gpu(name, loss):
    sections = {"model": {"name": name, "propagation": "sampled"}, "loss": {"name": loss}, "train": {"device": "cuda"}}
    assert Job.parse(sections, [], "job").trains_on_gpu
    with pytest.raises(UsageError, match=r"such jobs train on the CPU alone; set train\.device = 'cpu'"):
        Job.parse({**sections, "model": {"name": "graphsage"}, "sampler": {"respect_time": True}}, [], "job")
    with pytest.raises(UsageError, match=r"on a GPU this version trains by samples; set model\.propagation = 'sampled'"):
        Job.parse({**sections, "model": {"name": "ngcf"}}, [], "job")


def test_a_mixture_of_unknown_names_says_how_to_have_none():
    assert refused({}, ["mixture.with=none"]).endswith("a list of closed forms, or [] for none, got 'none'")
    assert Job.parse({}, ["mixture.with=gfcf"], "job.toml").mixture.partners == ("gfcf",)
