"""Which column says what a user did, which of its values is predicted, and which column holds ratings."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pyarrow as pa

from gcnrec.draft import words
from gcnrec.draft.candidates import CLEAR, Found, clearest
from gcnrec.draft.contents import Column
from gcnrec.errors import UsageError, shown
from gcnrec.ids.id_types import family

_LOWEST, _HIGHEST = -100, 1000
"""Of ratings; wider numbers are something else."""


def behaviour_of(
    columns: Sequence[Column], given: Column | None, wanted: tuple[str, ...] | None, doubts: list[str]
) -> tuple[Found | None, tuple[str, ...]]:
    """The column of kinds of events, and the values to predict; UsageError where flags leave one of them open."""
    usable = [column for column in columns if _may_be_kinds(column)]
    if given is not None:
        if wanted is not None and given.values and not set(wanted) <= given.values.keys():
            doubts.append(f"rows that were read hold {_listed(given)} in {given.path!r}, and not all that --target names")
        return Found(given, "--behaviour names it"), wanted or _target(given, doubts, must=True)
    if wanted is not None:
        holders = [column for column in usable if set(wanted) <= column.values.keys()]
        if not holders:
            listed = ", ".join(map(shown, wanted))
            raise UsageError(f"--target names {listed}, which no column of few values holds; name the column by --behaviour")
        return Found(holders[0], "it holds what --target names"), wanted
    for column in clearest(usable, words.behaviour_points):
        target = _target(column, doubts, must=False)
        if target:
            return Found(column, f"it holds {_listed(column)}"), target
    for column in usable:
        known = [value for value in column.values if words.target_of((value,))]
        if len(known) >= 2 and len(known) * 2 >= len(column.values):
            return Found(column, f"it holds {_listed(column)}"), _target(column, doubts, must=False)
    return None, ()


def _may_be_kinds(column: Column) -> bool:
    is_kind = family(column.kind) in ("text", "integers") or pa.types.is_boolean(column.kind)
    ids = max(words.user_points(column.path), words.item_points(column.path))
    return is_kind and len(column.values) >= 2 and ids < CLEAR


def _target(column: Column, doubts: list[str], must: bool) -> tuple[str, ...]:
    """The value to predict by its words; a doubt, or with `must` an UsageError, where no value is known."""
    target = words.target_of(tuple(column.values))
    if target is not None:
        doubts.append(f"of {column.path!r}, {target!r} is predicted and the rest are other behaviours; --target VALUE decides")
        return (target,)
    if must:
        raise UsageError(f"no value of {column.path!r} says what to predict ({_listed(column)}); name it by --target VALUE")
    doubts.append(
        f"{column.path!r} may say what users did ({_listed(column)}), and nothing says what to predict; "
        f"--behaviour {shlex.quote(column.path)} --target VALUE does"
    )
    return ()


def taken_back(columns: Sequence[Column]) -> list[str]:
    """A sentence for each column of few values of which some take an interaction back, such as the status of an order."""
    found = []
    for column in columns:
        back = [value for value in column.values if words.withdraws(value)]
        if back and len(back) < len(column.values) and family(column.kind) == "text" and "." not in column.path:
            rows, name = sum(column.values[value] for value in back), column.path.replace('"', '""')
            texts = ", ".join("'" + value.replace("'", "''") + "'" for value in back)
            where = f'"{name}" NOT IN ({texts})'
            where = f'({where} OR "{name}" IS NULL)' if column.nulls else where
            found.append(
                f"{column.path!r} is {' or '.join(map(shown, back))} in {rows:,} of {column.rows:,} rows read, which may take an "
                f"interaction back; add {where} to data.where to leave such rows out"
            )
    return found


def _listed(column: Column) -> str:
    texts = [shown(value) for value in list(column.values)[:6]]
    return ", ".join(texts) + (" and more" if len(column.values) > len(texts) else "")


def rating_of(columns: Sequence[Column]) -> Found | None:
    """The column of ratings: numbers of a short scale with a name that says so."""
    for column in clearest(columns, words.rating_points):
        low, high = column.low, column.high
        if not column.has_range or low is None or high is None or (column.distinct or 0) < 2:
            continue
        if low >= _LOWEST and high <= _HIGHEST:
            return Found(column, f"by its name, numbers from {low:g} to {high:g}")
    return None
