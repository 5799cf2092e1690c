"""Which column holds the moments of interactions, and in which unit."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa

from gcnrec.config.toml import as_toml
from gcnrec.draft import casts, words
from gcnrec.draft.candidates import CLEAR, Found, doubt_others
from gcnrec.draft.contents import FEW, Column
from gcnrec.errors import UsageError, shown
from gcnrec.ids.id_types import family
from gcnrec.loaders.ingest.columns import TICKS

_YEARS = (datetime(1980, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp())
"""Between these, in seconds since 1970, numbers are taken for times."""
_DAYS = (19800101, 21001231)
"""Between these, integers of a column named like a time are taken for days such as 20240131."""

_DATES = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%d %b %Y", "%b %d, %Y")
_FORMS = (
    *(date + clock for clock in ("", " %H:%M", " %H:%M:%S") for date in _DATES),
    *(date + clock for clock in (" %I:%M %p", " %I:%M:%S %p") for date in ("%m/%d/%Y", "%m-%d-%Y", *_DATES)),
    "%a %b %d %H:%M:%S %z %Y",
    "%a, %d %b %Y %H:%M:%S %z",
)
"""How times are written as text, other than ISO: day before month, but with AM and PM; the last two of C and of mails."""


def time_of(text: str, columns: Sequence[Column], doubts: list[str]) -> tuple[Found | None, str | None]:
    """The column of times and, of numbers, their unit; None where no column of the input `text` holds times."""
    scored = [(_time_points(column), column) for column in columns]
    usable = [column for points, column in sorted(scored, key=lambda each: -each[0]) if points > 0]
    for column in [column for column in usable if column.distinct == 1 or 2 * column.nulls > column.rows]:
        what = "one moment alone" if column.distinct == 1 else "no time in most rows"
        doubts.append(f"{column.path!r} holds {what}, and is left out; --time {shlex.quote(column.path)} takes it")
        usable.remove(column)
    if not usable:
        of_events = [column for column in columns if not words.says_other_time(column.path)]
        doubts += [advice for column in of_events if (advice := _time_to_cast(text, column))]
        return None, None
    best = usable[0]
    doubt_others("time", best, usable[1:], doubts)
    unit = None if best.is_time else _epoch_unit(best)
    return Found(best, _time_reason(best, unit)), unit


def _time_points(column: Column) -> int:
    """How clearly a column holds the moments of interactions; 0 or less: not at all."""
    by_name, is_other = words.time_points(column.path), words.says_other_time(column.path)
    if column.is_time:
        return 1 if is_other else 10 + by_name
    if not column.is_number or is_other or _epoch_unit(column) is None:
        return 0
    is_id = words.user_points(column.path) or words.item_points(column.path)
    many = column.distinct is None or column.distinct > FEW
    return by_name if by_name >= CLEAR else int(by_name == 0 and not is_id and many and not words.describes(column.path))


def given_time(text: str, column: Column, doubts: list[str]) -> tuple[Found, str | None]:
    """The column that --time names, and its unit. UsageError where it holds neither times nor numbers, with what helps."""
    unit = None if column.is_time else _epoch_unit(column)
    if not column.is_time and not column.is_number:
        helps = _time_to_cast(text, column) or f"{column.path!r} holds {column.kind}; cast it"
        raise UsageError(f"--time must name timestamps, dates or numbers: {helps}")
    if not column.is_time and unit is None:
        doubts.append(
            f"numbers of {column.path!r} are no seconds, ms, us or ns since 1970; they order interactions, but days cannot be "
            "counted (popularity_days, decay_days)"
        )
        unit = "s"
    return Found(column, "--time names it"), unit


def _epoch_unit(column: Column) -> str | None:
    """The unit in which all numbers of a column lie between 1980 and 2100; None where none fits."""
    if column.low is None or column.high is None:
        return None
    ends = (column.low, column.high)
    return next((unit for unit, ticks in TICKS.items() if all(_YEARS[0] <= end / ticks <= _YEARS[1] for end in ends)), None)


def _time_reason(column: Column, unit: str | None) -> str:
    if unit is not None and column.low is not None and column.high is not None:
        first, last = (datetime.fromtimestamp(end / TICKS[unit], UTC).date().isoformat() for end in (column.low, column.high))
        return f"numbers in {unit} since 1970, from {first} to {last}"
    if column.low is None or column.high is None:
        return f"its type is {column.kind}"
    return f"its type is {column.kind}, from {_day(column.low)} to {_day(column.high)}"


def _day(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return f"{seconds:g} s since 1970"


def _time_to_cast(text: str, column: Column) -> str | None:
    """What to type where a column holds times in a form that ingestion does not take; None where it holds none."""
    if column.holds_dates_as_text and column.is_key:
        name = as_toml(column.path)
        sets = (f"data.time={name}", f'data.partition_type={{{name} = "date32"}}', "data.split=temporal")
        flags = " ".join(f"--set {shlex.quote(each)}" for each in sets)
        return f"{column.path!r} holds days as text, from names of folders; to split by it, add {flags} to the next commands"
    if column.holds_dates_as_text:
        return casts.advice(text, column, "text", casts.from_text(column))
    if family(column.kind) == "text" and (form := _form(column.examples)):
        return casts.advice(
            text, column, f"times as text such as {shown(column.examples[0])}, by its look {form}", casts.from_form(form)
        )
    if not pa.types.is_integer(column.kind) or column.low is None or column.high is None:
        return None
    if words.time_points(column.path) >= CLEAR and _DAYS[0] <= column.low and column.high <= _DAYS[1]:
        return casts.advice(text, column, "days written as numbers", casts.from_days())
    return None


def writes_times(column: Column) -> bool:
    """Whether a column of texts holds times in a form that people write, ISO or another."""
    return column.holds_dates_as_text or (family(column.kind) == "text" and _form(column.examples) is not None)


def _form(examples: Sequence[str]) -> str | None:
    """The first form in which all examples can be read; None without one, or without examples."""
    return next((form for form in _FORMS if examples and all(_is_of(form, text) for text in examples)), None)


def _is_of(form: str, text: str) -> bool:
    try:
        datetime.strptime(text, form)
    except ValueError:
        return False
    return True
