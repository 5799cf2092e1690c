"""Which columns hold users and items: by their names, else by ids that repeat."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from gcnrec.draft import casts, times, words
from gcnrec.draft.candidates import CLEAR, Found, clearest, doubt_others
from gcnrec.draft.contents import FEW, Column
from gcnrec.errors import DataError
from gcnrec.ids.id_types import EXPECTED

_MOST_NAMED = 20
"""Columns that a sentence names."""
_LONG_TEXT = 100
"""Bytes; texts that are longer on average are no ids."""
_SURE_ROWS = 50
"""From so many rows on, values that never repeat number the rows."""


def users_and_items(text: str, columns: Sequence[Column], given: Mapping[str, Column], doubts: list[str]) -> tuple[Found, Found]:
    """The columns of both among `columns`, or as they are `given`; DataError where one cannot be found."""
    known = {role: Found(given[role], f"--{role} names it") for role in ("user", "item") if role in given}
    free = [column for column in columns if _may_be_ids(column)]
    user = known.get("user") or _by_name("user", free, words.user_points, doubts)
    free = [column for column in free if user is None or column.path != user.path]
    item = known.get("item") or _by_name("item", free, words.item_points, doubts)
    if user is not None and item is not None:
        return user, item
    left = [column for column in free if item is None or column.path != item.path]
    left = [column for column in left if not words.describes(column.path) and not _numbers_rows(column)]
    return _by_content(text, columns, left, (user, item), doubts)


def _may_be_ids(column: Column) -> bool:
    is_date = pa.types.is_date(column.kind) or times.writes_times(column)
    return column.holds_ids and not is_date and column.distinct not in (0, 1) and column.mean_bytes <= _LONG_TEXT


def _numbers_rows(column: Column) -> bool:
    return column.is_unique and column.rows >= _SURE_ROWS


def _by_name(role: str, columns: Sequence[Column], points: Callable[[str], int], doubts: list[str]) -> Found | None:
    best = clearest(columns, points)
    if not best:
        return None
    chosen = best[0]
    doubt_others(role, chosen, [column for column in best[1:] if points(column.path) >= points(chosen.path) - 2], doubts)
    if _numbers_rows(chosen):
        doubts.append(
            f"each {role} in {chosen.path!r} comes once, from which nothing can be learnt; --{role} COLUMN names another"
        )
    return Found(chosen, "by its name")


def _by_content(
    text: str, columns: Sequence[Column], left: list[Column], known: tuple[Found | None, Found | None], doubts: list[str]
) -> tuple[Found, Found]:
    """What the names leave open, by the order of columns of ids that repeat: users come first in most files."""
    user, item = known
    wanted = [role for role, found in (("user", user), ("item", item)) if found is None]
    if len(left) < len(wanted):
        raise DataError(_nothing(text, columns, wanted))
    left = sorted(left, key=lambda column: -(column.distinct or column.rows))[: len(wanted) + 2]
    ordered = sorted(left[: len(wanted)], key=columns.index)
    found = dict(zip(wanted, ordered, strict=True))
    others = [each.path for each in left if each not in ordered and (each.distinct or each.rows) > FEW]
    also = f" (there is {', '.join(map(repr, others))} too)" if others else ""
    chosen = " and ".join(f"{column.path!r} stands for the {role}s" for role, column in found.items())
    flags = " ".join(f"--{role} {shlex.quote(column.path)}" for role, column in zip(wanted, reversed(ordered), strict=True))
    decides = f"{flags} swaps them" if len(wanted) == 2 else f"--{wanted[0]} COLUMN decides"
    which = " and the ".join(f"{role}s" for role in wanted)
    doubts.append(f"no name says which column holds the {which}, {chosen} by content{also}; {decides}")
    reason = "by its content: ids that repeat"
    return user or Found(found["user"], reason), item or Found(found["item"], reason)


def _nothing(text: str, columns: Sequence[Column], wanted: Sequence[str]) -> str:
    """The sentence about what was looked for."""
    names = [column.path if column.path.isprintable() else repr(column.path) for column in columns[:_MOST_NAMED]]
    kinds = ", ".join(f"{name} ({column.kind})" for name, column in zip(names, columns, strict=False)) or "none of single values"
    floats = [column for column in columns if pa.types.is_floating(column.kind)
              and (words.user_points(column.path) >= CLEAR or words.item_points(column.path) >= CLEAR)]  # fmt: skip
    sure = "".join(f"; {casts.advice(text, column, str(column.kind), casts.to_integers())}" for column in floats[:1])
    return (
        f"{text} must have a column of {' and one of '.join(f'{role}s' for role in wanted)}, none was found: ids are {EXPECTED}, "
        f"named like customer_id or sku, or repeat and describe nothing; its columns are {kinds}; name them by "
        f"{' and '.join(f'--{role} COLUMN' for role in wanted)}{sure}"
    )
