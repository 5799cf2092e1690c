"""`gcnrec evaluate` in more detail: beyond accuracy, by an attribute of the items and by their value, against plain loops."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.api.judging import compare
from gcnrec.api.lists import recommend
from gcnrec.config import Job
from gcnrec.errors import DataError, UsageError
from gcnrec.ranking.seen import seen_items
from gcnrec.results.evaluate import evaluate_lists, evaluate_run
from gcnrec.results.given.details import Details
from gcnrec.results.given.lists import open_judged
from gcnrec.results.outputs import Output
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train
from tests.helpers.heard import Heard

K = 3
EVALUATE = {"k": [1, K], "metric": f"recall@{K}", "bootstrap": 0, "baselines": []}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(checkerboard(), tmp_path_factory.mktemp("details") / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A trained run; what its plain evaluation writes is in `plain.json`."""
    job = {"model": {"name": "mf", "width": 4}, "train": {"epochs": 2, "refit": False}, "evaluate": EVALUATE}
    made = train(Job.parse(job, [], "t"), data, tmp_path_factory.mktemp("details") / "run")
    evaluate_run(made)
    (made.folder / "plain.json").write_bytes((made.folder / "metrics.json").read_bytes())
    return made


@pytest.fixture(scope="module")
def attributes(data, tmp_path_factory):
    """A colour and a price by item; the last item is not in the file, one field of each column is empty, one item is unknown."""
    ids = data.item_ids.ids.to_pylist()
    lines = [f"{item},{['red', 'blue'][at % 2] if at else ''},{at * 1.5 if at != 2 else ''}" for at, item in enumerate(ids[:-1])]
    path = tmp_path_factory.mktemp("details") / "items.csv"
    path.write_text("\n".join(["item,colour,price", *lines, "77,red,1"]) + "\n")
    return path


def write_judged_lists(run, path):
    """The lists that the run is judged by on test: without items of train and validation."""
    dataset, valid = run.dataset, path.parent / "known.parquet"
    ids = [dataset.user_ids.decode(dataset.valid.users_E), dataset.item_ids.decode(dataset.valid.items_E)]
    pq.write_table(pa.table(ids, names=["user", "item"]), valid)
    recommend(run, K, path, seen="train", exclude=valid)


def lists_of(run, folder):
    """The lists that judge the run, as item numbers by user number, and the held-out items by user."""
    write_judged_lists(run, folder / "own.parquet")
    table, dataset = pq.read_table(folder / "own.parquet"), run.dataset
    lists = {user: [] for user in np.unique(dataset.test.users_E).tolist()}
    users, items = dataset.user_ids.numbers(table.column("user")), dataset.item_ids.numbers(table.column("item"))
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        if user in lists:
            lists[user].append(item)
    held = {user: dataset.test.items_E[dataset.test.users_E == user].tolist() for user in lists}
    return lists, held


def test_details_add_to_the_figures_and_change_none(run, attributes, tmp_path):
    found = evaluate_run(run, details=Details(("colour",), "price", attributes, beyond_accuracy=True))
    plain = json.loads((run.folder / "plain.json").read_text())
    assert {name: found[name] for name in plain} == plain
    assert set(found) - set(plain) == {
        *(f"{name}@{k}" for name in ("diversity", "serendipity", "value_recall", "hit_value", "value") for k in (1, K)),
        "per", "attributes_unknown_items",
    }  # fmt: skip
    assert found["attributes_unknown_items"] == 1
    assert f"diversity@{K}" in pq.read_schema(run.folder / "per_user.parquet").names
    lists, held = lists_of(run, tmp_path)
    rows = np.stack(pq.read_table(run.folder / "embeddings" / "items.parquet").column("embedding").to_numpy())
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    pairs = [[cosines[a, b] for at, a in enumerate(items) for b in items[:at]] for items in lists.values()]
    assert found[f"diversity@{K}"] == pytest.approx(np.mean([1 - np.mean(each) if each else 0.0 for each in pairs]), abs=1e-5)
    degrees = run.dataset.graph.item_users.degrees
    hits, unexpected = 0, 0
    for user, items in lists.items():
        known = {int(item) for part in seen_items("all", run.dataset, "test").parts for item in part.row(user)}
        popular = [item for item in sorted(range(len(degrees)), key=lambda item: (-degrees[item], item)) if item not in known][:K]
        hits += len(set(items) & set(held[user]))
        unexpected += len(set(items) & set(held[user]) - set(popular))
    assert hits and found[f"serendipity@{K}"] == unexpected / hits


def test_columns_of_the_items_by_hand(run, attributes, tmp_path):
    found = evaluate_run(run, details=Details(("colour",), "price", attributes))
    lists, held = lists_of(run, tmp_path)
    count = len(run.dataset.item_ids)
    colours = [None, *(["red", "blue"][at % 2] for at in range(1, count - 1)), None]
    price = [0.0 if at in (2, count - 1) else at * 1.5 for at in range(count)]
    hit = [item for user, items in lists.items() for item in items if item in held[user]]
    pairs = [item for items in held.values() for item in items]
    assert [each["value"] for each in found["per"]["colour"]][-1] is None
    for each in found["per"]["colour"]:
        of = [item for item in pairs if colours[item] == each["value"]]
        hits = sum(colours[item] == each["value"] for item in hit)
        assert (each["items"], each["pairs"]) == (colours.count(each["value"]), len(of))
        assert each[f"recall@{K}"] == (hits / len(of) if of else None)
    assert found[f"value_recall@{K}"] == pytest.approx(sum(price[item] for item in hit) / sum(price[item] for item in pairs))
    assert found[f"hit_value@{K}"] == pytest.approx(sum(price[item] for item in hit) / len(lists))
    listed = [item for items in lists.values() for item in items if item not in (2, count - 1)]
    assert found[f"value@{K}"] == pytest.approx(np.mean([price[item] for item in listed]))


def test_lists_of_another_system_have_the_same_details_and_are_compared(run, attributes, tmp_path):
    details = Details(("colour",), "price", attributes, beyond_accuracy=True)
    own = evaluate_run(run, details=details)
    write_judged_lists(run, tmp_path / "own.parquet")
    found = evaluate_lists(run, tmp_path / "own.parquet", Output(tmp_path / "judged.parquet"), details=details)
    for name in ("diversity", "serendipity", "value_recall", "hit_value", "value"):
        assert found[f"{name}@{K}"] == own[f"{name}@{K}"]
    assert found["per"] == own["per"]
    rows = compare(run, [open_judged(tmp_path / "judged.parquet")]).rows
    assert [row.difference for row in rows if row.metric == f"diversity@{K}"] == [0.0]


def test_a_closed_form_has_diversity_by_features_only(data, tmp_path):
    job = {"model": {"name": "itemknn"}, "evaluate": EVALUATE}
    made, heard = train(Job.parse(job, [], "t"), data, tmp_path / "run"), Heard()
    found = evaluate_run(made, observer=heard, details=Details(beyond_accuracy=True))
    assert f"serendipity@{K}" in found and f"diversity@{K}" not in found
    assert "diversity is left out: itemknn has no embeddings, and checkerboard no item features" in heard.notes


def test_text_has_a_line_for_each_value(gcnrec, run, attributes):
    code, out, _ = gcnrec("evaluate", run.folder, "--per", "colour", "--value", "price", "--attributes", attributes)
    assert code == 0
    table = out[out.index("\ncolour") :].split()
    assert table[:5] == ["colour", "items", "pairs", "recall@1", f"recall@{K}"] and {"red", "blue", "(none)"} <= set(table)
    assert any(line.startswith("value_recall") for line in out.splitlines())


def test_mistakes_are_sentences(run, attributes, tmp_path):
    for given, words in (
        ({"per": ("colour",)}, "--per needs --attributes FILE with the column 'colour' of the items; name one"),
        ({"value": "price"}, "--value needs --attributes FILE with the column 'price' of the items; name one"),
        ({"attributes": attributes}, "is read by --per COLUMN and --value COLUMN; add one, or leave --attributes out"),
        ({"per": ("colour", "colour"), "attributes": attributes}, "--per colour comes twice; give it once"),
    ):
        with pytest.raises(UsageError, match=words):
            Details(**given)
    before = (run.folder / "metrics.json").read_bytes()
    with pytest.raises(
        DataError, match="must have the column 'brand' of --per, it has 'item', 'colour', 'price'; rename or add one"
    ):
        evaluate_run(run, details=Details(("brand",), None, attributes))
    with pytest.raises(DataError, match="the column of --per next to its ids, 'item' holds the ids, it has 'item', 'colour'"):
        evaluate_run(run, details=Details(("item",), None, attributes))
    with pytest.raises(
        DataError, match=r"column 'colour' of --value must hold numbers, it holds string, .* number \(row 2 has 'blue'\)"
    ):
        evaluate_run(run, details=Details((), "colour", attributes))
    for wrong, shown in ((-3.0, "-3"), (float("inf"), "inf"), (1e308, r"1e\+308"), (1.1e15, r"1.1e\+15")):
        pq.write_table(pa.table({"item": [1000, 1001], "margin": [1.0, wrong]}), tmp_path / "margins.parquet")
        words = rf"margins.parquet: column 'margin' of --value must hold numbers from 0 to 1e\+15, row 2 has {shown}; correct it"
        with pytest.raises(DataError, match=words):
            evaluate_run(run, details=Details((), "margin", tmp_path / "margins.parquet"))
    pq.write_table(pa.table({"item": [1000], "tags": [["a", "b"]]}), tmp_path / "tags.parquet")
    with pytest.raises(DataError, match="--per needs a column of texts or numbers, 'tags' is of type list"):
        evaluate_run(run, details=Details(("tags",), None, tmp_path / "tags.parquet"))
    assert (run.folder / "metrics.json").read_bytes() == before


def test_values_at_the_bound_have_finite_metrics(run, tmp_path):
    ids = run.dataset.item_ids.ids
    pq.write_table(pa.table({"item": ids, "margin": [1e15] * len(ids)}), tmp_path / "margins.parquet")
    found = evaluate_run(run, details=Details((), "margin", tmp_path / "margins.parquet"))
    assert found[f"value@{K}"] == pytest.approx(1e15)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16(), pa.dictionary(pa.int32(), pa.float64())], ids=str)
def test_nan_is_no_value_of_a_column(run, tmp_path, kind):
    ids = run.dataset.item_ids.ids
    values = np.array([1.5, np.nan] * len(ids))[: len(ids)]
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    column = pa.array(values.astype(plain.to_pandas_dtype()), from_pandas=False).cast(plain)
    column = column.dictionary_encode() if plain != kind else column
    pq.write_table(pa.table({"item": ids, "size": column}), tmp_path / "sizes.parquet")
    rows = evaluate_run(run, details=Details(("size",), None, tmp_path / "sizes.parquet"))["per"]["size"]
    assert [(row["value"], row["items"]) for row in rows] == [("1.5", (len(ids) + 1) // 2), (None, len(ids) // 2)]


@pytest.mark.parametrize("kind", [pa.null(), pa.string(), pa.float64()], ids=str)
def test_a_column_without_a_value_has_one_row(run, tmp_path, kind):
    ids = run.dataset.item_ids.ids
    pq.write_table(pa.table({"item": ids, "brand": pa.nulls(len(ids), kind)}), tmp_path / "brands.parquet")
    (row,) = evaluate_run(run, details=Details(("brand",), None, tmp_path / "brands.parquet"))["per"]["brand"]
    assert (row["value"], row["items"]) == (None, len(ids))
