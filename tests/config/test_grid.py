"""GRID.toml: which runs it makes, what each is called, and the sentences for what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcnrec.config.grid import load_grid
from gcnrec.errors import UsageError

GRID = """
job = "base.toml"
compare = "sharp temperature=0.1"

[train]
epochs = 3

[grid]
loss.temperature = [0.2, 0.1]
"train.seed" = [0, 1]

[variants.flat]
model.width = 8

[variants.sharp]
"model.width" = 16
"loss.temperature=0.1".model.width = 4
"loss.temperature=0.10".model.layers = 2
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "base.toml").write_text("[train]\nepochs = 9\nbatch_size = 64\n")

    def written(text):
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return written


def test_every_combination_is_a_run(write):
    grid = load_grid(write(GRID))
    assert [run.name for run in grid.runs] == [
        f"{name}-temperature={t}-seed={s}" for name in ("flat", "sharp") for t in (0.2, 0.1) for s in (0, 1)
    ]
    assert [run.variant for run in grid.runs[::2]] == [
        "flat temperature=0.2", "flat temperature=0.1", "sharp temperature=0.2", "sharp temperature=0.1",
    ]  # fmt: skip
    figures = [(run.job.model.width, run.job.model.layers, run.job.loss.temperature, run.job.train.seed) for run in grid.runs]
    assert figures == [
        (8, 1, 0.2, 0), (8, 1, 0.2, 1), (8, 1, 0.1, 0), (8, 1, 0.1, 1),
        (16, 1, 0.2, 0), (16, 1, 0.2, 1), (4, 2, 0.1, 0), (4, 2, 0.1, 1),
    ]  # fmt: skip
    assert {(run.job.train.epochs, run.job.train.batch_size) for run in grid.runs} == {(3, 64)}


def test_compare_must_be_a_variant(write):
    for wrong in ("blunt", "temperature=0.1", ""):
        with pytest.raises(UsageError, match=rf"compare must name a variant, got '{wrong}'; "):
            load_grid(write(GRID.replace("sharp temperature=0.1", wrong)))
    assert load_grid(write(GRID.replace("sharp temperature=0.1", "sharp"))).compare == "sharp temperature=0.2"  # its first
    assert load_grid(write(GRID)).compare == "sharp temperature=0.1"
    assert load_grid(write(GRID.replace('compare = "sharp temperature=0.1"\n', ""))).compare == "flat temperature=0.2"


def test_the_budget_is_the_grids_where_it_has_one(write):
    text = "[variants.thin]\ntable.budget = 1.0\n'table.budget=1.0'.model.width = 32\n[grid]\ntable.budget = [1.0]\n"
    (run,) = load_grid(write(text)).runs
    assert (run.name, run.variant, run.budget, run.job.model.width) == ("thin-budget=1.0", "thin", 1.0, 32)
    (alone,) = load_grid(write("[model]\nwidth = 3")).runs
    assert (alone.name, alone.variant, alone.budget, alone.job.model.width) == ("run", "run", 1.0, 3)


def test_names_keep_the_section_where_keys_look_alike_and_suit_a_file_system(write):
    text = "[grid]\nmodel.name = ['mf']\nmodel.propagation = ['none']\nrun.name = ['a b c']\ntrain.seed = [4]\n"
    (run,) = load_grid(write(text)).runs
    assert run.name == "model.name=mf-propagation=none-run.name=a_b_c-seed=4"


def test_overrides_come_last_and_cannot_change_a_list(write):
    grid = load_grid(write("[variants.a]\nmodel.width = 8\n[grid]\ntrain.seed = [0, 1]"), ["model.width=2", "train.epochs=1"])
    assert {(run.job.model.width, run.job.train.epochs) for run in grid.runs} == {(2, 1)}
    with pytest.raises(UsageError, match=r"--set train.seed: the grid lists its values"):
        load_grid(write("[grid]\ntrain.seed = [0, 1]"), ["train.seed=3"])


def test_a_card_is_looked_for_beside_the_job(write):
    path = write("job = '../base.toml'")
    (path.parent / "sub").mkdir()
    nested = path.rename(path.parent / "sub" / "grid.toml")
    assert load_grid(nested).job_path == path.parent / "sub" / ".." / "base.toml"
    assert load_grid(write("[model]\nwidth = 3")).job_path == path


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[grid]\nmodel.widht = [1]", "unknown key 'model.widht'; did you mean 'width'?"),
        ("[variants.a]\nmodle.width = 1", "unknown key 'modle'; did you mean 'model'?"),
        ("[grids]\nmodel.width = [1]", "unknown key 'grids'; did you mean 'grid'?"),
        ("[grid]\nmodel.width = 3", r"\[grid\]: model.width must be a list of values, got 3"),
        ("[grid]\nmodel.width = []", "must be a list of values"),
        ("[grid]\nseed = [1]", "expected settings such as train.seed, got 'seed'"),
        ("[variants]\na = 1", "variants must be tables"),
        ("grid = 3", "expected a table of settings"),
        ("[grid]\nmodel.width = [0]", "run width=0: model.width"),
        ("[grid]\ntrain.seed = [1, 1]", "2 runs would be called 'seed=1'"),
        ("[grid]\ntrain.seed=[1]\n[variants.a.'train.seed=2']\nmodel.width=1", "'train.seed=2' never holds"),
        ("[grid]\ntrain.seed=[1]\n[variants.a.'train.seed=']\nmodel.width=1", "expected a condition such as"),
        ("[grid]\ndata.seed = [1, 2]", r"\[data\] must be the same in every run"),
        ("[grid]\nevaluate.metric = ['ndcg@20', 'recall@20']", "evaluate.metric must be the same"),
        ("[grid]\nloss.name = ['softmax', 'bpr']\nsampler.negatives = ['in_batch']", "loss.name = 'bpr' needs sampler.negatives"),
        ("job = 'absent.toml'", "no such file"),
    ],
)
def test_one_sentence(write, text, sentence):
    with pytest.raises(UsageError, match=sentence):
        load_grid(write(text))


def test_the_committed_grid_is_one():
    """Stage 1: seven variants, three budgets, three seeds; thin dense holds the same number of values, and trains longer once."""
    grid = load_grid(Path(__file__).parents[2] / "jobs" / "sparsity-gowalla.toml")
    assert len(grid.runs) == 63 and grid.compare == "dynamic"
    thin = {run.budget: run.job.model.width for run in grid.runs if run.variant == "thin"}
    assert thin == {budget: int(64 * budget) for budget in (0.5, 0.25, 0.125)}
    epochs = {run.variant: run.job.train.epochs for run in grid.runs}
    assert epochs.pop("thin-long") == 4 * epochs["thin"] and len(set(epochs.values())) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("job = 3", "job must name a job file, got 3"),
        (
            "\n".join(["[grid]", *(f"model.k{n} = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]" for n in range(10))]),
            "10,000,000,000 combinations",
        ),
        (f"[variants.{'a' * 200}]\nmodel.width = 4", "longer than a file's name may be; shorten"),
        ("[variants.'" + "\u00e9" * 100 + "']\nmodel.width = 4", "run would be called"),
        ("[grid]\ntrain.seed = [1]\n[variants.a.'train.seed=1 # one']\nmodel.width = 1", "expects a value without a comment"),
    ],
)
def test_what_would_take_all_names_or_memory(write, text, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        load_grid(write(text))
    assert len(str(caught.value)) < 600 and "grid.toml" in str(caught.value)


@pytest.mark.parametrize("name", ["..", ".", "../up", "a/../../up", ".hidden"])
def test_a_variant_names_one_folder_whatever_it_is_called(write, name):
    (run,) = load_grid(write(f"[variants.'{name}']\nmodel.width = 4")).runs
    assert run.variant == name and "/" not in run.name and run.name[0] not in "."


def test_a_grid_keeps_the_types_of_partition_keys(write):
    (run,) = load_grid(write("[data]\ntrain = 'x'\npartition_type = {user = 'int64'}\n[grid]\ntrain.seed = [1]")).runs
    assert run.job.data.partition_type == {"user": "int64"}
