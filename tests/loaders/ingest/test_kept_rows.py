"""Which rows ingestion keeps: ratings, conditions of held-out files, repeats that count, times."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.ingest.columns import parse_time
from gcnrec.loaders.parquet import ingest

NAN = float("nan")
NEXT = 2**53 + 1
"""No float64 is this integer."""


@pytest.fixture
def make(tmp_path):
    """Write files (name = columns) and ingest all of the first one as train."""

    def call(files, **settings):
        for name, columns in files.items():
            pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        plain = {"train": "train.parquet", "user": "user", "item": "item", "valid_size": 0.0}
        if not {"test", "time"} & settings.keys():
            plain |= {"split": "random", "test_size": 0.0}
        return ingest(Data(**{**plain, **settings}), tmp_path / "out", data_root=tmp_path, name="tiny", force=True)

    return call


def test_a_size_that_a_test_file_leaves_without_effect_is_warned_of(make, tmp_path):
    rows = {"user": [1, 1, 2], "item": [1, 2, 1]}
    lines = []
    make({"train": rows, "test": {"user": [2], "item": [2]}}, test="test.parquet")
    ingest(
        Data(train="train.parquet", test="test.parquet", user="user", item="item", test_size=0.5, valid_size=0.0),
        tmp_path / "again", data_root=tmp_path, name="tiny", progress=lines.append,
    )  # fmt: skip
    assert [line for line in lines if line.startswith("warning")] == [
        "warning: test_size = 0.5 changes nothing here; it matters where a split draws the test set, without test, test_from or "
        "split = 'leave_last'"
    ]


def users_of(dataset):
    return sorted(dataset.user_ids.ids.to_pylist())


RATINGS = [
    (pa.float64(), [4.0, NAN, 3.9, None, 5.0, float("inf")], 4.0, [0, 4, 5]),
    (pa.float32(), [np.float32(0.1), NAN, np.float32(0.0999), None, 1.0, 0.5], 0.1, [0, 4, 5]),
    (pa.float16(), [np.float16(0.1), np.float16(NAN), np.float16(0.0999), None, np.float16(1), np.float16(0)], 0.1, [0, 4]),
    (pa.int64(), [NEXT, NEXT - 1, 3, None, NEXT + 1, -1], float(NEXT + 1), [4]),
    (pa.int8(), [4, 3, -128, None, 127, 5], 3.5, [0, 4, 5]),
    (pa.int8(), [4, 3, -128, None, 127, 5], -1e300, [0, 1, 2, 4, 5]),
    (pa.uint64(), [2**64 - 1, 0, 1, None, 2, 3], 1.5, [0, 4, 5]),
    (pa.decimal128(5, 2), [Decimal("4.10"), Decimal("4.09"), Decimal("4.11"), None, Decimal(5), Decimal(-5)], 4.1, [0, 2, 4]),
]


@pytest.mark.parametrize(("kind", "ratings", "least", "kept"), RATINGS, ids=lambda value: str(value)[:20])
def test_a_rating_is_compared_in_its_own_type_and_none_is_counted(make, kind, ratings, least, kept):
    where = "item >= 0" if pa.types.is_floating(kind) else None
    columns = {"user": range(6), "item": [0] * 6, "r": pa.array(ratings, kind, from_pandas=False)}
    dataset = make({"train": columns}, rating="r", min_rating=least, where=where)
    assert users_of(dataset) == kept
    report = dataset.info["report"]
    absent = sum(value is None or value != value for value in ratings)
    assert report["no_rating_train"] == absent and report["filtered_train"] == 6 - len(kept)
    assert report["low_rating_train"] == 6 - len(kept) - absent
    assert f"{absent} of these train rows have no rating: it is null or NaN" in report["lines"]


@pytest.mark.parametrize("order", [("Score", "score"), ("score", "Score")])
@pytest.mark.parametrize(("where", "kept"), [("score >= 3", [0, 1]), ("Score >= 3", [3, 4]), ("Score > score", [3, 4])])
def test_columns_that_differ_in_case_are_two(make, order, where, kept):
    scores = {"Score": [0, 1, 2, 3, 4], "score": [4, 3, 2, 1, 0]}
    columns = {"user": range(5), "item": [0] * 5, **{name: scores[name] for name in order}}
    assert users_of(make({"train": columns}, where=where)) == kept


EVENTS = {"user": [0, 0, 1, 1, 2], "item": [0, 1, 0, 1, 0], "behaviour": ["buy", "view", "buy", "buy", "view"]}
HELD = {"user": [0, 1, 1], "item": [1, 0, 1]}


def test_where_speaks_of_the_events_that_are_split(make):
    dataset = make({"train": EVENTS, "test": HELD}, test="test.parquet", where="behaviour = 'buy'", repeats="keep")
    assert (dataset.info["num_train"], dataset.info["num_test"]) == (3, 3)
    (line,) = [line for line in dataset.info["report"]["lines"] if line.startswith("where does not filter")]
    assert "the test file test.parquet, which has no column 'behaviour'" in line and line.endswith(
        "where_test filters such files"
    )


def test_where_filters_a_held_out_file_that_has_its_columns(make):
    held = {**HELD, "behaviour": ["view", "buy", "buy"]}
    dataset = make({"train": EVENTS, "test": held}, test="test.parquet", where="behaviour = 'buy'", repeats="keep")
    assert dataset.info["num_test"] == 2 and dataset.info["report"]["filtered_test"] == 1
    files = {"train": EVENTS, "test": HELD, "valid": held}
    dataset = make(files, test="test.parquet", valid="valid.parquet", where="behaviour = 'buy'", repeats="keep")
    assert (dataset.info["num_test"], dataset.info["num_valid"]) == (3, 2)


def test_where_test_filters_held_out_files_only(make):
    settings = {"test": "test.parquet", "repeats": "keep", "where": "behaviour = 'buy'", "where_test": "user = 1"}
    dataset = make({"train": EVENTS, "test": HELD}, **settings)
    assert (dataset.info["num_train"], dataset.info["num_test"]) == (3, 2)
    assert dataset.info["data"]["where_test"] == "user = 1"
    with pytest.raises(DataError, match=r"where_test = 'color = 1' names the column 'color', test\.parquet has none"):
        make({"train": EVENTS, "test": HELD}, **{**settings, "where_test": "color = 1"})
    with pytest.raises(UsageError, match="where_test = 'sum\\(user\\) > 1' must be one condition"):
        make({"train": EVENTS, "test": HELD}, **{**settings, "where_test": "sum(user) > 1"})


def test_where_test_without_a_file_to_filter_is_refused():
    with pytest.raises(ValueError, match="where_test filters the files test and valid, neither is set; use where"):
        Data(train="a", user="u", item="i", where_test="u = 1")


def test_sums_of_duplicates_without_a_weight_count_rows(make):
    train = {"user": [0, 0, 0, 1], "item": [5, 5, 6, 5]}
    held = {"user": [1, 1], "item": [6, 6]}
    dataset = make({"train": train, "test": held}, test="test.parquet", duplicates="sum")
    graph = dataset.graph.user_items
    pairs = zip(
        dataset.user_ids.decode(graph.row_numbers()).to_pylist(), dataset.item_ids.decode(graph.indices).to_pylist(), strict=True
    )
    assert dict(zip(pairs, dataset.weights_E.tolist(), strict=True)) == {(0, 5): 2.0, (0, 6): 1.0, (1, 5): 1.0}
    assert dataset.test.weights_E.tolist() == [2.0]
    assert make({"train": train}).weights_E is None


def test_a_sum_that_overflows_float32_is_refused(make):
    train = {"user": [0, 0, 1], "item": [5, 5, 5], "w": [3e38, 3e38, 1.0]}
    with pytest.raises(DataError, match="sums of weights are larger than a float32 can be"):
        make({"train": train}, weight="w", duplicates="sum")


NANOSECONDS = 1_700_000_000_123_456_789


@pytest.mark.parametrize(
    ("kind", "test_from"),
    [
        (pa.int64(), NANOSECONDS + 2),
        (pa.uint64(), str(NANOSECONDS + 2)),
        (pa.timestamp("ns"), "2023-11-14T22:13:20.123456791"),
        (pa.timestamp("ns", "Asia/Tokyo"), "2023-11-14 22:13:20.123456791"),
        (pa.timestamp("ns"), "2023-11-15 07:13:20.123456791+09:00"),
    ],
)
def test_the_boundary_is_a_tick_of_the_column(make, kind, test_from):
    times = pa.array([NANOSECONDS + number for number in range(5)], pa.int64()).cast(kind)
    columns = {"user": [0] * 5, "item": range(5), "time": times}
    dataset = make({"train": columns}, time="time", time_unit="ns", test_from=test_from, keep_cold=True)
    assert sorted(dataset.item_ids.decode(dataset.test.items_E).to_pylist()) == [2, 3, 4]


def test_a_boundary_between_two_ticks_begins_with_the_next():
    for value, unit, ticks in [
        (1.5, "s", 1), ("1.5", "s", 1), (0.1, "s", 10**6), (-1.5, "ms", 1000), ("1e3", "ms", 1), (10**18 + 1, "ns", 1000),
        (2**63, "s", 1), ("0.000000001", "s", 10**9),
    ]:  # fmt: skip
        exact = Fraction(repr(value) if isinstance(value, float) else value) * ticks / {"s": 1, "ms": 1000, "ns": 10**9}[unit]
        right = next(tick for tick in (int(exact) - 1, int(exact), int(exact) + 1) if tick >= exact)
        assert parse_time(value, unit, ticks) == min(right, 2**63 - 1), value
    assert parse_time("1969-12-31T23:59:59.5", "s", 1000) == -500
    assert parse_time("2024-02-29", "s", 1) == int(dt.datetime(2024, 2, 29, tzinfo=dt.UTC).timestamp())
    for value in ("soon", "nan", float("inf"), "1e999999999"):
        with pytest.raises(UsageError, match="test_from expects a number or an ISO date"):
            parse_time(value, "s", 1)


@pytest.mark.parametrize(("kind", "other"), [("float", "float"), ("float", "int"), ("int", "float")])
def test_fractions_of_a_second_order_floats(make, kind, other):
    train = {"user": [0, 0, 0, 1], "item": [0, 1, 2, 0], "time": [100.7, 100.2, 100.9, 100.1]}
    dataset = make({"train": train}, time="time", split="leave_last", valid_size=0.1, keep_cold=True)
    assert dataset.item_ids.decode(dataset.test.items_E).to_pylist() == [2]
    assert dataset.item_ids.decode(dataset.valid.items_E).to_pylist() == [0]
    assert dataset.test.times_E.tolist() == [100]
    columns = {"float": [1.0, 2.0, 3.0], "int": [1, 2, 3]}
    files = {
        name: {"user": [0, 0, 1], "item": [0, 1, 0], "time": columns[key]} for name, key in (("train", kind), ("test", other))
    }
    dataset = make(files, time="time", test="test.parquet", repeats="keep")
    assert sorted(dataset.test.times_E) == sorted(dataset.times_E) == [1, 2, 3]


def test_a_temporal_share_of_nothing_holds_out_nothing(make):
    train = {"user": [0, 0, 0], "item": [0, 1, 2], "time": [1, 2, 3]}
    info = make({"train": train}, time="time", split="temporal", test_size=0.0).info
    assert (info["num_train"], info["num_valid"], info["num_test"]) == (3, 0, 0)


@pytest.mark.parametrize("time", [NAN, float("inf"), 1e300, None])
def test_a_float_that_is_no_time_is_refused(make, time):
    columns = {"user": [0, 0], "item": [0, 1], "time": pa.array([1.0, time], pa.float64(), from_pandas=False)}
    with pytest.raises(DataError, match="column 'time' holds nulls or numbers that are no time, first in row 1 of"):
        make({"train": columns}, time="time")
