"""Ingestions drawn from a number: files of many types and layouts in plain values, and the settings that read them."""

from __future__ import annotations

import datetime
import decimal
import struct
import uuid
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

from jobs.measure.fuzz.truth import Condition, compared, is_null, joined, negated, of_two

NAN = float("nan")
ZONES = ("UTC", "Asia/Tokyo", "America/New_York")
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
START = 1_704_067_200
"""2024-01-01 UTC in seconds."""
TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
SIGNED, UNSIGNED = ("int8", "int16", "int32", "int64"), ("uint8", "uint16", "uint32", "uint64")
FAMILIES: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    "signed": (SIGNED, [1, 2, 3, 4, 5, 7, -1, 100, 300, 70_000, 2**40]),
    "unsigned": (UNSIGNED, [1, 2, 3, 4, 5, 7, 200, 60_000, 2**31, 2**40]),
    "mixed": (("uint8", "int16", "uint16", "int32", "int64"), [1, 2, 3, 4, 5, 7, 200, 30_000]),
    "text": (("string", "string", "large_string", "dictionary", "string_view"), ["a", "b", "B", "7", "007", "é", "", "x" * 40]),
    "bytes": (("binary",), [b"", b"a", b"\x00", b"\xff\xfe", b"abc"]),
    "fixed": (("fixed",), [bytes(4), b"abcd", b"abce", b"\xff\xfe\xfd\xfc"]),
    "uuid": (("uuid",), [uuid.UUID(int=number) for number in (0, 1, 2**64, 2**127, 2**128 - 1)]),
    "decimal": (("decimal",), [decimal.Decimal(number) for number in (0, 1, 2, 7, 99_999)]),
    "date": (("date32",), [datetime.date(2024, 1, day) for day in (1, 2, 3, 4)]),
}
"""Types of an id, and values."""
FOLDERS = {"7": "7", "007": "007", "9": "9", "a b": "a%20b", "é": "%C3%A9"}
"""Users that name a folder, and how it writes them."""
FLOATS = {"float16": "e", "float32": "f"}
NUMBERS = ("float16", "float32", "float32", "float64", "int8", "int64", "decimal2")


@dataclass(frozen=True, slots=True)
class Column:
    """`values` as the oracle has them: times of timestamps and dates are seconds; `nested`: field b of a struct a for a.b."""

    name: str
    kind: str
    values: list[Any]
    nested: bool = False


@dataclass(frozen=True, slots=True)
class File:
    path: str
    columns: list[Column]
    rows: int


@dataclass(frozen=True, slots=True)
class Source:
    """An input: `text` names it, `root` is the folder (or the file) in it that is named without a pattern."""

    text: str
    root: str
    files: list[File]


@dataclass(slots=True)
class Ingestion:
    """One case. `data` has the keys of [data], `test_from` and `rated` what the oracle makes of two of them."""

    number: int
    inputs: dict[str, Source]
    data: dict[str, Any]
    where: Condition | None = None
    where_test: Condition | None = None
    rated: Condition | None = None
    test_from: Fraction | None = None
    zone: str = "UTC"


@dataclass(slots=True)
class Spec:
    """A column of a case: the types that its files may have, and its values."""

    kinds: tuple[str, ...]
    pool: list[Any]
    nested: bool = False
    missing: float = 0.0
    """Share of the files that lack it, after the first."""


def rounded(kind: str, number: Any) -> Any:
    """A number as a float of this width holds it."""
    if kind in FLOATS:
        return struct.unpack(FLOATS[kind], struct.pack(FLOATS[kind], float(number)))[0]
    return decimal.Decimal(number) if kind == "decimal2" else float(number) if kind == "float64" else number


def ingestion(number: int) -> Ingestion:
    """The case of this number, the same always."""
    draw = Random(number)
    split = draw.choice(["given", "given", "leave_last", "temporal"])
    case = Ingestion(number, {}, settings(draw, split), zone=draw.choice(ZONES))
    specs = schema(draw, case)
    roles = ["train", *(["test"] if split == "given" else []), *(["valid"] if split == "given" and draw.random() < 0.4 else [])]
    by_user = case.data["user"] == "user" and draw.random() < 0.1
    if by_user:
        specs["user"] = Spec(("string",), list(FOLDERS))
        if draw.random() < 0.4:
            case.data["partition_type"], specs["user"] = {"user": "int64"}, Spec(("int64",), [7, 9])
    for role in roles:
        own = dict(specs)
        if role != "train" and draw.random() < 0.3:  # held-out files may lack what only a condition reads
            own = {name: spec for name, spec in specs.items() if name in case.data.values()}
        case.inputs[role] = by_users(draw, role, own) if by_user else source(draw, role, own)
        case.data[role] = case.inputs[role].text
    if split == "given" and "valid" not in roles:
        case.data["valid_size"] = 0.0
    conditions(draw, case, specs)
    odd(draw, case)
    return case


def settings(draw: Random, split: str) -> dict[str, Any]:
    """The keys of [data] that no column decides."""
    return {
        "split": split,
        "valid_size": draw.choice([0.0, 0.25, 0.5]),
        "test_size": draw.choice([0.0, 0.25, 0.25, 0.5]),
        "duplicates": draw.choice(["latest", "latest", "sum"]),
        "k_core": draw.choice([0, 0, 0, 0, 1, 2]),
        "repeats": draw.choice(["drop", "drop", "keep"]),
        "keep_cold": draw.random() < 0.4,
        "time_unit": draw.choice(["s", "ms", "us", "ns"]),
        "memory_limit": "100MB",
    }


def schema(draw: Random, case: Ingestion) -> dict[str, Spec]:
    """The columns of the files by name; fills in the names of the settings, `rated` and `test_from`."""
    specs, data = dict[str, Spec](), case.data
    for side in ("user", "item"):
        family = draw.choice(["signed", "signed", "signed", "unsigned", "mixed", "text", "text", "text", *FAMILIES])
        kinds, pool = FAMILIES[family]
        name = draw.choice([side, side, side, side.title(), f"event.{side}", f"the {side}"])
        data[side] = name
        specs[name] = Spec(kinds, draw.sample(pool, min(len(pool), 5)), name.startswith("event.") and draw.random() < 0.7)
    if data["split"] != "given" or draw.random() < 0.5:
        data["time"], specs["at"] = "at", times(draw, data["time_unit"])
    if draw.random() < 0.35:
        kind = draw.choice(["float32", "float64", "int32", "decimal2"])
        data["weight"], specs["w"] = "w", Spec((kind,), [rounded(kind, number) for number in (0, 1, 2, 3, 5)])
    for name in ("score", "stars") if draw.random() < 0.6 else ("score",):
        kind = draw.choice(NUMBERS)
        numbers = ["0.1", "0.5", "1", "2.5", "3", "4"] if "int" not in kind else [-1, 0, 1, 2, 3, 4]
        odd = [None, NAN, NAN] if "float" in kind else [None]
        specs[name] = Spec((kind,), [rounded(kind, number) for number in numbers] + odd, missing=0.1 * (name == "score"))
    if "stars" in specs and draw.random() < 0.6:
        data["rating"], data["min_rating"] = "stars", draw.choice([0.1, 0.5, 1.0, 2.5, 3.0])
        case.rated = least("stars", specs["stars"].kinds[0], data["min_rating"])
    specs["kind"] = Spec(draw.choice([("string",), ("dictionary",), ("large_string",)]), ["buy", "view", "Buy", None])
    for name in [name for name in specs if draw.random() < 0.15]:  # twins
        specs.setdefault(name.swapcase(), Spec(specs[name].kinds, draw.sample(specs[name].pool, len(specs[name].pool))))
    for name in ("user", "item", "time", "weight"):
        if draw.random() < 0.015 and name in data:
            specs[data[name]].pool.append(draw.choice([None, -1.0, NAN]) if specs[data[name]].kinds[0] == "float64" else None)
    return specs


def least(name: str, kind: str, number: float) -> Condition:
    """What min_rating means: a comparison in the type of the column."""
    return compared((name, name), ">=", decimal.Decimal(repr(number)) if kind == "decimal2" else rounded(kind, number), "")


def times(draw: Random, unit: str) -> Spec:
    """A column of times: numbers, timestamps with or without a zone, or dates; few of them, so that there are ties."""
    kind = draw.choice(["int64", "int64", "int32", "float64", "date32", "timestamp", "timestamp", "timestamp"])
    steps = [draw.randrange(12) for _ in range(7)]
    if kind == "timestamp":
        unit = draw.choice(list(TICKS))
        zone = draw.choice(["", "", ", tz=UTC", ", tz=America/New_York"])
        first = START * TICKS[unit] - 6 * 3600 * TICKS[unit] * draw.randrange(2)
        return Spec((f"timestamp[{unit}{zone}]",), [Fraction(first + step, TICKS[unit]) for step in steps])
    if kind == "date32":
        return Spec((kind,), [Fraction(START + 86_400 * step) for step in steps])
    if kind == "int32":
        return Spec((kind,), [1_700_000_000 + step for step in steps])
    first = START * TICKS[unit] if kind == "int64" or unit in ("s", "ms") else START
    return Spec((kind,), [first + step + (0.5 if kind == "float64" else 0) for step in steps])


def file(draw: Random, path: str, specs: dict[str, Spec], first: bool) -> File:
    """Rows of few values, in columns of any order."""
    rows = draw.randrange(2, 32)
    made = []
    for name, spec in specs.items():
        kind = draw.choice(spec.kinds)
        pool = [value for value in spec.pool if fits(kind, value)] or [1]
        if first or draw.random() >= spec.missing:
            made.append(Column(name, kind, draw.choices(pool, k=rows), spec.nested))
    return File(path, draw.sample(made, len(made)), rows)


def fits(kind: str, value: Any) -> bool:
    """Whether an integer lies in the range of its type."""
    if "int" not in kind or not isinstance(value, int):
        return True
    bits, signed = int(kind.strip("uint")), kind[0] != "u"
    return (-(2 ** (bits - 1)) if signed else 0) <= value < 2 ** (bits - signed)


def source(draw: Random, role: str, specs: dict[str, Spec]) -> Source:
    """A file, a folder, a pattern or hive partitions, in a folder that may look like a partition, with what is not to be read."""
    home = draw.choice(["", "", "user=9/", "_new/"]) + role
    layout = draw.choice(["file", "file", "folder", "pattern", "hive", "hive pattern", "one day"])
    if layout == "file":
        return Source(f"{home}.parquet", f"{home}.parquet", [file(draw, f"{home}.parquet", specs, True)])
    days = draw.sample(["2024-01-01", "2024-01-02", "2024-01-03"], draw.randrange(1, 4))
    names = draw.sample(["a", "b", "z", "10", "9"], draw.randrange(1, 3))
    plain = draw.choice(["", "", "", "user=9/", "more/"]) if layout == "folder" else ""
    folders = [f"day={day}/" for day in days] if layout in ("hive", "hive pattern", "one day") else [plain]
    paths = [f"{home}/{folder}{name}.parquet" for folder in folders for name in names]
    aside = ["_temporary/0/a.parquet", ".ipynb_checkpoints/b.parquet", "_metadata.parquet", ".c.parquet", "_SUCCESS"]
    more = [f"{home}/{folders[0]}{name}" for name in aside if draw.random() < 0.15]
    files = [file(draw, path, specs, number == 0) for number, path in enumerate(sorted(paths))]
    files += [file(draw, path, specs, True) for path in more]
    match layout:
        case "folder" | "hive":
            return Source(home, home, files)
        case "pattern":
            return Source(f"{home}/*.parquet", home, files)
        case "hive pattern":
            return Source(f"{home}/day=*/*.parquet", home, files)
    return Source(f"{home}/{folders[0]}*.parquet", f"{home}/{folders[0]}".rstrip("/"), files)


def by_users(draw: Random, role: str, specs: dict[str, Spec]) -> Source:
    """Hive partitions by user."""
    texts = list(FOLDERS.values()) if specs["user"].kinds[0] == "string" else ["7", "007", "9", "12"]
    users = draw.sample(texts, draw.randrange(1, 4))
    without = {name: spec for name, spec in specs.items() if name != "user"}
    return Source(role, role, [file(draw, f"{role}/user={text}/x.parquet", without, n == 0) for n, text in enumerate(users)])


def conditions(draw: Random, case: Ingestion, specs: dict[str, Spec]) -> None:
    """Give the case `where`, and a time from which test begins."""
    known = {name: spec for name, spec in specs.items() if not spec.nested and spec.kinds[0] not in UNSEEN}
    if "day=" in case.inputs["train"].files[0].path.removeprefix(case.inputs["train"].root):
        known["day"] = Spec(("string",), ["2024-01-01", "2024-01-02"])
    held = [source.files[0] for role, source in case.inputs.items() if role != "train"]
    there = set(known).intersection(*({column.name for column in file.columns} for file in held))
    if held and there and draw.random() < 0.15:
        case.where_test = condition(draw, {name: spec for name, spec in known.items() if name in there}, 1)
        case.data["where_test"] = case.where_test.sql
    if draw.random() < 0.35:
        some = [condition(draw, known, 2) for _ in range(6)]
        enough = [each for each in some if 3 * sum(bool(each.holds(row)) for row in rows(case)) > len(rows(case))]
        case.where = (enough or some)[0]
        case.data["where"] = case.where.sql
    if case.data["split"] == "temporal" and draw.random() < 0.5:
        spec = specs["at"]
        known_times = sorted({value for value in spec.pool if value is not None and value == value})
        number = draw.choice(known_times[1:] or known_times)
        seconds = number if isinstance(number, Fraction) else Fraction(int(number), TICKS[case.data["time_unit"]])
        case.test_from, text = iso(draw, seconds)
        in_units = seconds * TICKS[case.data["time_unit"]]
        if in_units.denominator == 1 and draw.random() < 0.4:
            case.test_from, case.data["test_from"] = seconds, int(in_units)
        else:
            case.data["test_from"] = text


def rows(case: Ingestion) -> list[dict[str, Any]]:
    """Rows of the files of train, without what folders say."""
    files = case.inputs["train"].files
    return [{each.name: each.values[row] for each in file.columns} for file in files for row in range(file.rows)]


UNSEEN = {"binary", "fixed", "uuid", "decimal"}
"""Types of ids that no condition looks at."""
PLAIN = {"score", "stars", "kind", "w"}
"""Names that SQL may write without quotes."""


def condition(draw: Random, known: dict[str, Spec], depth: int) -> Condition:
    """A comparison, or two of them under AND, OR or NOT."""
    if depth and draw.random() < 0.5:
        if draw.random() < 0.3:
            return negated(condition(draw, known, depth - 1))
        return joined([condition(draw, known, depth - 1) for _ in range(2)], either=draw.random() < 0.5)
    name = draw.choice([*known, *(name for name in known if name.lower() in PLAIN)])
    column = (name, name if name.lower() in PLAIN and draw.random() < 0.6 else f'"{name}"')
    spec, sign = known[name], draw.choice(["<", "<=", "=", "<>", ">", ">=", ">="])
    match draw.choice(["sign", "sign", "sign", "left", "between", "in", "null", "two"]):
        case "null":
            return is_null(column) if draw.random() < 0.5 else negated(is_null(column))
        case "between":
            (low, low_text), (high, high_text) = literal(draw, spec), literal(draw, spec)
            both = [compared(column, ">=", low, ""), compared(column, "<=", high, "")]
            return joined(both, False, f"{column[1]} BETWEEN {low_text} AND {high_text}")
        case "in":
            values = [literal(draw, spec) for _ in range(draw.randrange(1, 4))]
            found = joined([compared(column, "=", value, "") for value, _ in values], True)
            return Condition(f"{column[1]} IN ({', '.join(text for _, text in values)})", found.columns, found.holds)
        case "two" if (twin := name.swapcase()) in known and twin != name:
            return of_two(column, sign, (twin, f'"{twin}"'))
        case "left":
            return compared(column, sign, *literal(draw, spec), left=True)
    return compared(column, sign, *literal(draw, spec))


def literal(draw: Random, spec: Spec) -> tuple[Any, str]:
    """A value in the type of a column, and how SQL writes it."""
    kind = spec.kinds[0]
    if kind in NUMBERS and "int" not in kind:
        text = draw.choice(["0.1", "0.5", "1", "2.5", "3"])
        return rounded(kind, text), text
    value = draw.choice([each for each in spec.pool if each is not None and each == each])
    if isinstance(value, datetime.date):
        return value, f"DATE '{value}'"
    if isinstance(value, str):
        return value, "'" + value.replace("'", "''") + "'"
    if isinstance(value, Fraction):
        seconds, text = iso(draw, value, zones="tz=" in kind, dates=kind == "date32")
        word = "DATE " if kind == "date32" else "TIMESTAMPTZ " if "tz=" in kind else "TIMESTAMP "
        return seconds, (word if draw.random() < 0.4 else "") + f"'{text}'"
    if isinstance(value, int) and draw.random() < 0.2:
        between = decimal.Decimal(value) + decimal.Decimal("0.5")
        return between, str(between)
    return value, str(value)


def iso(draw: Random, seconds: Fraction, zones: bool = True, dates: bool = False) -> tuple[Fraction, str]:
    """A time as ISO text, in microseconds at most, and its seconds."""
    micros = seconds * 10**6 // 1
    moment = EPOCH + datetime.timedelta(microseconds=int(micros))
    if dates:
        return seconds, f"{moment:%Y-%m-%d}"
    zone = draw.choice([datetime.UTC, datetime.timezone(datetime.timedelta(hours=2))]) if zones and draw.random() < 0.5 else None
    local = moment.astimezone(zone) if zone else moment.replace(tzinfo=None)
    return Fraction(micros, 10**6), local.isoformat(sep=draw.choice([" ", "T"]))


def odd(draw: Random, case: Ingestion) -> None:
    """In few cases a fault that must be refused: two columns of one name, names in another case, text among integers."""
    files, fault = case.inputs["train"].files, draw.random()
    if fault < 0.015:
        files[0].columns.append(Column("kind", "string", ["again"] * files[0].rows))
    elif fault < 0.03:
        case.data["item"] = case.data["item"].upper()
    elif fault < 0.04:
        case.where = compared(("Kind", "Kind"), "=", "buy", "'buy'")
        case.data["where"] = case.where.sql
    elif fault < 0.055 and (column := next((each for each in files[-1].columns if each.name == case.data["user"]), None)):
        case.where = None
        case.data.pop("where", None)
        files[-1].columns.remove(column)
        text = isinstance(column.values[0], str)
        kind, values = ("int64", list(range(files[-1].rows))) if text else ("string", ["7"] * files[-1].rows)
        files[-1].columns.append(Column(column.name, kind, values, column.nested))
