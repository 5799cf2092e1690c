"""Leakage of time is counted for validation and test, whatever the split, and said where data and runs are looked at."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.loaders.ingest.leakage import leaks, sentences
from gcnrec.loaders.parquet import ingest
from gcnrec.reports.text import dataset_lines
from gcnrec.runs.lineage import lineage_of


def table(*rows):
    return pa.table({name: [row[at] for row in rows] for at, name in enumerate(("user", "item", "time"))})


@pytest.fixture
def make(tmp_path):
    def call(files, **settings):
        for name, content in files.items():
            pq.write_table(content, tmp_path / f"{name}.parquet")
        paths = {name: f"{name}.parquet" for name in files}
        data = Data(user="user", item="item", time="time", keep_cold=True, **paths, **settings)
        return ingest(data, tmp_path / "out", data_root=tmp_path, name="tiny", force=True)

    return call


TRAIN = table(("u", "a", 10), ("u", "b", 50), ("v", "a", 20), ("v", "c", 30), ("w", "b", 5))


def test_files_that_overlap_in_time(make):
    """u's last train interaction is at 50, v's at 30, w's at 5; the last of all at 50, the first of test at 4, of valid at 29."""
    test = table(("u", "c", 60), ("u", "d", 49), ("v", "b", 31), ("w", "a", 4))
    valid = table(("v", "d", 29), ("w", "d", 70))
    dataset = make({"train": TRAIN, "test": test, "valid": valid})
    report = dataset.info["report"]
    assert {key: value for key, value in report.items() if key.startswith("leakage_")} == {
        "leakage_train_after_first_valid": 2,  # 30 and 50
        "leakage_valid_before_own_train": 0.5,  # 29 < 30
        "leakage_valid_before_any_train": 0.5,
        "leakage_train_after_first_test": 5,
        "leakage_test_before_own_train": 0.5,  # 49 < 50 and 4 < 5
        "leakage_test_before_any_train": 0.75,  # all but 60
    }
    said = [line for line in report["lines"] if line.startswith("leakage: ")]
    assert said == [f"leakage: {sentence}" for sentence in sentences(report)] and leaks(report)
    assert said[1].startswith(
        "leakage: 50.0% of the test interactions are earlier than their user's last train interaction, 75.0%"
    )
    shown = "\n".join(dataset_lines(dataset.info))
    assert "leakage_test_before_own_train" in shown and "0.5000" in shown
    assert lineage_of(dataset, None, "cpu")["data"]["leakage_test_before_any_train"] == 0.75


def test_a_random_split_leaks_and_a_temporal_one_does_not(make):
    rows = [(f"u{user}", f"i{(user * 7 + n) % 40}", 100 * n + user) for user in range(30) for n in range(10)]
    leaky = make({"train": table(*rows)}, split="random", test_size=0.3, valid_size=0.2).info["report"]
    for part in ("valid", "test"):
        assert 0.3 < leaky[f"leakage_{part}_before_own_train"] <= leaky[f"leakage_{part}_before_any_train"] <= 1.0
    clean = make({"train": table(*rows)}, split="temporal", test_size=0.3, valid_size=0.2).info["report"]
    assert clean["leakage_train_after_first_test"] == clean["leakage_train_after_first_valid"] == 0
    assert not leaks(clean) and len(sentences(clean)) == 2


def test_without_times_nothing_is_known(tmp_path):
    pq.write_table(TRAIN.drop_columns(["time"]), tmp_path / "train.parquet")
    data = Data(train="train.parquet", user="user", item="item", split="random")
    report = ingest(data, tmp_path / "out", data_root=tmp_path, name="tiny").info["report"]
    assert not any(key.startswith("leakage_") for key in report) and not leaks(report) and sentences(report) == []
