"""Advice about times that a split does not use."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.loaders.parquet import ingest

WHEN = [datetime.datetime(2024, 1, day, tzinfo=datetime.UTC) for day in range(1, 29)]


@pytest.fixture
def said(tmp_path):
    """Lines of advice when pairs with one more column are ingested."""

    def call(name, values, **settings):
        pairs = {"user": [n // 7 for n in range(28)], "item": [n * 3 % 11 for n in range(28)]}
        pq.write_table(pa.table({**pairs, name: values}), tmp_path / "clicks.parquet")
        lines = []
        data = Data(train="clicks.parquet", user="user", item="item", **settings)
        ingest(data, tmp_path / "out", data_root=tmp_path, name="tiny", force=True, progress=lines.append)
        return [line for line in lines if line.startswith("advice: ")]

    return call


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("seen", pa.array(WHEN)),
        ("day", pa.array([when.date() for when in WHEN])),
        ("unix_time", range(28)),
        ("Timestamp", range(28)),
    ],
)
def test_a_column_of_times_that_nobody_named_is_pointed_out(said, name, values):
    (line,) = said(name, values)
    assert f"column '{name}' may hold times" in line and f"time = '{name}'" in line


@pytest.mark.parametrize("name", ["runtime", "n", "price", "rate"])
def test_other_columns_are_not(said, name):
    assert said(name, range(28)) == []


def test_a_random_split_of_known_times_is_advised_against_and_one_by_time_is_not(said):
    (line,) = said("seen", pa.array(WHEN), time="seen", split="random")
    assert "split = 'temporal'" in line and "'seen'" in line
    assert said("seen", pa.array(WHEN), time="seen") == []
    assert said("seen", pa.array(WHEN), time="seen", split="leave_last") == []


def test_a_column_with_another_use_is_none(said):
    assert said("date", range(28), rating="date", min_rating=0.0) == []
