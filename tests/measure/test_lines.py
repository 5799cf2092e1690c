"""Lines that reads touch, against sets of line numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.measure.gpu.rates.lines import LINE_BYTES, lines

spans = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 600)), max_size=30)


def touched(at, size, line):
    return {byte // line for byte in range(at, at + size)}


def arrays(pairs):
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def test_by_hand():
    at_R, bytes_R = arrays([(0, 128), (128, 1), (130, 10), (255, 2), (384, 0), (384, 129)])
    # line 0; line 1; the same; lines 1 (the same) and 2; nothing; lines 3 and 4
    assert lines(at_R, bytes_R) == 5
    # of 64 bytes: 0, 1; 2; the same; 3, 4; nothing; 6, 7, 8
    assert lines(at_R, bytes_R, line=64) == 8


def test_rows_of_a_quarter_line():
    """Four neighbours share a line; four strangers take one each."""
    bytes_R = np.full(4, 32)
    assert lines(np.arange(4) * 32, bytes_R) == 1
    assert lines(np.arange(4) * 3200, bytes_R) == 4


def test_addresses_of_a_process_fit():
    at_R = np.array([2**47 - 64, 2**47 - 64], np.uint64)
    assert lines(at_R, np.array([64, 128], np.int32)) == 2


@given(spans, st.sampled_from([1, 32, 64, 128]))
def test_ascending_spans_touch_the_number_of_different_lines(pairs, line):
    starts = np.cumsum([at for at, _ in pairs]).tolist()
    sizes = [size for _, size in pairs]
    different = set().union(*(touched(at, size, line) for at, size in zip(starts, sizes, strict=True)))
    ascending = all(a + s <= b for a, s, b in zip(starts, sizes, starts[1:], strict=False))
    found = lines(*arrays(list(zip(starts, sizes, strict=True))), line)
    assert found == len(different) if ascending else found >= len(different)


@given(spans)
def test_any_order_shares_with_the_span_before(pairs):
    at_R, bytes_R = arrays(pairs)
    expected, before = 0, set()
    for at, size in pairs:
        now = touched(at, size, LINE_BYTES)
        expected, before = expected + len(now - before), now or before
    assert lines(at_R, bytes_R) == expected
