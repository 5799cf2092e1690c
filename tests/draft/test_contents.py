"""What is seen of a column equals what NumPy counts."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.draft import contents as module
from gcnrec.draft.contents import Column, contents
from gcnrec.loaders.ingest.inputs import open_input

RNG = np.random.default_rng(0)
ROWS = 5000


@pytest.fixture
def seen(tmp_path):
    def look(table, **options):
        pq.write_table(table, tmp_path / "t.parquet", **options)
        return {column.path: column for column in contents(open_input(str(tmp_path / "t.parquet")), lambda *_: None)}

    return look


def test_counts_nulls_and_ranges_are_those_of_numpy(seen):
    numbers = RNG.integers(-50, 400, ROWS)
    floats = RNG.normal(size=ROWS)
    floats[:7] = [np.nan, np.inf, -np.inf, np.nan, 0, 0, 0]
    texts = [None if n % 100 == 3 else f"u{n}" for n in numbers.tolist()]
    table = pa.table({"n": numbers, "f": floats, "t": texts, "d": pa.array(texts).dictionary_encode()})
    found = seen(table, row_group_size=700)
    assert (found["n"].rows, found["n"].distinct, found["n"].nulls) == (ROWS, len(np.unique(numbers)), 0)
    assert (found["n"].low, found["n"].high) == (numbers.min(), numbers.max())
    finite = floats[np.isfinite(floats)]
    assert (found["f"].nulls, found["f"].distinct) == (2, len(np.unique(finite)))
    assert (found["f"].low, found["f"].high) == (finite.min(), finite.max())
    for name in "td":
        known = {text for text in texts if text is not None}
        assert (found[name].nulls, found[name].distinct) == (texts.count(None), len(known))
        assert found[name].mean_bytes == pytest.approx(np.mean([len(text) for text in texts if text is not None]))
        assert found[name].holds_ids and not found[name].values


def test_few_values_come_with_their_rows_the_most_frequent_first(seen):
    kinds = np.repeat(["view", "buy", "cart"], [60, 10, 30])
    found = seen(pa.table({"k": RNG.permutation(kinds), "b": np.arange(100) < 20}))
    assert list(found["k"].values.items()) == [("view", 60), ("cart", 30), ("buy", 10)]
    assert found["b"].values == {"false": 80, "true": 20}


def test_moments_are_seconds_whatever_their_type(seen):
    moments = [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 2, 3, 4, 5, 6, tzinfo=dt.UTC)]
    seconds = [moment.timestamp() for moment in moments]
    columns = {unit: pa.array(moments, pa.timestamp(unit, "UTC")) for unit in ("s", "ms", "us", "ns")}
    found = seen(pa.table({**columns, "day": pa.array([moment.date() for moment in moments])}))
    for unit in ("s", "ms", "us", "ns"):
        assert (found[unit].low, found[unit].high) == tuple(seconds) and found[unit].is_time
    assert (found["day"].low, found["day"].high) == (seconds[0], seconds[1] - seconds[1] % 86400)


def test_dates_as_text_are_seen_and_lists_are_left_out(seen):
    found = seen(pa.table({"iso": ["2024-01-01", "2024-01-02 10:00:00"], "not": ["2024-01-01", "soon"], "list": [[1], [2]]}))
    assert found.keys() == {"iso", "not"}
    assert found["iso"].holds_dates_as_text and not found["not"].holds_dates_as_text


def test_fields_of_structs_have_paths(seen):
    found = seen(pa.table({"event": pa.array([{"sku": "a", "n": 1}, {"sku": "b", "n": 2}])}))
    assert found["event.sku"].distinct == 2 and "event" not in found


def test_many_values_are_counted_no_further(seen, monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    column = seen(pa.table({"id": np.arange(ROWS)}))["id"]
    assert column.distinct is None and column.estimated(10 * ROWS) == 10 * ROWS and not column.is_unique


def test_of_many_rows_a_sample_is_read_and_the_rest_estimated(seen, monkeypatch):
    monkeypatch.setattr(module, "LOOKED_AT", 4000)
    monkeypatch.setattr(module, "BATCH_ROWS", 500)
    all_rows = 20_000
    few, fresh = RNG.integers(0, 100, all_rows), np.arange(all_rows) // 4
    found = seen(pa.table({"few": few, "fresh": fresh}))
    assert found["few"].rows == found["fresh"].rows == 4000
    assert found["few"].estimated(all_rows) == 100  # all are known after half of the sample
    assert found["fresh"].estimated(all_rows) == pytest.approx(all_rows / 4, rel=0.01)  # each fourth row brings another


def test_an_estimate_is_at_most_one_a_row():
    column = Column("x", pa.int64(), 100, 0, 90, 1.0, 0, 1, {}, (), 0.0)
    assert column.estimated(95) == 90 and column.estimated(100) == 90 and column.estimated(200) == 180
