"""What the columns of a row group take when they are decoded, found from their pages before Arrow reads them.

A page's size says what a decompressor makes of it, not what decoding does: a text of a dictionary may stand for each of a million
rows, a text may repeat most of the one before it, and a run of a few bytes may be 10**9 values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.loaders.bounds.allowed import Allowed
from gcnrec.loaders.bounds.footer import Chunk
from gcnrec.loaders.bounds.lengths import RowLengths, longest_delta, longest_plain
from gcnrec.loaders.bounds.pages import DELTA_BYTES, DELTA_LENGTHS, DICTIONARY, Page, pages, payload

_TEXT = 24
"""Bytes of a text in a decoded dictionary, without its letters."""
_VALUE = 16
"""Bytes of a number, whatever type Arrow makes of it."""
_OFFSET = 4
_LEVELS = 8
"""Bytes of a value's levels, and of the offset of a list."""


@dataclass(frozen=True, slots=True)
class Weight:
    """Upper bounds, in bytes, of one column in one row group.

    `at_hand`: a page and the dictionary, which takes `dictionary` of it. `per_row` and `extra`: n rows that follow one another
    take n * per_row + extra. `total`: all rows. `longest`: a value of about this length, or longer, is there.
    """

    at_hand: int
    dictionary: int
    per_row: float
    extra: int
    total: int
    longest: int


@dataclass(slots=True)
class _Found:
    """What the pages of a column have shown so far."""

    largest: int = 0
    dictionary: int = 0
    in_dictionary: int = 0
    lengths: int = 0
    each: float = 0.0
    """Bytes of a value, at most; of texts that lie one after the other in their page, the mean of the densest page."""
    plain: int = 0
    """The largest page of such texts."""
    total: int = 0
    longest: int = 0

    @property
    def at_hand(self) -> int:
        return self.largest + self.dictionary + self.lengths


def weigh(source: pa.NativeFile, chunk: Chunk, place: str, block: int, allowed: Allowed) -> Weight:
    """The weight of a column, of which at most `block` rows are decoded at a time.

    Raises the errors of `Allowed`, naming `place`, where a page or a dictionary takes more; ArrowInvalid or OSError for damage.
    """
    found = _Found()
    for page in pages(source, chunk):
        found.largest = max(found.largest, page.size, page.compressed)
        if not page.has_codes:
            found.longest = max(found.longest, page.size // max(page.values, 1) - (0 if chunk.leaf.width else _OFFSET))
        allowed.check_at_hand(place, chunk.leaf.path, found.at_hand, found.longest)
        if page.kind == DICTIONARY:
            _look_at_dictionary(found, source, chunk, page)
        else:
            _look_at_values(found, source, chunk, page)
        allowed.check_at_hand(place, chunk.leaf.path, found.at_hand, found.longest)
    extra = 2 * found.plain
    if not chunk.leaf.most_repetition:
        return Weight(found.at_hand, found.dictionary, found.each, extra, found.total, found.longest)
    each, total = found.each + _LEVELS, found.total + _LEVELS * chunk.values
    if each * chunk.values <= allowed.at_hand // 16:
        return Weight(found.at_hand, found.dictionary, 0.0, int(each * chunk.values) + extra, total, found.longest)
    longest, most = _rows_of(source, chunk, block)
    if each * most <= allowed.at_hand // 4:
        return Weight(found.at_hand, found.dictionary, 0.0, int(each * most) + extra, total, found.longest)
    return Weight(found.at_hand, found.dictionary, each * longest, extra, total, found.longest)


def _look_at_dictionary(found: _Found, source: pa.NativeFile, chunk: Chunk, page: Page) -> None:
    found.dictionary = page.size
    if not chunk.leaf.width:
        found.dictionary += _TEXT * min(page.values, page.size // 4)
        found.in_dictionary = longest_plain(_bytes(payload(source, page, chunk.codec)), page.values)
        found.longest = max(found.longest, found.in_dictionary)


def _look_at_values(found: _Found, source: pa.NativeFile, chunk: Chunk, page: Page) -> None:
    width = chunk.leaf.width
    if width or page.has_codes:
        each = width or found.in_dictionary + _OFFSET
        found.each, found.total = max(found.each, each, _VALUE), found.total + each * page.values
    elif page.encoding in (DELTA_BYTES, DELTA_LENGTHS):
        found.lengths = max(found.lengths, 2 * _OFFSET * page.values)
        values_B = _levels_and_values(payload(source, page, chunk.codec), page, chunk)[1]
        longest, total = longest_delta(values_B, page.values, page.encoding == DELTA_BYTES)
        found.each, found.longest = max(found.each, longest + _OFFSET), max(found.longest, longest)
        found.total += total + _OFFSET * page.values
    else:
        found.each = max(found.each, page.size / max(page.values, 1) + _OFFSET)
        found.plain, found.total = max(found.plain, page.size), found.total + page.size + _OFFSET * page.values


def _rows_of(source: pa.NativeFile, chunk: Chunk, block: int) -> tuple[int, int]:
    """Values in the longest row, and the most in `block` rows that follow one another; all of them where levels are packed as
    they no longer are."""
    lengths = RowLengths(block)
    for page in pages(source, chunk):
        if page.kind == DICTIONARY:
            continue
        if page.has_old_levels:
            return chunk.values, chunk.values
        levels_B, _ = _levels_and_values(payload(source, page, chunk.codec), page, chunk)
        lengths.add(levels_B, page.values, chunk.leaf.most_repetition)
    return lengths.longest, lengths.most_in_block


def _levels_and_values(data: bytes, page: Page, chunk: Chunk) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Repetition levels and values of a page that is no longer compressed."""
    whole_B = _bytes(data)
    if page.levels is not None:
        repetition, definition = page.levels
        return whole_B[:repetition], whole_B[repetition + definition :]
    begin = at = 0
    for number, most in enumerate((chunk.leaf.most_repetition, chunk.leaf.most_definition)):
        if most:
            at += 4 + int.from_bytes(data[at : at + 4], "little")
        begin = at if number == 0 else begin
    return whole_B[4:begin], whole_B[at:]


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
