"""Choosing the largest, against sorting; keys with ties, bars and rows without room."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gcnrec.sparsity.merge import merged_places
from gcnrec.sparsity.select import EVERYTHING, NOTHING, bar_cells, cut_at, largest_columns

KEYS = st.one_of(st.integers(-3, 3), st.integers(2040, 2050), st.integers(2**22 - 2, 2**22 + 2), st.integers(-(2**31), 2**31 - 1))


def chosen(parts, count):
    pick = cut_at(lambda least: parts, count).picker()
    return np.concatenate([pick(part) for part in parts])


@settings(max_examples=200, deadline=None)
@given(arrays(np.int32, st.integers(0, 60), elements=KEYS), st.integers(-1, 70), st.integers(0, 60))
def test_the_cut_is_that_of_a_stable_sort(keys, count, split):
    """Negative keys never; ties by place in the stream, however it comes in parts."""
    marks = chosen([keys[:split], keys[split:]], count)
    able = np.flatnonzero(keys >= 0)
    expected = able[np.argsort(-keys[able].astype(np.int64), kind="stable")][: max(count, 0)]
    assert np.array_equal(np.flatnonzero(marks), np.sort(expected))


def test_the_cut_of_many_floats():
    """Magnitudes of 38 decades: the bits of positive floats order as they do."""
    draw = np.random.default_rng(0)
    values = (10.0 ** draw.uniform(-38, 38, 20_000)).astype(np.float32)
    for count in (1, 777, 19_999, 20_000):
        assert np.sort(values[chosen([values.view(np.int32)], count)]).tolist() == np.sort(values)[20_000 - count :].tolist()


def test_nothing_and_everything():
    keys = [np.array([0, 2**31 - 1, -1], np.int32)]
    assert cut_at(lambda least: keys, 0) == NOTHING and not NOTHING.picker()(keys[0]).any()
    assert cut_at(lambda least: keys, 3) == EVERYTHING and EVERYTHING.picker()(keys[0]).tolist() == [True, True, False]
    assert chosen(keys, 2).tolist() == [True, True, False]


def test_a_stream_may_leave_out_what_its_bars_would_leave_out():
    """`least` rises to the cut and never passes it."""
    keys = np.random.default_rng(1).integers(0, 2**31, 500).astype(np.int32)
    seen = []

    def stream(least):
        seen.append(least)
        return [keys[keys >= least]]

    cut = cut_at(stream, 100)
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] <= np.sort(keys)[400]
    assert cut.picker()(keys).sum() == 100


SCORES = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, 2.0, np.inf, np.nan])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_barred_cells(data):
    rows, width = 4, 7
    scores = data.draw(arrays(np.float32, (rows, width), elements=SCORES))
    stored = data.draw(arrays(np.bool_, (rows, width)))
    stays_RD = stored & data.draw(arrays(np.bool_, (rows, width)))
    most = data.draw(st.integers(int(stays_RD.sum(1).max()), width))
    least = data.draw(st.sampled_from([0.0, 0.5, 2.0]))
    key = int(np.float32(least).view(np.int32))
    expected = np.where((scores >= 0) & ~stays_RD, scores + np.float32(0), np.float32(-1))
    for row, stays in zip(expected, stays_RD, strict=True):
        room = most - int(stays.sum())
        if (row >= least).sum() > room:
            row[np.argsort(-row, kind="stable")[room:]] = -1
    starts = np.concatenate([[0], np.cumsum(stored.sum(1))])
    bar_cells(scores, starts, np.nonzero(stored)[1].astype(np.uint8), stays_RD[stored], most, key)
    assert np.array_equal(scores.view(np.int32), expected.view(np.int32))


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (5, 9), elements=st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0, 3.0])), st.integers(0, 2**31))
def test_largest_columns(keys, seed):
    counts = np.random.default_rng(seed).integers(0, np.isfinite(keys).sum(1) + 1)
    expected = []
    for row, count in zip(keys.tolist(), counts.tolist(), strict=True):
        expected += sorted(sorted(range(9), key=lambda d, row=row: (-row[d], d))[:count])
    found = np.empty(int(counts.sum()), np.uint8)
    largest_columns(keys, np.cumsum(counts) - counts, counts, found)
    assert found.tolist() == expected


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_merged_places(density):
    draw = np.random.default_rng(0)
    stored, grown = draw.random((6, 40)) < 0.3, draw.random((6, 40)) < density
    starts = np.concatenate([[0], np.cumsum(stored.sum(1))])
    place_X, place_G, rows_G = np.empty(stored.sum(), np.int64), *np.empty((2, int(grown.sum())), np.int64)
    columns_Y = np.empty(len(place_X) + len(place_G), np.uint8)
    count = merged_places(starts, np.nonzero(stored)[1].astype(np.uint8), grown, place_X, place_G, rows_G, columns_Y)
    both = np.flatnonzero((stored | grown).reshape(-1))
    assert np.array_equal(both[place_X], np.flatnonzero(stored.reshape(-1)))
    assert np.array_equal(both[place_G[:count]], np.flatnonzero((grown & ~stored).reshape(-1)))
    assert np.array_equal(rows_G[:count], np.nonzero(grown & ~stored)[0])
    assert np.array_equal(columns_Y[: len(both)], both % 40)
