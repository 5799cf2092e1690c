"""What comparisons mean: NumPy's IEEE numbers, exact integers and decimals, times of UTC; nulls as SQL has them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.conditions.bound import bind
from gcnrec.loaders.conditions.condition import parse_condition
from gcnrec.loaders.parquet import connect

NAN, INF = float("nan"), float("inf")
BIG = 2**53 + 1
"""No float64 is this integer."""
VALUES = {
    "h": [0.1, 0.25, NAN, None, -1.5, INF, 0.2, 65504.0],
    "f": [0.1, 0.3, NAN, None, 16777216.0, -INF, 0.7, 1e-45],
    "d": [0.1, 0.3, NAN, None, 1e300, INF, -0.0, 2.5],
    "i": [BIG, BIG - 1, 0, None, -3, 2, 2**63 - 1, 3],
    "u": [0, 255, 7, None, 1, 2, 3, 250],
    "c": [
        Decimal("0.10"),
        Decimal("0.30"),
        Decimal("1.25"),
        None,
        Decimal("-7.00"),
        Decimal("2.50"),
        Decimal("0.11"),
        Decimal(0),
    ],
}
TYPES = {"h": pa.float16(), "f": pa.float32(), "d": pa.float64(), "i": pa.int64(), "u": pa.uint8(), "c": pa.decimal128(9, 2)}
FLOATS = {"h": np.float16, "f": np.float32, "d": np.float64}


def typed(name, value):
    return None if value is None else FLOATS[name](value) if name in FLOATS else value


COLUMNS = {name: [typed(name, value) for value in values] for name, values in VALUES.items()}
ROWS = pa.table({name: pa.array(values, TYPES[name], from_pandas=False) for name, values in COLUMNS.items()})
LITERALS = ("0.1", "0.3", "1e-1", "0.25", "2.5", "3", "-3", "16777217", str(BIG), f"{BIG}.5", "9007199254740993e0", "255.5")
LITERALS += ("1e300", "'nan'", "'inf'", "0.105", "-1e-300", "0.1234567890123456789012345678901234567890", "'0.1'")
SIGNS = ("=", "<>", "<", "<=", ">", ">=")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The rows that a condition keeps of a table."""
    with connect(tmp_path_factory.mktemp("spill"), 256 * 10**6) as opened:

        def call(text, rows=ROWS):
            bound = bind(parse_condition(text, opened), rows.schema, "rows.parquet", opened)
            halves = {field.name for field in rows.schema if pa.types.is_float16(field.type)}
            columns = {
                name: pc.field(*path).cast(pa.float32()) if path[0] in halves else pc.field(*path)
                for name, path in bound.columns.items()
            }
            columns["row"] = pc.field("row")
            table = ds.dataset(rows.append_column("row", pa.array(range(len(rows))))).to_table(columns=columns)
            opened.register("rows_in", pa.RecordBatchReader.from_batches(table.schema, table.to_batches()))
            found = opened.execute(f"SELECT row FROM rows_in WHERE {bound.sql} ORDER BY row").fetchall()
            opened.unregister("rows_in")
            return [row for (row,) in found]

        yield call


def exact(value):
    """A number that Python compares exactly with any other; NaN and infinities stay floats."""
    return (
        Fraction(value) if isinstance(value, (int, Decimal)) else Fraction(float(value)) if np.isfinite(value) else float(value)
    )


def number(name, text):
    """A literal as a column of this name meets it."""
    if name in FLOATS:
        with np.errstate(over="ignore"):
            return FLOATS[name](float(text.strip("'")))
    return float(text.strip("'")) if text in ("'nan'", "'inf'") else Fraction(Decimal(text.strip("'")))


def compared(left, sign, right):
    """`left sign right` by IEEE for NaN and exactly for the rest; None for null."""
    if left is None or right is None:
        return None
    left, right = (side if isinstance(side, Fraction) else exact(side) for side in (left, right))
    return {
        "=": left == right, "<>": left != right, "<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right
    }[sign]  # fmt: skip


def both(first, second):
    return False if first is False or second is False else None if first is None or second is None else True


def negated(value):
    return None if value is None else not value


def either(first, second):
    return negated(both(negated(first), negated(second)))


class Draw:
    """Choices from one stream."""

    def __init__(self, seed):
        self.numbers = iter(np.random.default_rng(seed).integers(0, 2**32, 400).tolist())

    def __call__(self, choices):
        return choices[next(self.numbers) % len(choices)]


def generated(draw, depth=0):
    """A condition, and its value for each row as plain Python has it."""
    rows = range(len(ROWS))
    kind = draw(
        ("AND", "OR", "NOT", "two") if depth == 0 else ("AND", "OR", "NOT", "sign", "sign", "BETWEEN", "IN", "two", "case")
    )
    if kind in ("AND", "OR") and depth < 4:
        (left, first), (right, second) = generated(draw, depth + 1), generated(draw, depth + 1)
        return f"({left}) {kind} ({right})", [(both if kind == "AND" else either)(first[row], second[row]) for row in rows]
    if kind == "NOT" and depth < 4:
        text, values = generated(draw, depth + 1)
        return f"NOT ({text})", [negated(value) for value in values]
    name = draw(tuple(TYPES))
    column = COLUMNS[name]
    texts = [text for text in LITERALS if name in FLOATS or text not in ("'nan'", "'inf'")]
    literals = [draw(texts) for _ in range(3)]
    limits = [number(name, text) for text in literals]
    if kind == "two":
        other, sign = draw(tuple(FLOATS)), draw(SIGNS)
        name = draw(("h", "f", "d", "u"))
        return f"{name} {sign} {other}", [compared(COLUMNS[name][row], sign, COLUMNS[other][row]) for row in rows]
    if kind == "BETWEEN":
        values = [both(compared(value, ">=", limits[0]), compared(value, "<=", limits[1])) for value in column]
        return f"{name} BETWEEN {literals[0]} AND {literals[1]}", values
    if kind == "IN":
        equal = [[compared(value, "=", limit) for limit in limits] for value in column]
        return f"{name} NOT IN ({', '.join(literals)})", [negated(either(either(a, b), c)) for a, b, c in equal]
    sign = draw(SIGNS)
    values = [compared(value, sign, limits[0]) for value in column]
    if kind == "case":  # a null condition takes the other branch
        return f"CASE WHEN {literals[0]} {sign} {name} THEN false ELSE true END", [
            compared(limits[0], sign, value) is not True for value in column
        ]
    return f"{name} {sign} {literals[0]}", values


@pytest.mark.parametrize("first", [0, 30])
def test_generated_conditions_keep_what_plain_python_keeps(kept, first):
    lengths = set()
    for seed in range(first, first + 30):
        text, values = generated(Draw(seed))
        right = [row for row, value in enumerate(values) if value]
        assert kept(text) == right, f"{seed}: {text}"
        lengths.add(len(right))
    assert len(lengths) > 3


BY_HAND = {
    "f >= 0.1": [0, 1, 4, 6],
    "f <= 1e-1": [0, 5, 7],
    "f = 0.1": [0],
    "h >= 0.1": [0, 1, 5, 6, 7],
    "h IN (0.1, 0.2)": [0, 6],
    "h = 1 / 10": [0],
    "f = 1 / 10": [0],
    "f > 3": [4],
    "NOT (f > 3)": [0, 1, 2, 5, 6, 7],
    "f <> f": [2],
    "d <> d AND isnan(d)": [2],
    "d = 'nan'": [],
    "d IS NOT DISTINCT FROM d": [0, 1, 3, 4, 5, 6, 7],
    "d IS DISTINCT FROM 0.1": [1, 2, 3, 4, 5, 6, 7],
    "d IN ('nan', 0.1)": [0],
    "d NOT IN ('nan', 0.1)": [1, 2, 4, 5, 6, 7],
    "greatest(d, 1) >= 1": [0, 1, 3, 4, 5, 6, 7],
    "least(f, 0) <= 0": [0, 1, 3, 4, 5, 6, 7],
    "nullif(d, 'nan') IS NULL": [3],
    "nullif(f, 0.1) IS NULL": [0, 3],
    "CASE f WHEN 0.1 THEN true END": [0],
    f"i = {BIG}": [0],
    "i > 9.007199254740992e15": [0, 6],
    "i >= 9007199254740992.0000000000000000000000000000001": [0, 6],
    f"i IN ({BIG}, '2')": [0, 5],
    f"i NOT IN ({BIG}, 1e300)": [1, 2, 4, 5, 6, 7],
    "c < 1e300 AND c > -99999999999": [0, 1, 2, 4, 5, 6, 7],
    "i > '2.5'": [0, 1, 6, 7],
    "c >= 1e-1": [0, 1, 2, 5, 6],
    "c BETWEEN 0.105 AND 0.3": [1, 6],
    "f IN (d, 0.7)": [6],
    "i IN (u, '2.6')": [5],
    "f = NULL OR NOT (f = NULL)": [],
}  # fmt: skip


@pytest.mark.parametrize("text", BY_HAND)
def test_a_comparison_is_one_of_the_columns_own_numbers(kept, text):
    assert kept(text) == BY_HAND[text]


NOON = dt.datetime(2024, 3, 1, 12)
TIMES = pa.table(
    {
        "us": pa.array([NOON + dt.timedelta(hours=hour) for hour in range(-14, 4, 2)], pa.timestamp("us")),
        "ns": pa.array([1_709_294_400_000_000_000 + number for number in range(9)], pa.timestamp("ns")),
        "zoned": pa.array([1_709_294_400_000_000_000 + number for number in range(9)], pa.timestamp("ns", "Asia/Tokyo")),
        "s": pa.array(range(1_709_294_400, 1_709_294_409), pa.timestamp("s")),
        "day": pa.array([dt.date(2024, 3, day) for day in range(1, 10)]),
        "text": pa.array([f"2024-03-01 0{hour}:00:00+02" for hour in range(9)]),
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        # us: 29 February 22:00, then each two hours; the offset counts: midnight of Berlin is 23:00 of UTC.
        ("us >= '2024-03-01'", list(range(1, 9))),
        ("us > '2024-03-01 00:00:00+01:00'", list(range(1, 9))),
        ("us < '2024-03-01T02:00:00+02:00'", [0]),
        ("us BETWEEN '2024-03-01 02:00:00+02:00' AND '2024-03-01 02:00:00'", [1, 2]),
        ("us = TIMESTAMP '2024-03-01 01:00:00-01:00'", [2]),
        ("us IN ('2024-03-01T04:00:00Z', '2024-03-01 07:00:00+01')", [3, 4]),
        ("us <= CAST(text AS TIMESTAMP)", [0]),
        ("us <= text", [0]),
        ("TRY_CAST(text AS TIMESTAMP) = '2024-03-01'", [2]),
        ("ns > '2024-03-01 12:00:00.000000003'", [4, 5, 6, 7, 8]),
        ("ns >= '2024-03-01 13:00:00.000000007+01:00'", [7, 8]),
        ("zoned > '2024-03-01 12:00:00.000000003'", [4, 5, 6, 7, 8]),
        ("zoned BETWEEN '2024-03-01 12:00:00.000000002' AND TIMESTAMPTZ '2024-03-01 13:00:00+01'", []),
        ("zoned BETWEEN TIMESTAMPTZ '2024-03-01 13:00:00+01' AND '2024-03-01 12:00:00.000000002'", [0, 1, 2]),
        ("zoned < now() AND zoned = ns", list(range(9))),
        ("zoned > s OR us < zoned", list(range(8))),
        ("s >= '2024-03-01 12:00:00.5'", list(range(1, 9))),
        ("day > '2024-03-01 12:00'", list(range(1, 9))),
        ("day >= '2024-03-05'", list(range(4, 9))),
        # 04:00 of UTC in each of these: a text with an offset is a moment inside lists, functions and CASE, too.
        ("us IN ('2024-03-01T05:00:00+01:00', s)", [3]),
        ("us NOT IN ('2024-03-01T05:00:00+01:00', s)", [0, 1, 2, 4, 5, 6, 7, 8]),
        ("'2024-03-01T05:00:00+01:00' IN (us, s)", [3]),
        ("greatest(us, '2024-03-01T05:00:00+01:00') = us", list(range(3, 9))),
        ("date_diff('hour', '2024-03-01T05:00:00+01:00', us) > 0", list(range(4, 9))),
        ("nullif(us, '2024-03-01T05:00:00+01:00') IS NULL", [3]),
        ("CASE WHEN day > '2024-03-03' THEN '2024-03-01T05:00:00+01:00' ELSE us END = '2024-03-01 04:00'", list(range(3, 9))),
        ("coalesce(text, '2024-03-01T05:00:00+01:00') = '2024-03-01T05:00:00+01:00'", []),
        ("day > DATE '2024-03-04T23:00:00-02:00'", list(range(5, 9))),
    ],
)
def test_times_are_of_utc_and_keep_their_digits(kept, text, rows):
    assert kept(text, TIMES) == rows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("f IN [0.1, 0.2]", "contains() would compare floats inside a list; write x IN (1.5, 2.5)"),
        ("list_max(l) > 1", "list_max() would compare floats inside a list"),
        ("l = [1.5]", "= would compare floats inside list"),
        ("(f, i) > (1, 2)", "> would compare floats inside tuple"),
        ("t = i", "a text would be compared with a number; cast the text, as in CAST(x AS DOUBLE)"),
        ("t IN ('4', 4)", "a text would be compared with a number"),
        ("CASE 4 WHEN t THEN true END", "a text would be compared with a number"),
        ("t > f", "a text would be compared with a number"),
        ("(f, i) IN ((1, 2))", "IN would compare floats inside other values"),
    ],
)
def test_what_cannot_be_compared_as_one_of_both_types_is_refused(kept, text, told):
    rows = pa.table({"f": pa.array([1.0], pa.float32()), "i": [4], "l": [[1.0, 2.0]], "t": ["3.9"]})
    assert kept("CAST(t AS DOUBLE) < i AND i <> '3.9' AND t IN ('4', '3.9')", rows) == [0]
    with pytest.raises(DataError) as caught:
        kept(text, rows)
    assert told in str(caught.value) and "does not fit rows.parquet" in str(caught.value)


def test_comparisons_in_comparisons_do_not_grow_without_bound(kept):
    text = "d"
    for _ in range(9):
        text = f"(CASE WHEN {text} > d THEN 1e0 ELSE d END)"
    with pytest.raises((DataError, UsageError), match="make it simpler"):
        kept(f"{text} > 1")
