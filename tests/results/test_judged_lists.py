"""`gcnrec evaluate --lists`: lists of another system by the metrics of a run, scored by hand, and compared with the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from gcnrec.api.judging import compare
from gcnrec.api.lists import recommend
from gcnrec.config import Job
from gcnrec.errors import DataError, UsageError
from gcnrec.ranking.evaluate import HeldOutSplit
from gcnrec.ranking.seen import seen_items
from gcnrec.reports.text import metric_lines
from gcnrec.results.evaluate import Terms, evaluate_lists, evaluate_run
from gcnrec.results.given.lists import lengths_of, open_judged, read_lists, table_of
from gcnrec.results.outputs import Output
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train
from tests.helpers.heard import Heard

K = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    job = {"model": {"name": "itemknn"}, "evaluate": {"k": [K], "metric": f"recall@{K}", "bootstrap": 0, "baselines": []}}
    made = train(Job.parse(job, [], "t"), write_dataset(checkerboard(), folder / "data"), folder / "run")
    evaluate_run(made)
    return made


def rows_of(run, users, rng):
    """Random lists of six places, of which some items are unknown, some come twice and some are of train."""
    items = [*run.dataset.item_ids.ids.to_pylist(), 77]
    return [(user, int(rng.choice(items)), place) for user in users for place in range(6)]


def by_hand(run, rows):
    """recall@K and mrr@K of every user with test pairs, from plain lists and sets."""
    dataset = run.dataset
    seen = seen_items("all", dataset, "test").parts
    ids, items = dataset.user_ids.ids.to_pylist(), dataset.item_ids.ids.to_pylist()
    lists = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        listed = lists.setdefault(user, [])
        if item == 77 or item not in listed:
            listed.append(item)
    values = {}
    for number in np.unique(dataset.test.users_E).tolist():
        held = {items[item] for item in dataset.test.items_E[dataset.test.users_E == number]}
        known = {items[item] for part in seen for item in part.row(number)}
        hits = [item in held and item not in known for item in lists.get(ids[number], [])[:K]]
        values[ids[number]] = (sum(hits) / len(held), 1 / (hits.index(True) + 1) if any(hits) else 0.0)
    return values


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["parquet", "csv", "shuffled", "shuffled csv"])
def test_lists_are_judged_as_they_are(run, tmp_path, seed, kind):
    rng = np.random.default_rng(seed)
    users = [user for user in run.dataset.user_ids.ids.to_pylist() if rng.random() < 0.8]
    rows = [*rows_of(run, users, rng), ("nobody", 1000, 0)]
    written = [rows[at] for at in rng.permutation(len(rows))] if "shuffled" in kind else rows
    names = ("user", "item", "rank") if "shuffled" in kind else ("user", "item")
    columns = [pa.array(column) for column in list(zip(*written, strict=True))[: len(names)]]
    table, path = pa.table(columns, names=names), tmp_path / ("lists.csv" if "csv" in kind else "lists.parquet")
    (csv.write_csv if "csv" in kind else pq.write_table)(table, path)
    out = tmp_path / "out.parquet"
    found = evaluate_lists(run, path, Output(out))
    expected = by_hand(run, rows)
    per_user = pq.read_table(out).to_pylist()
    for at, name in enumerate((f"recall@{K}", f"mrr@{K}")):
        assert {row["user"]: row[name] for row in per_user} == pytest.approx({user: both[at] for user, both in expected.items()})
    assert found[f"recall@{K}"] == pytest.approx(np.mean([recall for recall, _ in expected.values()]))
    assert found["dropped"]["unknown_users"] == 1


def test_the_run_s_own_lists_have_the_run_s_figures_and_differ_by_nothing(run, tmp_path):
    recommend(run, K, tmp_path / "own.parquet", seen="train")
    found = evaluate_lists(run, tmp_path / "own.parquet", Output(tmp_path / "judged.parquet"))
    assert found[f"recall@{K}"] == run.metrics("test")[f"recall@{K}"]
    row = next(row for row in compare(run, [open_judged(tmp_path / "judged.parquet")]).rows if row.metric == f"recall@{K}")
    assert (row.difference, row.run) == (0.0, str(tmp_path / "judged.parquet"))


def write_pairs(path, users, items):
    pq.write_table(pa.table({"user": users, "item": items}), path)
    return path


def test_lengths_end_at_the_longest_list(run, tmp_path):
    """Measured at 3, as the job is, lists of two items would lose against the run by their length alone."""
    ids, held = run.dataset.user_ids.ids.to_pylist(), np.unique(run.dataset.test.users_E).tolist()
    listed = [ids[user] for user in held[2:]]
    path = write_pairs(tmp_path / "two.parquet", [*listed, *listed, "nobody"], [1000] * len(listed) + [77] * (len(listed) + 1))
    heard = Heard()
    found = evaluate_lists(run, path, Output(tmp_path / "fits.parquet"), observer=heard)
    assert [name for name in found if name.startswith("recall@")] == ["recall@2"]
    assert heard.notes == ["metrics @3 are left out: the longest list has 2 items; --k measures them"]
    assert found["users_without_list"] == 2
    assert f"without a list: 2 of {len(held):,} users, who have zeros" in metric_lines(found)
    heard = Heard()
    found = evaluate_lists(run, path, Output(tmp_path / "asked.parquet"), Terms(ks=(1, 3)), observer=heard)
    assert [name for name in found if name.startswith("recall@")] == ["recall@1", "recall@3"] and not heard.notes
    assert "metrics @3 are of lists with at most 2 items, and count the places behind them as misses" in heard.warnings


def test_a_length_counts_rows_of_users_with_held_out_pairs(run, tmp_path):
    dataset = run.dataset
    other, *held = np.unique(dataset.test.users_E).tolist()
    kept_E = dataset.test.users_E != other
    part = replace(dataset.test, users_E=dataset.test.users_E[kept_E], items_E=dataset.test.items_E[kept_E])
    split = HeldOutSplit.of(part, dataset.graph, seen_items("all", dataset, "test"))
    ids = dataset.user_ids.ids.to_pylist()
    rows = [(ids[held[0]], item) for item in (1000, 1001, 1000)] + [(ids[other], 1000 + place) for place in range(6)]
    lists = read_lists(dataset, write_pairs(tmp_path / "lists.parquet", *zip(*rows, strict=True)))
    assert (lists.longest(split), lists.absent(split)) == (3, len(held) - 1)
    assert lengths_of(lists, split, [1, 3, 4, 9], False, Heard()) == [1, 3]
    assert lengths_of(lists, split, [4, 9], False, Heard()) == [3]
    assert lengths_of(lists, split, [1, 9], True, Heard()) == [1, 9]
    nobody = read_lists(dataset, write_pairs(tmp_path / "other.parquet", [ids[other]], [1000]))
    assert lengths_of(nobody, split, [1, 9], False, Heard()) == [1, 9]  # a warning says that no list has a held-out item


def test_lists_of_another_rule_or_data_are_not_compared(run, tmp_path):
    recommend(run, K, tmp_path / "own.parquet", seen="train")
    evaluate_lists(run, tmp_path / "own.parquet", Output(tmp_path / "none.parquet"), Terms(seen="none"))
    with pytest.raises(DataError, match=r"evaluate.seen is 'all' and 'none'; evaluate both with one --seen"):
        compare(run, [open_judged(tmp_path / "none.parquet")])
    evaluate_lists(run, tmp_path / "own.parquet", Output(tmp_path / "valid.parquet"), Terms(split="valid"))
    with pytest.raises(UsageError, match="judges valid, and runs are compared on test; judge the lists with --split test"):
        compare(run, [open_judged(tmp_path / "valid.parquet")])
    with pytest.raises(DataError, match="holds no per-user metrics of lists; make it with 'gcnrec evaluate RUN --lists FILE"):
        open_judged(tmp_path / "own.parquet")


def test_mistakes_are_sentences(run, tmp_path):
    with pytest.raises(UsageError, match=r"name it by --out FILE.parquet"):
        table_of(None, None, False)
    with pytest.raises(UsageError, match="leave --segments out"):
        table_of(tmp_path / "x.parquet", tmp_path / "y", False)
    with pytest.raises(UsageError, match=r"end its name in .parquet"):
        table_of(tmp_path / "x.csv", None, False)
    pq.write_table(pa.table({"user": ["nobody"], "item": [1000]}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="must name users of checkerboard, none of its 1 rows does; check its user column"):
        evaluate_lists(run, tmp_path / "none.parquet", Output(tmp_path / "o.parquet"))
    pq.write_table(pa.table({"user": ["u0"], "item": [1000], "rank": ["first"]}), tmp_path / "words.parquet")
    with pytest.raises(DataError, match="column 'rank' must hold numbers, it holds string; correct it, or leave it out"):
        evaluate_lists(run, tmp_path / "words.parquet", Output(tmp_path / "o.parquet"))
    pq.write_table(pa.table({"user": ["u0"], "item": [1000], "rank": pa.array([None], pa.int32())}), tmp_path / "null.parquet")
    with pytest.raises(DataError, match="must have a number in each row, 1 have none"):
        evaluate_lists(run, tmp_path / "null.parquet", Output(tmp_path / "o.parquet"))
    pq.write_table(pa.table({"user": ["u0"], "item": [1000], "rank": [float("nan")]}), tmp_path / "nan.parquet")
    with pytest.raises(DataError, match="must have a number in each row, 1 have none"):
        evaluate_lists(run, tmp_path / "nan.parquet", Output(tmp_path / "o.parquet"))
    assert not (tmp_path / "o.parquet").exists()
    pq.write_table(pa.table({"user": ["u0"], "item": [1000]}), tmp_path / "mine.parquet")
    with pytest.raises(UsageError, match=r"mine.parquet is read by this command, and would be lost; choose another --out"):
        evaluate_lists(run, tmp_path / "mine.parquet", Output(tmp_path / "mine.parquet", force=True))
