"""Which column is what: by names and content; what is in doubt names a flag, and what cannot be is one sentence."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.draft.contents import contents
from gcnrec.draft.roles import Named, roles
from gcnrec.draft.words import item_points, target_of, time_points, user_points
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.ingest.inputs import open_input

RNG = np.random.default_rng(0)
ROWS = 400
USERS, ITEMS = RNG.integers(0, 50, ROWS), RNG.integers(0, 40, ROWS)
SECONDS = 1_700_000_000 + np.arange(ROWS) * 3600
STARS = RNG.integers(1, 6, ROWS)
KINDS = np.array(["view", "add_to_cart", "purchase"])[RNG.integers(0, 3, ROWS)]


@pytest.fixture
def found(tmp_path):
    def look(named=Named(), **columns):  # noqa: B008
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table(columns), path)
        return roles(str(path), contents(open_input(str(path)), lambda *_: None), named)

    return look


def paths(roles):
    return {role: found.path for role, found in roles.found().items()}


@pytest.mark.parametrize(
    ("user", "item", "time"),
    [("customer", "sku", "ts"), ("userId", "movieId", "timestamp"), ("CUSTOMER_ID", "ProductID", "event_time"),
     ("member-no", "article nr", "created_at"), ("kunde", "artikel", "datum"), ("uid", "iid", "date"),
     ("Kundennummer", "Buch-Nr", "Zeitpunkt"), ("utilisateur", "n° de produit", "heure"), ("Usuario", "Art\u00edculo", "fecha")],
)  # fmt: skip
def test_usual_names_leave_no_doubt(found, user, item, time):
    columns = {"line": np.arange(ROWS), "price": RNG.random(ROWS), time: SECONDS, item: ITEMS, user: USERS}
    seen = found(**columns)
    assert paths(seen) == {"user": user, "item": item, "time": time}
    assert seen.time_unit == "s" and seen.doubts == [] and set(seen.unused) == {"line", "price"}


@pytest.mark.parametrize(("factor", "unit"), [(1, "s"), (10**3, "ms"), (10**6, "us"), (10**9, "ns")])
def test_the_unit_of_times_follows_from_their_size(found, factor, unit):
    seen = found(user=USERS, item=ITEMS, ts=SECONDS * factor)
    assert (seen.time.path, seen.time_unit) == ("ts", unit) and "from 2023-11-14" in seen.time.reason


def test_times_are_found_by_content_where_no_name_says_so(found):
    assert paths(found(user=USERS, item=ITEMS, x=SECONDS))["time"] == "x"
    assert "time" not in paths(found(user=USERS, item=ITEMS, phone=np.full(ROWS, 1_700_000_000)))
    assert "time" not in paths(found(user=USERS, item=ITEMS, time=RNG.integers(0, 24, ROWS)))


def test_a_moment_of_something_else_is_taken_last(found):
    stamps = pa.array(SECONDS).cast(pa.timestamp("s"))
    seen = found(user=USERS, item=ITEMS, birth_date=stamps, seen_at=stamps)
    assert seen.time.path == "seen_at" and any("'birth_date'" in doubt and "--time" in doubt for doubt in seen.doubts)


def test_behaviours_and_what_to_predict(found):
    seen = found(user=USERS, item=ITEMS, ts=SECONDS, event=KINDS)
    assert seen.behaviour.path == "event" and seen.target == ("purchase",)
    assert any("--target" in doubt for doubt in seen.doubts)
    by_values = found(user=USERS, item=ITEMS, x=KINDS)
    assert by_values.behaviour.path == "x" and by_values.target == ("purchase",)
    other = found(named=Named(target=("view",)), user=USERS, item=ITEMS, event=KINDS)
    assert other.behaviour.path == "event" and other.target == ("view",)


def test_kinds_that_nothing_explains_are_left_out_with_the_flags_that_take_them(found):
    seen = found(user=USERS, item=ITEMS, action=np.array(["x", "y"])[USERS % 2])
    assert seen.behaviour is None and "--behaviour action --target VALUE" in seen.doubts[0]
    with pytest.raises(UsageError, match=r"no value of 'action' says what to predict \('x', 'y'\); name it by --target"):
        found(named=Named(behaviour="action"), user=USERS, item=ITEMS, action=np.array(["x", "x", "y", "y"])[USERS % 4])


def test_ratings_are_numbers_of_that_name(found):
    seen = found(user=USERS, item=ITEMS, stars=STARS, score_text=["good"] * ROWS)
    assert seen.rating.path == "stars" and seen.unused == ["score_text"]


def test_ratings_may_be_decimals_and_must_be_numbers(found):
    decimals = pa.array(STARS, pa.int16()).cast(pa.decimal128(8, 1))
    seen = found(user=USERS, item=ITEMS, stars=decimals)
    assert seen.rating.path == "stars" and (seen.rating.column.low, seen.rating.column.high) == (1.0, 5.0)
    with pytest.raises(UsageError, match="--rating must name numbers, 'word' holds string"):
        found(named=Named(rating="word"), user=USERS, item=ITEMS, word=["good", "bad"] * (ROWS // 2))


def test_two_columns_of_users_are_a_doubt_with_its_flag(found):
    seen = found(user_id=USERS, account_id=USERS + 1, sku=ITEMS)
    assert seen.user.path == "user_id" and "'account_id' would fit as well; --user COLUMN decides" in seen.doubts[0]
    assert found(named=Named(user="account_id"), user_id=USERS, account_id=USERS + 1, sku=ITEMS).user.path == "account_id"


def test_without_names_the_order_of_ids_that_repeat_decides(found):
    seen = found(n=np.arange(ROWS), a=USERS, b=ITEMS, same=["x"] * ROWS, ratio=RNG.random(ROWS))
    assert paths(seen) == {"user": "a", "item": "b"} and "--user b --item a swaps them" in seen.doubts[0]
    half = found(a=USERS, sku=ITEMS)
    assert paths(half) == {"user": "a", "item": "sku"} and "--user COLUMN decides" in half.doubts[0]


def test_columns_without_a_name_or_a_value_have_no_role(found):
    seen = found(**{"": USERS, "customer": pa.nulls(ROWS, pa.string()), "a": USERS, "b": ITEMS})
    assert paths(seen) == {"user": "a", "item": "b"}
    with pytest.raises(DataError) as caught:
        found(**{"x\ny": RNG.random(ROWS)})
    assert "'x\\ny' (double)" in str(caught.value) and "\n" not in str(caught.value)


def test_a_user_in_each_row_is_a_doubt(found):
    seen = found(customer=np.arange(ROWS), sku=ITEMS)
    assert any("each user in 'customer' comes once" in doubt and "--user COLUMN" in doubt for doubt in seen.doubts)


def test_nothing_found_says_what_was_looked_for(found):
    with pytest.raises(DataError) as caught:
        found(x=RNG.random(ROWS), name=["a", "b"] * (ROWS // 2))
    said = str(caught.value)
    assert "must have a column of users and one of items" in said and "customer_id or sku" in said and "\n" not in said
    assert "x (double), name (string)" in said and said.endswith("name them by --user COLUMN and --item COLUMN")


@pytest.mark.parametrize(
    "named", [Named(user="usr"), Named(time="usr"), Named(rating="usr"), Named(behaviour="usr", target=("a",))]
)
def test_a_flag_that_names_no_column_names_the_nearest(found, named):
    with pytest.raises(UsageError, match=r"names 'usr', which is no column .*; did you mean 'user'\?"):
        found(named=named, user=USERS, item=ITEMS)


def test_behaviours_and_ratings_have_words_of_other_languages(found):
    seen = found(kunde=USERS, buch=ITEMS, ereignis=np.array(["angesehen", "Warenkorb", "gekauft"])[RNG.integers(0, 3, ROWS)])
    assert seen.behaviour.path == "ereignis" and seen.target == ("gekauft",)
    assert found(client=USERS, livre=ITEMS, x=np.array(["vue", "panier", "achet\u00e9"])[STARS % 3]).target == ("achet\u00e9",)
    assert found(kunde=USERS, buch=ITEMS, Bewertung=STARS).rating.path == "Bewertung"


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M"])
def test_times_as_text_are_no_ids(found, form):
    stamps = [datetime.fromtimestamp(int(second), UTC).strftime(form) for second in SECONDS // 7200 * 7200]
    assert paths(found(abc=USERS, when=stamps, xyz=ITEMS)) == {"user": "abc", "item": "xyz"}


def test_a_column_has_one_role(found):
    with pytest.raises(UsageError, match="--user and --item name one column, 'user'; name two"):
        found(named=Named(user="user", item="user"), user=USERS, item=ITEMS)
    assert paths(found(named=Named(user="event"), item=ITEMS, event=KINDS)) == {"user": "event", "item": "item"}


def test_a_target_that_no_column_holds_is_refused(found):
    with pytest.raises(UsageError, match="--target names 'rent', which no column of few values holds"):
        found(named=Named(target=("rent",)), user=USERS, item=ITEMS, event=KINDS)


def typed(said):
    """Run the program that a sentence says to type, which a shell would split so, and look at what it wrote."""
    python, c, program, *then = shlex.split(said[said.index("python -c") :])
    exec(compile(program, "typed", "exec"), {})
    assert (python, c, then[:4]) == ("python", "-c", ["and", "then", "gcnrec", "init"])
    assert then[5:] == ["--out", "t-cast.toml"]  # 'init' has written job.toml, and overwrites nothing
    return roles(then[4], contents(open_input(then[4]), lambda *_: None), Named())


@pytest.mark.parametrize(
    ("column", "values"),
    [("when", ["2024-01-01 10:00:00", "2024-01-02 11:30:00"]), ("when", ["2024-01-01T10:00:00Z", "2024-01-02T11:30:00Z"]),
     ("When", ["01.01.2024 10:00", "02.01.2024 11:30"]), ("when", ["1/1/2024 10:00:07 AM", "1/02/2024 11:30:00 PM"]),
     ("date_added", ["Mon Jan 01 10:00:00 -0700 2024", "Tue Jan 02 11:30:00 -0700 2024"]),
     ("when", ["Jan 1, 2024", "Jan 2, 2024"]), ("when", ["01/01/2024", "02/01/2024"]),
     ("day", [20240101, 20240102]), ("when ' \" \\ \U0001f600", ["2024-01-01", "2024-01-02"])],
)  # fmt: skip
def test_times_in_another_form_come_with_a_command_that_casts_them(found, column, values):
    seen = found(user=USERS, item=ITEMS, **{column: values * (ROWS // 2)})
    assert seen.time is None and len(seen.doubts) == 1
    cast = typed(seen.doubts[0])
    assert cast.time.path == column and "from 2024-01-01 to 2024-01-02" in cast.time.reason


def test_births_and_text_of_several_forms_are_no_times(found):
    seen = found(
        user=USERS, item=ITEMS, birth_date=["02.01.1970", "03.01.1980"] * (ROWS // 2), when=["2 Jan 2024", "Monday"] * 200
    )
    assert seen.time is None and seen.doubts == []


def test_a_status_that_takes_back_is_a_doubt_with_a_condition(found):
    status = pa.array([("paid", "refunded", "pending", None, "it's returned")[n % 5] for n in range(ROWS)])
    seen = found(user=USERS, item=ITEMS, **{"order status": status})
    assert seen.doubts == [
        "'order status' is 'refunded' or \"it's returned\" in 160 of 400 rows read, which may take an interaction back; add ("
        "\"order status\" NOT IN ('refunded', 'it''s returned') OR \"order status\" IS NULL) to data.where to leave such rows out"
    ]
    assert found(user=USERS, item=ITEMS, status=["paid", "pending"] * (ROWS // 2)).doubts == []


def test_a_flag_that_names_times_in_another_form_has_the_same_command(found):
    with pytest.raises(UsageError, match="--time must name timestamps, dates or numbers: 'when' holds text") as caught:
        found(named=Named(time="when"), user=USERS, item=ITEMS, when=["2024-01-01", "2024-01-02"] * (ROWS // 2))
    assert typed(str(caught.value)).time.path == "when"
    with pytest.raises(UsageError, match="'item_name' holds string; cast it"):
        found(named=Named(time="item_name"), user=USERS, item=ITEMS, item_name=["a"] * ROWS)


def test_times_that_most_rows_lack_are_left_out(found):
    stamps = pa.array([None if n % 3 else 1_700_000_000 + n for n in range(ROWS)], pa.timestamp("s"))
    seen = found(user=USERS, item=ITEMS, paid_at=stamps)
    assert seen.time is None and seen.doubts == ["'paid_at' holds no time in most rows, and is left out; --time paid_at takes it"]
    assert found(named=Named(time="paid_at"), user=USERS, item=ITEMS, paid_at=stamps).time.path == "paid_at"


def test_among_many_columns_those_whose_names_say_something_are_read(found):
    wide = {f"x{n}": np.full(ROWS, n) for n in range(80)}
    assert paths(found(**wide, customer=USERS, sku=ITEMS)) == {"user": "customer", "item": "sku"}


def test_ids_that_are_floats_come_with_a_command_that_casts_them(found):
    users = USERS.astype(float)
    users[3] = np.nan
    with pytest.raises(DataError, match="'user' holds double, which ingestion does not take") as caught:
        found(user=users, item=ITEMS)
    cast = typed(str(caught.value))
    assert cast.user.path == "user" and cast.user.column.nulls == 1
    assert cast.user.column.distinct == len(np.unique(USERS[np.arange(ROWS) != 3]))


@pytest.mark.parametrize(
    ("name", "points"), [("user_name", user_points), ("item_category", item_points), ("release_date", time_points)]
)
def test_words_that_describe_take_points_away(name, points):
    assert points(name) < 3 <= points(name.partition("_")[0] if points is not time_points else "date")


@pytest.mark.parametrize(
    ("values", "target"),
    [(("view", "cart", "purchase"), "purchase"), (("pageView", "addToCart"), "addToCart"), (("remove_from_cart", "view"), "view"),
     (("BUY", "CLICK"), "BUY"), (("0", "1"), None)],
)  # fmt: skip
def test_the_target_is_what_is_mostly_wanted(values, target):
    assert target_of(values) == target
