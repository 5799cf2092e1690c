"""Command lines whose paths, settings and conditions are odd."""

from __future__ import annotations

from pathlib import Path
from random import Random

from jobs.measure.fuzz.cases.case import Case
from jobs.measure.fuzz.cases.settings import HUGE, ODD, toml
from jobs.measure.fuzz.world import LOOSE_FILES

PATHS = [
    "", ".", "..", "/", "//", "./", "nowhere", "nowhere/below", "job.toml/below", "data/below/that", "empty",
    "empty/x.parquet", "folder", "loop", "dangling", "to-data", "to-dense", "data", "plain", "dense", "dense/job.toml",
    "data/dataset.json", "data/users.parquet", "data/valid.parquet", "tiny.parquet", "users.csv", "job.toml", "x" * 255,
    "x" * 256, "x" * 5000, "a/" * 2100 + "b", "../" * 300, "/dev/null", "/dev/full", "/proc/self/mem", "/proc/1/environ",
    "/etc/shadow", "/sys", "é", "\u202e", "a\nb", "a\tb", " ", "a b", "~", "~root", "$HOME", "${HOME}/x", "`id`", "*", "?",
    "[a]", "[", "*.parquet", "**/*", "{a,b}", "'", '"', "\\", "C:\\x", "-", "--", "-x", "--out", "con", "\x1b[31m",
    "\U0001f600", "file://", "file:///nowhere", "file://host/x", "http://127.0.0.1:9/x.parquet", "ftp://x/y", "://", "x://y",
    "%2e%2e", "a\\b", "data:text/plain,x", "mem://x", "local://x", "file:tiny.parquet", "a:b", "12:30",
]  # fmt: skip
BASES: list[tuple[list[str], list[int]]] = [
    (["ingest", "--train", "tiny.parquet", "--user", "user", "--item", "item", "--out", "out", "--json"], [2, 4, 6, 8]),
    (["ingest", "--train", "tiny.parquet", "--test", "tiny.parquet", "--user", "user", "--item", "item", "--out", "out"], [4]),
    (["ingest", "--train", "tiny.parquet", "--user", "user", "--item", "item", "--item-features", "x", "--out", "out"], [8]),
    (["ingest", "card.toml", "--data-root", ".", "--out", "out"], [1, 3, 5]),
    (["train", "job.toml", "--data", "plain", "--out", "out", "--set", "train.epochs=1"], [1, 3, 5]),
    (["run", "job.toml", "--data", "plain", "--data-root", ".", "--out", "out", "--set", "train.epochs=1"], [1, 3, 5, 7]),
    (["run", "job.toml", "--data", "plain", "--out", "out", "--resume", "--set", "train.epochs=1"], [1, 3, 5]),
    (["check", "job.toml", "--data", "plain", "--json"], [1, 3]),
    (["evaluate", "dense", "--segments", "segments.csv", "--json"], [1, 3]),
    (["recommend", "dense", "--out", "out", "--users", "users.csv", "--exclude", "pairs.csv"], [1, 3, 5, 7]),
    (["recommend", "dense", "--out", "out", "--items", "x", "--candidates", "pairs.csv"], [1, 3, 5, 7]),
    (["recommend", "dense", "--out", "out", "--new-users", "pairs.csv"], [1, 3, 5]),
    (["recommend", "dense", "--out", "out", "--new-items", "items.parquet"], [5]),
    (["similar", "dense", "--out", "out", "--items", "x", "--among", "items.parquet"], [1, 3, 5, 7]),
    (["similar", "dense", "--out", "out", "--users", "users.csv"], [1, 3, 5]),
    (["score", "dense", "--pairs", "pairs.csv", "--out", "out"], [1, 3, 5]),
    (["export", "dense", "--format", "parquet", "--out", "out"], [1, 3, 5]),
    (["export", "dense", "--format", "bundle", "--out", "out"], [5]),
    (["export", "dense", "--format", "faiss", "--out", "out"], [5]), (["compare", "dense", "dense"], [1, 2]),
    (["info", "dense", "--since", "dense"], [1, 3]), (["sweep", "grid.toml", "--data", "plain", "--out", "sweep"], [1, 3]),
]  # fmt: skip
"""Command lines, and the places of what may be another path."""
STATEMENTS = [
    "COPY (SELECT 1) TO '../outside/owned.csv'", "ATTACH '../outside/owned.db'", "EXPORT DATABASE '../outside/owned'",
    "PRAGMA version", "INSTALL httpfs", "LOAD httpfs", "SET memory_limit='1TB'", "CREATE TABLE t AS SELECT 1",
    "DROP TABLE gcnrec_none", "CALL pragma_version()",
]  # fmt: skip
CALLS = [
    "read_text('../outside/secret.txt')", "read_csv('../outside/secret.txt')", "read_parquet('tiny.parquet')", "glob('/*')",
    "getenv('HOME')", "current_setting('home_directory')", "query('SELECT 1')", "range(100000000)", "repeat('x', 1000000000)",
    "sleep_ms(9)", "error('x')", "nextval('s')", "random()", "now()", "format('{:>1000000000}', 1)",
    "list_transform([1], x -> x)", "write_log('x')", "uuid()", "lpad('x', 99999999, 'y')",
]  # fmt: skip
PIECES = [
    "user", "item", "weight", "time", '"user"', '"User"', "nothing", "a.b", "user.x", "1", "0", "-1", "1e400", "'a'", "''",
    "NULL", "TRUE", "NaN", "'NaN'::DOUBLE", "DATE '2024-01-01'", "9" * 60, "0x10", "user::VARCHAR", "item::STRUCT(a INT)",
    "[1,2]", "{'a': 1}", "MAP {1: 2}", "$1", "?", "#1", "*", "COLUMNS(*)", "INTERVAL 1 DAY", "gcnrec_0", "gcnrec_item",
    "gcnrec_none", "rowid", "e'\\x41'", "'é'", "'\U0001f600'", "x'00'", "current_user", "\u00a0", "'\u202e'", "é",
]  # fmt: skip

_CARD = b"""[card]
name = "c"
title = "t"
licence = "l"
origin = "o"
[data]
train = "tiny.parquet"
user = "user"
item = "item"
"""


def path_case(draw: Random, kept: Path) -> Case:
    """A sound command line with one path, or two, replaced by an odd one."""
    base, places = draw.choice(BASES)
    arguments = list(base)
    for at in draw.sample(places, min(len(places), draw.choice([1, 1, 1, 2]))):
        arguments[at] = draw.choice(PATHS)
        if draw.random() < 0.1:
            arguments[at] += draw.choice(["/", "/.", "/..", "/x", "\n", " ", "*", ".parquet", "x" * 250])
    files = {"card.toml": _CARD, "empty": b"", "folder/x": b""}
    world = (*LOOSE_FILES, "tiny.parquet", "items.parquet", "plain", "data", "dense", "sweep")
    places_written = {
        "evaluate": ("dense/",),
        "sweep": ("sweep/",),
        "run": ("runs", "data"),
        "train": ("runs",),
        "ingest": ("data",),
    }
    links = (("loop", "loop"), ("dangling", "nowhere/at all"), ("to-data", "data"), ("to-dense", "dense"))
    return Case("paths", files, arguments, world=world, writes=places_written.get(arguments[0], ()), links=links)


def setting_case(draw: Random, kept: Path) -> Case:
    """`check`, or sometimes `train`, with `--set` of keys and values that do not fit."""
    overrides = [_override(draw) for _ in range(draw.choice([1, 1, 1, 2, 3]))]
    sets = [part for each in overrides for part in ("--set", each)]
    if draw.random() < 0.2:
        small = ["--set", "train.epochs=1", "--set", "model.width=8"]
        arguments = ["train", "job.toml", "--data", "../tiny", "--out", "out", "--json", *sets, *small]
        return Case("settings, trained", {}, arguments, world=("job.toml",), checked=True)
    form = draw.choice(["--json"] * 5 + ["--resolved"])
    return Case("settings, checked", {}, ["check", "job.toml", "--data", "../tiny", form, *sets], world=("job.toml",))


def _override(draw: Random) -> str:
    from gcnrec.config import Job

    section = draw.choice(list(Job.model_fields))
    keys = list(Job.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]
    key = draw.choice(keys).replace("partners", "with")
    value = draw.choice(ODD + HUGE) if draw.random() < 0.7 else None
    text = toml(value) if value is not None else draw.choice(_TEXTS)
    if draw.random() < 0.9:
        return f"{section}.{key}={text}"
    return draw.choice([
        f"{section}.{key}", f"{section}={text}", f"{key}={text}", f"{section}.{key}.x={text}", f"=.{text}", "", "=", ".=",
        "a.b=c=d", f" {section} . {key} = {text} ", f"{section}.{key}=1\n{section}.x=2", f"{section}.{key}=1\n[x]\ny=2",
        f"{section}..{key}=1", f'"{section}"."{key}"=1', f"{section}.{key}=1 # more", f"{section.upper()}.{key}={text}",
        "é.é=é",
    ])  # fmt: skip


_TEXTS = [
    "1" * 6000, "[" * 3000, "{" * 3000, "[[[[1]]]]", "\u0661", "\uff11", "1_0", "0x10", "0b1", "1e5", "+1", "1.", ".5", "1,2",
    "auto", "true", "True", "infGB", "nanMB", "-1GB", "1GB", "0", "1e999", "é", "\x1b[0m", "2024-01-01",
    "1979-05-27T07:32:00Z", "'x'", '"x', "'''x'''", "x\ny=1", "$HOME", "../outside/x", "/etc/passwd", "nowhere", "a.b", "#",
    " ", "\u2028", "recall@0", "recall@5", "recall@99999999999", "ndcg@\u0663", "1TB", "1e3MB", "999999999999999GB",
]  # fmt: skip


def condition_case(draw: Random, kept: Path) -> Case:
    """`ingest` with a condition that reaches for more than a row, or is drawn from a grammar of odd pieces."""
    text = _condition(draw, 0)
    if draw.random() < 0.1:
        depth = draw.choice([50, 90, 101, 1000, 10_000])
        deep = ["(" * depth + text + ")" * depth, "NOT " * depth + text, "-" * depth + "1 < 0", "1+" * depth + "1 > 0"]
        text = draw.choice([*deep, "(" * depth, "[" * depth])
    if draw.random() < 0.15:
        statement = draw.choice(STATEMENTS)
        text = draw.choice(
            [f"{text}; {statement}", f"{text}) ; {statement} --", f"{text} /*", f"{text} --", f"{text}\x1b", statement]
        )
    flag = draw.choice(["--where"] * 5 + ["--where-test"])
    more = ["--test", "tiny.parquet"] if flag == "--where-test" else []
    named = ["--train", "tiny.parquet", "--user", "user", "--item", "item", *more]
    arguments = ["ingest", "--json", *named, "--out", "out", flag, text]
    return Case("conditions", {}, arguments, world=("tiny.parquet",))


def _condition(draw: Random, depth: int) -> str:
    if depth > 3 or draw.random() < 0.25:
        return draw.choice(PIECES) if draw.random() < 0.8 else draw.choice(CALLS)
    one, other = _condition(draw, depth + 1), _condition(draw, depth + 1)
    sign, kind, name = draw.choice(_SIGNS), draw.choice(_TYPES), draw.choice(_FUNCTIONS)
    return draw.choice([
        f"{one} {sign} {other}", f"({one} AND {other})", f"{one} OR NOT {other}", f"{one} BETWEEN {other} AND {one}",
        f"{one} IN ({other}, {one})", f"CASE WHEN {one} THEN {other} END", f"CAST({one} AS {kind})", f"(SELECT {one})",
        f"(SELECT count(*) FROM {one})", f"(FROM {one})", f"EXISTS (SELECT {one})", f"{one} IN (SELECT {other})",
        f"{name}({one}, {other})", f"{name}({one})", f"{one} IS NOT NULL", f"sum({one}) OVER ()", f"{one}[{other}]",
        f"{one} COLLATE {draw.choice(['nocase', 'x', 'é'])}", f"({one})", f"-{one}", f"{one} AT TIME ZONE {other}",
    ])  # fmt: skip


_SIGNS = ["<", "=", ">=", "<>", "IN", "LIKE", "||", "+", "/", "%", "SIMILAR TO", "~", "->", "->>", "@>", "IS"]
_TYPES = ["INT", "VARCHAR", "BLOB", "JSON", "INT[]", "INT[3]", "VARIANT", "ENUM", "DECIMAL(38,38)", "TIMESTAMP"]
_FUNCTIONS = [
    "abs", "lower", "length", "regexp_matches", "sum", "count", "row_number", "coalesce", "greatest", "replace", "len",
    "hash",
]  # fmt: skip
