"""From the user's columns to canonical ones: ids, integer ticks, float32 weights; wrong types are refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from fractions import Fraction
from math import ceil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.ids.id_types import plain, value_range
from gcnrec.loaders.conditions.bound import Bound
from gcnrec.loaders.files.common_types import is_text
from gcnrec.loaders.files.id_columns import IdTypes
from gcnrec.loaders.ingest.inputs import Input

TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
USER, ITEM, TIME, WEIGHT, RATING = "gcnrec_user", "gcnrec_item", "gcnrec_time", "gcnrec_weight", "gcnrec_rating"
BEHAVIOUR, NEGATIVE = "gcnrec_behaviour", "gcnrec_negative"
_NAMED = re.compile(r"(^|[_.])(time|timestamp|datetime|date|ts)([_.]|$)", re.IGNORECASE)
"""Names that columns of numbers have when these are times."""
_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d+)")
"""Of a second, in an ISO time. Python's own reader knows six digits."""
_NAME = re.compile(r"[\w.-]+")
"""A weight that is a column, whether the input has it or not."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FLOAT_TICKS = 10**6
"""In a second, of times that are floats, where their unit is not finer."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What to read from one input: `expressions` by canonical name, plus the columns of the condition under its names."""

    user_type: pa.DataType
    item_type: pa.DataType
    ticks: int | None
    """Ticks of the time column in a second; None without one."""
    expressions: dict[str, ds.Expression]
    paths: list[str]
    """What the expressions read."""


def read_columns(
    source: Input, data: Data, conditions: Sequence[Bound], ids: IdTypes, weighs: bool, like: Columns | None = None
) -> Columns:
    """The columns of `source` that `data` and the `conditions` name; ids come in the plain form of their types `ids`.

    `weighs`: a condition, an expression of the row, gives the weight; no column does.

    `like`: the columns of the train input.

    A held-out input may lack the column of behaviours: its rows are then all of the target.

    Of a rating, RATING says whether it counts, and in train NEGATIVE whether it is negative: null where there is none. Without a
    weight, `duplicates = "sum"` counts rows, and `decay_days` lets them fade: each weighs 1.

    Raises DataError for a missing column (naming the nearest) and for a type that cannot be meant.
    """
    source.field(str(data.user)), source.field(str(data.item))
    expressions = {
        USER: source.expression(str(data.user)).cast(plain(ids.user)),
        ITEM: source.expression(str(data.item)).cast(plain(ids.item)),
    }
    ticks = None
    if data.time:
        ticks, expressions[TIME] = _time(source, data.time, data.time_unit, like.ticks if like else None)
        if like and like.ticks != ticks:
            raise DataError(f"{source.text}: column {data.time!r} must have the time unit of the train input; cast one of them")
    column = data.weight if not is_expression(data.weight, source) else None
    if column:
        expressions[WEIGHT] = _number(source, column).cast(pa.float32(), safe=False)
    elif not weighs and (data.duplicates == "sum" or data.decay_days):
        expressions[WEIGHT] = ds.scalar(1.0).cast(pa.float32())
    if data.behaviour and (like is None or data.behaviour in (path for path, _ in source.columns())):
        expressions[BEHAVIOUR] = _behaviour(source, data.behaviour)
    least = data.negative_below if data.min_rating is None else data.min_rating
    if data.rating and least is not None:
        expressions[RATING] = _rating_counts(source, data.rating, least)
    if data.rating and data.negative_below is not None and like is None:
        expressions[NEGATIVE] = pc.invert(_rating_counts(source, data.rating, data.negative_below))
    paths = [path for path in (data.user, data.item, data.time, column, data.rating) if path]
    paths += [str(data.behaviour)] if BEHAVIOUR in expressions else []
    for condition in conditions:
        for name, path in condition.columns.items():
            source.field(".".join(path))  # refuses a column without a common type
            expressions[name] = ds.field(*path).cast(pa.float32()) if name in condition.halves else ds.field(*path)
            paths.append(".".join(path))
    return Columns(ids.user, ids.item, ticks, expressions, paths)


def is_expression(weight: str | None, source: Input) -> bool:
    """Whether `data.weight` is an SQL expression: more than the name of a column or of a field."""
    return weight is not None and not _NAME.fullmatch(weight) and weight not in source.dataset.schema.names


def parse_time(value: str | int | float, unit: str, ticks: int) -> int:
    """The first tick at or after `test_from`: a number counts in `unit`; text is an ISO date or time, of UTC without an offset.

    Exact, whatever the number of digits. Raises UsageError for a text that is neither.
    """
    seconds = _number_of(value)
    seconds = _iso_seconds(str(value)) if seconds is None else seconds / TICKS[unit]
    if seconds is None:
        raise UsageError(f"test_from expects a number or an ISO date such as 2014-03-01, got {value!r}")
    return min(max(ceil(seconds * ticks), -(2**63)), 2**63 - 1)


def _number_of(value: str | int | float) -> Fraction | None:
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        return None
    # Powers of ten that a Fraction would have to write out are no times.
    return Fraction(number) if number.is_finite() and abs(number.adjusted()) < 400 else None


def _iso_seconds(text: str) -> Fraction | None:
    """Seconds since 1970 of an ISO date or time; None for another text."""
    fraction = _FRACTION.search(text)
    digits = fraction[1] if fraction else ""
    try:
        moment = datetime.fromisoformat(text.replace(fraction[0], "", 1) if fraction else text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return Fraction((moment - _EPOCH) // timedelta(microseconds=1), 10**6) + Fraction(int(digits or 0), 10 ** len(digits))


def time_advice(data: Data, split: str, columns: Iterable[tuple[str, pa.Field]]) -> str | None:
    """A sentence for a `random` split of data that holds times; None for other splits, and where there are none.

    `columns`: paths and fields of the train input.
    """
    if split != "random":
        return None
    why = "models are asked about the future, which random pairs judge wrongly where popularity changes"
    if data.time:
        return f"split = 'random' leaves column {data.time!r} unused: {why}; prefer split = 'temporal'"
    used = {data.user, data.item, data.weight, data.rating, data.behaviour}
    times = [path for path, field in columns if path not in used and _holds_times(path, field.type)]
    return f"column {times[0]!r} may hold times: {why}; prefer time = {times[0]!r}, which splits by time" if times else None


def _holds_times(path: str, kind: pa.DataType) -> bool:
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return True
    return bool((pa.types.is_integer(kind) or pa.types.is_floating(kind)) and _NAMED.search(path))


def _number(source: Input, path: str) -> ds.Expression:
    kind = source.field(path).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        remedy = f"declare --partition-type {path}=float64" if path in source.keys else "name another column or cast it"
        raise DataError(f"{source.text}: column {path!r} must hold numbers, it holds {kind}; {remedy}")
    return source.expression(path)


def _behaviour(source: Input, path: str) -> ds.Expression:
    """The column of behaviours as text."""
    declared = source.field(path).type
    kind = declared.value_type if pa.types.is_dictionary(declared) else declared
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        remedy = f"declare --partition-type {path}=string" if path in source.keys else "name another column or cast it"
        raise DataError(f"{source.text}: column {path!r} must name behaviours by text or integers, it holds {declared}; {remedy}")
    return source.expression(path).cast(pa.string())


def _time(source: Input, path: str, unit: str, wanted: int | None) -> tuple[int, ds.Expression]:
    """Ticks in a second and the time in ticks; numbers come in the ticks `wanted` where these are a float's or an integer's."""
    kind, column = source.field(path).type, source.expression(path)
    if pa.types.is_timestamp(kind):
        return TICKS[kind.unit], column.cast(pa.int64())
    if pa.types.is_date(kind):
        return 1, column.cast(pa.timestamp("s")).cast(pa.int64())
    own, fine = TICKS[unit], max(TICKS[unit], _FLOAT_TICKS)
    if pa.types.is_integer(kind):
        ticks = fine if wanted == fine else own
        return ticks, _integer_ticks(column, kind, ticks // own)
    if pa.types.is_floating(kind):
        ticks = own if wanted == own else fine
        return ticks, _float_ticks(column, ticks // own)
    remedy = f"declare --partition-type {path}=date32, or cast it" if path in source.keys else "cast it"
    raise DataError(f"{source.text}: column {path!r} must hold times (numbers, timestamps or dates), it holds {kind}; {remedy}")


def _integer_ticks(column: ds.Expression, kind: pa.DataType, factor: int) -> ds.Expression:
    """Integers times `factor`; null, an absent time, where that is no integer of 64 bits."""
    low, high = value_range(kind)
    least, most = -(2**63 // factor), (2**63 - 1) // factor
    known = None
    if low < least:
        known = pc.greater_equal(column, pa.scalar(least, kind))
    if high > most:
        below = pc.less_equal(column, pa.scalar(most, kind))
        known = below if known is None else known & below
    if known is not None:
        column = pc.if_else(known, column, pa.scalar(None, kind))
    return pc.multiply(column.cast(pa.int64()), pa.scalar(factor, pa.int64()))


def _float_ticks(column: ds.Expression, factor: int) -> ds.Expression:
    """Floats times `factor` as integers; null, an absent time, where that is NaN or no integer of 64 bits."""
    scaled = pc.multiply(column.cast(pa.float64()), pa.scalar(float(factor)))
    # Half a tick more or less is the float's error, where it is as coarse as the ticks are.
    ticks = pc.floor(scaled) if factor == 1 else pc.round(scaled)
    known = pc.less(pc.abs(ticks), pa.scalar(2.0**63))
    return pc.if_else(known, ticks, pa.scalar(None, pa.float64())).cast(pa.int64())


def _rating_counts(source: Input, path: str, least: float) -> ds.Expression:
    """Whether a rating is at least `least`; null where it is null or NaN.

    A float is compared in its own type, to which `least` is rounded; integers and decimals are compared exactly.
    """
    rating, kind = _number(source, path), source.field(path).type
    if pa.types.is_floating(kind):
        with np.errstate(over="ignore"):
            rounded = float(np.array(least).astype(kind.to_pandas_dtype()))
        # pyarrow compares no halves; as float64, numbers of each type are the same.
        known = rating.cast(pa.float64())
        return pc.if_else(pc.is_nan(known), pa.scalar(None, pa.bool_()), pc.greater_equal(known, pa.scalar(rounded)))
    exact = Context(prec=400)
    scale = kind.scale if pa.types.is_decimal(kind) else 0
    unit = int(exact.scaleb(Decimal(repr(least)), scale).to_integral_value(ROUND_CEILING, exact))
    smallest, largest = value_range(kind)
    if not smallest < unit <= largest:  # every rating, or none, is at least that
        return pc.equal(rating, rating) if unit <= smallest else pc.not_equal(rating, rating)
    limit = exact.scaleb(Decimal(unit), -scale) if pa.types.is_decimal(kind) else unit
    return pc.greater_equal(rating, pa.scalar(limit, kind))
