"""Rows of several behaviours, such as views, carts and purchases: which row is of which, and what of the others training may see.

Held-out pairs are of the target behaviour. Rows of others that came with them or after them would give them away.
Letters: E rows, U users, I items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.config import Data
from gcnrec.errors import DataError, shown
from gcnrec.loaders.ingest import pairs
from gcnrec.loaders.ingest.columns import BEHAVIOUR, NEGATIVE
from gcnrec.loaders.ingest.heldout import Parts, Report
from gcnrec.loaders.ingest.rows import Rows, count_codes, count_low, high_of, low_of, sort_rows
from gcnrec.system.scratch import Scratch

BY_TIME = ("temporal", "leave_last")
"""Splits that cut rows of other behaviours, and negative pairs, by time."""
MOST = 32
"""Behaviours that a column may name."""
LONGEST = 100
"""Characters of a behaviour's name."""
NEVER = np.iinfo(np.int64).max
"""The moment of a user of whom nothing is held out."""
_TARGET, _NEGATIVE = 0, -1
DROPPED, LATER = 1, 2
"""Marks of rows that give test away, and of rows that a refit on train+valid may have."""


@dataclass
class Kinds:
    """Takes the columns of behaviours and of negative ratings off batches as they are read, and remembers them in `codes_E`.

    0 for the `target`'s values, and without a `column` of behaviours; -1 for a negative row of any behaviour.
    """

    target: tuple[str, ...]
    column: str | None
    codes_E: NDArray[np.int8]
    names: list[str] = field(default_factory=list)
    done: int = 0

    def taken(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches without the columns. DataError where one names too many behaviours."""
        for batch in batches:
            names, codes_B = batch.schema.names, self.codes_E[self.done : self.done + len(batch)]
            if BEHAVIOUR in names:
                kinds = batch.column(BEHAVIOUR).dictionary_encode()
                codes = np.array([self._code(name) for name in kinds.dictionary.to_pylist()], np.int8)
                codes_B[:] = codes[kinds.indices.to_numpy(zero_copy_only=False)]
            if NEGATIVE in names:
                codes_B[pc.fill_null(batch.column(NEGATIVE), False).to_numpy(zero_copy_only=False)] = _NEGATIVE  # unrated: null
            self.done += len(batch)
            yield batch.select([name for name in names if name not in (BEHAVIOUR, NEGATIVE)])

    def split(self, rows: Rows, scratch: Scratch) -> tuple[Rows, dict[str, Rows]]:
        """The target's rows, and those of each other behaviour, by the order of their names."""
        codes_E = self.codes_E[: len(rows)]
        others = {name: rows.keep(codes_E, self.names.index(name) + 1, scratch) for name in sorted(self.names)}
        return rows.keep(codes_E, _TARGET, scratch), others

    def negatives(self, rows: Rows, scratch: Scratch) -> Rows:
        """The negative rows."""
        return rows.keep(self.codes_E[: len(rows)], _NEGATIVE, scratch)

    def require_target(self, text: str) -> None:
        """DataError where no row of the input `text` is of the target."""
        if (self.codes_E[: self.done] == _TARGET).any():
            return
        if self.column is None:
            raise DataError(f"{text} has no row whose rating counts as positive; lower negative_below or min_rating")
        raise DataError(
            f"column {self.column!r} of {text} has no row of the target {', '.join(map(repr, self.target))}"
            f"; it has {', '.join(map(shown, sorted(self.names)))}"
        )

    def _code(self, name: str) -> int:
        if name in self.target:
            return _TARGET
        if len(name) > LONGEST:
            raise DataError(
                f"column {self.column!r} must name behaviours in at most {LONGEST} characters, one has {len(name):,}: "
                f"{shown(name)}; name another column"
            )
        if name not in self.names:
            self.names.append(name)
        if len(self.names) >= MOST:
            raise DataError(
                f"column {self.column!r} must name at most {MOST} behaviours, it has more, such as {shown(name)}; name another "
                "column, or keep fewer by --where"
            )
        return self.names.index(name) + 1


@dataclass(frozen=True, slots=True)
class Moments:
    """When the first held-out row of every user lies, int64 (U) in ticks: of validation, and of test; NEVER without one."""

    valid_U: NDArray[np.int64]
    test_U: NDArray[np.int64]

    @classmethod
    def none(cls, num_users: int, scratch: Scratch) -> Moments:
        """NEVER for every user."""
        return cls(scratch.full(num_users, np.int64, NEVER), scratch.full(num_users, np.int64, NEVER))

    def share(self) -> None:
        """Give every user the first moment of all."""
        for moments_U in (self.valid_U, self.test_U):
            moments_U[:] = moments_U.min(initial=NEVER)

    def lower(self, part: str, rows: Rows) -> None:
        """Lower the moments to the first of the `rows` of "valid" or "test"; "train" has none."""
        if part != "train" and rows.times_E is not None:
            _earliest(rows.pairs_E, rows.times_E, self.valid_U if part == "valid" else self.test_U)


@dataclass(frozen=True, slots=True)
class Cut:
    """What rows of other behaviours may not have. A split by time gives `moments`: train has rows of a user before the first one.

    A split that draws gives `drawn`, sorted held-out pairs, and of `cold_items` the items that must stay without rows.
    """

    moments: Moments | None
    drawn: tuple[NDArray[np.uint64], ...]
    cold_I: NDArray[np.bool_] | None

    @property
    def why(self) -> str:
        """Why a row is dropped, as reports have it."""
        if self.moments is not None:
            return "they are no earlier than the first test interaction, of all or of their user"
        return "they belong to held-out pairs or to items without train interactions"


@dataclass(frozen=True, slots=True)
class Others:
    """Rows of other behaviours by name, merged by pair: of train, and `later` ones, from validation to the first of test."""

    train: dict[str, Rows]
    later: dict[str, Rows]

    def counts(self) -> dict[str, int]:
        """Rows of each behaviour in train, `num_NAME`, and later, `later_NAME` where there are any."""
        of_train = {f"num_{name}": len(rows) for name, rows in self.train.items()}
        return of_train | {f"later_{name}": len(rows) for name, rows in self.later.items() if len(rows)}

    def later_within(self, users: NDArray[np.bool_], items: NDArray[np.bool_], scratch: Scratch) -> Others:
        """The rows of train, and the later rows of marked users and items."""
        return Others(self.train, {name: _within(rows, users, items, scratch) for name, rows in self.later.items()})

    def within(self, users: NDArray[np.bool_], items: NDArray[np.bool_], scratch: Scratch, report: Report) -> Others:
        """The rows of marked users and items, which are those of the k-core; others are counted as `outside_core_NAME`."""
        parts = [{name: _within(rows, users, items, scratch) for name, rows in part.items()} for part in (self.train, self.later)]
        for name, rows in self.train.items():
            outside = len(rows) + len(self.later[name]) - sum(len(part[name]) for part in parts)
            line = f"{{}} pairs of {name} dropped: their user or item is outside the k-core"
            report.count(f"outside_core_{name}", outside, line)
        return _by_frequency(*parts)


def _by_frequency(train: Mapping[str, Rows], later: Mapping[str, Rows]) -> Others:
    """The behaviours with rows in `train`, the most frequent one first."""
    order = sorted((name for name in train if len(train[name])), key=lambda name: -len(train[name]))
    return Others({name: train[name] for name in order}, {name: later[name] for name in order})


def cut_of(data: Data, split: str, carved: bool, parts: Parts, moments: Moments, num_items: int, scratch: Scratch) -> Cut:
    """The cut of a split into `parts`; `carved`: validation was drawn from the train rows."""
    if split in BY_TIME:
        return Cut(moments, (), None)
    drawn = [parts.valid.pairs_E] if carved or split == "cold_items" else []
    drawn += [parts.test.pairs_E] if split in ("random", "cold_items") else []
    if data.keep_other:
        return Cut(None, (), None)
    cold_I = None
    if split == "cold_items":
        cold_I = np.equal(count_low(parts.train.pairs_E, num_items, scratch), 0, out=scratch.empty(num_items, np.bool_))
        held_I = count_low(parts.valid.pairs_E, num_items, scratch)
        held_I += count_low(parts.test.pairs_E, num_items, scratch)
        cold_I &= held_I > 0
    return Cut(None, tuple(drawn), cold_I)


def cut(others: Mapping[str, Rows], by: Cut, duplicates: str, sizes: tuple[int, int], scratch: Scratch, report: Report) -> Others:
    """Rows of other behaviours that train may have, and later ones; a behaviour without any in train is left out.

    The most frequent one comes first. `others` is used up.
    """
    kept, later = dict[str, Rows](), dict[str, Rows]()
    for name, unsorted in others.items():
        rows = sort_rows(unsorted, *sizes, scratch)
        codes = scratch.codes(len(rows))
        if by.moments is not None and rows.times_E is not None:
            mark_from(rows.pairs_E, rows.times_E, by.moments.valid_U, by.moments.test_U, codes)
        for held_out in by.drawn:
            pairs.mark_contained(rows.pairs_E, held_out, codes)
        if by.cold_I is not None:
            _mark_items(rows.pairs_E, by.cold_I, codes)
        cut_off = count_codes(codes, DROPPED)
        report.count(f"cut_{name}", cut_off, f"{{}} rows of {name} dropped: {by.why}")
        own = rows.keep(codes, 0, scratch)
        merged = pairs.merge(own, duplicates, scratch)
        report.count(f"duplicates_{name}", len(own) - len(merged), f"{{}} repeated pairs merged in {name}")
        if len(merged):
            kept[name] = merged
            later[name] = pairs.merge(rows.keep(codes, LATER, scratch), duplicates, scratch)
    return _by_frequency(kept, later)


def _within(rows: Rows, users: NDArray[np.bool_], items: NDArray[np.bool_], scratch: Scratch) -> Rows:
    codes = scratch.codes(len(rows))
    pairs.mark_alive(rows.pairs_E, users, items, codes)
    return rows.keep(codes, 1, scratch)


def report_met(parts: Parts, others: Others, scratch: Scratch, report: Report) -> None:
    """Count the held-out pairs that other behaviours have before them: entries `met_valid` and `met_test`."""
    of_test = (*others.train.values(), *others.later.values())
    for name, part, known in (("valid", parts.valid, tuple(others.train.values())), ("test", parts.test, of_test)):
        codes = scratch.codes(len(part))
        for rows in known:
            pairs.mark_contained(part.pairs_E, rows.pairs_E, codes)
        met = count_codes(codes, 1)
        words = "validation" if name == "valid" else name
        report.count(f"met_{name}", met, f"{{}} of {len(part):,} {words} pairs are met by another behaviour before")


@numba.njit(cache=True)
def _earliest(pairs_E, times_E, moments_U):  # type: ignore[no-untyped-def]
    for row in range(len(pairs_E)):
        user = high_of(pairs_E[row])
        moments_U[user] = min(moments_U[user], times_E[row])


@numba.njit(parallel=True, cache=True)
def mark_from(pairs_E, times_E, valid_U, test_U, codes):  # type: ignore[no-untyped-def]
    """DROPPED for rows from their user's moment `test_U` on, LATER for others from `valid_U` on."""
    for row in numba.prange(len(pairs_E)):
        user = high_of(pairs_E[row])
        if times_E[row] >= test_U[user]:
            codes[row] = DROPPED
        elif times_E[row] >= valid_U[user]:
            codes[row] = LATER


@numba.njit(parallel=True, cache=True)
def _mark_items(pairs_E, items_I, codes):  # type: ignore[no-untyped-def]
    for row in numba.prange(len(pairs_E)):
        if items_I[low_of(pairs_E[row])]:
            codes[row] = 1
