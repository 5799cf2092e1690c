"""Standardised columns of any finite numbers equal exact fractions, rounded once."""

from __future__ import annotations

import math
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gcnrec.errors import DataError
from gcnrec.loaders.features.numbers import NumberFit, Numbers
from gcnrec.loaders.features.values import Place

PLACE = Place("f.parquet", "a")


def batches(column, rows=3):
    whole = pa.record_batch([column], ["a"])
    return [whole.slice(first, rows) for first in range(0, len(whole), rows)]


def fitted(column, vectors=False):
    fit = NumberFit(PLACE, vectors)
    for batch in batches(column):
        fit.observe(batch, 0)
    return fit.fitted()


def encoded(column, vectors=False):
    numbers = fitted(column, vectors)
    again = Numbers.of(numbers.described())  # as dataset.json keeps it
    return np.concatenate([again.encode(batch, 0, PLACE) for batch in batches(column, 5)])


def exact(values):
    """(x - mean) / deviation of fractions, as floats; 0 for None and for constant columns."""
    present = [value for value in values if value is not None]
    mean = Fraction(sum(present), len(present))
    variance = Fraction(sum((value - mean) ** 2 for value in present), len(present))
    if not variance:
        return np.zeros(len(values))
    return np.array([0.0 if v is None else math.copysign(math.sqrt((v - mean) ** 2 / variance), v - mean) for v in values])


def around(low, high):
    """Numbers anywhere, or near one another anywhere."""
    near = st.tuples(st.integers(low, high), st.lists(st.integers(0, 40), min_size=2, max_size=12))
    clipped = near.map(lambda pair: [min(pair[0] + step, high) for step in pair[1]])
    return st.lists(st.integers(low, high), min_size=2, max_size=12) | clipped


def cents(xs):
    return pa.array([Decimal(x) / 100 for x in xs], pa.decimal128(25, 2))


COLUMNS = {
    "int64": (around(-(2**63), 2**63 - 1), lambda xs: pa.array(xs, pa.int64())),
    "uint64": (around(0, 2**64 - 1), lambda xs: pa.array(xs, pa.uint64())),
    "decimal": (around(-(10**18), 10**18), cents),
    "nanoseconds": (around(-(2**62), 2**62), lambda xs: pa.array(xs, pa.timestamp("ns", "UTC"))),
}


@pytest.mark.parametrize("kind", COLUMNS)
@settings(max_examples=40)
@given(st.data())
def test_exact_types_keep_every_difference(kind, data):
    numbers, column = COLUMNS[kind]
    values = data.draw(numbers)
    assert np.abs(encoded(column(values))[:, 0] - exact(values)).max() < 1e-6


@settings(max_examples=120)
@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12), st.data())
def test_floats_of_any_size_keep_theirs(values, data):
    if data.draw(st.booleans()) and values[0]:  # a few roundings apart, and more
        values += [values[0] * (1 + step * 2.0**-46) for step in data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=9))]
    present = [Fraction(value) for value in values if value is not None and math.isfinite(value)]
    assume(len(present) == sum(value is not None for value in values) > 0)
    mean = sum(present) / len(present)
    variance = sum((x - mean) ** 2 for x in present) / len(present)
    assume(not variance or variance > max(mean * Fraction(2) ** -48, Fraction(10) ** -305) ** 2)
    right = exact([None if value is None else Fraction(value) for value in values])
    assert np.abs(encoded(pa.array(values, pa.float64()))[:, 0] - right).max() < 1e-6


def test_columns_that_were_zero_or_equal_by_hand():
    outlier = np.where(np.arange(20) == 3, 1e300, np.arange(20.0))
    # One far value among n: it stands sqrt(n - 1) deviations off, the others 1 / sqrt(n - 1).
    assert np.allclose(encoded(pa.array(outlier))[:, 0], np.where(np.arange(20) == 3, 19**0.5, -(19**-0.5)))
    straight = (np.arange(20) - 9.5) / np.sqrt((20**2 - 1) / 12)
    for column in (2**60 + np.arange(20), 1e15 + np.arange(20), 1e-200 * np.arange(20), 1.7e308 / 20 * np.arange(20)):
        assert np.allclose(encoded(pa.array(column))[:, 0], straight, atol=1e-6)
    days = pa.array([date(2026, 1, 1) + timedelta(days=n) for n in range(20)])
    assert np.allclose(encoded(days)[:, 0], straight, atol=1e-6)
    assert np.allclose(encoded(pa.array([-1.7e308, 1.7e308]))[:, 0], [-1, 1])


def test_vectors_keep_differences_in_each_column():
    """Deviations are 1 and 2: the squared length, on average, is 1 after a scale of 1 / sqrt(5)."""
    rows = [[2**60 - 1, -2], None, [2**60 + 1, 2]]
    column = pa.array(rows, pa.list_(pa.int64(), 2))
    assert np.allclose(encoded(column, vectors=True) * 5**0.5, [[-1, -2], [0, 0], [1, 2]])


@pytest.mark.parametrize("column", [[7, 7, None], [2**60 + 1] * 3, [0.1 + 0.2, 0.3, 0.3], [0.0, 0.0], [1e300, 1e300]])
def test_constant_columns_are_zero_and_keep_their_mean(column):
    numbers = fitted(pa.array(column))
    assert not encoded(pa.array(column)).any() and numbers.scale == 0 and numbers.origin_F is None
    assert np.allclose(numbers.mean_F, float(column[0]))


def test_what_no_float_can_hold_is_refused_by_name():
    with pytest.raises(DataError, match=r"f.parquet: feature column 'a' holds numbers too close .* multiply them by a power"):
        fitted(pa.array([0.0, 5e-324]))
    numbers = fitted(pa.array([1.0, 2.0]))
    with pytest.raises(DataError, match=r"'a' holds numbers too far from .* make them null"):
        numbers.encode(pa.record_batch([pa.array([1.0, 1e300])], ["a"]), 0, PLACE)


def test_a_dataset_of_an_earlier_version_has_no_origin():
    entry = {"column": "a", "rule": "standardised", "width": 1, "scale": 0.5, "mean": [3.0], "first": 0}
    assert Numbers.of(entry).encode(batches(pa.array([5, None]))[0], 0, PLACE).tolist() == [[1.0], [0.0]]


def test_new_rows_may_come_in_another_type():
    """The origin 2**60 of integers, and new nodes with floats or coarser integers."""
    numbers = fitted(pa.array([2**60, 2**60 + 2**10]))
    for column in (pa.array([2.0**60 + 2**10]), pa.array([2**60 + 2**10], pa.uint64()), pa.array([Decimal(2**60 + 2**10)])):
        assert numbers.encode(batches(column)[0], 0, PLACE).tolist() == [[1.0]]
    seconds = fitted(pa.array([1_700_000_000 * 10**9 + n for n in (1, 3)], pa.timestamp("ns")))
    assert seconds.encode(batches(pa.array([1_700_000_000], pa.timestamp("s")))[0], 0, PLACE).tolist() == [[-2.0]]
