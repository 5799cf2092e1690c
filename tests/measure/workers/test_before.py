"""Two trees are equal when all files but the job's are, and trees that train otherwise are not."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from jobs.measure.kill.processes import CHECKOUT
from jobs.measure.workers import before, in_tree
from jobs.measure.workers.cases import CASES, PARTS, WHOLE

NAME = "none dense adam in_batch"


def work_of(tree, work, names, monkeypatch):
    """`before.train_all` in this process, which has compiled what it needs."""
    monkeypatch.chdir(tree)
    monkeypatch.setattr(sys, "argv", ["in_tree", str(work), *names])
    in_tree.main()


def test_a_tree_that_trains_otherwise_is_found(tmp_path, monkeypatch):
    """The job file is not compared. What both trees lack is no proof."""
    case = WHOLE[NAME]
    work_of(CHECKOUT, tmp_path / "one", [NAME], monkeypatch)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    found = [before.left(tmp_path / name / case.folder) for name in ("one", "two")]
    assert found[0] == found[1] and {"checkpoints/last.safetensors", "metrics.jsonl", "metrics.json"} <= found[0].keys()
    assert before.compared(case, *found) == {"job": NAME, "equal": True, "digests": found[1]}
    other = (tmp_path / "one" / case.folder / "metrics.jsonl").read_text().replace('"loss": ', '"loss": 1')
    (tmp_path / "two" / case.folder / "metrics.jsonl").write_text(other)
    (tmp_path / "two" / case.folder / "job.toml").write_text("")
    row = before.compared(case, found[0], before.left(tmp_path / "two" / case.folder))
    assert not row["equal"] and row["different"] == ["manifest.json", "metrics.jsonl"]
    assert not before.compared(case, {}, {})["equal"]


def test_the_gcnrec_of_the_tree_is_the_one_that_trains(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="was to train, not"):
        work_of(tmp_path, tmp_path / "work", [NAME], monkeypatch)


def test_each_tree_has_a_process_of_its_own(tmp_path, monkeypatch):
    calls = []

    def run(command, cwd, env):
        calls.append((command, cwd, env["PYTHONPATH"].split(":")))
        return subprocess.CompletedProcess(command, 7 * (cwd == CHECKOUT))

    monkeypatch.setattr(before.subprocess, "run", run)
    before.train_all(tmp_path, tmp_path / "before", [NAME])
    ((command, cwd, path),) = calls
    assert command[-2:] == [str(tmp_path / "before"), NAME] and cwd == tmp_path and path == [str(tmp_path), str(CHECKOUT)]
    with pytest.raises(SystemExit, match="the jobs of now ended with 7"):
        before.train_all(CHECKOUT, tmp_path / "now", [NAME])


def test_jobs_of_one_process_have_whole_batches():
    assert CASES[NAME].job().train.parts == PARTS and CASES[NAME].job(1).train.parts == 1
    assert all(case.job(None).train.parts is None and case.job(None).train.threads == 1 for case in WHOLE.values())
    assert len({case.folder for case in WHOLE.values()}) == len(WHOLE) > len(CASES)
