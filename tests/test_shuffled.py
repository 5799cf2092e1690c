"""`random.shuffled`: a permutation of every size, read in any windows, that looks random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.random import Stage, shuffled, u64

MASK = 2**64 - 1


def mix(value, key):
    """The finaliser of SplitMix64 (Steele et al. 2014) in Python integers."""
    z = (value + key) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def naive(keys, position, count):
    """One entry by the docstring: eight Feistel rounds over an even number of bits, walked until inside."""
    half = 1
    while 4**half < count:
        half += 1
    mask = 2**half - 1
    value = position
    while True:
        left, right = value >> half, value & mask
        for key in keys:
            left, right = right, left ^ (mix(right, int(key)) & mask)
        value = (left << half) | right
        if value < count:
            return value


def whole(seed, count, epoch=0):
    return shuffled(seed, Stage.ORDER, epoch, 0, count, count)


def test_a_permutation_for_every_size():
    for count in [*range(130), 255, 256, 257, 1023, 1024, 1025, 4095, 4097, 65_535, 65_537]:
        assert np.array_equal(np.sort(whole(3, count)), np.arange(count)), count


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), st.integers(1, 3000), st.data())
def test_windows_are_parts_of_one_order(seed, count, data):
    first = data.draw(st.integers(0, count))
    last = data.draw(st.integers(first, count))
    assert np.array_equal(shuffled(seed, Stage.ORDER, 2, first, last, count), whole(seed, count, 2)[first:last])


@pytest.mark.parametrize("count", [1, 2, 1000, 2**31 + 7, 2**40 + 1, 2**54 + 3])
def test_equals_the_transcription(count):
    keys = u64(9, Stage.ORDER, 4, 8)
    for first in {0, max(0, count // 3), max(0, count - 5)}:
        last = min(count, first + 5)
        drawn = shuffled(9, Stage.ORDER, 4, first, last, count)
        assert drawn.tolist() == [naive(keys, position, count) for position in range(first, last)]


def test_orders_differ_by_seed_and_step():
    base = whole(0, 1000)
    for other in (whole(1, 1000), whole(0, 1000, 1), np.arange(1000)):
        # Fixed points of two independent orders are Poisson with mean 1: more than 12 with chance below 1e-9.
        assert (base == other).sum() <= 12


@pytest.mark.parametrize("count", [6, 7, 37])
def test_every_element_lands_everywhere(count, threads):
    """Where each element lands over 2000 seeds, against even odds.

    Chi-square over count^2 cells with (count - 1)^2 degrees of freedom: mean + 4 standard deviations is passed by chance
    less than once in 1000; the seeds are fixed.
    """
    threads(1)  # waking a second thread would take longer than the work
    orders = np.array([whole(seed, count) for seed in range(2000)])
    cells = np.array([np.bincount(orders[:, place], minlength=count) for place in range(count)])
    expected = 2000 / count
    freedom = (count - 1) ** 2
    assert ((cells - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_neighbours_part():
    """Differences of adjacent entries are those of independent draws: their mean absolute value is n/3."""
    order = whole(5, 50_000)
    # The standard error of the mean of |a - b| is n * sqrt(1/18) / sqrt(n) = 53; five of them.
    assert abs(np.abs(np.diff(order)).mean() - 50_000 / 3) < 5 * 53
