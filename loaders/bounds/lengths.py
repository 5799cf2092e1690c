"""Lengths that pages hold: of texts, and of rows that are lists. Loops over a page's bytes, which never leave them.

Letters: B bytes of a page or a part of it.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def longest_plain(page_B: NDArray[np.uint8], values: int) -> int:
    """The longest of `values` texts that follow one another, each after its length. Raises ArrowInvalid where bytes are short."""
    longest = _longest_plain(page_B, values)
    if longest < 0:
        raise pa.ArrowInvalid("a page of texts ends too early")
    return int(longest)


def longest_delta(page_B: NDArray[np.uint8], most: int, has_prefixes: bool) -> tuple[int, int]:
    """The longest text of a page that holds their lengths apart, at most `most` of them, and bytes of all.

    `has_prefixes`: what a text has in common with the one before it is left out, and its length is in the page.
    Raises ArrowInvalid where the page holds more, or no lengths.
    """
    lengths, at = _deltas(page_B, 0, most)
    if has_prefixes and at >= 0:
        suffixes, at = _deltas(page_B, at, most)
        if len(suffixes) != len(lengths):
            at = -1
        else:
            lengths = lengths + suffixes
    if at < 0 or (len(lengths) and lengths.min() < 0):
        raise pa.ArrowInvalid("a page of texts holds lengths that are none")
    return int(lengths.max(initial=0)), int(lengths.sum())


class RowLengths:
    """Values of rows that are lists, page by page: `longest` row, and the most values of `block` rows that follow one another."""

    def __init__(self, block: int) -> None:
        # Rows and values of the block so far, the most of any block, values of the row so far, the most of any row.
        self._state, self._block = np.zeros(5, np.int64), block

    def add(self, levels_B: NDArray[np.uint8], values: int, most_level: int) -> None:
        """Repetition levels of a page, runs and packed ones. Raises ArrowInvalid where they are short."""
        if _add_levels(levels_B, values, int(most_level).bit_length(), self._block, self._state) < 0:
            raise pa.ArrowInvalid("a page of lists ends too early")

    @property
    def longest(self) -> int:
        return int(max(self._state[3], self._state[4]))

    @property
    def most_in_block(self) -> int:
        """At most: a block may lie across two counted blocks."""
        return int(2 * max(self._state[1], self._state[2]))


@numba.njit(cache=True)
def _longest_plain(page, values):  # type: ignore[no-untyped-def]
    at = np.int64(0)
    longest = np.int64(0)
    for _ in range(values):
        if at + 4 > len(page):
            return -1
        size = np.int64(page[at]) | np.int64(page[at + 1]) << 8 | np.int64(page[at + 2]) << 16 | np.int64(page[at + 3]) << 24
        at += 4 + size
        if at > len(page):
            return -1
        longest = max(longest, size)
    return longest


@numba.njit(cache=True)
def _varint(page, at):  # type: ignore[no-untyped-def]
    """A number of 64 bits and the place behind it, -1 where the page ends before."""
    value = np.uint64(0)
    for shift in range(0, 64, 7):
        if at < 0 or at >= len(page):
            return value, np.int64(-1)
        value |= np.uint64(page[at] & 127) << np.uint64(shift)
        at += 1
        if page[at - 1] < 128:
            return value, np.int64(at)
    return value, np.int64(-1)


@numba.njit(cache=True)
def _signed(value):  # type: ignore[no-untyped-def]
    return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))


@numba.njit(cache=True)
def _packed(page, first_bit, width):  # type: ignore[no-untyped-def]
    """A number of `width` bits, the low ones first."""
    value = np.uint64(0)
    for bit in range(width):
        at = first_bit + bit
        value |= np.uint64((page[at >> 3] >> (at & 7)) & 1) << np.uint64(bit)
    return value


@numba.njit(cache=True)
def _deltas(page, at, most):  # type: ignore[no-untyped-def]
    """Integers by their differences (DELTA_BINARY_PACKED), and the place behind them; -1 where there are none."""
    nothing = np.empty(0, np.int64)
    block, at = _varint(page, at)
    minis, at = _varint(page, at)
    total, at = _varint(page, at)
    first, at = _varint(page, at)
    if at < 0 or minis == 0 or total > np.uint64(most) or block > np.uint64(1 << 24) or block % minis:
        return nothing, np.int64(-1)
    values = np.empty(np.int64(total), np.int64)
    each = np.int64(block // minis)
    if len(values):
        values[0] = _signed(first)
    done = 1
    while done < len(values):
        least, at = _varint(page, at)
        widths = at
        at += np.int64(minis)
        if widths < 0 or at > len(page) or each == 0:
            return nothing, np.int64(-1)
        for mini in range(np.int64(minis)):
            width = np.int64(page[widths + mini])
            if done >= len(values):
                break
            if width > 64 or at + (each * width + 7) // 8 > len(page):
                return nothing, np.int64(-1)
            for number in range(each):
                if done == len(values):
                    break
                step = _packed(page, at * 8 + number * width, width)
                values[done] = values[done - 1] + _signed(least) + np.int64(step)
                done += 1
            at += (each * width + 7) // 8
    return values, np.int64(at)


@numba.njit(cache=True)
def _add_levels(levels, values, width, block, state):  # type: ignore[no-untyped-def]
    """Count values of rows; -1 where the levels end before all `values`."""
    at = np.int64(0)
    left = np.int64(values)
    while left > 0:
        head, at = _varint(levels, at)
        if at < 0:
            return -1
        run = np.int64(head >> np.uint64(1))
        if head & np.uint64(1):
            count = min(left, run * 8)
            if run == 0 or at + run * width > len(levels):
                return -1
            for number in range(count):
                _add(state, _packed(levels, at * 8 + number * width, width) == 0, 1, block)
            at += run * width
        else:
            count = min(left, run)
            if run == 0 or at + (width + 7) // 8 > len(levels):
                return -1
            begins = _packed(levels, at * 8, width) == 0
            if begins:
                _add_rows(state, count, block)
            else:
                _add(state, False, count, block)
            at += (width + 7) // 8
        left -= count
    return 0


@numba.njit(inline="always")
def _add(state, begins, count, block):  # type: ignore[no-untyped-def]
    if begins:
        state[4] = max(state[4], state[3])
        state[3] = 0
        if state[0] == block:
            state[2] = max(state[2], state[1])
            state[0] = 0
            state[1] = 0
        state[0] += 1
    state[1] += count
    state[3] += count


@numba.njit(cache=True)
def _add_rows(state, count, block):  # type: ignore[no-untyped-def]
    """A run of rows with one value each."""
    for _ in range(count):
        _add(state, True, 1, block)
