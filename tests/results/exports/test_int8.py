"""int8 embeddings against plain NumPy, and the figures of an export against lists made again from its files."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.ranking.metrics import measured
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.results.evaluate import evaluate_run
from gcnrec.results.export import export
from gcnrec.results.exports.int8 import EXACT_FLOAT32, Int8Scorer, quantised


def coded(rows):
    """Codes and scales by plain float32 arithmetic, a row at a time."""
    codes, scales = np.zeros(rows.shape, np.int64), np.zeros(len(rows), np.float32)
    for row, values in enumerate(rows):
        scales[row] = np.abs(values).max() / np.float32(127)
        if scales[row] > 0:
            codes[row] = np.clip(np.rint(values / scales[row]), -127, 127)
    return codes, scales


def scores(users, items, column):
    """Scores of all pairs from int64 sums."""
    (codes_u, scale_u), (codes_i, scale_i) = coded(users), coded(items)
    return (codes_u @ codes_i.T).astype(np.float32) * scale_i * scale_u[:, None] + column


def drawn(seed, count, width):
    """Rows of many sizes, a row of zeros and a row of the smallest numbers among them."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, width)) * 10.0 ** rng.integers(-6, 6, (count, 1))
    rows[0], rows[-1] = 0, 1e-44
    return rows.astype(np.float32)


@given(st.integers(0, 2**32), st.integers(2, 9), st.integers(1, 40))
def test_codes_are_within_half_a_step(seed, count, width):
    rows = drawn(seed, count, width)
    codes, scales = (part.numpy() for part in quantised(torch.from_numpy(rows)))
    expected_codes, expected_scales = coded(rows)
    assert np.array_equal(codes, expected_codes) and np.array_equal(scales, expected_scales)
    usual = scales > np.finfo(np.float32).tiny
    steps = np.abs(rows[usual] / scales[usual, None].astype(np.float64) - codes[usual])
    assert (steps <= 0.5 + 1e-4).all() and (np.abs(codes).max(axis=1)[usual] == 127).all()


@pytest.mark.parametrize("width", [5, 64, EXACT_FLOAT32, EXACT_FLOAT32 + 1, 3000])
def test_sums_of_codes_are_exact(width):
    """Rows of equal signs give the largest sums, where float32 would round sums of wide rows."""
    users, items = np.abs(drawn(1, 4, width)) + 1, np.abs(drawn(2, 7, width)) + 1
    column = torch.linspace(-3, 0, 7)
    scorer = Int8Scorer(EmbeddingScorer(torch.from_numpy(users), torch.from_numpy(items), column))
    out = torch.empty(4, 5)
    scorer.score(scorer.prepare(np.arange(4, dtype=np.int32)), 2, 7, out)
    assert np.array_equal(out.numpy(), scores(users, items, column.numpy())[:, 2:])


def best(matrix, k):
    """The best `k` columns of each row, ties to the smaller number."""
    return np.argsort(-matrix, axis=1, kind="stable")[:, :k]


def test_an_export_has_the_recall_of_its_lists(run, tmp_path):
    facts = export(run, "int8", tmp_path / "int8", k=10)
    assert sorted(path.name for path in (tmp_path / "int8").iterdir()) == ["export.json", "items.parquet", "users.parquet"]
    users, items = (pq.read_table(tmp_path / "int8" / f"{name}.parquet") for name in ("users", "items"))
    assert items.column("id").to_pylist() == run.dataset.item_ids.ids.to_pylist()
    codes_u, codes_i = (np.array(each.column("embedding").to_pylist(), np.int64) for each in (users, items))
    scale_u, scale_i = (each.column("scale").to_numpy() for each in (users, items))
    factor = json.loads(items.schema.metadata[b"gcnrec"])["popularity_factor"]
    assert items.column("popularity").type == "float" and factor == facts["popularity_factor"] > 0
    made = (codes_u @ codes_i.T).astype(np.float32) * scale_i * scale_u[:, None]
    made += np.float32(factor) * items.column("popularity").to_numpy()
    scorer = run.scorer()
    exact = scorer.users_UD.numpy() @ scorer.items_ID.numpy().T + scorer.column_I.numpy()
    sizes_u, sizes_i = (np.abs(each.numpy()).sum(axis=1) for each in (scorer.users_UD, scorer.items_ID))
    # Each of eight products has two factors off by half a step; float32 rounds what is left.
    bound = (sizes_u[:, None] * scale_i + scale_u[:, None] * sizes_i) / 2 + 8 * scale_u[:, None] * scale_i / 4
    assert (np.abs(made - exact) <= bound + 1e-5).all()
    found = np.mean([len({*a} & {*b}) / 10 for a, b in zip(best(made, 10).tolist(), best(exact, 10).tolist(), strict=True)])
    assert facts["recall@10"] == pytest.approx(found) and 0.9 < found <= 1 and facts["measured_users"] == 120
    assert (facts["bytes"], facts["float32_bytes"]) == (180 * (8 + 4), 180 * 8 * 4)
    assert json.loads((tmp_path / "int8" / "export.json").read_text())["test_recall@10"] == facts["test_recall@10"]
    assert facts["test_recall@10"]["float32"] == measured(evaluate_run(run, ks=[10]))["recall@10"]


def test_recall_on_test_is_that_of_int8_lists(run, tmp_path):
    facts, scorer, dataset = export(run, "int8", tmp_path / "int8", k=5), run.scorer(), run.dataset
    made = scores(scorer.users_UD.numpy(), scorer.items_ID.numpy(), scorer.column_I.numpy())
    seen = dataset.graph.user_items
    made[seen.row_numbers(), seen.indices] = -np.inf
    held, lists = {}, best(made, 5)
    for user, item in zip(dataset.test.users_E.tolist(), dataset.test.items_E.tolist(), strict=True):
        held.setdefault(user, set()).add(item)
    recalls = [len(items & {*lists[user].tolist()}) / len(items) for user, items in held.items()]
    assert facts["test_recall@5"]["int8"] == pytest.approx(np.mean(recalls))


def test_the_command_prints_both(run, gcnrec, tmp_path):
    code, out, err = gcnrec("export", run.folder, "--format", "int8", "--out", tmp_path / "int8", "--k", 5)
    assert (code, err) == (0, "") and "test_recall@5\n" in out
