"""A search of many numbers at once finds what NumPy finds one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.ops.search import ranges_of

NUMBERS = st.lists(st.integers(-3, 40), max_size=200)


@given(NUMBERS, NUMBERS)
def test_ranges_equal_those_of_numpy(ends, numbers):
    ends_R, numbers_X = np.array(sorted(ends), np.int64), np.array(numbers, np.int64)
    found_X = ranges_of(ends_R, numbers_X)
    assert found_X.dtype == np.int64
    assert found_X.tolist() == np.searchsorted(ends_R, numbers_X, side="right").tolist()
