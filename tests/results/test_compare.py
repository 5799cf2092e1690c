"""Comparisons of fake runs whose per-user metrics are chosen by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.api.judging import compare
from gcnrec.errors import DataError, UsageError

USERS = 300


def fake_run(folder, metrics, digest="d1", users=None, held_out=None):
    folder.mkdir()
    count = len(next(iter(metrics.values()))) if metrics else USERS
    users = list(range(count)) if users is None else users
    held_out = np.full(count, 3) if held_out is None else held_out
    table = pa.table({"user": users, "degree": np.full(count, 7), "num_held_out": held_out, **metrics})
    pq.write_table(table, folder / "per_user.parquet")
    return SimpleNamespace(folder=folder, dataset=SimpleNamespace(digest=digest, keeps_repeats=False), refitted=False)


@pytest.fixture
def values():
    return np.random.default_rng(2).random(USERS)


def test_better_equal_and_noisy_runs(tmp_path, values):
    noise = np.random.default_rng(3).normal(0, 0.1, USERS)
    base = fake_run(tmp_path / "base", {"recall@20": values, "ndcg@20": values / 2})
    better = fake_run(tmp_path / "better", {"ndcg@20": values / 2 + 0.01, "recall@20": values + 0.1 + noise, "map@20": values})
    same = fake_run(tmp_path / "same", {"recall@20": values, "ndcg@20": values / 2})
    found = compare(base, [better, same])
    assert (found.base, found.split, found.num_users) == (str(base.folder), "test", USERS)
    rows = {(row.run, row.metric): row for row in found.rows}
    assert [(row.run, row.metric) for row in found.rows] == [
        (str(run.folder), name) for run in (better, same) for name in ("recall@20", "ndcg@20")
    ]
    first = rows[str(better.folder), "recall@20"]
    assert first.base == pytest.approx(values.mean())
    assert first.difference == pytest.approx(0.1 + noise.mean()) == pytest.approx(first.value - first.base)
    half = 1.96 * noise.std() / np.sqrt(USERS)
    assert (first.low, first.high) == pytest.approx((first.difference - half, first.difference + half), abs=half / 4)
    assert first.p_value == pytest.approx(1 / 10_001)
    assert first.p_holm == pytest.approx(4 / 10_001)  # the smallest of four tests
    constant = rows[str(better.folder), "ndcg@20"]
    assert constant.low == pytest.approx(constant.high) == pytest.approx(0.01)
    for name in ("recall@20", "ndcg@20"):
        row = rows[str(same.folder), name]
        assert (row.difference, row.low, row.high, row.p_value, row.p_holm) == (0, 0, 0, 1, 1)
    assert compare(base, [better, same]) == found


def test_p_values_of_pure_noise_are_not_small(tmp_path, values):
    base = fake_run(tmp_path / "base", {"recall@20": values})
    signs = np.where(np.arange(USERS) % 2 == 0, 0.2, -0.2)  # as many up as down
    other = fake_run(tmp_path / "other", {"recall@20": values + signs})
    (row,) = compare(base, [other]).rows
    assert row.p_value > 0.9
    assert row.low < 0 < row.high


def test_other_data_or_users_are_refused(tmp_path, values):
    base = fake_run(tmp_path / "base", {"recall@20": values})
    with pytest.raises(DataError, match="same dataset, their digests are d1 and d2"):
        compare(base, [fake_run(tmp_path / "a", {"recall@20": values}, digest="d2")])
    with pytest.raises(DataError, match="the same users"):
        compare(base, [fake_run(tmp_path / "b", {"recall@20": values}, users=list(range(1, USERS + 1)))])
    with pytest.raises(DataError, match="the same users"):
        compare(base, [fake_run(tmp_path / "c", {"recall@20": values[:-1]})])
    with pytest.raises(DataError, match="the same held-out items"):
        compare(base, [fake_run(tmp_path / "d", {"recall@20": values}, held_out=np.full(USERS, 4))])


def test_unevaluated_unshared_and_damaged_runs(tmp_path, values):
    base = fake_run(tmp_path / "base", {"recall@20": values})
    with pytest.raises(UsageError, match="at least one run"):
        compare(base, [])
    with pytest.raises(UsageError, match="share no metric"):
        compare(base, [fake_run(tmp_path / "a", {"recall@10": values})])
    other = fake_run(tmp_path / "b", {"recall@20": values})
    with pytest.raises(UsageError, match=r"has no per_user.valid.parquet; run 'gcnrec evaluate"):
        compare(base, [other], split="valid")
    (other.folder / "per_user.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read"):
        compare(base, [other])


def test_valid_is_refused_where_a_run_was_trained_on_it(tmp_path, values):
    base, other = (fake_run(tmp_path / name, {"recall@20": values}) for name in ("base", "other"))
    for run in (base, other):
        (run.folder / "per_user.parquet").rename(run.folder / "per_user.valid.parquet")  # however it came there
    assert compare(base, [other], "valid").split == "valid"
    other.refitted = True
    for pair in ((base, other), (other, base)):
        with pytest.raises(UsageError, match=r"other was trained on train\+valid, so valid cannot measure it"):
            compare(pair[0], [pair[1]], "valid")


def test_samples_are_compared_on_the_users_that_all_have(tmp_path, values):
    base = fake_run(tmp_path / "base", {"recall@20": values})
    some = fake_run(tmp_path / "some", {"recall@20": values[50:150] + 0.25}, users=list(range(50, 150)))
    with pytest.raises(DataError, match="same users"):
        compare(base, [some])
    table = pq.read_table(some.folder / "per_user.parquet")
    pq.write_table(table.replace_schema_metadata({"sampled_from": "300"}), some.folder / "per_user.parquet")
    found = compare(base, [some])
    assert found.num_users == 100
    assert (found.rows[0].base, found.rows[0].difference) == pytest.approx((values[50:150].mean(), 0.25))
