"""The words of linked items: against sums by hand in plain Python, and into a data set."""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.examples import linked_words


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the example on tables; returns the table it writes."""

    def call(items, links, *flags):
        pq.write_table(pa.table(items), tmp_path / "items.parquet")
        pq.write_table(pa.table(links), tmp_path / "links.parquet")
        paths = [str(tmp_path / f"{name}.parquet") for name in ("items", "links", "it's out")]
        monkeypatch.setattr(sys, "argv", ["linked_words.py", *paths, *flags])
        linked_words.main()
        return pq.read_table(paths[2])

    return call


def by_hand(items, links):
    """Item -> {word: count}: its own counts and the mean of those of its neighbours that have any."""
    own = {item: dict(zip(words or [], counts or [], strict=True)) for item, words, counts in zip(*items.values(), strict=True)}
    near = defaultdict(set)
    for a, b in zip(*links.values(), strict=True):
        if a != b:
            near[a].add(b)
            near[b].add(a)
    mixed = {}
    for item, words in own.items():
        others = [other for other in near[item] if own.get(other)]
        mixed[item] = defaultdict(float, words)
        for other in others:
            for word, count in own[other].items():
                mixed[item][word] += count / len(others)
    return mixed


def test_counts_equal_those_by_hand(run):
    draw = np.random.default_rng(0)
    words = [sorted(draw.choice(30, draw.integers(0, 8), replace=False).tolist()) for _ in range(40)]
    words[7] = None
    counts = [None if row is None else draw.integers(1, 5, len(row)).tolist() for row in words]
    items = {"article": list(range(40)), "terms": words, "times": counts}
    links = {"article": draw.integers(0, 45, 90).tolist(), "cites": draw.integers(0, 45, 90).tolist()}
    made = run(items, links, "--item", "article", "--other", "cites", "--words", "terms", "--counts", "times")
    assert made.column_names == ["article", "terms", "times"] and made["article"].to_pylist() == items["article"]
    for item, row in by_hand(items, links).items():
        found = dict(zip(made["terms"][item].as_py() or [], made["times"][item].as_py() or [], strict=True))
        assert found == pytest.approx(row)


def test_an_item_without_words_is_like_what_it_cites(run, gcnrec, tmp_path):
    """Item 3 has no words; by its links to 0 and 1 it is encoded like the two of them, and not like 2."""
    words = [["a", "b"], ["a", "b"], ["c", "d"], [], ["c", "d"]]
    items = {"item": [0, 1, 2, 3, 4], "words": words, "counts": [[1] * len(row) for row in words]}
    run(items, {"item": [3, 3, 3], "other": [0, 1, 9]})
    pq.write_table(pa.table({"user": [0, 0, 0, 1, 1], "item": [0, 1, 2, 3, 4]}), tmp_path / "pairs.parquet")
    names = ["--train", "pairs.parquet", "--user", "user", "--item", "item", "--item-features", "it's out.parquet"]
    code, _, told = gcnrec("ingest", *names, "--split", "random", "--test-size", "0.1", "--valid-size", "0", "--out", "data")
    assert code == 0, told
    ids_I = pq.read_table(tmp_path / "data" / "items.parquet")["id"].to_numpy()
    rows_IF = np.load(tmp_path / "data" / "item_features.npy")[np.argsort(ids_I)]
    assert rows_IF[3] @ rows_IF[0] > 0.99 * np.linalg.norm(rows_IF[3]) * np.linalg.norm(rows_IF[0]) > 0
    assert rows_IF[3] @ rows_IF[2] == pytest.approx(0.0, abs=1e-6)


def test_nothing_is_overwritten(run, tmp_path, capsys):
    items, links = {"item": [0], "words": [["a"]], "counts": [[1]]}, {"item": [0], "other": [0]}
    run(items, links)
    with pytest.raises(SystemExit) as caught:
        run(items, links)
    assert caught.value.code == 2 and "exists already; name another file" in capsys.readouterr().err


def test_a_missing_column_is_one_sentence(run, capsys):
    with pytest.raises(SystemExit) as caught:
        run({"item": [0], "words": [["a"]]}, {"item": [0], "other": [0]})
    told = capsys.readouterr().err
    assert caught.value.code == 2 and "counts" in told and "Traceback" not in told


@pytest.mark.parametrize("item", ["id", "a", "words_", "count", "l", 'x" FROM x; --', "{counts}", "it's", "select", "Ünï"])
def test_any_name_of_a_column_is_a_name_and_no_sql(run, item):
    items = {item: [1, 2], "b": [["u"], ["v"]], "word": [[1], [2]]}
    made = run(items, {item: [1], "id_": [2]}, "--item", item, "--other", "id_", "--words", "b", "--counts", "word")
    assert made.to_pydict() == {item: [1, 2], "b": [["u", "v"]] * 2, "word": [[1.0, 2.0], [1.0, 2.0]]}


def test_columns_must_differ(run, capsys):
    with pytest.raises(SystemExit):
        run({"item": [0], "words": [["a"]]}, {"item": [0], "other": [0]}, "--counts", "Words")
    assert "must name three columns" in capsys.readouterr().err
