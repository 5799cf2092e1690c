"""Every contender of the evaluate bench ranks a small world alike."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from gcnrec.bench.evaluate import Inputs, implicit_topk, ours, score_difference, torch_topk
from gcnrec.graph import csr_from_edges


def world() -> Inputs:
    rng = np.random.default_rng(4)
    edges = rng.integers(0, 50, 300).astype(np.int32), rng.integers(0, 80, 300).astype(np.int32)
    users, items = (torch.from_numpy(rng.normal(size=(size, 8)).astype(np.float32)) for size in (50, 80))
    return Inputs(users, items, csr_from_edges(*edges, 50, 80), k=10, threads=1)


@pytest.mark.parametrize("contender", [partial(torch_topk, 7), partial(torch_topk, 64), implicit_topk])
def test_contenders_agree_with_ours(contender):
    if contender is implicit_topk:
        pytest.importorskip("implicit")
    expected, found = ours(world()), contender(world())
    assert score_difference(expected, found) < 1e-5
    np.testing.assert_array_equal(expected[0], found[0])


def test_the_first_users_are_a_world_of_their_own():
    part = world().first(20)
    np.testing.assert_array_equal(ours(part)[0], ours(world())[0][:20])
