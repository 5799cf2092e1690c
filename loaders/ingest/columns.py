"""From the user's columns to canonical ones: ids, integer ticks, float32 weights; wrong types are refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.ids.id_types import plain
from gcnrec.loaders.conditions.condition import Condition
from gcnrec.loaders.files.id_columns import IdTypes
from gcnrec.loaders.ingest.inputs import Input

TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
USER, ITEM, TIME, WEIGHT, RATING = "gcnrec_user", "gcnrec_item", "gcnrec_time", "gcnrec_weight", "gcnrec_rating"
_NAMED = re.compile(r"(^|[_.])(time|timestamp|datetime|date|ts)([_.]|$)", re.IGNORECASE)
"""Names that columns of numbers have when these are times."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What to read from one input: `expressions` by canonical name, plus the columns that `where` names."""

    user_type: pa.DataType
    item_type: pa.DataType
    ticks: int | None
    """Ticks of the time column in a second; None without one."""
    expressions: dict[str, ds.Expression]
    paths: list[str]
    """What the expressions read."""


def read_columns(source: Input, data: Data, where: Condition | None, ids: IdTypes, like: Columns | None = None) -> Columns:
    """The columns of `source` that `data` and `where` name; ids come in the plain form of their types `ids`.

    `like`: the columns of the train input.

    Raises DataError for a missing column (naming the nearest) and for a type that cannot be meant.
    """
    source.field(str(data.user)), source.field(str(data.item))
    expressions = {
        USER: source.expression(str(data.user)).cast(plain(ids.user)),
        ITEM: source.expression(str(data.item)).cast(plain(ids.item)),
    }
    ticks = None
    if data.time:
        ticks, expressions[TIME] = _time(source, data.time, data.time_unit)
        if like and like.ticks != ticks:
            raise DataError(f"{source.text}: column {data.time!r} must have the time unit of the train input; cast one of them")
    if data.weight:
        expressions[WEIGHT] = _number(source, data.weight).cast(pa.float32(), safe=False)
    if data.rating:
        expressions[RATING] = _number(source, data.rating).cast(pa.float64(), safe=False)
    paths = [path for path in (data.user, data.item, data.time, data.weight, data.rating) if path]
    for name in where.needed(source.dataset.schema.names, source.text) if where else ():
        source.field(name)  # refuses a column without a common type
        _check_fields(source, name)
        # DuckDB has no halves.
        half = pa.types.is_float16(source.dataset.schema.field(name).type)
        expressions[name] = ds.field(name).cast(pa.float32()) if half else ds.field(name)
        paths.append(name)
    return Columns(ids.user, ids.item, ticks, expressions, paths)


def _check_fields(source: Input, name: str) -> None:
    """DataError where SQL could not distinguish two fields of a struct: it would read the first for both."""
    pending = [source.dataset.schema.field(name).type]
    while pending:
        kind = pending.pop()
        inside = [kind.field(number) for number in range(kind.num_fields)]
        pending += [field.type for field in inside]
        if pa.types.is_struct(kind) and len({field.name.lower() for field in inside}) < len(inside):
            raise DataError(
                f"{source.text}: where names {name!r}, whose fields {', '.join(repr(field.name) for field in inside)} differ "
                "in upper and lower case only, which SQL ignores; rename one of them"
            )


def parse_time(value: str | int | float, unit: str, ticks: int) -> int:
    """Ticks of `test_from`: a number counts in `unit`; text is an ISO date or time, UTC unless it says otherwise."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value) if "." in value else int(value)
    if not isinstance(value, str):
        return int(value * ticks // TICKS[unit]) if isinstance(value, int) else int(value * (ticks / TICKS[unit]))
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise UsageError(f"test_from expects a number or an ISO date such as 2014-03-01, got {value!r}") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * ticks)


def time_advice(data: Data, split: str, columns: Iterable[tuple[str, pa.Field]]) -> str | None:
    """A sentence for a `random` split of data that holds times; None for other splits, and where there are none.

    `columns`: paths and fields of the train input.
    """
    if split != "random":
        return None
    why = "models are asked about the future, which random pairs judge wrongly where popularity changes"
    if data.time:
        return f"split = 'random' leaves column {data.time!r} unused: {why}; prefer split = 'temporal'"
    used = {data.user, data.item, data.weight, data.rating}
    times = [path for path, field in columns if path not in used and _holds_times(path, field.type)]
    return f"column {times[0]!r} may hold times: {why}; prefer time = {times[0]!r}, which splits by time" if times else None


def _holds_times(path: str, kind: pa.DataType) -> bool:
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return True
    return bool((pa.types.is_integer(kind) or pa.types.is_floating(kind)) and _NAMED.search(path))


def _number(source: Input, path: str) -> ds.Expression:
    kind = source.field(path).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"{source.text}: column {path!r} must hold numbers, it holds {kind}; name another column or cast it")
    return source.expression(path)


def _time(source: Input, path: str, unit: str) -> tuple[int, ds.Expression]:
    kind, column = source.field(path).type, source.expression(path)
    if pa.types.is_timestamp(kind):
        return TICKS[kind.unit], column.cast(pa.int64())
    if pa.types.is_date(kind):
        return 1, column.cast(pa.timestamp("s")).cast(pa.int64())
    if pa.types.is_integer(kind):
        return TICKS[unit], column.cast(pa.int64())
    if pa.types.is_floating(kind):
        # NaN is an absent time; fractions of the unit are cut off.
        known = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
        return TICKS[unit], known.cast(pa.int64(), safe=False)
    raise DataError(f"{source.text}: column {path!r} must hold times (numbers, timestamps or dates), it holds {kind}")
