"""Parquet inputs as hypothesis strategies: tables of every type and layout, their bytes mutated, and the flags to ingest them."""

from __future__ import annotations

import datetime
import decimal
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import reject
from hypothesis import strategies as st

from jobs.measure.fuzz.cases.case import Case

Kinds = dict[pa.DataType, list[Any]]
"""Types of a column, and values of each."""

TEXTS = ["a", "b", "", " ", "é", "\U0001f600", "x" * 300, "a\x00b", "NaN", "0"]
WHOLE = {
    pa.int8(): [0, 1, -1, 127, -128], pa.int16(): [0, 1, 2, -(2**15)], pa.int32(): [0, 1, 5, 2**31 - 1, -(2**31)],
    pa.int64(): [0, 1, 2, 2**63 - 1, -(2**63)], pa.uint8(): [0, 1, 255], pa.uint16(): [0, 9, 2**16 - 1],
    pa.uint32(): [0, 3, 2**32 - 1], pa.uint64(): [0, 1, 2, 2**64 - 1],
}  # fmt: skip
IDS: Kinds = {
    **WHOLE, pa.string(): TEXTS, pa.large_string(): TEXTS, pa.string_view(): TEXTS,
    pa.dictionary(pa.int8(), pa.string()): TEXTS, pa.dictionary(pa.int32(), pa.int64()): [1, 2, 2**40],
    pa.binary(4): [b"\x00\x00\x00\x00", b"abcd", b"\xff\xfe\xfd\xfc"], pa.binary(16): [bytes(16), bytes(range(16))],
}  # fmt: skip
"""Types of ids, and values that caused faults before."""
DAYS = [datetime.date(1, 1, 1), datetime.date(1970, 1, 1), datetime.date(9999, 12, 31)]
OTHERS: Kinds = {
    pa.float64(): [0.5, 1.0, float("nan"), float("inf"), -1e308], pa.float32(): [0.5, -0.0], pa.float16(): [0.5, 1.0],
    pa.bool_(): [True, False], pa.binary(): [b"", b"\xff", b"ab"], pa.date32(): DAYS, pa.date64(): DAYS,
    pa.decimal128(9, 2): [decimal.Decimal("1.25"), decimal.Decimal("-9999999.99")], pa.null(): [None],
    pa.list_(pa.int64()): [[1, 2], [], None], pa.struct([("who", pa.int64())]): [{"who": 1}, {"who": 2}],
    pa.map_(pa.string(), pa.int64()): [[("a", 1)], []], pa.duration("s"): [datetime.timedelta(1)],
    pa.time64("us"): [datetime.time(1, 2)],
}  # fmt: skip
CONDITIONS = ["weight > 0", "user = item", "1", "1", "1", "item IS NOT NULL", "(", "event.user = 1"]
STAMPS = [0, 1, 10**9, -1, 2**62, -(2**62), 253402300800]
TIMES: Kinds = {
    pa.int64(): STAMPS, pa.int32(): [0, 1, 2**31 - 1], pa.float64(): [0.0, 1.5, 1e300, float("nan")], pa.uint64(): [0, 2**64 - 1],
    **{pa.timestamp(unit): STAMPS for unit in ("s", "ms", "us", "ns")}, pa.timestamp("us", "UTC"): STAMPS[:4],
    pa.timestamp("ms", "Europe/Paris"): STAMPS[:4], pa.date32(): DAYS, pa.string(): ["2020-01-01", "soon"],
}  # fmt: skip
WEIGHTS: Kinds = {
    pa.float64(): [1.0, 0.5, 2.0, 0.0, 1e300], pa.float32(): [1.0, 3.0], pa.int32(): [1, 2, 5], pa.uint64(): [1, 2**64 - 1],
    pa.decimal128(9, 2): [decimal.Decimal("1.25"), decimal.Decimal("2")],
}  # fmt: skip
BAD_WEIGHTS: Kinds = {
    pa.float64(): [1.0, float("nan")], pa.float32(): [float("inf"), 1.0], pa.int64(): [-1, 1], pa.string(): ["1", "2"],
    pa.bool_(): [True, False],
}  # fmt: skip


def one_in(count: int) -> st.SearchStrategy[bool]:
    """True one time in `count`. Hypothesis likes the ends of a range, so that neither of them means True."""
    return st.integers(0, 7 * count - 1).map(lambda number: number % count == count // 2)


@st.composite
def column(
    draw: st.DrawFn, rows: int, good: dict[pa.DataType, list[Any]], bad: dict[pa.DataType, list[Any]], odd: int
) -> pa.Array:
    """Mostly of a `good` type and without nulls; one time in `odd` each of the other."""
    of = bad if draw(one_in(odd)) else good
    kind = draw(st.sampled_from(list(of)))
    values = draw(st.lists(st.sampled_from(of[kind]), min_size=rows, max_size=rows))
    if rows and draw(one_in(odd)):
        values[draw(st.integers(0, rows - 1))] = None
    return array_of(values, kind)


def array_of(values: list[Any], kind: pa.DataType) -> pa.Array:
    """`pa.array` of what it takes; timestamps from their integers, which may be years that Python does not have."""
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


@st.composite
def table(draw: st.DrawFn, odd: int) -> pa.Table:
    """user, item, time, weight and one more column, some of them under the same name or nested."""
    rows = draw(st.sampled_from([0, 1, 2, 4, 5, 6, 8, 8, 9, 10, 11, 12, 12, 12]))
    columns = [draw(column(rows, IDS, OTHERS, odd)), draw(column(rows, IDS, OTHERS, odd)), draw(column(rows, TIMES, OTHERS, odd))]
    columns += [draw(column(rows, WEIGHTS, BAD_WEIGHTS, odd)), draw(column(rows, {**IDS, **OTHERS}, OTHERS, odd))]
    names = ["user", "item", "time", "weight", draw(st.sampled_from(["more", "more", "a.b", "Ü", "", '"', "gcnrec_row"]))]
    if draw(one_in(4 * odd)):
        names[4] = draw(st.sampled_from(["user", "item"]))
    if draw(one_in(2 * odd)):
        columns[4], names[4] = pa.StructArray.from_arrays(columns[:2], ["user", "item"]), "event"
    return pa.Table.from_arrays(columns, names)


@st.composite
def written(draw: st.DrawFn, content: pa.Table) -> bytes:
    """The bytes of a table in some encoding, compression and cut into row groups, some of them empty."""
    options: dict[str, Any] = {
        "compression": draw(st.sampled_from(["none", "snappy", "zstd", "gzip", "lz4", "brotli"])),
        "version": draw(st.sampled_from(["1.0", "2.4", "2.6"])), "data_page_version": draw(st.sampled_from(["1.0", "2.0"])),
        "use_dictionary": draw(st.booleans()), "write_statistics": draw(st.booleans()),
        "write_page_checksum": draw(st.booleans()), "store_schema": draw(st.booleans()),
    }  # fmt: skip
    if content.schema.field(0).type == pa.int64() and not options["use_dictionary"] and len(set(content.schema.names)) == 5:
        options["column_encoding"] = {"user": draw(st.sampled_from(["PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"]))}
    cut = draw(st.integers(0, len(content)))
    sink = io.BytesIO()
    try:
        with pq.ParquetWriter(sink, content.schema, **options) as writer:
            for part in (content.slice(0, 0), content.slice(0, cut), content.slice(0, 0), content.slice(cut)):
                writer.write_table(part)
    except (pa.ArrowException, OSError):
        reject()  # Parquet, or this version of it, has no such type or value
    return sink.getvalue()


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """The same bytes with some changed, lost, doubled or put elsewhere; half the time in the footer."""
    data, footer = bytearray(whole), int.from_bytes(whole[-8:-4], "little") + 8
    for _ in range(draw(st.integers(1, 4))):
        low = max(0, len(data) - footer) if draw(st.booleans()) else 0
        at = draw(st.integers(low, max(low, len(data) - 1)))
        match draw(st.sampled_from(["set", "set", "flip", "flip", "cut", "drop", "copy", "zero"])):
            case "set":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "flip":
                data[at : at + 1] = bytes([(data[at] if at < len(data) else 0) ^ (1 << draw(st.integers(0, 7)))])
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + draw(st.integers(1, 64))]
            case "copy":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case "zero":
                data[at : at + 8] = bytes(8)
    return bytes(data)


@st.composite
def flags(draw: st.DrawFn) -> tuple[list[str], bool]:
    """Flags of `ingest` other than files, and whether the data must then have every pair of the files."""
    chosen, whole = [], True
    if draw(one_in(3)):
        chosen += ["--weight", "weight"]
    if draw(one_in(3)):
        chosen += ["--time", "time"] + (["--time-unit", draw(st.sampled_from(["s", "ms", "ns"]))] if draw(st.booleans()) else [])
    if draw(one_in(4)):
        chosen += ["--duplicates", draw(st.sampled_from(["latest", "sum"]))]
    if draw(one_in(6)):
        chosen, whole = [*chosen, "--k-core", draw(st.sampled_from(["1", "2", "1", "2", "1", "2", "0", "-1"]))], False
    if draw(one_in(5)):
        split = draw(st.sampled_from(["random", "leave_last", "temporal", "cold_items"]))
        if split in ("leave_last", "temporal") and "--time" not in chosen:
            chosen += ["--time", "time"]
        return [*chosen, "--split", split, "--test-size", draw(st.sampled_from(["0.2", "0.9"]))], False
    if draw(one_in(14)):
        chosen, whole = [*chosen, "--where", draw(st.sampled_from(CONDITIONS))], False
    return [*chosen, "--valid-size", "0", "--keep-cold"], whole


@st.composite
def parquet_case(draw: st.DrawFn) -> Case:
    """One ingest: generated files, or one of them mutated."""
    broken = draw(one_in(5))
    content = draw(table(1000 if broken else 40))
    files = {"train.parquet": draw(written(content))}
    chosen, whole = draw(flags())
    train = "train.parquet"
    if not broken and draw(one_in(6)):
        again = content if draw(st.booleans()) else draw(table(12))
        folder = draw(st.sampled_from(["parts/a.parquet", "parts/day=2/a.parquet"]))
        files, train = {"parts/day=1/b.parquet" if "day" in folder else "parts/b.parquet": files[train]}, "parts"
        files[folder] = draw(written(again))
    if not broken and draw(one_in(6)):
        files["features.parquet"] = draw(written(content.select([1, 2, 3, 4]) if draw(st.booleans()) else draw(table(12))))
        chosen += ["--item-features", "features.parquet"]
    if broken:
        files[train] = draw(mutated(files[train]))
    user = draw(st.sampled_from(["user"] * 60 + ["event.user", "nobody", ""]))
    arguments = ["ingest", "--json", "--train", train, "--user", user, "--item", "item", "--out", "out", *chosen]
    return Case("mutated bytes" if broken else "generated", files, arguments, whole and user == "user")
