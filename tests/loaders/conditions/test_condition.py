"""`where`: what is refused, what works (against pyarrow.compute), and that nothing gets out of the connection that runs it."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.conditions.bound import bind
from gcnrec.loaders.conditions.condition import clause_of, parse_condition, sql_of
from gcnrec.loaders.parquet import connect, ingest

COUNT = 24
DAY = dt.date(2020, 2, 28)
NOON = dt.datetime(2020, 2, 28, 12, 30)
ROME, OSLO = {"who": 1, "place": {"city": "Rome"}}, {"who": None, "place": {"city": "Oslo"}}
TYPES = {
    "n": pa.int64(), "m": pa.int32(), "x": pa.float64(), "title": pa.string(), "day": pa.date32(), "seen": pa.timestamp("us"),
    "zoned": pa.timestamp("us", "UTC"), "price": pa.decimal128(9, 2), "ok": pa.bool_(), "tags": pa.list_(pa.string()),
    "event": pa.struct([("who", pa.int64()), ("place", pa.struct([("city", pa.string())]))]), "digits": pa.string(),
    "User Id": pa.int64(), "dotted.name": pa.int64(), "user": pa.string(), "Größe": pa.int64(), "half": pa.float32(),
}  # fmt: skip
VALUES = {
    "n": [1, 2, 3, None, -4, 5, 0], "m": [3, None, 1, 7, 2], "x": [0.5, None, 2.0, -1.25, 4.0, 3.75],
    "title": ["The Matrix", "Heat", None, "100% Wolf", "it's", "Amélie", "heat", " "],
    "day": [DAY, None, DAY + dt.timedelta(2), DAY + dt.timedelta(40), DAY - dt.timedelta(400)],
    "seen": [NOON, NOON + dt.timedelta(hours=12), None, NOON + dt.timedelta(days=35)],
    "zoned": [NOON, None, NOON + dt.timedelta(hours=11, minutes=29)],
    "price": [Decimal("1.25"), Decimal("10.00"), None, Decimal("3.10")], "ok": [True, False, None],
    "tags": [["a", "b"], [], None, ["b"], ["c", None]], "event": [ROME, {"who": 2, "place": None}, None, OSLO],
    "digits": ["7", "seven", None, " 8", "-1"], "User Id": [1, 2, None], "dotted.name": [1, 2, 3, None], "user": ["u", "v", None],
    "Größe": [10, 20, None], "half": [0.5, 1.5],
}  # fmt: skip
ROWS = pa.table({name: pa.array([VALUES[name][at % len(VALUES[name])] for at in range(COUNT)], TYPES[name]) for name in TYPES})
F = {name: pc.field(name) for name in TYPES}
CITY, WHO = pc.field("event", "place", "city"), pc.field("event", "who")
NULL = pa.scalar(None, pa.bool_())


def of(function, *names):
    """A column of the results of a Python function on the values of columns; null where one of them is."""
    rows = zip(*(ROWS[name].to_pylist() for name in names), strict=True)
    return pa.array([None if None in row else function(*row) for row in rows])


def at(*parts, zone=None):
    return pa.scalar(dt.datetime(*parts, tzinfo=zone), pa.timestamp("us", "UTC" if zone else None))


def integer(text):
    return int(text) if text.strip().lstrip("-").isdigit() else None


WORKS = {
    # Comparisons, logic and nulls.
    "n > 1": F["n"] > 1,
    "n >= 2 AND m < 3": (F["n"] >= 2) & (F["m"] < 3),
    "n = 1 OR m = 1": (F["n"] == 1) | (F["m"] == 1),
    "NOT (n = 1)": ~(F["n"] == 1),
    "NOT n = 1 AND NOT ok": ~(F["n"] == 1) & ~F["ok"],
    "n <> m": F["n"] != F["m"],
    "n IS NULL": F["n"].is_null(),
    "n IS NOT NULL AND x IS NOT NULL": F["n"].is_valid() & F["x"].is_valid(),
    "n = NULL": NULL,
    "n IS DISTINCT FROM 1": pc.coalesce(F["n"] != 1, True),
    "n IS NOT DISTINCT FROM NULL": F["n"].is_null(),
    "ok": F["ok"],
    "ok IS NOT TRUE": ~pc.coalesce(F["ok"], False),
    "true": pa.scalar(True),
    "null": NULL,
    "n IN (1, 3, 5)": F["n"].isin([1, 3, 5]),
    "n NOT IN (1, 3)": ~F["n"].isin([1, 3]) & F["n"].is_valid(),
    "n IN (1, NULL)": F["n"] == 1,
    "n NOT IN (1, NULL)": NULL,
    "title IN ('Heat', 'it''s')": F["title"].isin(["Heat", "it's"]),
    "(n, m) IN ((1, 3), (5, 7))": of(lambda n, m: (n, m) in ((1, 3), (5, 7)), "n", "m"),
    "n BETWEEN 2 AND 3": (F["n"] >= 2) & (F["n"] <= 3),
    "x NOT BETWEEN 0 AND 3": (F["x"] < 0) | (F["x"] > 3),
    " OR ".join(f"n = {number}" for number in range(2, 1000)): F["n"] > 1,
    f"n IN ({', '.join(map(str, range(2, 4000)))})": F["n"] > 1,
    f"n IN [{', '.join(map(str, range(2, 4000)))}]": F["n"] > 1,
    # Numbers.
    "n + m * 2 > 6": F["n"] + F["m"] * 2 > 6,
    "-n > 1 AND - - n < 0": pc.negate(F["n"]) > 1,
    "abs(n) % 2 = 1": of(lambda n: abs(n) % 2 == 1, "n"),
    "round(x) = 4": pc.round(F["x"]) == 4,
    "sqrt(abs(x)) >= 1.5": pc.sqrt(pc.abs(F["x"])) >= 1.5,
    "greatest(n, m) > 3": pc.max_element_wise(F["n"], F["m"].cast(pa.int64())) > 3,
    "price >= 3.1": F["price"] >= pa.scalar(Decimal("3.1")),
    "half > 1": F["half"] > 1,
    "hash(n) IS NOT NULL AND random() >= 0": pa.scalar(True),
    # Texts.
    "title LIKE '%eat%'": pc.match_like(F["title"], "%eat%"),
    "title NOT LIKE 'h%'": ~pc.match_like(F["title"], "h%"),
    "title ILIKE 'HEAT'": pc.match_like(F["title"], "HEAT", ignore_case=True),
    r"title LIKE '%\%%' ESCAPE '\'": pc.match_substring(F["title"], "%"),
    "title GLOB 'H*t'": pc.match_like(F["title"], "H%t"),
    "title SIMILAR TO '[a-z]+'": pc.match_substring_regex(F["title"], "^[a-z]+$"),
    "regexp_matches(title, '^[A-Z].*(e|x)')": pc.match_substring_regex(F["title"], "^[A-Z].*(e|x)"),
    "title !~ '.*[0-9].*'": ~pc.match_substring_regex(F["title"], "[0-9]"),
    "regexp_replace(title, '[^a-z]', '', 'g') = 'eat'": pc.replace_substring_regex(F["title"], "[^a-z]", "") == "eat",
    "regexp_extract(title, '([0-9]+)%', 1) = '100'": pc.starts_with(F["title"], "100%"),
    "lower(title) = 'heat'": pc.utf8_lower(F["title"]) == "heat",
    "upper(title[1:1]) || 'x' = 'Hx'": pc.starts_with(pc.utf8_upper(F["title"]), "H"),
    "length(trim(title)) > 5": pc.utf8_length(pc.utf8_trim_whitespace(F["title"])) > 5,
    "title = ' ' OR starts_with(title, 'The')": (F["title"] == " ") | pc.starts_with(F["title"], "The"),
    "title COLLATE NOCASE = 'HEAT'": pc.utf8_lower(F["title"]) == "heat",
    "lpad(user, 3, '*') = '**v'": F["user"] == "v",
    "replace(title, 'e', '') = 'Hat'": F["title"] == "Heat",
    f"title ~ '{'|'.join(f'Hea{letter}' for letter in 'abct' * 300)}'": F["title"] == "Heat",
    "title <> $$;) DROP TABLE gcnrec_in; --$$": F["title"].is_valid(),
    "title = 'Am\u00e9lie'": F["title"] == "Amélie",
    # Dates and times.
    "day >= '2020-03-01'": F["day"] >= dt.date(2020, 3, 1),
    "day > DATE '2020-02-28'": F["day"] > DAY,
    "day BETWEEN '2020-01-01' AND '2020-03-31'": (F["day"] >= dt.date(2020, 1, 1)) & (F["day"] <= dt.date(2020, 3, 31)),
    "extract(year FROM day) = 2019 OR month(day) = 4": (pc.year(F["day"]) == 2019) | (pc.month(F["day"]) == 4),
    "date_trunc('month', seen) = '2020-02-01'": pc.floor_temporal(F["seen"], unit="month") == at(2020, 2, 1),
    "seen >= TIMESTAMP '2020-02-28 12:30:00' + INTERVAL 1 DAY": F["seen"] >= at(2020, 2, 29, 12, 30),
    "seen::DATE = '2020-02-29'": pc.floor_temporal(F["seen"], unit="day") == at(2020, 2, 29),
    "epoch(seen) < 1582900000": F["seen"].cast(pa.int64()) < 1582900000 * 10**6,
    "strftime(seen, '%H:%M') = '00:30'": of(lambda seen: f"{seen:%H:%M}" == "00:30", "seen"),
    "seen > now() OR day < current_date": F["day"] < dt.date(2026, 1, 1),
    "zoned >= '2020-02-28 23:00:00'": F["zoned"] >= at(2020, 2, 28, 23, zone=dt.UTC),
    "zoned < '2020-02-28 14:00:00+01:00'": F["zoned"] < at(2020, 2, 28, 13, zone=dt.UTC),
    "zoned AT TIME ZONE 'Europe/Oslo' > TIMESTAMP '2020-02-28 14:00:00'": F["zoned"] > at(2020, 2, 28, 13, zone=dt.UTC),
    "zoned > TIMESTAMP WITH TIME ZONE '2020-02-28 13:00:00+00'": F["zoned"] > at(2020, 2, 28, 13, zone=dt.UTC),
    # Choices.
    "CASE WHEN n > 2 THEN m > 1 WHEN n < 0 THEN true END": pc.if_else(
        pc.coalesce(F["n"] > 2, False), F["m"] > 1, pc.if_else(pc.coalesce(F["n"] < 0, False), True, NULL)
    ),
    "CASE user WHEN 'u' THEN 1 ELSE 0 END = 1": F["user"] == "u",
    "if(ok, n, m) > 2": pc.if_else(pc.coalesce(F["ok"], False), F["n"], F["m"].cast(pa.int64())) > 2,
    "coalesce(n, 100) > 4": pc.coalesce(F["n"], 100) > 4,
    "nullif(n, 1) IS NULL": F["n"].is_null() | (F["n"] == 1),
    # Structs, lists, JSON and casts.
    "event.who = 1": WHO == 1,
    "event.place.city = 'Rome'": CITY == "Rome",
    "event['place']['city'] IS NULL": CITY.is_null(),
    "tags IS NOT NULL AND len(tags) = 1": pc.list_value_length(F["tags"]) == 1,
    "list_contains(tags, 'b')": of(lambda tags: "b" in tags, "tags"),
    "'b' IN tags": of(lambda tags: "b" in tags, "tags"),
    "tags[1] = 'c'": of(lambda tags: tags[:1] == ["c"], "tags"),
    "list_sum([n, m]) > 7": of(lambda n, m: n + m > 7, "n", "m"),
    "CAST(n AS VARCHAR) = '5'": F["n"].cast(pa.string()) == "5",
    "x::INTEGER = 2 AND x::DECIMAL(4, 2) = 2.00": F["x"] == 2.0,
    "TRY_CAST(digits AS INTEGER) > 6": pc.greater(of(integer, "digits"), 6),
    "TRY(CAST(digits AS INTEGER)) IS NULL": pc.is_null(of(integer, "digits")),
    "('{\"a\": [' || n || ']}')->>'$.a[0]' = '3'": F["n"] == 3,
    # Names and comments.
    '"User Id" = 2': F["User Id"] == 2,
    '"dotted.name" > 1': F["dotted.name"] > 1,
    "\"user\" = 'u'": F["user"] == "u",
    "user = 'u'": F["user"] == "u",
    "Größe = 20": F["Größe"] == 20,
    "n > 1 -- and m > 2": F["n"] > 1,
    "n > /* one ) */ 1\n\n AND\tm > 2": (F["n"] > 1) & (F["m"] > 2),
}


def kept(mask):
    """The rows where a mask of pyarrow's, its expression or its scalar is true."""
    if isinstance(mask, pc.Expression):
        return ROWS.append_column("row", pa.array(range(COUNT))).filter(mask)["row"].to_pylist()
    values = mask.to_pylist() if isinstance(mask, pa.Array) else [mask.as_py()] * COUNT
    return [row for row, value in enumerate(values) if value]


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with connect(tmp_path_factory.mktemp("spill"), 256 * 10**6) as opened:
        yield opened


def rows_of(connection, text, rows=ROWS):
    """The numbers of the rows that a condition keeps, as it is bound to their types."""
    bound = bind(parse_condition(text, connection), rows.schema, "rows", connection)
    columns = {name: pc.field(*path) for name, path in bound.columns.items()} | {"row": pc.field("row")}
    table = ds.dataset(rows.append_column("row", pa.array(range(len(rows))))).to_table(columns=columns)
    connection.register("rows_in", pa.RecordBatchReader.from_batches(table.schema, table.to_batches()))
    found = connection.execute(f"SELECT row FROM rows_in WHERE {bound.sql} ORDER BY row").fetchall()
    connection.unregister("rows_in")
    return [row for (row,) in found]


@pytest.mark.parametrize("text", WORKS, ids=lambda text: text[:60])
def test_a_condition_keeps_the_rows_that_pyarrow_keeps(connection, text):
    assert rows_of(connection, text) == kept(WORKS[text])


def test_the_rows_that_are_kept_differ_from_condition_to_condition():
    """Or the comparison above would notice little."""
    assert len({tuple(kept(mask)) for mask in WORKS.values()}) > 50


def test_what_is_run_is_written_from_the_tree():
    schema = pa.schema([("n", pa.int64()), ("M", pa.int64()), ("title", pa.string())])
    assert bind(parse_condition("M>1 -- x\n and(n)<2"), schema, "f").sql == "(((gcnrec_0 > 1) AND (gcnrec_1 < 2)))"
    assert bind(parse_condition("title LIKE 'it''s'"), schema, "f").sql == "(\"~~\"(gcnrec_0, 'it''s'))"


REFUSED = {
    "is not an SQL expression": """
        -- nothing
        /* n */
        n = = 1
        n > 1)
        (n > 1
        true) AND (false
        n, m
        n := 1
        WHERE n > 1
        )
        '
        "
        n > 1 LIMIT
        COPY rows TO 'out'
        DROP TABLE rows
        true) UNION FROM rows -- )
        true WINDOW w AS ()
        invoke(lambda: n)
    """,
    "another statement": """
        true; COPY rows TO 'out.csv'
        true; ATTACH 'out.db'
        true; SET threads = 1
        true; DELETE FROM rows
        true; FROM rows
    """,
    "another query": """
        true EXCEPT FROM rows
        true UNION FROM range(3)
        true INTERSECT VALUES (1)
        true UNION ALL TABLE rows
    """,
    "another clause": """
        true GROUP BY ALL
        true HAVING true
        true ORDER BY n
        true LIMIT 1
        true QUALIFY true
        true USING SAMPLE 1
    """,
    "a subquery": """
        (SELECT true)
        n IN (SELECT 1)
        EXISTS (FROM rows)
        n = ANY([1, 2])
        n > ALL([1])
        n IN (VALUES (1))
        ARRAY(FROM range(3)) = tags
        (WITH t AS (FROM rows) FROM t)
        (FROM read_text('/etc/passwd'))
        (TABLE rows) = 1
        exists(select * from read_csv('/etc/passwd'))
        CASE WHEN true THEN (FROM '/etc/passwd') END
        {'a': (FROM glob('*'))}.a = ''
        n = 1 UNION SELECT 2
        true) UNION SELECT 2 -- )
        true; SELECT 1
        item>=0); COPY (SELECT 1) TO 'out.csv'; SELECT 1 WHERE (true
    """,
    "a window function": """
        row_number() OVER () = 1
        sum(n) OVER (ORDER BY m) > 1
        lag(n) OVER (PARTITION BY m) = 1
    """,
    "a star": """
        *
        COLUMNS(*) > 1
        rows.* = 1
        COLUMNS('n|m') > 1
        concat(COLUMNS(*)) = ''
    """,
    "a parameter": """
        n = ?
        n = $1
        n = $name
    """,
    "a column by its number": """
        #1 = 1
    """,
    "DEFAULT": """
        n = DEFAULT
    """,
    "what DuckDB calls": """
        GROUPING(n) = 1
        concat(*COLUMNS(*)) = ''
    """,
    "the function": """
        error('x')
        try(error('x')) IS NULL
        getenv('HOME') = '/root'
        current_setting('threads') = '1'
        version() = ''
        getvariable('x') = 1
        current_database() = 'memory'
        current_schemas(true) = []
        current_query() = ''
        nextval('s') = 1
        setval('s', 1) = 1
        txid_current() = 1
        write_log('x') IS NULL
        sleep_ms(1) IS NULL
        pg_sleep(1) IS NULL
        setseed(0.5) IS NULL
        json_serialize_sql('FROM x') = ''
        json_deserialize_sql('{}') = ''
        json_serialize_plan('FROM read_csv(''/etc/passwd'')') = ''
        has_table_privilege('rows', 'x')
        pg_get_viewdef(1) = ''
        in_search_path('memory', 'main')
        assert_true(n > 1)
        sum(n) > 1
        count(*) > 1
        list(n) = tags
        unnest(tags) = 'a'
        read_text('/etc/passwd') = ''
        range(10) = tags
        generate_series(1, 10) = tags
        format('{:9999999999}', n) = ''
        printf('%999999999d', n) = ''
        bar(n, 0, 1, 10000) = ''
        list_resize(tags, 1000000) = tags
        stats(n) = ''
        main.lower(title) = ''
        system.main.lower(title) = ''
        title.lower() = ''
        list_transform(tags, lambda t: t) = tags
        [t FOR t IN tags] = tags
        list_aggregate(tags, 'histogram') IS NULL
        json_contains(title, '1')
        "error"(title)
        lenght(title) > 1
        query('FROM rows')
        read_csv_auto('x')
        sniff_csv('x') = ''
        which_secret('x', 'y') = ''
        current_user() = ''
        variant_typeof(n) = ''
        make_type('int') = ''
        max(DISTINCT title) = ''
    """,
    "DISTINCT, FILTER or ORDER BY": """
        lower(DISTINCT title)
        lower(title ORDER BY n)
        lower(title) FILTER (WHERE true) = ''
    """,
    "a lambda": """
        abs(lambda t: t) = 1
    """,
    "the type": """
        n::foo = 1
        n::VARIANT IS NULL
        NULL::INT[100000] IS NULL
        n::"x; y" = 1
        n::rows.foo = 1
        n::GEOMETRY
    """,
    "the collation": """
        title COLLATE "nocase'; x" = ''
    """,
    "not write as it reads": """
        n::"int" = 1
    """,
    "a size that is no plain number": """
        repeat(title, n) = ''
        lpad(title, 10 * 10, ' ') = ''
    """,
    "must not make long values": """
        repeat('x', 1000000000000) = title
        repeat(title, 200) = ''
        lpad(title, 2000, ' ') = ''
        length(lpad(title, 1000000000, ' ')) > 1
        repeat(repeat(repeat(title, 1000), 1000), 1000) = ''
    """,
}
ODD = {
    "is empty": [
        "",
        "  \n\t",
        "\u2003",
    ],
    "a subquery": [
        "(with a as (" * 40,
    ],
    "a size that is no plain number": [
        f"rpad(title, {'9' * 5000}, ' ')",
    ],
    "must not make long values": [
        "hex(" * 40 + "title" + ")" * 40 + " = ''",
        "[" * 40 + "title" + "]::VARCHAR" * 40 + " = ''",
        f"replace(replace(title, '', '{'x' * 1000}'), 'x', '{'y' * 1000}') = ''",
        f"concat({', '.join(['title'] * 5000)}) = ''",
        f"json_extract(title, [{', '.join(['$$.a$$'] * 4000)}]) = []",
    ],
    "has 100,001 characters": [
        "n = 1 " + "-" * 99_995,
    ],
    "has a zero byte": [
        "n = 1\0",
        "\0",
    ],
    "must be Unicode text": [
        "title = '\udcff'",
        "\ud800",
    ],
}
TEXTS = [(reason, line.strip()) for reason, lines in REFUSED.items() for line in lines.strip().splitlines()]
TEXTS += [(reason, text) for reason, texts in ODD.items() for text in texts]


@pytest.mark.parametrize(("reason", "text"), TEXTS, ids=lambda text: ascii(text)[:60])
def test_a_condition_is_refused_in_one_sentence_that_says_why(connection, reason, text):
    with pytest.raises(UsageError) as caught:
        parse_condition(text, connection)
    message = str(caught.value)
    assert caught.value.exit_code == 2 and message.startswith("where = ") and reason in message
    assert "\n" not in message and len(message) < 800 and not message.endswith(".")


DEEP = """
import json, resource
from gcnrec.errors import UsageError
from gcnrec.loaders.conditions.bound import bind
from gcnrec.loaders.conditions.condition import clause_of, parse_condition, sql_of

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
N = 30_000
texts = [
    "(" * 101 + "true" + ")" * 101, "(" * N, "(" * N + "true" + ")" * N, "NOT " * 20_000 + "true", "- " * N + "n = 1", "- " * N,
    "-" + "/**/-" * 15_000, "-+" * N, "n" + "+1" * N + " = 1", "abs(" * 9000 + "n" + ")" * 9000 + " = 1",
    "[" * N, "{'a': " * 9000,
    "CASE WHEN true THEN " * 3000 + "true" + " END" * 3000, "n" + "::INT" * 9000 + " = 1", "n::INT" + "[]" * N + " IS NULL",
    "(')' || " * 8000, "n" + "->'a'" * 9000, "(" * 101, "[(" * 51, "true " + "AND (true " * 9000,
]
told = []
for text in texts:
    try:
        told.append(parse_condition(text).text)
    except UsageError as problem:
        told.append(str(problem))
print(json.dumps(told))
"""


def test_deep_texts_end_in_a_sentence_and_do_not_end_the_process():
    done = subprocess.run([sys.executable, "-c", DEEP], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr[-500:]
    assert [message for message in json.loads(done.stdout) if "at most 100 levels" not in message] == []
    assert all(len(message) < 400 for message in json.loads(done.stdout))


@pytest.mark.parametrize("text", ["((((n > 1", "- - - = n", "n" + " + 1" * 97 + " = 60", " AND ".join(["NOT ok"] * 2000)])
def test_what_is_less_deep_is_read(connection, text):
    if text.startswith(("(", "- -")):
        with pytest.raises(UsageError, match="is not an SQL expression: syntax error"):
            parse_condition(text, connection)
    else:
        assert parse_condition(text, connection).references in ((("n",),), (("ok",),))


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("a.b.c = 1 AND A.d = 2 AND \"x.y\".z = 3", ["a b c", "A d", "x.y z"]),
        ("'a' = \"b\" AND $$c$$ = d -- e", ["b", "d"]),
        ("lower(a) = year(b)::VARCHAR", ["a", "b"]),
        ("now() > current_timestamp", ["current_timestamp"]),
        ("true", []),
    ],
)  # fmt: skip
def test_columns_are_those_of_the_tree(connection, text, paths):
    assert parse_condition(text, connection).references == tuple(tuple(path.split(" ")) for path in paths)


NAMED = pa.schema(
    {"Item": pa.int64(), "item": pa.int32(), "Time": pa.int64(), "a.b": pa.int8(), "s": pa.struct([("x", pa.int8())])}
)


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ('item = 1 AND "Time" = 2 AND now() < current_date', [("item",), ("Time",)]),
        ("Item = item", [("Item",), ("item",)]),
        ('"a.b" = 1 AND s.x = 2', [("a.b",), ("s", "x")]),
    ],
)
def test_names_are_those_of_the_file(connection, text, paths):
    assert list(bind(parse_condition(text, connection), NAMED, "f", connection).columns.values()) == paths


def test_columns_of_uuids_are_read(connection):
    values = [uuid.UUID(int=number) for number in (1, 2, 3)]
    stored = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([value.bytes for value in values], pa.binary(16)))
    rows = pa.table({"id": stored, "s": pa.StructArray.from_arrays([stored], ["id"])})
    assert rows_of(connection, f"id = '{values[1]}' OR s.id = '{values[2]}'", rows) == [1, 2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ITEM = 1", "names the column 'ITEM', f has none; did you mean 'Item'?"),
        ("TIME = 1", "names the column 'TIME', f has none; did you mean 'Time'?"),
        ("itm = 1", "names the column 'itm', f has none; did you mean 'item'?"),
        ("current_user = 'x'", "names the column 'current_user', f has none"),
        ("rowid = 1", "names the column 'rowid', f has none"),
        ("a.b = 1", "names the column 'a', f has none; did you mean 'a.b'?"),
        ("s.X = 1", "names a field 'X' of 's', f has none; did you mean 'x'?"),
        ("s['X'] = 1", "there is no field 'X'; did you mean 'x'?"),
        ("struct_extract(s, 'X') = 1", "there is no field 'X'; did you mean 'x'?"),
        ("Time.x = 1", "names a field 'x' of 'Time', f has none"),
    ],
)
def test_a_name_in_another_case_is_none_of_the_file(connection, text, told):
    with pytest.raises(DataError) as caught:
        bind(parse_condition(text, connection), NAMED, "f", connection)
    assert told in str(caught.value)


REACHING = [
    "COPY (SELECT 1) TO '{file}'", "COPY (SELECT 1) TO '{spill}/../out.csv'", "ATTACH '{file}'", "EXPORT DATABASE '{file}'",
    "FROM read_text('/etc/passwd')", "FROM '/etc/passwd'", "FROM glob('/etc/*')", "FROM read_csv('/etc/passwd')",
    "FROM read_parquet('{spill}/../rows.parquet')", "INSTALL httpfs", "LOAD httpfs", "LOAD '{file}'", "CREATE SECRET (TYPE s3)",
    "SET enable_external_access = true", "SET lock_configuration = false", "SET memory_limit = '1TB'", "RESET memory_limit",
    "SET allowed_directories = ['/']", "SET temp_directory = '/'", "SET TimeZone = 'Asia/Tokyo'", "PRAGMA enable_profiling",
    "CALL enable_logging()", "FROM kept_by_python", "SELECT getenv('HOME')",
]  # fmt: skip


@pytest.mark.parametrize("statement", REACHING)
def test_no_statement_gets_out_of_the_connection(connection, tmp_path, statement):
    kept_by_python = ROWS  # noqa: F841 (python_enable_replacements would find it)
    pq.write_table(ROWS.select(["n"]), tmp_path / "rows.parquet")
    (tmp_path / "spill").mkdir()
    with pytest.raises(duckdb.Error):
        connection.execute(statement.format(file=tmp_path / "out.csv", spill=tmp_path / "spill")).fetchall()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.parquet", "spill"]


def test_folders_that_are_named_can_be_read_and_written(tmp_path):
    pq.write_table(ROWS.select(["n"]), tmp_path / "rows.parquet")
    (tmp_path / "spill").mkdir()
    with connect(tmp_path / "spill", 64 * 10**6, [tmp_path]) as opened:
        opened.execute(f"COPY (FROM '{tmp_path}/rows.parquet' WHERE n > 1) TO '{tmp_path}/out.parquet'")
        with pytest.raises(duckdb.PermissionException):
            opened.execute("FROM read_text('/etc/passwd')")
    assert pq.read_table(tmp_path / "out.parquet")["n"].to_pylist() == [n for n in ROWS["n"].to_pylist() if n and n > 1]


def test_it_still_spills_and_reads_from_arrow(tmp_path):
    """A sort of five times the memory limit, whose rows come from and go to Arrow."""
    numbers = np.random.default_rng(0).permutation(1_000_000)
    table = pa.table({"n": numbers, "text": pc.binary_join_element_wise(pa.array(numbers).cast(pa.string()), "x" * 40, "")})
    with connect(tmp_path, 32 * 10**6) as opened:
        opened.register("rows_in", pa.RecordBatchReader.from_batches(table.schema, table.to_batches(50_000)))
        where = sql_of(clause_of("n >= 0 AND text LIKE '%x'", opened), opened)
        reader = opened.sql(f"SELECT n, text FROM rows_in WHERE {where} ORDER BY n").to_arrow_reader(50_000)
        first = reader.read_next_batch()
        spilled = sum(path.stat().st_size for path in (tmp_path / "duckdb").iterdir())
        found = np.concatenate([first["n"].to_numpy(), *(batch["n"].to_numpy() for batch in reader)])
    assert spilled > 10**6 and not list(tmp_path.iterdir())
    assert np.array_equal(found, np.arange(1_000_000))


GOOD = {
    "user": [1, 1, 2, 3],
    "item": [1, 2, 2, 1],
    "half": pa.array(np.array([0, 1, 2, 3], np.float16)),
    "gcnrec_item": [9, 9, 9, 9],
}


@pytest.fixture
def pairs(tmp_path):
    """Ingests a small file with a condition; returns its pairs."""

    def call(where, content=GOOD, **settings):
        pq.write_table(pa.table(content), tmp_path / "train.parquet")
        data = Data(
            train="train.parquet",
            user="user",
            item="item",
            split="random",
            test_size=0.0,
            valid_size=0.0,
            where=where,
            **settings,
        )
        made = ingest(data, tmp_path / "out", data_root=tmp_path, name="x", force=True)
        graph, items = made.graph.user_items, made.item_ids
        return sorted(
            zip(made.user_ids.decode(graph.row_numbers()).to_pylist(), items.decode(graph.indices).to_pylist(), strict=True)
        )

    return call


def test_ingestion_runs_what_is_rebuilt(pairs):
    assert pairs("item = 2 -- or true") == [(1, 2), (2, 2)]
    assert pairs("true or false", rating="item", min_rating=1.5) == [(1, 2), (2, 2)], "the condition is one, whatever is in it"
    assert pairs("half BETWEEN 1 AND 2") == [(1, 2), (2, 2)], "DuckDB has no halves"
    assert pairs("user IN (1, 3)", rating="half", min_rating=0.5) == [(1, 2), (3, 1)]


def test_columns_that_are_called_like_ours_do_not_take_their_place(pairs):
    assert pairs("half = 1") == [(1, 2)]
    assert pairs("true", {**GOOD, "item": GOOD["gcnrec_item"], "GCNREC_USER": [7, 7, 7, 7]}) == [(1, 9), (2, 9), (3, 9)]
    assert pairs("gcnrec_item = 9 AND item = 2") == [(1, 2), (2, 2)]
    for name, rest in {"gcnrec_user": "", "gcnrec_0": "", "GCNREC_IN": ".item", "gcnrec_in": ".gcnrec_item"}.items():
        with pytest.raises(DataError, match=f"names the column '{name}', train.parquet has none"):
            pairs(f"{name}{rest} = 1")


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("event.whom = 1", "names a field 'whom' of 'event', train.parquet has none; did you mean 'who'?"),
        ("note > date '2020-01-01'", "does not fit train.parquet: Binder Error: Cannot compare"),
        ("lower(note, note) = ''", "does not fit train.parquet: Binder Error: No function matches"),
        ("note COLLATE klingon = ''", "does not fit train.parquet: Catalog Error: Collation"),
        ("note::INTEGER = 1", "cannot be read with these columns and filters: Conversion Error: Could not convert string"),
        ("note", "cannot be read with these columns and filters: Conversion Error"),
        ("note ~ '('", "does not fit train.parquet: Invalid Input Error: missing )"),
        ("(event.who + 200)::TINYINT = 1", "filters: Conversion Error: Type INT64 with value"),
        ("note AT TIME ZONE 'Nowhere' IS NULL", "train.parquet"),
        ("(n = 1) = (SELECT true)", "a subquery"),
    ],
)
def test_what_does_not_fit_the_file_is_one_sentence(pairs, where, told):
    content = {"user": [1, 2], "item": [1, 2], "note": ["a\nb", "c" * 10_000], "event": [{"who": 1}, {"who": 2}]}
    with pytest.raises((DataError, UsageError)) as caught:
        pairs(where, content)
    message = str(caught.value)
    assert told in message and "\n" not in message and len(message) < 800


def test_a_message_that_cuts_a_character_is_one_sentence(pairs):
    """DuckDB quotes half of the é. Its exception then has this text or, seen once in thousands of tries, none but its name."""
    with pytest.raises(DataError) as caught:
        pairs("unhex('é') = note::BLOB", {"user": [1], "item": [1], "note": ["a"]})
    message = str(caught.value)
    assert "train.parquet cannot be read with these columns and filters: " in message and "\n" not in message
    assert "Invalid input for hex digit" in message or message.endswith(": InvalidInputException")


@pytest.mark.parametrize("command", ["ingest", "check"])
def test_a_condition_that_writes_files_is_refused_and_writes_none(gcnrec, workplace, command):
    pq.write_table(pa.table({"user": [1, 1, 2], "item": [1, 2, 2]}), workplace / "train.parquet")
    where = "item >= 0); COPY (SELECT 1) TO 'out.csv'; SELECT 1 WHERE (true"
    (workplace / "job.toml").write_text(f'[data]\ntrain="train.parquet"\nuser="user"\nitem="item"\nwhere="{where}"\n')
    flags = ["--train", "train.parquet", "--user", "user", "--item", "item", "--out", "data", "--where", where]
    code, _, told = gcnrec("check", "job.toml") if command == "check" else gcnrec("ingest", *flags)
    assert code == 2 and told.startswith("gcnrec: where = ") and told.count("\n") == 1
    assert sorted(path.name for path in workplace.iterdir()) == ["job.toml", "train.parquet"]


SHORT = (
    "replace(replace(replace(replace(lower(title), 'ä', 'ae'), 'ö', 'oe'), 'ü', 'ue'), 'ß', 'ss') LIKE '%gruen%'",
    "(payload->>'$.event.properties.order_total_eur')::DOUBLE > 50",
    "CAST(json_extract_string(payload, '$.event.properties.order_total_eur') AS DOUBLE) > 50",
    "payload->'$.event.properties.some_rather_long_name' = '1'",
    "TRY_CAST(regexp_extract(title, '([0-9]+)[ ]?(GB|TB|MB|GiB|TiB|MiB)', 1) AS INT) >= 8",
    r"regexp_extract(url, '^(?:https?://)?(?:[^@/\n]+@)?(?:www\.)?([^:/?\n]+)', 1) = 'shop.de'",
    "CASE country " + " ".join(f"WHEN 'C{number}' THEN limit_{number}" for number in range(130)) + " END < price",
)


@pytest.mark.parametrize("text", SHORT)
def test_what_makes_no_more_than_it_is_given_works(text):
    assert parse_condition(text).references


@pytest.mark.parametrize("path", ["$..some_rather_long_name_of_a_field", "$.a[*].some_rather_long_name_of_a_field"])
def test_a_path_of_many_places_counts_as_growth(path):
    grown = f"json_extract(json_extract(payload, '{path}'), '{path}')::text = 'x'"
    with pytest.raises(UsageError, match="must not make long values of short ones"):
        parse_condition(f"json_extract({grown.split('::')[0]}, '{path}')::text = 'x'")


def two_files(folder, first, second):
    """A folder of two files of six rows each, whose structs `q` are of two types; b goes from 8 to 13 in both."""
    folder.mkdir()
    for name, kind in (("a", first), ("b", second)):
        rows = [{field.name: 8 + number if field.name == "b" else -1 for field in kind} for number in range(6)]
        column = pa.array(rows, pa.struct([(field.name, pa.int64()) for field in kind]))
        column = pa.StructArray.from_arrays([column.field(n).cast(field.type) for n, field in enumerate(kind)], fields=list(kind))
        users = pa.array(range(6), pa.int64())
        pq.write_table(pa.table({"user": users, "item": users, "q": column}), folder / f"{name}.parquet")


STRUCTS = {
    "another order": ([("a", pa.int64()), ("b", pa.int64())], [("b", pa.int64()), ("a", pa.int64())]),
    "narrower": ([("b", pa.int64())], [("b", pa.int8())]),
    "wider": ([("b", pa.int16())], [("b", pa.int64())]),
    "a field less": ([("a", pa.int64()), ("b", pa.int64())], [("b", pa.int64())]),
}


@pytest.mark.parametrize("name", STRUCTS)
def test_fields_of_structs_go_by_name_in_every_file(tmp_path, name):
    first, second = (pa.struct(kind) for kind in STRUCTS[name])
    two_files(tmp_path / "in", first, second)
    data = Data(train=str(tmp_path / "in"), user="user", item="item", where="q.b > 10", split="random", test_size=0, valid_size=0)
    dataset = ingest(data, tmp_path / "out", data_root=None, name="x")
    # Rows 3, 4 and 5 of both files, which are the same pairs.
    assert dataset.user_ids.ids.to_pylist() == [3, 4, 5] and dataset.info["report"]["filtered_train"] == 6


def test_fields_that_files_hold_as_numbers_and_as_text_are_refused(tmp_path):
    two_files(tmp_path / "in", pa.struct([("b", pa.int64())]), pa.struct([("b", pa.string())]))
    data = Data(train=str(tmp_path / "in"), user="user", item="item", where="q.b > 10", split="random", test_size=0, valid_size=0)
    with pytest.raises(DataError, match=r"'q.b' must have one type in all files, it is int64 in .*/a.* and string in .*/b"):
        ingest(data, tmp_path / "out", data_root=None, name="x")
    assert not (tmp_path / "out").exists()


def test_fields_that_only_case_tells_apart_are_two_fields(tmp_path):
    struct = pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([-1, -2])], names=["b", "B"])
    pq.write_table(pa.table({"user": [1, 2], "item": [1, 2], "e": struct}), tmp_path / "in.parquet")
    data = Data(train=str(tmp_path / "in.parquet"), user="user", item="item", where="e.B < -1", split="random", valid_size=0)
    assert ingest(data, tmp_path / "out", data_root=None, name="x").user_ids.ids.to_pylist() == [2]
    data = data.model_copy(update={"where": "e['B'] < -1"})
    with pytest.raises(DataError, match=r"differ in upper and lower case only; name the field itself, as in e\.b"):
        ingest(data, tmp_path / "other", data_root=None, name="x")
