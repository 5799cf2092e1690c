"""Columns of texts: words by hand, TF-IDF by the naive loop of the lists of words, and which columns hold texts at all."""

from __future__ import annotations

import re
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.errors import DataError
from gcnrec.loaders.features.encode import encode_features
from gcnrec.loaders.features.texts import words_of
from tests.loaders.features.test_encode import entries, make, many, naive_tf_idf  # noqa: F401  # make is a fixture

COLOURS, KINDS = ["red", "green", "blue"], ["shirt", "shoe", "hat", "belt"]


def titles(count):
    return [f"{COLOURS[n % 3].title()} {KINDS[n % 4]}, No. {n}" for n in range(count)]


def naive_words(text):
    """Words of texts in ASCII."""
    return None if text is None else re.findall("[a-z0-9]+", text.lower())


def check_tf_idf(rows_RF, texts):
    """The features are the naive loop's, columns by falling number of rows."""
    words = [naive_words(text) for text in texts]
    naive, order = naive_tf_idf(words, [None if row is None else [1] * len(row) for row in words])
    assert np.allclose(rows_RF, [[row.get(word, 0) for word in order] for row in naive], atol=1e-6)


def test_words_by_hand():
    texts = ["Red Cotton-Shirt, size 12!", None, "", " - ", "東京 guide", "ＦＵＬＬ ﬁne", "A1b2_c3", "Naïve CAFÉ", "สวัสดี"]  # noqa: RUF001
    words = [
        ["red", "cotton", "shirt", "size", "12"], None, [], [], ["東", "京", "guide"], ["full", "fine"], ["a1b2", "c3"],
        ["naïve", "café"], ["ส", "วั", "ส", "ดี"],
    ]  # fmt: skip
    assert words_of(pa.array(texts)).to_pylist() == words


def test_titles_are_tf_idf_of_their_words(make, tmp_path):  # noqa: F811
    texts = [*titles(600), None, "", "unlike, all"]
    dataset = make({"item": list(range(603)), "title": texts}, train=many(603))
    entry = entries(dataset)["title"]
    assert (entry["rule"], entry["width"], entry["words"]) == ("text, tf-idf", 8, 8)
    check_tf_idf(dataset.item_features, texts)
    assert not dataset.item_features[600:].any()
    new = pa.table({"item": [9000, 9001], "title": ["HAT red: unknown", None]})
    pq.write_table(new, tmp_path / "new.parquet")
    rows_RF = encode_features(dataset, "item", str(tmp_path / "new.parquet")).rows_RF
    of = {word: dataset.item_features[texts.index(f"{word} hat, No. {number}")] for word, number in (("Red", 6), ("Blue", 2))}
    red, hat = (of["Red"] > 0) & (of["Blue"] == 0), (of["Red"] > 0) & (of["Blue"] > 0)
    assert np.count_nonzero(rows_RF[0]) == 2 and rows_RF[0][red].all() and np.count_nonzero(rows_RF[0][hat]) == 1
    assert np.isclose((rows_RF[0] ** 2).sum(), 1) and not rows_RF[1].any()


def test_texts_of_many_words_are_projected_on_text_width_columns(make):  # noqa: F811
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.zipf(1.2, 6) % 900) for _ in range(700)]
    dataset = make({"item": list(range(700)), "title": texts}, train=many(700), text_width=8)
    words = [naive_words(text) for text in texts]
    naive, order = naive_tf_idf(words, [[1] * len(row) for row in words])
    singular = np.linalg.svd(np.array([[row.get(word, 0) for word in order] for row in naive]), compute_uv=False)
    assert entries(dataset)["title"]["rule"] == "text, tf-idf, truncated svd" and dataset.item_features.shape == (700, 8)
    assert (dataset.item_features**2).sum() == pytest.approx((singular[:8] ** 2).sum(), rel=1e-3)


CODES = [str(uuid.UUID(int=n * 7919 << 64 | n)) for n in range(600)]


@pytest.mark.parametrize(
    ("column", "rule"),
    [
        (CODES, "hashed"),
        ([f"{a} one" if n % 3 else a for n, a in enumerate(CODES)], "hashed"),
        (pa.array(titles(600)).dictionary_encode(), "hashed"),
        ([title.rsplit(" ", 1)[0] for title in titles(600)], "one-hot"),
        (["".join(chr(0x4E00 + n % 50) + chr(0x5000 + n // 50)) for n in range(600)], "text, multi-hot"),
    ],
    ids=["codes", "fewer than two words", "dictionary-encoded", "few values", "Han"],
)
def test_other_columns_of_text_hold_names(make, column, rule):  # noqa: F811
    dataset = make({"item": list(range(600)), "name": column}, train=many(600))
    assert entries(dataset)["name"]["rule"] == rule


def test_named_columns_are_texts_and_weights_scale(make, tmp_path):  # noqa: F811
    table = {"item": [0, 1, 2], "title": ["red hat", "red shoe", None], "brand": ["a", "b", "a"], "price": [1.0, 2.0, 3.0]}
    plain = make(table, train=many(3)).item_features
    dataset = make(table, train=many(3), features_text="title", feature_weights={"title": 2, "brand": 0.5, "price": 0})
    half = np.sqrt(2.0)
    assert np.allclose(dataset.item_features, [[half, half, 0, 0.5, 0], [0, half, half, 0, 0.5], [0, 0, 0, 0.5, 0]])
    assert [(name, entry["rule"], entry["weight"]) for name, entry in entries(dataset).items()] == [
        ("title", "text, multi-hot", 2.0), ("brand", "one-hot", 0.5),
    ]  # fmt: skip
    assert plain.shape == (3, 5) and np.allclose(plain[:, 2:4], [[1, 0], [0, 1], [1, 0]])
    again = encode_features(dataset, "item", str(tmp_path / "f.parquet")).rows_RF
    assert np.array_equal(again, dataset.item_features)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"features_text": ["titel"]}, r"features_text names column 'titel', f.parquet has 'item', 'title', 'price'; correct"),
        ({"feature_weights": {"x": 2.0}}, "feature_weights names column 'x', f.parquet has 'item', 'title', 'price'; correct"),
        ({"features_text": ["price"]}, "feature column 'price' must hold text, as features_text names it, it holds int64; leave"),
        ({"feature_weights": {"title": 0, "price": 0}}, "f.parquet holds no feature column other than 'item'"),
        ({"features_text": ["title"]}, "feature column 'title' holds no value that two rows share; leave it out"),
    ],
)
def test_choices_that_fit_no_column_are_refused(make, settings, problem):  # noqa: F811
    texts = [f"{number:x}z{number} {number}y" for number in range(600)]
    with pytest.raises(DataError, match=problem):
        make({"item": list(range(600)), "title": texts, "price": list(range(600))}, many(600), **settings)
