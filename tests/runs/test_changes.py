"""What changed since an earlier run, from made-up folders."""

from __future__ import annotations

import hashlib
import json

import pytest

from gcnrec.config import Job
from gcnrec.config.toml import to_toml
from gcnrec.errors import UsageError
from gcnrec.reports.text import change_lines
from gcnrec.runs.changes import Change, changes


def digest_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def day(tmp_path):
    """Makes a dataset folder and a run folder of a day; returns the run's."""

    def make(name, rows, inputs, settings, torch):
        data, run = tmp_path / f"{name}-data", tmp_path / name
        data.mkdir()
        run.mkdir()
        recipe = {"train": "events/*.parquet", **settings.pop("data", {})}
        info = {
            "format": 1,
            "name": "shop",
            "digest": digest_of(name),
            "files": {},
            "num_users": 0,
            "num_items": 0,
            "data": recipe,
            "num_train": rows - 5,
            "report": {"rows_train": rows},
            "inputs": inputs,
        }
        (data / "dataset.json").write_text(json.dumps(info))
        lineage = {"format": 1, "created": f"on {name}", "data": {"name": "shop", "folder": str(data), "digest": digest_of(name)}}
        lineage |= {"machine": {"cores": 2, "torch": torch}, "threads": 2, "command": name}
        (run / "lineage.json").write_text(json.dumps(lineage))
        (run / "job.toml").write_text(to_toml(Job.parse(settings, [], "here")))
        return run

    return make


def test_rows_files_settings_and_versions(day):
    first = {"train": [["day=1/x.parquet", 900, "v1"], ["day=2/x.parquet", 800, "86400000001000"]]}
    then = {"train": [["day=2/x.parquet", 1800, "v5"], ["day=3/x.parquet", 700, "v3"]]}
    before = day("monday", 100, first, {"train": {"epochs": 4}}, "2.12")
    now = day("tuesday", 160, then, {"train": {"epochs": 6, "init_from": str(before)}, "data": {"where": "a > 0"}}, "2.13")
    found = changes(before, now)
    assert found == [
        Change("rows", "rows_train", 100, 160),
        Change("rows", "num_train", 95, 155),
        Change("files", "train: day=1/x.parquet", "900 bytes, v1", None),
        Change("files", "train: day=2/x.parquet", "800 bytes, 1970-01-02 00:00:00.000001 UTC", "1,800 bytes, v5"),
        Change("files", "train: day=3/x.parquet", None, "700 bytes, v3"),
        Change("settings", "train.epochs", "4", "6"),
        Change("settings", "data.where", None, "a > 0"),
        Change("versions", "machine.torch", "2.12", "2.13"),
    ]
    lines = change_lines("monday", found)
    assert [line for line in lines if "rows_train" in line] == ["rows_train  100     160  +60"]


def test_a_dataset_that_is_gone_or_another_now_leaves_rows_out(day):
    before, now = day("monday", 100, {}, {}, "2.12"), day("tuesday", 160, {}, {}, "2.13")
    described = before.parent / "monday-data" / "dataset.json"
    described.write_text(described.read_text().replace(digest_of("monday"), digest_of("other")))
    assert changes(before, now)[0] == Change("rows", "rows_train", None, 160)
    described.unlink()
    assert changes(before, now)[0] == Change("rows", "rows_train", None, 160)


def test_a_folder_that_is_no_run_is_refused(day, tmp_path):
    with pytest.raises(UsageError, match=r"tmp must be a run folder \(with lineage.json\)"):
        changes(tmp_path / "tmp", day("monday", 100, {}, {}, "2.12"))
