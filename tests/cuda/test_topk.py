"""Running lists on the GPU's kernels against the CPU's: equal items and scores, ties included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import topk as cuda
from gcnrec.cuda.propagate import Csr as DeviceCsr
from gcnrec.errors import DivergedError, UsageError
from gcnrec.graph import csr_from_edges
from gcnrec.ops import topk as ops

USERS, ITEMS = 7, 150


def lists(seed, share):
    """An ascending list of about `share` of the items for each of five rows; users share rows."""
    held = np.random.default_rng(seed).random((5, ITEMS)) < share
    held[0] = False
    rows, columns = np.nonzero(held)
    csr = csr_from_edges(rows.astype(np.int32), columns.astype(np.int32), 5, ITEMS)
    return ops.ItemLists(csr, np.array([0, 1, 2, 3, 4, 4, 1], np.int32))


def on_device(own):
    csr = DeviceCsr(torch.from_numpy(np.array(own.csr.indptr)), torch.from_numpy(np.array(own.csr.indices)), own.csr.columns)
    return cuda.ItemLists(csr, torch.from_numpy(own.rows_B))


def both(k):
    users = np.arange(10, 10 + USERS, dtype=np.int32)
    return ops.empty_lists(users, k), cuda.empty_lists(torch.from_numpy(users), k)


def scores_with_ties(seed=0):
    values = np.random.default_rng(seed).integers(0, 12, (USERS, ITEMS)).astype(np.float32)
    values[2] = np.sort(values[2])  # every score enters
    values[3, 5] = np.inf
    return values


@pytest.mark.parametrize(("k", "tile"), [(20, 1), *((k, tile) for k in (1, 20, 32, 33, 100, 200) for tile in (150, 64, 33))])
def test_keep_best(host, k, tile):
    hidden, values = lists(0, 0.3), scores_with_ties()
    expected, found = both(k)
    for first in range(0, ITEMS, tile):
        part = values[:, first : first + tile]
        padded = torch.full((USERS, part.shape[1] + 5), torch.nan)
        padded[:, : part.shape[1]] = torch.from_numpy(part.copy())
        ops.keep_best(part.copy(), first, hidden, expected)
        cuda.keep_best(padded[:, : part.shape[1]], first, on_device(hidden), found)
    cuda.check(found)
    assert np.array_equal(found.items_BK.numpy(), expected.items_BK)
    assert np.array_equal(found.scores_BK.numpy(), expected.scores_BK)


@pytest.mark.parametrize("tile", [150, 40])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_keep_best_listed(host, share, tile):
    hidden, listed, values = lists(0, 0.3), lists(1, share), scores_with_ties(1)
    expected, found = both(20)
    for first in range(0, ITEMS, tile):
        part = np.ascontiguousarray(values[:, first : first + tile])
        ops.keep_best_listed(part.copy(), first, hidden, listed, expected)
        cuda.keep_best_listed(torch.from_numpy(part.copy()), first, on_device(hidden), on_device(listed), found)
    assert np.array_equal(found.items_BK.numpy(), expected.items_BK)
    assert np.array_equal(found.scores_BK.numpy(), expected.scores_BK)


def test_by_hand(host):
    """Item 1 is hidden; 3 and 4 tie, the smaller number first; the list stays short by one place."""
    hidden = ops.ItemLists.shared(np.array([1], np.int32), 1, 5)
    best = cuda.empty_lists(torch.zeros(1, dtype=torch.int32), 4)
    scores = torch.tensor([[1.0, 9.0, -torch.inf, 2.0, 2.0]])
    cuda.keep_best(scores, 0, on_device(hidden), best)
    assert best.items_BK.tolist() == [[3, 4, 0, -1]] and best.scores_BK.tolist() == [[2.0, 2.0, 1.0, -torch.inf]]
    assert scores[0, 1] == -torch.inf


def test_nan_is_told_unless_it_is_hidden(host):
    hidden, best = lists(0, 0.0), cuda.empty_lists(torch.arange(10, 17, dtype=torch.int32), 3)
    scores = torch.from_numpy(scores_with_ties())
    scores[4, 40] = torch.nan
    cuda.keep_best(scores.clone(), 0, on_device(ops.ItemLists.shared(np.array([40], np.int32), USERS, ITEMS)), best)
    cuda.check(best)
    cuda.keep_best(scores, 0, on_device(hidden), best)
    with pytest.raises(DivergedError, match="user number 14"):
        cuda.check(best)


def test_contained(host):
    own, items = lists(3, 0.4), np.random.default_rng(0).integers(-1, ITEMS, (USERS, 9)).astype(np.int32)
    assert np.array_equal(cuda.contained(torch.from_numpy(items), on_device(own)).numpy(), ops.contained(items, own))


def test_nothing_to_rank_and_too_long_lists(host):
    cuda.keep_best(
        torch.empty(0, 5), 0, on_device(ops.ItemLists.empty(0, 5)), cuda.empty_lists(torch.empty(0, dtype=torch.int32), 3)
    )
    assert host.launches == []
    with pytest.raises(UsageError, match="at most 1024"):
        cuda.empty_lists(torch.zeros(1, dtype=torch.int32), 1025)
