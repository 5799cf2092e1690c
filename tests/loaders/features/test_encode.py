"""Feature files: what every kind of column becomes, worked out by hand or by a naive loop, and what is refused."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.errors import DataError, DeviceError, UsageError
from gcnrec.loaders.features import fits
from gcnrec.loaders.features.encode import encode_features
from gcnrec.loaders.parquet import ingest
from gcnrec.loaders.schema import open_dataset

# x has two interactions, y one: x is item 0, y item 1.
TRAIN = pa.table({"user": ["a", "b", "a"], "item": ["x", "x", "y"]})


@pytest.fixture
def make(tmp_path):
    """Ingest `train` (default TRAIN) with a table of item features; returns the dataset."""

    def call(table, train=TRAIN, **settings):
        pq.write_table(train, tmp_path / "train.parquet")
        pq.write_table(pa.table(table), tmp_path / "f.parquet")
        base = {"train": "train.parquet", "user": "user", "item": "item", "split": "random", "valid_size": 0.0, "test_size": 0.0}
        data = Data(**{**base, "item_features": "f.parquet", **settings})
        return ingest(data, tmp_path / "out", data_root=tmp_path, name="tiny", force=True)

    return call


def many(count):
    """Interactions of one user with items 0 .. count-1, which keep this order (equal degrees)."""
    return pa.table({"user": [0] * count, "item": list(range(count))})


def entries(dataset, side="item"):
    return {entry["column"]: entry for entry in dataset.info[f"{side}_features"]["columns"]}


def test_numbers_are_standardised_and_absent_ones_zero(make):
    # price: mean 4, deviation 2 over the three that are there; q has no interaction and counts all the same.
    table = {"item": ["y", "q", "x", "z"], "price": [2, 6, None, 4], "new": [True, False, True, False], "same": [7.5] * 4}
    dataset = make(table)
    price = -2 / math.sqrt(8 / 3)
    assert dataset.item_features.dtype == np.float32 and dataset.item_features.shape == (2, 3)
    assert np.allclose(dataset.item_features, [[0, 1, 0], [price, 1, 0]])
    assert [entry["rule"] for entry in entries(dataset).values()] == ["standardised"] * 3
    assert (entries(dataset)["price"]["mean"], entries(dataset)["same"]["first"]) == ([4.0], 2)
    report = dataset.info["report"]
    assert (report["item_features_unknown"], report["item_features_missing"]) == (2, 0)
    assert open_dataset(dataset.folder, verify=True).item_features.tolist() == dataset.item_features.tolist()


def test_nodes_without_a_row_are_zero_and_counted(make):
    dataset = make({"item": ["y"], "price": [[1.0, 3.0]]}, user_features=None)
    assert dataset.item_features.tolist() == [[0, 0], [0, 0]] and dataset.user_features is None
    assert dataset.info["report"]["item_features_missing"] == 1 and dataset.info["item_features"]["rows"] == 1


def test_vectors_are_centred_with_one_scale(make):
    # mean (1, 2); deviations from it (-1, -2) and (1, 2): the squared length is 5.
    dataset = make({"item": ["x", "y"], "v": [[0.0, 0.0], [2.0, 4.0]]})
    expected = np.array([[-1, -2], [1, 2]]) / math.sqrt(5)
    assert np.allclose(dataset.item_features, expected)
    fixed = pa.array([[0, 0], None, [2, 4]], pa.list_(pa.int32(), 2))
    assert np.allclose(make({"item": ["x", "q", "y"], "v": fixed}).item_features, expected)
    holes = make({"item": ["x", "y"], "v": [[0.0, None], [2.0, 4.0]]})
    assert np.allclose(holes.item_features, [[-1, 0], [1, 0]]), "an absent entry is the mean of its column"


@pytest.mark.parametrize(
    "times",
    [
        pa.array([date(1970, 1, 2), date(1970, 1, 4)]),
        pa.array([datetime(1970, 1, 2, tzinfo=UTC), datetime(1970, 1, 4, tzinfo=UTC)], pa.timestamp("ms", "UTC")),
        pa.array([86_400, 3 * 86_400]),
    ],
)
def test_times_are_seconds(make, times):
    dataset = make({"item": ["x", "y"], "t": times})
    assert dataset.item_features.tolist() == [[-1], [1]] and entries(dataset)["t"]["mean"] == [2 * 86_400]


def test_categories(make):
    dataset = make({"item": ["x", "y", "q"], "brand": ["n", None, "m"], "code": pa.array(["9", "4", "4"]).dictionary_encode()})
    assert dataset.item_features.tolist() == [[0, 1, 0, 1], [0, 0, 1, 0]]
    assert entries(dataset)["brand"]["values"] == ["m", "n"] and entries(dataset)["code"]["values"] == ["4", "9"]


@pytest.mark.parametrize("kind", [pa.string(), pa.int16()])
def test_lists_of_categories(make, kind):
    lists = [["2", "1", "2"], [], None, ["3", None]]
    values = pa.array([value and [entry and int(entry) for entry in value] for value in lists], pa.list_(pa.int16())).cast(
        pa.list_(kind)
    )
    dataset = make({"item": [0, 1, 2, 3], "tags": values}, train=many(4))
    half = math.sqrt(0.5)
    assert np.allclose(dataset.item_features, [[half, half, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]])
    assert entries(dataset)["tags"]["rule"] == "multi-hot"


def test_many_categories_are_hashed(make):
    few = make({"item": list(range(600)), "brand": [f"b{n // 2}" for n in range(600)]}, train=many(600))
    assert few.item_features.shape == (600, 300) and entries(few)["brand"]["rule"] == "one-hot"
    dataset = make({"item": list(range(600)), "brand": [f"b{n}" for n in range(600)]}, train=many(600))
    assert entries(dataset)["brand"] == {"column": "brand", "rule": "hashed", "width": 512, "first": 0}
    rows = dataset.item_features
    assert (np.abs(rows).sum(axis=1) == 1).all() and {*np.unique(rows)} == {-1, 0, 1}
    assert 300 < len({*np.abs(rows).argmax(axis=1)}) < 400, "600 balls in 512 urns fill 353 on average"


def naive_tf_idf(words, counts):
    """Rows as dicts by the formula of the docstring; words of one row only are left out."""
    merged = []
    for row, numbers in zip(words, counts, strict=True):
        bag = {}
        for word, number in zip(row or [], numbers or [], strict=True):
            if word is not None and number:
                bag[word] = bag.get(word, 0) + number
        merged.append(bag)
    filled = sum(bool(bag) for bag in merged)
    within = {word: sum(word in bag for bag in merged) for bag in merged for word in bag}
    out = []
    for bag in merged:
        row = {w: math.log(1 + c) * math.log(1 + filled / within[w]) for w, c in bag.items() if within[w] > 1}
        length = math.sqrt(sum(value**2 for value in row.values()))
        out.append({word: value / length for word, value in row.items()})
    return out, sorted((word for word in within if within[word] > 1), key=lambda word: (-within[word], word))


@pytest.mark.parametrize(("name", "counts_name"), [("words", "counts"), ("terms", "terms_counts")])
def test_a_small_bag_is_its_tf_idf(make, name, counts_name):
    words = [[5, 9, 5], [9, 7], None, [], [7, 9, 1], [9, 3]]
    counts = [[1, 2, 3], [1, 0], None, [], [4, 1, 1], [2, 1]]
    words[3], counts[3] = [5, None], [2, 5]
    dataset = make({"item": list(range(6)), name: words, counts_name: counts}, train=many(6))
    naive, order = naive_tf_idf(words, counts)
    assert order == [9, 5]  # 7 is counted 0 times in one of its two rows, 1 and 3 are in one row only
    assert np.allclose(dataset.item_features, [[row.get(word, 0) for word in order] for row in naive], atol=1e-6)
    entry = entries(dataset)[name]
    assert (entry["rule"], entry["counts"], entry["words"], entry["width"]) == ("tf-idf", counts_name, 2, 2)


@pytest.fixture
def bags():
    """400 rows of up to 20 of 600 words, about 10 topics, some words several times."""
    rng = np.random.default_rng(3)
    topics = rng.integers(0, 10, 400)
    words = [((rng.zipf(1.3, 20) % 60) + 60 * topic).tolist() for topic in topics]
    return words, [rng.integers(1, 5, 20).tolist() for _ in words]


def test_a_large_bag_is_projected_on_its_singular_vectors(make, bags):
    words, counts = bags
    dataset = make({"item": list(range(400)), "words": words, "counts": counts}, train=many(400))
    naive, order = naive_tf_idf(words, counts)
    matrix = np.array([[row.get(word, 0) for word in order] for row in naive])
    assert len(order) > 256 and dataset.item_features.shape == (400, 256)
    left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
    assert (dataset.item_features**2).sum() > 0.999 * (singular[:256] ** 2).sum(), "the best 256 columns hold no more"
    leading = np.abs(left[:, :8].T @ dataset.item_features[:, :8])
    assert np.allclose(leading, np.diag(singular[:8]), atol=2e-3 * singular[0]), "column by column, by falling length"


@pytest.mark.parametrize("width", [3, 300])
def test_text_width_is_the_columns_of_a_projected_bag(make, bags, width):
    words, counts = bags
    table = {"item": list(range(400)), "words": words, "counts": counts}
    dataset = make(table, train=many(400), text_width=width)
    naive, order = naive_tf_idf(words, counts)
    singular = np.linalg.svd(np.array([[row.get(word, 0) for word in order] for row in naive]), compute_uv=False)
    assert len(order) > width and dataset.item_features.shape == (400, width)
    assert (dataset.item_features**2).sum() == pytest.approx((singular[:width] ** 2).sum(), rel=1e-3)
    assert dataset.info["data"]["text_width"] == entries(dataset)["words"]["width"] == width


def test_as_many_columns_as_words_are_whole_tf_idf(make, bags):
    words, counts = bags
    dataset = make({"item": list(range(400)), "words": words, "counts": counts}, train=many(400), text_width=600)
    naive, order = naive_tf_idf(words, counts)
    assert np.allclose(dataset.item_features, [[row.get(word, 0) for word in order] for row in naive], atol=1e-6)


def test_text_width_keeps_to_the_memory_limit(make, bags, tmp_path):
    words, counts = bags
    with pytest.raises(UsageError, match=r"text_width = 700 takes 17,640,000 bytes to find, .*raise memory_limit") as caught:
        make({"item": list(range(400)), "words": words, "counts": counts}, many(400), text_width=700, memory_limit="64MB")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_statistics_keep_to_the_memory_limit(make):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(400_000, dtype=np.int8) % 3), 100_000)
    expected = r"column 'vector' takes 20,000,000 bytes of 20,000,000 for the statistics of all columns, of .* 16,000,000; .*"
    with pytest.raises(DeviceError, match=expected + "set --memory-limit 81MB"):
        make({"item": [0, 1, 2, 3], "vector": vectors}, many(4), memory_limit="64MB")


def test_lists_of_text_without_counts_are_a_bag_when_they_hold_many_values(make):
    texts = [[f"w{n % 7}", f"w{n % 5}"] for n in range(100)] + [[f"only{n}", f"lone{n}"] for n in range(260)]
    dataset = make({"item": list(range(360)), "words": texts}, train=many(360))
    naive, order = naive_tf_idf(texts, [[1, 1]] * 360)
    assert entries(dataset)["words"]["rule"] == "tf-idf" and order[0] == "w0" and len(order) == 7
    assert np.allclose(dataset.item_features, [[row.get(word, 0) for word in order] for row in naive], atol=1e-6)


def test_batches_do_not_matter(make, bags, monkeypatch):
    words, counts = bags
    table = {
        "item": list(range(400)),
        "words": words,
        "counts": counts,
        "price": [float(n % 17) if n % 3 else None for n in range(400)],
        "vector": [[n, -n / 7] for n in range(400)],
        "brand": [f"b{n % 5}" for n in range(400)],
    }
    whole = make(table, train=many(400))
    assert whole.item_features.shape == (400, 256 + 1 + 2 + 5)
    rows = whole.item_features.copy()
    monkeypatch.setattr(fits, "_BATCH_ROWS", 37)
    assert np.allclose(make(table, train=many(400)).item_features, rows, atol=1e-6)


def test_new_nodes_are_encoded_as_ingestion_did(make, bags, tmp_path):
    words, counts = bags
    table = pa.table(
        {
            "item": list(range(400)),
            "words": words,
            "words_counts": counts,
            "price": list(range(400)),
            "brand": [f"b{n % 5}" for n in range(400)],
            "tags": [[f"t{n % 4}"] for n in range(400)],
            "vector": [[n, n * 0.5] for n in range(400)],
        }
    )
    dataset = make(table, train=many(400))
    again = encode_features(dataset, "item", str(tmp_path / "f.parquet"))
    assert again.ids.to_pylist() == list(range(400)) and again.rows_RF.dtype == np.float32
    assert np.array_equal(again.rows_RF[np.argsort(dataset.item_ids.numbers(again.ids))], dataset.item_features)
    new = table.slice(7, 1).set_column(0, "id", pa.array([1000])).append_column("extra", pa.array([1]))
    pq.write_table(new.set_column(4, "brand", pa.array(["unheard of"])), tmp_path / "new.parquet")
    encoded = encode_features(dataset, "item", "new.parquet", tmp_path)
    expected = again.rows_RF[7].copy()
    brand = entries(dataset)["brand"]
    expected[brand["first"] : brand["first"] + brand["width"]] = 0
    assert encoded.ids.to_pylist() == [1000] and np.array_equal(encoded.rows_RF[0], expected)


def test_what_new_nodes_must_bring(make, tmp_path):
    dataset = make({"item": ["x", "y"], "price": [1.0, 2.0]})
    pq.write_table(pa.table({"item": ["n"], "prize": [1.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"item": ["n"], "price": ["cheap"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"item": ["n"], "price": [float("nan")]}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"item": ["n", "n"], "price": [1.0, 1.0]}), tmp_path / "d.parquet")
    for name, expected in (
        ("a", "has no column 'price'; did you mean 'prize'"),
        ("b", "must hold a number"),
        ("c", "1 are NaN or infinite"),
        ("d", "must hold every id once"),
    ):
        with pytest.raises(DataError, match=expected):
            encode_features(dataset, "item", f"{name}.parquet", tmp_path)
    with pytest.raises(DataError, match="has no user features"):
        encode_features(dataset, "user", "a.parquet", tmp_path)


@pytest.mark.parametrize("name", ["sku", "item", "id"])
def test_the_id_column(make, name):
    train = pa.table({"user": ["a"], "product": [{"sku": 5}]})
    dataset = make({name: [5, 6], "price": [1.0, 3.0]}, train=train, item="product.sku")
    assert dataset.item_features.tolist() == [[-1.0]]


def test_the_id_inside_a_struct(make):
    train = pa.table({"user": ["a"], "product": [{"sku": 5}]})
    dataset = make({"product": [{"sku": 6}, {"sku": 5}], "price": [1.0, 3.0]}, train=train, item="product.sku")
    assert dataset.item_features.tolist() == [[1.0]]


def test_user_features(make, tmp_path):
    pq.write_table(pa.table({"user": ["b", "c"], "age": [30.5, 10.5]}), tmp_path / "g.parquet")
    dataset = make({"item": ["x"], "t": ["p"]}, user_features="g.parquet")
    assert dataset.user_features.tolist() == [[0], [1]] and entries(dataset, "user")["age"]["scale"] == 0.1
    assert "user_features: column 'age' is standardised, 1 of 1 columns" in dataset.info["report"]["lines"]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            {"itm": ["x"], "price": [1]},
            "must hold the ids of items in a column 'item' or 'id', it has 'itm', 'price'; rename one",
        ),
        ({"item": ["x", "y"]}, "holds no feature column other than 'item'"),
        (
            {"item": ["x", "x"], "price": [1, 2]},
            "must hold every id once, 'x' comes 2 times; keep one row of each id, "
            'as DuckDB does by SELECT DISTINCT ON ("item") * FROM the file',
        ),
        ({"item": pa.array([], pa.string()), "price": pa.array([], pa.int64())}, "holds no rows"),
        (
            {"item": ["q", "x", "y"], "v": [None, [1.0], [1.0, 2.0]]},
            "feature column 'v' must hold vectors of one length, row 2 has 2 values after vectors of 1; pad",
        ),
        (
            {"item": ["x", "y", "q"], "price": [math.nan, math.inf, None]},
            "feature column 'price' must hold finite numbers, 2 are NaN or infinite; make them null",
        ),
        ({"item": ["x", "y"], "v": [[1.0, math.nan], [1.0, 2.0]]}, "feature column 'v' must hold finite numbers, 1 are NaN"),
        ({"item": ["x"], "s": [{"a": 1}]}, "feature column 's' must hold numbers, times, text, or lists of numbers or text"),
        ({"item": ["x"], "s": [b"raw"]}, "it holds binary; cast it or leave it out"),
        ({"item": ["x"], "s": [[[1.0]]]}, "it holds list<"),
        ({"item": ["x"], "n": pa.array([None], pa.float32())}, "feature column 'n' holds no value at all"),
        ({"item": ["x"], "n": pa.array([None], pa.string())}, "feature column 'n' holds no value at all"),
        ({"item": ["x"], "n": pa.array([None], pa.list_(pa.float32()))}, "feature column 'n' holds no value at all"),
        (
            {"item": ["x", "y"], "words": [[1], [1, 2]], "counts": [[1], [1]]},
            "feature column 'words' must hold as many values as 'counts' holds counts, row 1 has 2 and 1",
        ),
        ({"item": ["x"], "words": [[1]], "counts": [[-1]]}, "needs counts of 0 and more in 'counts', 1 are null, negative"),
        ({"item": ["x"], "words": [[1]], "counts": [[1e300]]}, "1 are null, negative, NaN or above 2**53; correct them"),
        (
            {"item": ["x"], "words": pa.array([[2**63]], pa.list_(pa.uint64()))},
            "'words' holds integers beyond int64; cast them to text",
        ),
        ({"item": ["x"], "words": [[1]], "tags": [["p"]], "counts": [[1]]}, "'counts' may belong to 'words' or 'tags'"),
        ({"item": ["x", "y"], "words": [[1], [2]], "counts": [[1], [1]]}, "holds no value that two rows share"),
    ],
)
def test_bad_features(make, tmp_path, table, expected):
    with pytest.raises(DataError) as caught:
        make(table)
    message = str(caught.value)
    assert expected in message and "\n" not in message and caught.value.exit_code == 3 and not (tmp_path / "out").exists()
