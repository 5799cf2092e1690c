"""The list of a run's files: damage of any of them is found before it is used, and what the sentence advises leads out of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.api.judging import compare
from gcnrec.api.lists import recommend
from gcnrec.config import Job
from gcnrec.errors import DataError
from gcnrec.reports.trials import Trial
from gcnrec.results.evaluate import evaluate_run
from gcnrec.runs.contents import RunContents
from gcnrec.runs.folder import open_run, write_job
from gcnrec.runs.manifest import resume_command
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train
from jobs.measure.kill import digests
from tests.helpers.heard import Heard

MIXED = {
    "model": {"name": "mf", "width": 8},
    "train": {"epochs": 1, "batch_size": 64, "threads": 1},
    "mixture": {"with": ["linkprop"], "weights": [0.5, 1.0]},
    "evaluate": {"k": [5], "metric": "recall@5", "bootstrap": 0, "baselines": []},
}
CLOSED = {"model": {"name": "itemknn"}, "evaluate": {"k": [5], "metric": "recall@5", "bootstrap": 0}}
LISTED = {
    "mixed": {
        "job.toml", "lineage.json", "memory.json", "mixture.json", "mixture/linkprop.safetensors", "embeddings/users.parquet",
        "embeddings/items.parquet", "metrics.json", "per_user.parquet",
    },
    "closed": {"job.toml", "lineage.json", "model.safetensors", "metrics.json", "per_user.parquet"},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two evaluated runs of one dataset, which tests copy."""
    folder = tmp_path_factory.mktemp("runs")
    dataset = write_dataset(checkerboard(), folder / "data")
    for name, settings in (("mixed", MIXED), ("closed", CLOSED)):
        evaluate_run(train(Job.parse(settings, [], "test"), dataset, folder / name))
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    def copy(name):
        return Path(shutil.copytree(runs / name, tmp_path / name))

    return copy


def resume(run):
    opened = open_run(run)
    train(opened.job, opened.dataset, run, resume=True)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def use(run):
    """All that commands read."""
    opened = open_run(run)
    recommend(opened, 3, run.parent / "lists.parquet")
    (run.parent / "lists.parquet").unlink()
    opened.metrics("test")
    compare(opened, [opened], bootstrap=10, permutations=10)


@pytest.mark.parametrize("name", LISTED)
def test_a_finished_run_lists_all_that_later_commands_read(copied, name):
    run, heard = copied(name), Heard()
    assert json.loads((run / "manifest.json").read_text())["files"].keys() == LISTED[name]
    use(run)
    open_run(run, heard)
    assert heard.warnings == []


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in LISTED.items() for file in sorted(files)])
def test_a_flipped_bit_is_found_and_the_advice_helps(copied, runs, name, file):
    run = copied(name)
    flip(run / file)
    with pytest.raises(DataError, match=rf"{re.escape(str(run / file))} does not match the sha256 in manifest.json") as caught:
        use(run)
    _, _, advice = str(caught.value).rpartition("; ")
    if advice.startswith("restore it"):
        assert file in ("job.toml", "lineage.json", "mixture.json")
        shutil.copy(runs / name / file, run / file)
    elif "evaluate" in advice:
        assert advice == f"run 'gcnrec evaluate {run}' again"
        evaluate_run(open_run(run))
    else:
        memory = f" and {run / 'memory.json'}" if name == "mixed" and file != "memory.json" else ""
        data = runs / "data"
        command = f"gcnrec train {run / 'job.toml'} --data {data} --out {run} --resume"
        assert advice == f"remove it{memory}, then continue with '{command}'"
        for path in {run / file, run / "memory.json"}:
            path.unlink(missing_ok=True)
        resume(run)
    use(run)
    assert digests.differences(digests.digests(runs / name), digests.digests(run)) == []


def test_a_finished_run_that_lost_a_file_is_continued_by_its_advice_only(copied, runs):
    run, lost = copied("mixed"), "mixture/linkprop.safetensors"
    (run / lost).unlink()
    with pytest.raises(DataError, match=rf"{lost} cannot be read .*; remove {run / 'memory.json'}, then continue with 'gcnrec"):
        resume(run)
    (run / "memory.json").unlink()
    with pytest.raises(DataError, match=r"memory.json cannot be read .*; continue with 'gcnrec train .* --resume'"):
        _ = Trial(run, "", 0.0, 0).contents
    resume(run)
    use(run)
    assert digests.differences(digests.digests(runs / "mixed"), digests.digests(run)) == []


def test_a_mixture_is_missed_also_where_the_last_file_is_gone(copied):
    run = copied("mixed")
    for name in ("memory.json", "mixture.json"):
        (run / name).unlink()
    with pytest.raises(DataError, match=r"mixture\.json cannot be read .*; restore it, or train again"):
        open_run(run)


def test_a_lost_partner_is_refused_with_advice_that_helps(copied):
    run = copied("mixed")
    (run / "mixture/linkprop.safetensors").unlink()
    with pytest.raises(DataError, match=rf"remove {run / 'memory.json'}, then continue with 'gcnrec train .* --resume'"):
        recommend(open_run(run), 3, run.parent / "lists.parquet")
    (run / "memory.json").unlink()
    resume(run)
    use(run)


@pytest.mark.parametrize("name", LISTED)
def test_a_run_without_a_list_opens_with_one_warning_and_its_evaluation_lists_all(copied, name):
    run, heard = copied(name), Heard()
    (run / "manifest.json").unlink()
    opened = open_run(run, heard)
    opened.scorer()
    assert len(heard.warnings) == 1 and f"{run} has no manifest.json" in heard.warnings[0]
    assert f"'gcnrec evaluate {run}' adds it" in heard.warnings[0]
    resume(run)  # which leaves a finished run as it is
    assert not (run / "manifest.json").exists()
    evaluate_run(opened)
    open_run(run, heard)
    assert len(heard.warnings) == 1 and json.loads((run / "manifest.json").read_text())["files"].keys() == LISTED[name]


def test_a_command_that_was_killed_before_its_files_got_their_names_leaves_the_earlier_ones(copied):
    run = copied("mixed")
    before = {name: (run / name).read_bytes() for name in ("metrics.json", "per_user.parquet")}
    evaluate_run(open_run(run), ks=(2, 3))
    for name, content in before.items():
        (run / name).write_bytes(content)
    use(run)
    assert "recall@5" in open_run(run).metrics("test")
    flip(run / "metrics.json")
    with pytest.raises(DataError, match=r"metrics.json must have .* bytes, has .*; run 'gcnrec evaluate .*' again"):
        open_run(run).metrics("test")
    evaluate_run(open_run(run), ks=(2, 3))
    use(run)
    assert "recall@3" in open_run(run).metrics("test")


def test_a_resume_that_was_killed_while_it_wrote_another_job_goes_on(copied):
    run = copied("mixed")
    before = (run / "job.toml").read_bytes()
    opened = open_run(run)
    write_job(run, opened.job.model_copy(update={"run": opened.job.run.model_copy(update={"keep_checkpoints": 7})}))
    assert open_run(run).job.run.keep_checkpoints == 7
    (run / "job.toml").write_bytes(before)
    assert open_run(run).job == opened.job


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "cannot be read as JSON"), ("[]", "JSON object"), ('{"format": 1}', "files: field required")],
)
def test_a_damaged_list_is_one_sentence_and_may_be_removed(copied, text, expected):
    run = copied("mixed")
    (run / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=rf"{expected}.* remove it, the files of .* are then used as they are"):
        open_run(run)
    (run / "manifest.json").unlink()
    use(run)


def test_a_changed_digest_of_the_list_is_found(copied):
    path = copied("mixed") / "manifest.json"
    document = json.loads(path.read_text())
    document["files"]["job.toml"]["bytes"] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"manifest.json does not match the sha256 in it, .*; remove it"):
        open_run(path.parent)


def test_runs_are_equal_only_where_files_are_as_listed(copied, runs):
    run = copied("closed")
    expected = digests.digests(runs / "closed")
    assert digests.digests(run) == expected
    document = json.loads((run / "manifest.json").read_text())
    document["files"]["metrics.json"]["sha256"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(document))
    assert digests.differences(expected, digests.digests(run)) == ["manifest.json"]


def test_a_mixture_loses_no_partner_to_damage(copied):
    """Tensors that a kernel would read are verified before."""
    run = open_run(copied("mixed"))
    assert torch.is_tensor(run.partners(run.mixture, run.train_graph)["linkprop"].tensors()["indptr"])
    flip(run.folder / "mixture" / "linkprop.safetensors")
    with pytest.raises(DataError, match=r"linkprop.safetensors does not match"):
        run.partners(run.mixture, run.train_graph)


def rewritten(path, **changes):
    """The table of a file with other columns; None takes one out."""
    table = pq.read_table(path)
    for name, column in changes.items():
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table if column is None else table.append_column(name, column)
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"user": None}, "must have a column 'user', has none; run 'gcnrec evaluate"),
        ({"recall@5": pa.array(["x"] * 24)}, "must hold a number in each row of 'recall@5', holds string"),
        ({"num_held_out": pa.nulls(24, pa.int64())}, "in each row of 'num_held_out', holds int64 or nulls"),
    ],
)
def test_per_user_metrics_of_another_kind_are_refused_without_a_list(copied, changes, expected):
    run = copied("closed")
    (run / "manifest.json").unlink()
    rewritten(run / "per_user.parquet", **changes)
    opened = open_run(run)
    with pytest.raises(DataError, match=expected):
        compare(opened, [opened])


@pytest.mark.parametrize(
    ("file", "changes", "expected"),
    [
        ("items", {"embedding": pa.array([[1.0, 2.0]] * 24, pa.list_(pa.float32(), 2))}, "one width, 8 and 2 are there"),
        ("users", {"embedding": pa.array([[1.0]] * 24)}, r"a list of float32 or float16 of fixed size, has .*embedding list<"),
        (
            "users",
            {"embedding": pa.array([[1.0] * 8] * 23 + [[None] * 8], pa.list_(pa.float32(), 8))},
            "8 numbers a row, some",
        ),
        ("items", {"popularity": pa.array(["x"] * 24)}, "number in each row of 'popularity', holds string"),
    ],
)
def test_embeddings_of_another_kind_are_refused_without_a_list(copied, file, changes, expected):
    run = copied("mixed")
    (run / "manifest.json").unlink()
    rewritten(run / "embeddings" / f"{file}.parquet", **changes)
    with pytest.raises(DataError, match=expected):
        open_run(run).scorer()


def test_a_listed_file_whose_place_has_a_pipe_or_a_lost_mixture_is_refused_at_once(copied, tmp_path):
    run = copied("mixed")
    users = run / "embeddings" / "users.parquet"
    kept = users.read_bytes()
    users.unlink()
    os.mkfifo(users)
    with pytest.raises(DataError, match=re.escape(f"{users} must have {len(kept)} bytes, has 0")):
        recommend(open_run(run), 5, tmp_path / "lists.parquet")
    users.unlink()
    users.write_bytes(kept)
    (run / "mixture.json").unlink()
    with pytest.raises(DataError, match=r"mixture\.json cannot be read"):
        open_run(run)


@pytest.mark.parametrize(("name", "file"), [("mixed", "embeddings/users.parquet"), ("closed", "model.safetensors")])
def test_resuming_a_finished_run_finds_damage_of_what_training_left(copied, name, file):
    run = copied(name)
    resume(run)
    flip(run / file)
    with pytest.raises(DataError, match=rf"{file} does not match the sha256 in manifest.json"):
        resume(run)


def test_the_command_that_continues_a_run_keeps_a_path_with_blanks_as_one_word():
    words = shlex.split(resume_command(Path("my runs/shop's"), "/data/ä b"))
    assert words == ["gcnrec", "train", "my runs/shop's/job.toml", "--data", "/data/ä b", "--out", "my runs/shop's", "--resume"]


def test_a_pipe_in_the_place_of_a_job_file_is_refused_at_once(copied):
    run = copied("mixed")
    (run / "job.toml").unlink()
    os.mkfifo(run / "job.toml")
    with pytest.raises(DataError, match=r"job\.toml must be the job file of a run, is a pipe"):
        RunContents(run).job  # noqa: B018


def test_a_mixture_that_was_added_to_a_finished_run_is_refused(runs, tmp_path):
    alone = {section: keys for section, keys in MIXED.items() if section != "mixture"}
    train(Job.parse(alone, [], "test"), open_run(runs / "mixed").dataset, tmp_path / "run")
    shutil.copy(runs / "mixed" / "mixture.json", tmp_path / "run")
    with pytest.raises(DataError, match=r"mixture\.json is not in manifest\.json, it is no file of this run; remove it"):
        open_run(tmp_path / "run")
    (tmp_path / "run" / "mixture.json").unlink()
    open_run(tmp_path / "run")


def test_a_job_file_that_was_edited_is_used_once_the_list_is_removed(copied):
    run = copied("closed")
    (run / "job.toml").write_text("# a comment\n" + (run / "job.toml").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(DataError, match=rf"restore it, or keep the change and remove {re.escape(str(run / 'manifest.json'))}: "):
        open_run(run)
    (run / "manifest.json").unlink()
    use(run)


def test_a_run_whose_dataset_was_moved_names_the_place_and_follows_a_link_there(copied, runs, tmp_path):
    run = copied("closed")
    (runs / "data").rename(tmp_path / "moved")
    try:
        with pytest.raises(
            DataError, match=rf"the dataset folder {re.escape(str(runs / 'data'))}, which is not there; .* a link"
        ):
            open_run(run)
        (runs / "data").symlink_to(tmp_path / "moved")
        use(run)
        (runs / "data").unlink()
    finally:
        (tmp_path / "moved").rename(runs / "data")
