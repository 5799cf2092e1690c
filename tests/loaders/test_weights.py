"""Weights by an expression of the row, and weights that fade with time: against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.recipe import recipe_of

WEIGHS = {"buy": 8.0, "cart": 3.0}
SQL = "case event when 'buy' then 8 when 'cart' then 3 else 1 end"
DAY = 86_400


def rows(seed=0, count=200):
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["buy", "cart", "view"], count).tolist()
    columns = [rng.integers(8, size=count), rng.integers(9, size=count), rng.integers(40 * DAY, size=count)]
    return list(zip(*(column.tolist() for column in columns), kinds, strict=True))


def written(path, given):
    users, items, times, events = zip(*given, strict=True)
    more = {"price (eur)": [2.0] * len(users), "digits": ["2"] * len(users)}
    pq.write_table(pa.table({"u": users, "i": items, "t": times, "event": events, **more}), path)
    return str(path)


def weights(tmp_path, given, **keys):
    keys = {"user": "u", "item": "i", "split": "random", "test_size": 0.0, "valid_size": 0.0, **keys}
    data = Data.model_validate({"train": written(tmp_path / "x.parquet", given), **keys})
    dataset = ingest(data, tmp_path / "d", data_root=None, name="d")
    return by_pair(dataset, dataset.graph.user_items, dataset.weights_E)


def by_pair(dataset, csr, weights_E):
    pairs = zip(
        dataset.user_ids.decode(csr.row_numbers()).to_pylist(), dataset.item_ids.decode(csr.indices).to_pylist(), strict=True
    )
    return dict(zip(pairs, weights_E.tolist(), strict=True))


def summed(given, weight):
    found = {}
    for row in given:
        found[row[:2]] = found.get(row[:2], 0.0) + weight(row)
    return found


@pytest.mark.parametrize("where", [None, "event <> 'cart'"])
def test_an_expression_weighs_each_row(tmp_path, where):
    given = rows()
    kept = [row for row in given if where is None or row[3] != "cart"]
    found = weights(tmp_path, given, weight=SQL, duplicates="sum", **({"where": where} if where else {}))
    assert found == pytest.approx(summed(kept, lambda row: WEIGHS.get(row[3], 1.0)))


def test_the_latest_row_keeps_its_own_weight(tmp_path):
    given = rows(1)
    found = weights(tmp_path, given, weight=SQL, time="t", split="random")
    expected = {}
    for row in sorted(given, key=lambda row: (row[2], WEIGHS.get(row[3], 1.0))):
        expected[row[:2]] = WEIGHS.get(row[3], 1.0)
    assert found == expected


@pytest.mark.parametrize(("keys", "weight"), [({}, lambda kind: 1.0), ({"weight": SQL}, lambda kind: WEIGHS.get(kind, 1.0))])
def test_weights_halve_with_each_span_before_the_newest_row(tmp_path, keys, weight):
    given = rows(2)
    newest = max(row[2] for row in given)
    found = weights(tmp_path, given, time="t", decay_days=10, duplicates="sum", **keys)
    expected = summed(given, lambda row: weight(row[3]) * 2.0 ** ((row[2] - newest) / (10 * DAY)))
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_newest_row_is_one_of_train(tmp_path):
    given = [(1, 1, 0, "buy"), (1, 2, 10 * DAY, "buy"), (2, 1, 10 * DAY, "buy"), (2, 2, 30 * DAY, "buy")]
    found = weights(tmp_path, given, time="t", decay_days=10, split="temporal", test_from=20 * DAY, keep_cold=True)
    assert found == pytest.approx({(1, 1): 0.5, (1, 2): 1.0, (2, 1): 1.0})


@pytest.mark.parametrize(("split", "weight_log"), [("temporal", False), ("leave_last", True), ("random", False)])
def test_other_behaviours_fade_from_the_newest_target_row_of_train(tmp_path, split, weight_log):
    given = [*rows(4), (1, 1, 45 * DAY, "view"), (1, 2, 45 * DAY, "cart")]
    keys = {"train": written(tmp_path / "x.parquet", given), "user": "u", "item": "i", "time": "t", "weight": SQL}
    keys |= {"split": split, "behaviour": "event", "target": "buy", "decay_days": 5, "duplicates": "sum", "valid_size": 0}
    keys |= {"weight_log": weight_log, "keep_cold": True}
    keys |= {"temporal": {"test_from": 30 * DAY}, "leave_last": {}, "random": {"test_size": 0}}[split]
    dataset = ingest(Data.model_validate(keys), tmp_path / "d", data_root=None, name="d")
    bought = [row for row in given if row[3] == "buy"]
    first = {
        "temporal": lambda user: min(row[2] for row in bought if row[2] >= 30 * DAY),
        "leave_last": lambda user: max(row[2] for row in bought if row[0] == user),
        "random": lambda user: math.inf,
    }[split]
    newest = max(row[2] for row in bought if row[2] < first(row[0]))
    assert len(dataset.others) == 2
    for other in dataset.others:
        kept = [row for row in given if row[3] == other.name and row[2] < first(row[0])]
        faded = summed(kept, lambda row: WEIGHS.get(row[3], 1.0) * 2.0 ** (min(row[2] - newest, 0) / (5 * DAY)))
        expected = {pair: math.log1p(weight) if weight_log else weight for pair, weight in faded.items()}
        assert by_pair(dataset, other.graph.user_items, other.weights_E) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("late", [40 * DAY, 2**63 - 1])
def test_age_makes_no_weight_0(tmp_path, late):
    given = [(1, 1, -(2**63), "buy"), (1, 2, late, "buy"), (2, 1, -(2**63), "view"), (2, 2, late, "view")]
    keys = {"train": written(tmp_path / "x.parquet", given), "user": "u", "item": "i", "time": "t", "split": "random"}
    keys |= {"behaviour": "event", "target": "buy", "decay_days": 0.001, "test_size": 0, "valid_size": 0}
    dataset = ingest(Data.model_validate(keys), tmp_path / "d", data_root=None, name="d")
    for weights_E in (dataset.weights_E, dataset.others[0].weights_E):
        assert sorted(weights_E.tolist()) == [2.0**-60, 1.0]


@pytest.mark.parametrize("duplicates", ["latest", "sum"])
def test_logarithms_follow_the_merge_and_the_decay(tmp_path, duplicates):
    given = rows(3)
    keys = {"weight": SQL, "time": "t", "decay_days": 10, "duplicates": duplicates, "split": "random"}
    for name in ("plain", "logarithms"):
        (tmp_path / name).mkdir()
    plain = weights(tmp_path / "plain", given, **keys)
    found = weights(tmp_path / "logarithms", given, weight_log=True, **keys)
    assert found == pytest.approx({pair: math.log1p(weight) for pair, weight in plain.items()}, rel=1e-6)


def test_logarithms_are_of_held_out_and_other_rows_too(tmp_path):
    given = [(1, 1, 0, "buy"), (2, 2, 0, "buy"), (1, 2, 0, "view"), (2, 1, 9, "buy")]
    keys = {"train": written(tmp_path / "x.parquet", given), "user": "u", "item": "i", "time": "t", "weight": SQL}
    keys |= {"test_from": 5, "valid_size": 0, "behaviour": "event", "target": "buy", "weight_log": True}
    dataset = ingest(Data.model_validate(keys), tmp_path / "d", data_root=None, name="d")
    assert dataset.weights_E.tolist() == pytest.approx([math.log(9)] * 2)
    assert dataset.test.weights_E.tolist() == pytest.approx([math.log(9)])
    assert dataset.others[0].weights_E.tolist() == pytest.approx([math.log(2)])


def test_logarithms_need_weights_and_count_as_a_setting_only_where_they_are_taken(tmp_path):
    with pytest.raises(ValidationError, match="weight_log needs weight, a column or an expression, or duplicates = 'sum'"):
        Data(train="x", weight_log=True)
    recipe = recipe_of(Data(train="x", weight="w", weight_log=True), None)
    assert recipe["weight_log"] is True
    assert "weight_log" not in recipe_of(Data(train="x", weight="w", weight_log=False), None)


def test_a_column_may_read_like_an_expression(tmp_path):
    assert set(weights(tmp_path, rows(), weight="price (eur)").values()) == {2.0}
    (tmp_path / "more").mkdir()
    found = set(weights(tmp_path / "more", rows(), weight='"price (eur)" * pi()').values())
    assert list(found) == pytest.approx([2.0 * math.pi])


@pytest.mark.parametrize(
    ("weight", "kind", "sentence"),
    [
        ("weigth", DataError, "has no column 'weigth'"),
        ("case when event = 'buy' then 1 end", DataError, r"column .* holds nulls, first in row \d+ of .*x.parquet"),
        ("case event when 'buy' then -1 else 1 end", DataError, "holds a negative or non-finite weight, first in row"),
        ("case event when", UsageError, "weight = 'case event when' is not an SQL expression"),
        (
            "cast(event as float)",
            DataError,
            "Could not convert string '(buy|cart|view)' to FLOAT when casting from source column event",
        ),
        ("(select 1)", UsageError, "a subquery"),
        ("price + 1", DataError, "weight = 'price \\+ 1' names the column 'price'"),
        (
            "event || 'x'",
            DataError,
            r"weight = \"event \|\| 'x'\" does not fit .*x.parquet: it must give numbers, it gives varchar; cast",
        ),
        ("digits || digits", DataError, "it must give numbers, it gives varchar; cast it, as in CAST"),
        ("event = 'buy'", DataError, "it must give numbers, it gives boolean; cast it, as in CAST"),
        ("DATE '2024-01-01'", DataError, "it must give numbers, it gives date; cast it, as in CAST"),
        ("[1, 2]", DataError, r"it must give numbers, it gives integer\[\]; cast it, as in CAST"),
    ],
)
def test_expressions_that_are_no_weight_are_refused(tmp_path, weight, kind, sentence):
    with pytest.raises(kind, match=sentence):
        weights(tmp_path, rows(), weight=weight)
    assert not (tmp_path / "d").exists()


def test_a_cast_makes_numbers(tmp_path):
    found = weights(tmp_path, rows(), weight="CAST(event = 'buy' AS DOUBLE) + CAST(digits || digits AS DOUBLE)")
    assert set(found.values()) == {22.0, 23.0}


def test_held_out_files_without_the_columns_have_no_weights(tmp_path):
    pq.write_table(pa.table({"u": [1, 2], "i": [3, 4]}), tmp_path / "test.parquet")
    found = weights(tmp_path, rows(), weight=SQL, split="given", test=str(tmp_path / "test.parquet"))
    assert set(found.values()) <= {1.0, 3.0, 8.0}


def test_decay_needs_times():
    with pytest.raises(ValidationError, match="decay_days needs time"):
        Data(train="x", decay_days=3)
