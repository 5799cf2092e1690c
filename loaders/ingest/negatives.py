"""Pairs that their users rated low: cut by the split as other behaviours are, and apart from the pairs of train.

Letters: E rows, U users.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from gcnrec.loaders.ingest import pairs
from gcnrec.loaders.ingest.behaviours import DROPPED, LATER, Moments, mark_from
from gcnrec.loaders.ingest.heldout import Parts, Report, write_held_out
from gcnrec.loaders.ingest.rows import Rows, count_codes, sort_rows
from gcnrec.system.scratch import Scratch

_BEYOND = 3
"""Marks a row that is later than the test window."""


@dataclass
class Negatives:
    """Negative rows of train, and of the times of validation and test, sorted by pair and without weights.

    `repeated` counts rows that are merged into others of their pair.
    """

    train: Rows
    valid: Rows
    test: Rows
    repeated: int = 0

    @classmethod
    def of(cls, rows: Rows | None, sizes: tuple[int, int], scratch: Scratch) -> Negatives | None:
        """All `rows` as rows of train; None without any. `rows` is used up."""
        if rows is None:
            return None
        ordered = sort_rows(Rows(rows.pairs_E, rows.times_E, None), *sizes, scratch)
        none = ordered.slice(0, 0)
        return cls(ordered, none, none)

    def cut(self, moments: Moments, last: int, scratch: Scratch) -> None:
        """Take what is no earlier than a user's first row of validation, or of test, out of train; drop what is after `last`."""
        rows = self.train
        codes = scratch.codes(len(rows))
        if rows.times_E is not None:
            mark_from(rows.pairs_E, rows.times_E, moments.valid_U, moments.test_U, codes)
            codes[np.greater(rows.times_E, last, out=scratch.codes(len(rows)).view(np.bool_))] = _BEYOND
        self.train = rows.keep(codes, 0, scratch)
        self.valid = self._merged(rows.keep(codes, LATER, scratch), scratch)
        self.test = self._merged(rows.keep(codes, DROPPED, scratch), scratch)

    def settle(self, positives: Rows, scratch: Scratch, report: Report) -> Rows:
        """Merge the rows of train by pair; returns `positives` without pairs whose last row is a negative one.

        Other pairs of `positives`, which are sorted, leave the negative ones. At equal times, and without times, a pair is
        positive.
        """
        self.train = self._merged(self.train, scratch)
        kept, negative = scratch.codes(len(positives)), scratch.codes(len(self.train))
        none = np.zeros(0, np.int64)
        times = (none if rows.times_E is None else rows.times_E for rows in (positives, self.train))
        _settle(positives.pairs_E, self.train.pairs_E, *times, kept, negative)
        later, earlier = count_codes(kept, 1), count_codes(negative, 1)
        report.count("withdrawn_train", later, "{} train rows dropped: their pairs have a later negative row")
        report.count("overruled_negative", earlier, "{} negative pairs dropped: train has them as positive")
        self.train = self.train.keep(negative, 0, scratch)
        return positives.keep(kept, 0, scratch)

    def settle_valid(self, positives: Rows, scratch: Scratch, report: Report) -> None:
        """Drop negative pairs of validation's time with a row in `positives` that is no earlier: sorted rows of validation."""
        if self.valid.times_E is None or positives.times_E is None:
            return
        unused, codes = scratch.codes(len(positives)), scratch.codes(len(self.valid))
        _settle(positives.pairs_E, self.valid.pairs_E, positives.times_E, self.valid.times_E, unused, codes)
        line = "{} negative pairs of validation's time dropped: validation has them as positive later"
        report.count("overruled_valid", count_codes(codes, 1), line)
        self.valid = self.valid.keep(codes, 0, scratch)

    def _merged(self, rows: Rows, scratch: Scratch) -> Rows:
        merged = pairs.merge(rows, "latest", scratch)
        self.repeated += len(rows) - len(merged)
        return merged

    def judged(self, parts: Parts, scratch: Scratch, report: Report) -> Parts:
        """`parts` without held-out pairs that were negative before them, which no list may hold."""
        before = {"valid": (self.train,), "test": (self.train, self.valid)}
        found = {}
        for name, part in (("valid", parts.valid), ("test", parts.test)):
            codes = scratch.codes(len(part))
            for rows in before[name]:
                pairs.mark_contained(part.pairs_E, rows.pairs_E, codes)
            words = "validation" if name == "valid" else name
            line = f"{{}} {words} pairs dropped: their users rated them low before"
            report.count(f"negative_{name}", count_codes(codes, 1), line)
            found[name] = part.keep(codes, 0, scratch)
        return Parts(parts.train, found["valid"], found["test"])

    def within(
        self, warm: tuple[NDArray[np.bool_], NDArray[np.bool_]], known: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        scratch: Scratch, report: Report,
    ) -> None:  # fmt: skip
        """Keep pairs of nodes in train's positives (`warm`: users, items), of later times pairs of all `known` nodes."""
        report.count("duplicates_negative", self.repeated, "{} repeated negative pairs merged")
        before = len(self.train) + len(self.valid) + len(self.test)
        self.train = _of_nodes(self.train, warm, scratch)
        self.valid, self.test = _of_nodes(self.valid, known, scratch), _of_nodes(self.test, known, scratch)
        later = len(self.valid) + len(self.test)
        dropped = before - len(self.train) - later
        report.count("cold_negative", dropped, "{} negative pairs dropped: train has no interaction of the user or the item")
        report.entries |= {"num_negative": len(self.train), "later_negative": later}

    def write(
        self, folder: Path, numbers: list[NDArray[np.int32]], sizes: tuple[int, int], ticks: int | None, scratch: Scratch
    ) -> Rows:
        """Write the later pairs in final `numbers` of users and items, with times; returns the sorted pairs of train in them."""
        for name, rows in (("valid", self.valid), ("test", self.test)):
            write_held_out(folder / f"negative.{name}.parquet", _numbered(rows, numbers, sizes, scratch), ticks)
        return _numbered(Rows(self.train.pairs_E, None, None), numbers, sizes, scratch)


def _of_nodes(rows: Rows, sides: tuple[NDArray[np.bool_], NDArray[np.bool_]], scratch: Scratch) -> Rows:
    codes = scratch.codes(len(rows))
    pairs.mark_alive(rows.pairs_E, *sides, codes)
    return rows.keep(codes, 1, scratch)


def _numbered(rows: Rows, numbers: list[NDArray[np.int32]], sizes: tuple[int, int], scratch: Scratch) -> Rows:
    pairs.renumber(rows.pairs_E, *numbers)
    return sort_rows(rows, *sizes, scratch)


@numba.njit(cache=True)
def _settle(positives, negatives, positive_times, negative_times, positive_codes, negative_codes):  # type: ignore[no-untyped-def]
    """Code 1 for what loses of the pairs in both: rows are sorted by (pair, time), negative pairs are unique."""
    at = 0
    for first in range(len(negatives)):
        while at < len(positives) and positives[at] < negatives[first]:
            at += 1
        end = at
        while end < len(positives) and positives[end] == negatives[first]:
            end += 1
        if end == at:
            continue
        if len(positive_times) and negative_times[first] > positive_times[end - 1]:
            positive_codes[at:end] = 1
        else:
            negative_codes[first] = 1
        at = end
