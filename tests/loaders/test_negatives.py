"""Pairs rated low become negative pairs of train's time and of later ones, and none is also positive: against plain Python."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from gcnrec.config import Data
from gcnrec.errors import DataError
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.recipe import recipe_of
from gcnrec.loaders.schema import open_dataset

LOW, HIGH = 3.0, 4.0


def drawn(seed, rows=300, users=14, items=12):
    """Rows (user, item, time, rating) with many repeats, equal times, and ratings that are no number."""
    rng = np.random.default_rng(seed)
    ratings = rng.choice([1.0, 2.0, 3.0, 3.5, 4.0, 5.0, float("nan")], rows).tolist()
    columns = (rng.integers(users, size=rows), rng.integers(items, size=rows), rng.integers(60, size=rows))
    return list(zip(*(column.tolist() for column in columns), ratings, strict=True))


def written(path, rows):
    users, items, times, ratings = zip(*rows, strict=True)
    pq.write_table(pa.table({"u": users, "i": items, "t": times, "r": ratings, "even": [item % 2 == 0 for item in items]}), path)
    return str(path)


def made(tmp_path, rows, name="d", **keys):
    keys = {"user": "u", "item": "i", "rating": "r", "min_rating": HIGH, "negative_below": LOW, **keys}
    data = Data.model_validate({"train": written(tmp_path / f"{name}.parquet", rows), **keys})
    return ingest(data, tmp_path / name, data_root=None, name=name)


def named(dataset, users, items):
    return set(zip(dataset.user_ids.decode(users).to_pylist(), dataset.item_ids.decode(items).to_pylist(), strict=True))


def pairs(csr, dataset):
    return named(dataset, csr.row_numbers(), csr.indices)


def held(part, dataset):
    return named(dataset, part.users_E, part.items_E)


def latest(rows, keep):
    """Pair -> the time of its last row that `keep` takes."""
    found = {}
    for user, item, time, rating in rows:
        if keep(rating):
            found[user, item] = max(found.get((user, item), -1), time)
    return found


def settled(positive, negative, timed):
    """Positive and negative pairs, each pair one of the two."""
    withdrawn = {pair for pair in positive if timed and negative.get(pair, -1) > positive[pair]}
    return set(positive) - withdrawn, set(negative) - (set(positive) - withdrawn)


def of_nodes(found, users, items):
    return {(user, item) for user, item in found if user in users and item in items}


def sides(found):
    return {user for user, _ in found}, {item for _, item in found}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("valid_size", [0.2, 0.0])
def test_a_split_by_time_cuts_negative_pairs_at_its_moments(tmp_path, seed, valid_size):
    rows = drawn(seed)
    dataset = made(tmp_path, rows, time="t", split="temporal", test_from=45, test_until=55, valid_size=valid_size)
    high = [row for row in rows if row[3] >= HIGH and row[2] < 55]
    begin = dataset.info["report"]["valid_from_s"]
    of_test = min(time for _, _, time, _ in high if time >= 45)
    of_valid = min((time for _, _, time, _ in high if begin <= time < 45), default=of_test)
    low = {
        "train": [row for row in rows if row[2] < of_valid],
        "valid": [row for row in rows if of_valid <= row[2] < of_test],
        "test": [row for row in rows if of_test <= row[2] < 55],
    }
    positive, negative = settled(
        latest([row for row in high if row[2] < begin], lambda rating: rating >= HIGH),
        latest(low["train"], lambda rating: rating < LOW),
        timed=True,
    )
    train = pairs(dataset.graph.user_items, dataset)
    assert train == positive and negative
    assert pairs(dataset.negatives, dataset) == of_nodes(negative, *sides(train))
    known = set(dataset.user_ids.ids.to_pylist()), set(dataset.item_ids.ids.to_pylist())
    in_valid = latest([row for row in high if begin <= row[2] < 45], lambda rating: rating >= HIGH)
    overruled = 0
    for part, name, positives in zip(dataset.later_negatives, ("valid", "test"), (in_valid, {}), strict=True):
        found = latest(low[name], lambda rating: rating < LOW)
        kept = {pair: time for pair, time in found.items() if positives.get(pair, -1) < time}
        overruled += len(found) - len(kept)
        assert held(part, dataset) == of_nodes(kept, *known)
        ids = part.user_ids.decode(part.users_E).to_pylist(), part.item_ids.decode(part.items_E).to_pylist()
        assert part.times_E.tolist() == [kept[pair] for pair in zip(*ids, strict=True)]
    assert dataset.info["report"]["overruled_valid"] == overruled
    assert not held(dataset.valid, dataset) & pairs(dataset.negatives, dataset)
    assert not held(dataset.test, dataset) & (pairs(dataset.negatives, dataset) | held(dataset.later_negatives[0], dataset))


@pytest.mark.parametrize("seed", range(3))
def test_leave_last_cuts_each_user_at_the_first_held_out_moment(tmp_path, seed):
    dataset = made(tmp_path, rows := drawn(seed), time="t", split="leave_last", repeats="keep")
    first = {}
    for part in (dataset.valid, dataset.test):
        for user, time in zip(part.user_ids.decode(part.users_E).to_pylist(), part.times_E.tolist(), strict=True):
            first[user] = min(first.get(user, time), time)
    negative = pairs(dataset.negatives, dataset)
    low = [row for row in rows if row[3] < LOW]
    assert negative and negative <= {row[:2] for row in low if row[2] < first.get(row[0], 61)}
    later = held(dataset.later_negatives[0], dataset) | held(dataset.later_negatives[1], dataset)
    known = set(dataset.user_ids.ids.to_pylist()), set(dataset.item_ids.ids.to_pylist())
    assert later == of_nodes({row[:2] for row in low if row[2] >= first.get(row[0], 61)}, *known)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("split", ["random", "cold_items", "given"])
def test_other_splits_settle_each_pair_before_they_draw(tmp_path, split, timed):
    rows, keys = drawn(7), {"time": "t"} if timed else {}
    if split == "given":
        test = [(1, 1, 99, 5.0), (2, 2, 99, 4.0), (3, 3, 99, 1.0), *[(user, 5, 99, 5.0) for user in range(9)]]
        keys |= {"test": written(tmp_path / "test.parquet", test)}
    dataset = made(tmp_path, rows, split=split, **keys)
    positive, negative = settled(latest(rows, lambda rating: rating >= HIGH), latest(rows, lambda rating: rating < LOW), timed)
    train, valid = pairs(dataset.graph.user_items, dataset), held(dataset.valid, dataset)
    assert negative and pairs(dataset.negatives, dataset) == of_nodes(negative, *sides(train))
    assert train | valid <= positive and not held(dataset.test, dataset) & negative
    assert [len(part) for part in dataset.later_negatives] == [0, 0]
    if split == "given":
        assert train | valid == positive
        dropped = {(u, i) for u, i, _, rating in test if rating >= HIGH} & negative
        assert dataset.info["report"]["negative_test"] == len(dropped) and dropped


def test_counts_say_what_became_of_low_ratings(tmp_path):
    rows = [(1, 1, 0, 5.0), (1, 1, 9, 1.0), (1, 2, 0, 1.0), (1, 2, 0, 2.0), (1, 2, 5, 5.0), (1, 3, 0, 3.5), (1, 4, 0, 4.0)]
    rows += [(2, 2, 0, 5.0), (2, 4, 1, 1.0), (3, 4, 1, 1.0), (2, 9, 1, 0.0), (2, 4, 0, float("nan"))]
    dataset = made(tmp_path, rows, time="t", split="random", test_size=0, valid_size=0)
    assert pairs(dataset.graph.user_items, dataset) == {(1, 2), (1, 4), (2, 2)}
    assert pairs(dataset.negatives, dataset) == {(2, 4)}
    report = dataset.info["report"]
    counts = {"withdrawn_train": 1, "overruled_negative": 1, "duplicates_negative": 1, "cold_negative": 3, "num_negative": 1}
    counts |= {"later_negative": 0, "low_rating_train": 1, "no_rating_train": 1, "filtered_train": 2}
    assert {key: report[key] for key in counts} == counts


def test_a_dataset_without_the_key_has_neither_files_nor_entries(tmp_path):
    rows = drawn(2)
    dataset = made(tmp_path, rows, split="random", negative_below=None)
    assert dataset.negatives is None and dataset.known_negatives(2) == ()
    text = (dataset.folder / "dataset.json").read_text()
    assert "negative" not in text and not [path for path in dataset.folder.iterdir() if "negative" in path.name]
    assert "negative_below" not in recipe_of(Data(train="x", rating="r", min_rating=1), None)
    both = made(tmp_path, rows, "both", split="random")
    ids = [each.user_ids.ids.to_pylist() for each in (dataset, both)]
    assert (
        pairs(both.graph.user_items, both) | held(both.valid, both) | held(both.test, both)
        == (pairs(dataset.graph.user_items, dataset) | held(dataset.valid, dataset) | held(dataset.test, dataset))
        and ids[0] == ids[1]
    )


def test_each_rating_counts_without_min_rating(tmp_path):
    rows = drawn(4)
    dataset = made(tmp_path, rows, min_rating=None, split="random", test_size=0, valid_size=0)
    positive, _ = settled(latest(rows, lambda rating: rating >= LOW), {}, timed=False)
    assert pairs(dataset.graph.user_items, dataset) == positive


@pytest.mark.parametrize("where", [None, "even"])
def test_low_ratings_of_any_behaviour_are_negative(tmp_path, where):
    rows = drawn(5)
    keys = {"behaviour": "even", "target": "true", "split": "random", "test_size": 0, "valid_size": 0}
    if where:
        keys = {"where": "i % 2 = 0", **{key: value for key, value in keys.items() if key not in ("behaviour", "target")}}
    dataset = made(tmp_path, rows, **keys)
    kept = [row for row in rows if not where or row[1] % 2 == 0]
    positive, negative = settled(
        latest([row for row in kept if row[1] % 2 == 0], lambda rating: rating >= HIGH),
        latest(kept, lambda rating: rating < LOW),
        timed=False,
    )
    train = pairs(dataset.graph.user_items, dataset)
    assert train == positive
    assert pairs(dataset.negatives, dataset) == of_nodes(negative, *sides(train))


BOUGHT = [*((user, item, 5.0) for user in (1, 2) for item in (1, 2)), (3, 1, 4.5), (3, 2, None), (4, 1, float("nan"))]
BOUGHT += [(1, 3, 1.0), (1, 4, 3.5)]
VIEWED = [(1, 1, None), (2, 3, float("nan")), (3, 2, 3.5), (3, 4, 5.0), (2, 1, 1.0), (3, 2, 1.0)]
UNRATED = [*((*row, "buy") for row in BOUGHT), *((*row, "view") for row in VIEWED)]


@pytest.mark.parametrize(
    ("rules", "where"),
    [
        ({"min_rating": HIGH}, "i < 9"),
        ({"negative_below": LOW}, None),
        ({"min_rating": HIGH, "negative_below": LOW}, None),
    ],
)
def test_rows_of_other_behaviours_need_no_rating(tmp_path, rules, where):
    users, items, ratings, kinds = zip(*UNRATED, strict=True)
    table = pa.table({"u": users, "i": items, "r": pa.array(ratings, from_pandas=False), "kind": kinds})
    pq.write_table(table, tmp_path / "x.parquet")
    keys = {"train": str(tmp_path / "x.parquet"), "user": "u", "item": "i", "rating": "r", "behaviour": "kind", "target": "buy"}
    keys |= {"split": "random", "test_size": 0, "valid_size": 0, **rules, **({"where": where} if where else {})}
    dataset = ingest(Data.model_validate(keys), tmp_path / "d", data_root=None, name="d")
    least = rules.get("min_rating", LOW)
    rated = [row for row in UNRATED if row[2] is not None and row[2] == row[2]]
    bought = {(u, i) for u, i, rating, kind in rated if kind == "buy" and rating >= least}
    viewed = {(u, i) for u, i, rating, kind in rated if kind == "view" and rating >= least} | {(1, 1), (2, 3)}
    assert pairs(dataset.graph.user_items, dataset) == bought
    assert {other.name: pairs(other.graph.user_items, dataset) for other in dataset.others} == {"view": viewed}
    if "negative_below" in rules:
        low = {(u, i) for u, i, rating, _ in rated if rating < LOW}
        assert pairs(dataset.negatives, dataset) == of_nodes(low - bought, *sides(bought))
    assert dataset.info["report"]["no_rating_train"] == 2


def test_a_positive_row_of_the_target_alone_takes_a_negative_pair_out(tmp_path):
    given = [(1, 1, 0, 5.0, "buy"), (1, 2, 0, 5.0, "buy"), (2, 1, 0, 5.0, "buy"), (2, 2, 3, 1.0, "buy"), (2, 2, 5, 5.0, "view")]
    given += [(1, 2, 6, 1.0, "view"), (3, 2, 0, 5.0, "buy")]
    users, items, times, ratings, kinds = zip(*given, strict=True)
    pq.write_table(pa.table({"u": users, "i": items, "t": times, "r": ratings, "kind": kinds}), tmp_path / "x.parquet")
    keys = {"train": str(tmp_path / "x.parquet"), "user": "u", "item": "i", "time": "t", "rating": "r", "negative_below": LOW}
    keys |= {"behaviour": "kind", "target": "buy", "split": "random", "test_size": 0, "valid_size": 0}
    dataset = ingest(Data.model_validate(keys), tmp_path / "d", data_root=None, name="d")
    assert pairs(dataset.negatives, dataset) == {(2, 2), (1, 2)}
    assert pairs(dataset.graph.user_items, dataset) == {(1, 1), (2, 1), (3, 2)}


def test_mistakes_are_sentences(tmp_path):
    with pytest.raises(ValidationError, match="negative_below needs rating, the column that it looks at"):
        Data(train="x", negative_below=2)
    with pytest.raises(ValidationError, match="negative_below must be at most min_rating, got 5 and 4; lower it"):
        Data(train="x", rating="r", negative_below=5, min_rating=4)
    with pytest.raises(DataError, match=r"has no row whose rating counts as positive; lower negative_below or min_rating"):
        made(tmp_path, [(1, 1, 0, 1.0), (1, 2, 0, 2.0)])
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("file", ["negative.user_items.indices.npy", "negative.valid.parquet"])
def test_damage_is_found(tmp_path, file):
    dataset = made(tmp_path, drawn(0), split="random")
    path = dataset.folder / file
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\x7f")
    with pytest.raises(DataError, match=file):
        open_dataset(dataset.folder, verify=True)
    listed = json.loads((dataset.folder / "dataset.json").read_text())["files"]
    assert file in listed
