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


FAR = [2**63 - 1, -(2**63), 0, 253_402_300_800, -62_135_596_801, 2**62]


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us"), pa.timestamp("ms", "UTC"), pa.timestamp("ns", "No/Where"), pa.int64(), pa.date32()]
)
def test_times_beyond_every_calendar_are_ordered(tmp_path, kind):
    """Of years after 9999 and before 1, and at the ends of 64 bits: the last of each user is the test."""
    ticks = [2**31 - 1, -(2**31), 0, 2_932_897, -719_163, 2**30] if kind == pa.date32() else FAR
    times = [[ticks[at], ticks[(at + 1) % 6]] for at in range(6)]
    flat = pa.array([tick for pair in times for tick in pair], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)
    pq.write_table(pa.table({"user": sorted([*range(6)] * 2), "item": [0, 1] * 6, "time": flat}), tmp_path / "t.parquet")
    for split, settings in (("leave_last", {}), ("temporal", {"test_from": "2000-01-01"})):
        data = Data(
            train="t.parquet", user="user", item="item", time="time", split=split, valid_size=0.0, keep_cold=True, **settings
        )
        made = ingest(data, tmp_path / "out", data_root=tmp_path, name="t", force=True)
        users, items = made.user_ids.decode(made.test.users_E).to_pylist(), made.item_ids.decode(made.test.items_E).to_pylist()
        seconds = {pa.date32(): 86400, pa.int64(): 1, pa.timestamp("us"): 1e-6, pa.timestamp("ms", "UTC"): 1e-3}.get(kind, 1e-9)
        late = [(user, item) for user, pair in enumerate(times) for item in (0, 1) if pair[item] * seconds >= 946_684_800]
        last = [(user, int(pair[1] > pair[0])) for user, pair in enumerate(times)]
        assert sorted(zip(users, items, strict=True)) == (last if split == "leave_last" else late)
