"""Recommendations of a fake run with hand-set scores, read back from Parquet."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcnrec.api.lists import recommend
from gcnrec.config.job import Model
from gcnrec.errors import DataError, DivergedError, UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.interactions import Interactions, MemoryVocabulary
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.results import lists as lists_file
from gcnrec.results.recommend import write_recommendations
from gcnrec.results.relisting import Relisting

# Items in the order of their numbers: by falling number of train users (3, 2, 1, 1, 0).
ITEMS = ["bread", "milk", "eggs", "tea", "salt"]
TRAIN = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2), (2, 3)]
VALID, TEST = [(1, 2)], [(1, 3), (0, 4)]
SCORES = np.array([[5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [7, 7, 7, 7, 7], [1, 0, 2, 0, 3]], np.float32)


def pairs(edges, users, items) -> Interactions:
    columns = np.array(edges, np.int32).reshape(-1, 2).T
    return Interactions(np.ascontiguousarray(columns[0]), np.ascontiguousarray(columns[1]), None, None, users, items)


def fake_run(user_ids: pa.Array | None = None, item_ids: pa.Array | None = None, refitted=False, scores=SCORES):
    users = MemoryVocabulary(pa.array([101, 102, 103, 104], pa.uint16()) if user_ids is None else user_ids)
    items = MemoryVocabulary(pa.array(ITEMS) if item_ids is None else item_ids)
    train = pairs(TRAIN, users, items)
    graph = BipartiteGraph.from_edges(train.users_E, train.items_E, 4, 5)
    info = {"name": "shop", "digest": "d", "data": {"user": "row.customer", "item": "product"}}
    dataset = Dataset(Path(), info, graph, users, items, pairs(VALID, users, items), pairs(TEST, users, items), None, None)
    scorer = EmbeddingScorer(torch.from_numpy(scores), torch.eye(5))
    model = Model(name="lightgcn")
    evaluate, threads = SimpleNamespace(memory_limit="2GB", seen="all"), SimpleNamespace(threads=1)
    job = SimpleNamespace(model=model, evaluate=evaluate, train=threads, export=SimpleNamespace(dtype="float32"))
    return SimpleNamespace(folder=Path(), job=job, dataset=dataset, refitted=refitted, mixture=None, scorer=lambda *_: scorer)


def lists(path: Path) -> dict:
    """user -> items by rank; ranks must run from 1 within a user, and users must not be interleaved."""
    table = pq.read_table(path).to_pydict()
    found: dict = {}
    for user, item, rank in zip(table["user"], table["item"], table["rank"], strict=True):
        assert user not in found or user == list(found)[-1]
        found.setdefault(user, []).append(item)
        assert rank == len(found[user])
    return found


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def test_all_users_without_what_is_known(tmp_path):
    out = tmp_path / "recs.parquet"
    report = recommend(fake_run(), 2, out)
    assert lists(out) == {101: ["tea"], 102: ["salt"], 103: ["milk", "eggs"], 104: ["salt", "eggs"]}
    assert (report.users, report.rows, report.short, report.fallback) == (4, 6, 2, 0)
    table = pq.read_table(out)
    assert table.schema.types == [pa.uint16(), pa.string(), pa.int32(), pa.float32()]
    assert table.column_names == ["user", "item", "rank", "score"]
    assert table.column("score").to_pylist() == [2, 5, 7, 7, 3, 2]


def test_only_train_is_left_out(tmp_path):
    out = tmp_path / "recs.parquet"
    recommend(fake_run(), 10, out, seen="train")
    assert lists(out)[101] == ["tea", "salt"]
    assert lists(out)[102] == ["salt", "tea", "eggs"]


def test_nothing_is_left_out(tmp_path):
    out = tmp_path / "recs.parquet"
    recommend(fake_run(), 3, out, seen="none")
    assert lists(out) == {
        101: ["bread", "milk", "eggs"], 102: ["salt", "tea", "eggs"],
        103: ["bread", "milk", "eggs"], 104: ["salt", "eggs", "bread"],
    }  # fmt: skip


def test_users_come_in_the_order_of_their_file_once(tmp_path, write):
    users = write("users.csv", "customer\n104\n101\n104\n999\n")
    report = recommend(fake_run(), 1, tmp_path / "recs.parquet", users=users)
    assert lists(tmp_path / "recs.parquet") == {104: ["salt"], 101: ["tea"]}
    assert report.unknown_users == 1


def test_items_candidates_and_exclusions(tmp_path, write):
    items = write("items.csv", "product\nsalt\nmilk\neggs\nwine\n")
    report = recommend(fake_run(), 5, tmp_path / "a.parquet", items=items)
    assert lists(tmp_path / "a.parquet") == {102: ["salt"], 103: ["milk", "eggs", "salt"], 104: ["salt", "eggs", "milk"]}
    assert (report.unknown_items, report.users) == (1, 3)

    candidates = write("candidates.csv", "user,item\n104,tea\n104,bread\n103,salt\n103,bread\n102,bread\n104,wine\n7,tea\n")
    report = recommend(fake_run(), 5, tmp_path / "b.parquet", candidates=candidates)
    assert lists(tmp_path / "b.parquet") == {104: ["bread", "tea"], 103: ["salt"]}
    assert (report.unknown_items, report.unknown_users, report.short) == (1, 1, 2)

    pairs_file = write("pairs.csv", "user,item\n104,salt\n103,milk\n")
    recommend(fake_run(), 1, tmp_path / "c.parquet", exclude=pairs_file)
    assert lists(tmp_path / "c.parquet") == {101: ["tea"], 102: ["salt"], 103: ["eggs"], 104: ["eggs"]}

    recommend(fake_run(), 5, tmp_path / "d.parquet", exclude=write("out.csv", "item\nsalt\ntea\n"), candidates=candidates)
    assert lists(tmp_path / "d.parquet") == {104: ["bread"]}

    recommend(fake_run(), 5, tmp_path / "e.parquet", candidates=candidates, items=items, users=write("u.csv", "user\n103\n"))
    assert lists(tmp_path / "e.parquet") == {103: ["salt"]}


def test_rows_of_files_that_have_no_effect_are_counted_and_reported(tmp_path, write):
    """Each row of a file of candidates is listed or has one reason; user 104 knows nothing, 101 bread, milk, eggs and salt."""
    noted = []
    observer = SimpleNamespace(warn=lambda _: None, note=noted.append, work=lambda *_: None)
    text = "user,item\n104,tea\n104,tea\n104,salt\n101,bread\n101,tea\n7,tea\n7,wine\n101,wine\n103,salt\n104,milk\n101,salt\n"
    files = {
        "users": write("users.csv", "user\n104\n101\n101\n9\n"),
        "candidates": write("candidates.csv", text),
        "exclude": write("exclude.csv", "user,item\n104,milk\n101,wine\n103,tea\n8,tea\n101,salt\n"),
        "items": write("items.csv", "item\ntea\nbread\nmilk\nwine\ntea\n"),
    }
    made = recommend(fake_run(), 5, tmp_path / "recs.parquet", observer=observer, **files)
    assert lists(tmp_path / "recs.parquet") == {104: ["tea"], 101: ["tea"]}
    assert made.dropped == {
        "users": {"rows": 4, "unknown_user": 1, "repeated": 1},
        "items": {"rows": 5, "unknown_item": 1, "repeated": 1},
        "candidates": {
            "rows": 11, "unknown_user": 2, "unknown_item": 1, "not_asked": 1, "repeated": 1,
            "seen": 2,  # bread and salt of 101; salt is in no list, but seen comes first
            "excluded": 2,  # salt of 104, as no item of items.csv, and milk
        },
        "exclude": {"rows": 5, "unknown_user": 1, "unknown_item": 1, "not_asked": 1, "repeated": 0},
    }  # fmt: skip
    rows, *reasons = made.dropped["candidates"].values()
    assert rows == made.rows + sum(reasons)
    assert noted[-2] == (
        "--candidates: 9 of 11 rows have no effect: 2 of unknown users, 1 of unknown items, 1 of lists that are not made here, "
        "1 repeated, 2 seen, 2 excluded"
    )
    made = recommend(fake_run(), 5, tmp_path / "all.parquet", candidates=files["candidates"], seen="none")
    assert (made.dropped["candidates"]["seen"], made.dropped["candidates"]["excluded"], made.rows) == (0, 0, 7)


def test_an_unknown_user_with_a_fallback_keeps_its_candidates(tmp_path, write):
    candidates = write("candidates.csv", "user,item\n555,tea\n101,tea\n101,bread\n")
    made = recommend(fake_run(), 5, tmp_path / "recs.parquet", candidates=candidates, fallback="popularity")
    assert lists(tmp_path / "recs.parquet") == {555: ["tea"], 101: ["tea"]}
    assert made.dropped["candidates"] == {
        "rows": 3, "unknown_user": 0, "unknown_item": 0, "not_asked": 0, "repeated": 0, "seen": 1, "excluded": 0,
    }  # fmt: skip


def test_files_without_such_rows_are_not_mentioned(tmp_path, write):
    noted = []
    observer = SimpleNamespace(warn=lambda _: None, note=noted.append, work=lambda *_: None)
    made = recommend(fake_run(), 1, tmp_path / "recs.parquet", users=write("users.csv", "user\n101\n"), observer=observer)
    assert noted == [] and made.dropped == {"users": {"rows": 1, "unknown_user": 0, "repeated": 0}}
    assert recommend(fake_run(), 1, tmp_path / "all.parquet").dropped == {}


def test_popularity_for_users_the_model_does_not_know(tmp_path, write):
    users = write("users.csv", "user\n555\n104\n101\n")
    exclude = write("exclude.csv", "user,item\n555,milk\n")
    report = recommend(fake_run(), 3, tmp_path / "recs.parquet", users=users, exclude=exclude, fallback="popularity")
    # 104 has no train interaction; ties of popularity by item number
    assert lists(tmp_path / "recs.parquet") == {555: ["bread", "eggs", "tea"], 104: ["bread", "milk", "eggs"], 101: ["tea"]}
    assert pq.read_table(tmp_path / "recs.parquet").column("score").to_pylist()[:3] == [3, 1, 1]
    assert (report.fallback, report.untrained, report.unknown_users, report.short) == (2, 0, 1, 1)
    assert pq.read_table(tmp_path / "recs.parquet").column("source").to_pylist() == ["fallback"] * 6 + ["model"]


def test_lists_that_say_nothing_of_their_users_are_counted_and_told(tmp_path, write):
    """104 has no train interaction. With a model that reads features of users its list says something: counted, not told."""
    run, told = fake_run(), []
    observer = SimpleNamespace(warn=told.append, work=lambda *_: None)
    assert recommend(run, 1, tmp_path / "a.parquet", observer=observer).untrained == 1
    assert len(told) == 1 and told[0].startswith("1 of 4 users have no interaction") and "--fallback popularity" in told[0]
    users = write("users.csv", "user\n101\n")
    assert recommend(run, 1, tmp_path / "b.parquet", users=users, observer=observer).untrained == 0
    run.dataset = replace(run.dataset, user_features=np.ones((4, 2), np.float32))
    assert recommend(run, 1, tmp_path / "c.parquet", observer=observer).untrained == 1
    assert len(told) == 2  # lightgcn reads none
    run.job.model = Model(name="graphsage")
    assert recommend(run, 1, tmp_path / "d.parquet", observer=observer).untrained == 1
    assert len(told) == 2


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["101", "102", "103", "104"], pa.large_string()),
        pa.array(["101", "102", "103", "104"]).dictionary_encode(),
        pa.array([b"101", b"102", b"103", b"104"], pa.binary(3)),
        pa.array([101, 102, 103, 104], pa.int64()),
    ],
    ids=str,
)
def test_ids_keep_their_arrow_type(tmp_path, write, ids):
    out = tmp_path / "recs.parquet"
    users = write("users.csv", "user\n103\n104\n999\n")
    recommend(fake_run(user_ids=ids), 1, out, users=users, fallback="popularity")
    table = pq.read_table(out)
    value = table.schema.field("user").type
    assert value == ids.type
    decoded = table.column("user").cast(value.value_type) if pa.types.is_dictionary(value) else table.column("user")
    assert [str(user).strip("b'") for user in decoded.to_pylist()] == ["103", "104", "999"]


def test_a_column_that_comes_twice_is_refused_by_name(tmp_path, write):
    users = write("users.csv", "user,user\n101,104\n")
    with pytest.raises(DataError, match=r"users\.csv must have each column once, 'user' comes 2 times"):
        recommend(fake_run(), 1, tmp_path / "recs.parquet", users=users)


def test_leading_zeros_of_text_ids_survive_csv(tmp_path, write):
    run = fake_run(user_ids=pa.array(["001", "002", "003", "004"]))
    recommend(run, 1, tmp_path / "recs.parquet", users=write("users.csv", "user\n004\n"))
    assert lists(tmp_path / "recs.parquet") == {"004": ["salt"]}


def test_an_only_column_of_a_csv_is_text_under_any_name(tmp_path, write):
    run = fake_run(user_ids=pa.array(["001", "002", "003", "4"]))
    made = recommend(run, 1, tmp_path / "recs.parquet", users=write("users.csv", "customer\n004\n4\n"))
    assert lists(tmp_path / "recs.parquet") == {"4": ["salt"]}
    assert made.unknown_users == 1  # 004 is another user
    numbers = fake_run(user_ids=pa.array([101, 102, 103, 104]))
    recommend(numbers, 1, tmp_path / "more.parquet", users=write("customers.csv", "customer\n104\n"))
    assert lists(tmp_path / "more.parquet") == {104: ["salt"]}


@pytest.mark.parametrize(
    ("option", "text", "problem"),
    [
        ("users", "item\n101\n", "must have a column 'user' .*, it has 'item'"),
        ("exclude", "user\n101\n", "must have a column 'item' .*, it has 'user'"),
        ("users", "user,user\n101,102\n", "must have each column once, 'user' comes 2 times"),
    ],
)
def test_columns_of_another_kind_are_not_taken_for_ids(tmp_path, write, option, text, problem):
    run = fake_run(user_ids=pa.array([101, 102, 103, 104]))
    with pytest.raises(DataError, match=problem):
        recommend(run, 1, tmp_path / "recs.parquet", **{option: write("ids.csv", text)})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ids_beyond_the_range_of_their_type_are_unknown(tmp_path, write, kind):
    def ids(name, column, *values):
        text = "\n".join(map(str, [column, *values]))
        if kind == "csv":
            return write(f"{name}.csv", text + "\n")
        pq.write_table(pa.table({column: list(values)}), tmp_path / f"{name}.parquet")
        return tmp_path / f"{name}.parquet"

    users, out = ids("users", "user", 104, 70_000, -1, 101), tmp_path / "recs.parquet"
    report = recommend(fake_run(), 1, out, users=users)
    assert lists(out) == {104: ["salt"], 101: ["tea"]} and report.unknown_users == 2
    assert pq.read_table(out).schema.field("user").type == pa.uint16()
    report = recommend(fake_run(), 1, tmp_path / "all.parquet", users=users, fallback="popularity")
    assert lists(tmp_path / "all.parquet") == {104: ["bread"], 70_000: ["bread"], -1: ["bread"], 101: ["tea"]}
    assert report.fallback == 3  # 104 has no train interaction
    run = fake_run(item_ids=pa.array([1, 2, 3, 4, 5], pa.int8()))
    report = recommend(run, 5, tmp_path / "few.parquet", users=ids("one", "user", 102), items=ids("items", "item", 5, 1000, 2000))
    assert lists(tmp_path / "few.parquet") == {102: [5]} and report.unknown_items == 2


def test_text_in_a_request_is_no_integer(tmp_path):
    pq.write_table(pa.table({"user": ["101"]}), tmp_path / "users.parquet")
    with pytest.raises(DataError, match=r"column 'user' of type string must hold uint16 ids \(.*; cast the column"):
        recommend(fake_run(), 1, tmp_path / "recs.parquet", users=tmp_path / "users.parquet")


UUIDS = pa.array([UUID(int=number).bytes for number in range(101, 105)], pa.uuid())
DAYS = pa.array([date(2024, 2, day) for day in range(26, 30)])
DECIMALS = pa.array([Decimal(number) * 10**30 for number in range(101, 105)], pa.decimal128(38, 0))


@pytest.mark.parametrize("ids", [UUIDS, DAYS, DECIMALS], ids=lambda ids: str(ids.type))
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_requests_name_ids_of_every_type(tmp_path, write, ids, kind):
    users = write("users.csv", "\n".join(map(str, ["user", *ids.to_pylist()[:1:-1]])) + "\n")
    if kind == "parquet":
        users = tmp_path / "users.parquet"
        pq.write_table(pa.table({"user": ids.take(pa.array([3, 2]))}), users)
    recommend(fake_run(user_ids=ids), 1, tmp_path / "recs.parquet", users=users)
    found = pq.read_table(tmp_path / "recs.parquet")
    assert found.schema.field("user").type == ids.type
    assert found.to_pydict()["user"] == ids.to_pylist()[:1:-1] and found.to_pydict()["item"] == ["salt", "milk"]


def test_lists_hold_few_items_of_a_kind(tmp_path, write):
    """bread and milk are food, tea has no kind, eggs and salt are not in the file."""
    kinds = write("kinds.csv", "product,kind\nbread,food\nmilk,food\ntea,\nwine,drink\n")
    relisting = Relisting({"kind": 1}, kinds)
    recommend(fake_run(), 4, tmp_path / "a.parquet", seen="none", relisting=relisting)
    assert lists(tmp_path / "a.parquet") == {
        101: ["bread", "eggs", "tea", "salt"], 102: ["salt", "tea", "eggs", "milk"],
        103: ["bread", "eggs", "tea", "salt"], 104: ["salt", "eggs", "bread", "tea"],
    }  # fmt: skip
    items = write("items.csv", "product\nbread\nmilk\n")
    made = recommend(fake_run(), 4, tmp_path / "b.parquet", seen="none", items=items, relisting=relisting)
    assert lists(tmp_path / "b.parquet") == {101: ["bread"], 102: ["milk"], 103: ["bread"], 104: ["bread"]} and made.short == 4


@pytest.mark.parametrize(
    "kinds",
    [
        pa.array(["food", "food", None, "drink"]),
        pa.array(["food", "food", None, "drink"], pa.string_view()),
        pa.DictionaryArray.from_arrays(pa.array([1, 1, None, 0], pa.uint32()), pa.array(["drink", "food"])),
        pa.array([7, 7, None, 8], pa.uint8()),
        pa.array([date(2024, 1, 1), date(2024, 1, 1), None, date(2024, 1, 2)]),
        pa.array([b"f", b"f", None, b"d"]),
    ],
    ids=lambda kinds: str(kinds.type),
)
def test_kinds_are_values_of_any_plain_type(tmp_path, kinds):
    pq.write_table(pa.table({"item": ["bread", "milk", "tea", "wine"], "kind": kinds}), tmp_path / "kinds.parquet")
    made = recommend(
        fake_run(), 4, tmp_path / "a.parquet", seen="none", relisting=Relisting({"kind": 1}, tmp_path / "kinds.parquet")
    )
    assert lists(tmp_path / "a.parquet")[101] == ["bread", "eggs", "tea", "salt"]
    assert made.dropped == {"attributes": {"rows": 4, "unknown_item": 1}}


def test_a_cap_reaches_beyond_the_best_items(tmp_path, monkeypatch, write):
    """Only the whole ranking has items of another kind."""
    kinds = write("kinds.csv", "product,kind\nbread,a\nmilk,a\neggs,a\ntea,b\nsalt,b\n")
    module = sys.modules[write_recommendations.__module__]
    monkeypatch.setattr(module, "pool", lambda *_: 2)
    recommend(fake_run(), 2, tmp_path / "a.parquet", seen="none", relisting=Relisting({"kind": 1}, kinds))
    assert lists(tmp_path / "a.parquet") == {
        101: ["bread", "tea"],
        102: ["salt", "eggs"],
        103: ["bread", "tea"],
        104: ["salt", "eggs"],
    }
    exclude = write("exclude.csv", "user,item\n101,tea\n")
    recommend(fake_run(), 2, tmp_path / "b.parquet", seen="train", exclude=exclude, relisting=Relisting({"kind": 1}, kinds))
    assert lists(tmp_path / "b.parquet") == {101: ["salt"], 102: ["salt", "eggs"], 103: ["milk", "salt"], 104: ["salt", "eggs"]}


def test_what_cannot_be_chosen_by_is_refused(tmp_path, write):
    kinds = write("kinds.csv", "product,kind\nbread,a\nbread,b\n")
    for given, message in [
        ({"max_per": {"kind": 1}}, "--max-per needs --attributes FILE with the column 'kind'"),
        ({"attributes": kinds}, "--attributes is read by --max-per COLUMN=N alone"),
        ({"max_per": {"kind": 0}, "attributes": kinds}, "--max-per kind must be at least 1, got 0"),
        ({"diversity": 1.0}, "--diversity must be from 0 to below 1, got 1"),
    ]:
        with pytest.raises(UsageError, match=message):
            Relisting(**given)
    with pytest.raises(DataError, match=r"kinds\.csv must name each item once, some come twice"):
        recommend(fake_run(), 1, tmp_path / "out.parquet", relisting=Relisting({"kind": 1}, kinds))
    with pytest.raises(DataError, match=r"must have the column 'brand' of --max-per, it has 'product', 'kind'"):
        recommend(fake_run(), 1, tmp_path / "out.parquet", relisting=Relisting({"brand": 1}, kinds))
    with pytest.raises(DataError, match="the column of --max-per next to its ids, 'product' holds"):
        recommend(fake_run(), 1, tmp_path / "out.parquet", relisting=Relisting({"product": 1}, kinds))
    strangers = write("strangers.csv", "item,kind\nwine,a\n")
    with pytest.raises(DataError, match=r"strangers\.csv must name items of shop, none of its 1 ids is one"):
        recommend(fake_run(), 1, tmp_path / "out.parquet", relisting=Relisting({"kind": 1}, strangers))
    pq.write_table(pa.table({"item": ["bread"], "tags": [["a", "b"]]}), tmp_path / "tags.parquet")
    with pytest.raises(DataError, match="--max-per needs a column of texts or numbers, 'tags' is of type list"):
        recommend(fake_run(), 1, tmp_path / "out.parquet", relisting=Relisting({"tags": 1}, tmp_path / "tags.parquet"))
    assert not (tmp_path / "out.parquet").exists()


def test_many_users_stream_in_order(tmp_path, monkeypatch):
    module = sys.modules[write_recommendations.__module__]
    whole = tmp_path / "whole.parquet"
    recommend(fake_run(), 2, whole)
    monkeypatch.setattr(module, "users_per_chunk", lambda *_: 1)
    monkeypatch.setattr(lists_file, "_GROUP_BYTES", 2)
    recommend(fake_run(), 2, tmp_path / "parts.parquet")
    assert pq.read_table(tmp_path / "parts.parquet").equals(pq.read_table(whole))
    assert pq.read_metadata(tmp_path / "parts.parquet").num_row_groups > 1


def test_nothing_is_overwritten_or_left_half_written(tmp_path):
    out = tmp_path / "recs.parquet"
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists and is never overwritten; choose another --out, or add --force"):
        recommend(fake_run(), 2, out)
    assert out.read_text() == "mine"
    with pytest.raises(DivergedError):
        recommend(fake_run(scores=SCORES * np.float32("nan")), 2, tmp_path / "other.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["recs.parquet"]


@pytest.mark.parametrize(
    ("option", "text", "problem"),
    [
        ("users", "user\n1\n2\n", "none of its 2 ids is one; check its user column"),
        ("items", "item\nwine\n", "none of its 1 ids is one; check its item column"),
        ("candidates", "user,item\n101,wine\n", "none of its 1 ids is one; check its item column"),
        ("exclude", "item\nwine\n", "none of its 1 ids is one"),
        ("exclude", "usr,item\n101,tea\n", "must have a column 'user'"),
        ("candidates", "item\ntea\n", "or 'row.customer' or 'customer', it has 'item'; rename or add one"),
        ("candidates", "101\n102\n", "must begin with a header, its first line is the id '101'"),
        ("candidates", "user\n101\n", "must have two columns, 'user' and 'item', it has only 'user'; add the other one"),
        ("exclude", "user\n101\n", "must have a column 'item' or 'product', it has 'user'; rename or add one"),
        ("users", "item\n101\n", "or 'row.customer' or 'customer', it has 'item'; rename or add one"),
        ("items", "user\ntea\n", "must have a column 'item' or 'product', it has 'user'; rename or add one"),
        ("users", "101\n102\n", "must begin with a header, its first line is the id '101'"),
        ("users", "user\nabc\n", r"column 'user' must hold uint16 ids \('abc' is no integer of at most 38 digits\)"),
        ("users", "user,age\n101,7\n,8\n", "ids must not be null, 1 of column 'user' are"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path, write, option, text, problem):
    with pytest.raises(DataError, match=problem):
        recommend(fake_run(), 2, tmp_path / "recs.parquet", **{option: write("ids.csv", text)})
    assert [path.name for path in tmp_path.iterdir()] == ["ids.csv"]


def test_candidates_of_one_column_are_refused_where_another_file_names_the_users(tmp_path, write):
    files = {"users": write("users.csv", "user\n101\n"), "candidates": write("pairs.csv", "item\ntea\n")}
    with pytest.raises(DataError, match="must have two columns, 'user' and 'item', it has only 'item'; add the other one"):
        recommend(fake_run(), 2, tmp_path / "recs.parquet", **files)


@pytest.mark.parametrize("name", ["valid.parquet", "test.parquet"])
def test_node_numbers_of_a_dataset_folder_are_not_taken_for_ids(tmp_path, name):
    pq.write_table(pa.table({"user": pa.array([101], pa.int32()), "item": ["tea"]}), tmp_path / name)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match=f"{name} must hold ids, it belongs to a dataset folder and holds node numbers; take the"):
        recommend(fake_run(), 2, tmp_path / "recs.parquet", exclude=tmp_path / name)
    (tmp_path / "dataset.json").unlink()
    recommend(fake_run(), 2, tmp_path / "recs.parquet", exclude=tmp_path / name)
    assert 101 not in lists(tmp_path / "recs.parquet")  # tea is all that 101 has not seen


def test_options_are_checked(tmp_path):
    out = tmp_path / "recs.parquet"
    with pytest.raises(UsageError, match="--k must be at least 1, got 0"):
        recommend(fake_run(), 0, out)
    with pytest.raises(UsageError, match="--seen must be one of all, met, train, none, got 'test'"):
        recommend(fake_run(), 1, out, seen="test")
    with pytest.raises(UsageError, match="--fallback must be 'popularity', got 'random'"):
        recommend(fake_run(), 1, out, fallback="random")


def test_a_csv_may_begin_with_a_byte_order_mark_and_end_lines_as_windows_does(tmp_path):
    (tmp_path / "users.csv").write_bytes("\ufeffuser\r\n104\r\n101\r\n".encode())
    report = recommend(fake_run(), 1, tmp_path / "recs.parquet", users=tmp_path / "users.csv")
    assert lists(tmp_path / "recs.parquet") == {104: ["salt"], 101: ["tea"]} and report.unknown_users == 0


def test_a_k_beyond_all_items_lists_all(tmp_path):
    """Four users, five items: a billion items of each would take 80 GB."""
    made = recommend(fake_run(), 10**12, tmp_path / "most.parquet", seen="none")
    assert (made.rows, made.short) == (20, 4)
    assert lists(tmp_path / "most.parquet")[101] == ITEMS
    recommend(fake_run(), 5, tmp_path / "all.parquet", seen="none")
    assert pq.read_table(tmp_path / "most.parquet").equals(pq.read_table(tmp_path / "all.parquet"))


@pytest.mark.parametrize("limit", ["", "infGB", "\u0662GB"])
def test_a_limit_that_is_no_size_is_no_default(tmp_path, limit):
    with pytest.raises(UsageError, match="memory_limit expects a size such as 2GB"):
        recommend(fake_run(), 2, tmp_path / "recs.parquet", memory_limit=limit)
