"""Our policy: slots by popularity in full records, exchange inside rows by hand, and the warm state of what grows."""

from __future__ import annotations

import numpy as np
import pytest

from gcnrec.errors import UsageError
from gcnrec.sparsity.dynamic import Dynamic, warm
from gcnrec.sparsity.policy import Moment
from gcnrec.tables.arena import RECORD_BYTES, SlotBlock
from gcnrec.tables.slots import SlotTable
from gcnrec.testing import halves, star


class Given:
    """Gradients that are known."""

    def __init__(self, cells_ND):
        self.cells_ND = np.array(cells_ND, np.float32)

    def tile(self, first, last):
        return self.cells_ND[first:last].copy()


def small_table(moments=2):
    """Rows [5, 1, ., 3], [., -2, ., .] and [., ., ., .]; m is the value's tenth, v its square."""
    table = SlotTable(3, 4, 4, (moments, 0))
    values = np.array([5, 1, 3, -2], np.float32)
    state = np.stack([values / 10, values**2])[:moments]
    with table.rebuild() as rebuild:
        rebuild.write(
            SlotBlock(0, np.array([3, 1, 0]), np.array([0, 1, 3, 1], np.uint8), values, state, np.zeros((3, 0), np.float32))
        )
    return table


def policy(**changes):
    settings = {"user_share": None, "power": 0.5, "least": 1, "ratio": 0.8, "stop": 0.75, "batches": 8, "dtype": "float32"}
    return Dynamic(**{**settings, **changes})


def test_an_exploration_by_hand():
    """Share 0.8/2 * (1 + cos 0) = 0.8: row 0 gives up int(2.4) = 2 slots but only one cell is free, row 1 none (int(0.8) = 0)."""
    table = small_table()
    gradients = Given([[9, 9, -0.5, 9], [9, 9, 9, 9], [9, 9, 9, 9]])
    change = policy().explore(table, Moment(0.0, 0), gradients)
    block = table.unpack(0, 3)
    assert (change.pruned, change.grown, change.regrown) == (1, 1, 0)
    assert block.counts_R.tolist() == [3, 1, 0] and block.columns_X.tolist() == [0, 2, 3, 1]
    assert block.values_X.tolist() == [5, 0, 3, -2]  # the smallest of row 0, the 1 in column 1, made room for column 2
    assert block.moments_MX[0].tolist() == pytest.approx([0.5, -0.5, 0.3, -0.2])  # m of the new slot is its mean gradient
    assert block.moments_MX[1].tolist() == [25, 17, 9, 4]  # v is the mean of what stayed, (25 + 9) / 2


def test_the_share_falls_to_nothing_at_stop():
    shares = [policy(ratio=0.4).share(Moment(progress, 0)) for progress in (0.0, 0.375, 0.75)]
    assert shares == pytest.approx([0.4, 0.2, 0.0])


def test_warm_state_is_never_smaller_than_the_gradient_asks_for():
    """A gradient larger than the row's: v is its square, so Adam's first step is at most about the learning rate."""
    block = small_table().unpack(0, 3)
    born = warm(Given([[0, 0, -100, 0], [0, 0, 0, 0], [7, 0, 0, 0]]))(block, np.array([0, 2]), np.array([2, 0], np.uint8))
    assert born[0].tolist() == [0, 0] and born[1].tolist() == [-100, 7] and born[2].tolist() == [10000, 49]
    assert warm(Given(np.ones((3, 4))))(small_table(0).unpack(0, 3), np.array([0]), np.array([2], np.uint8)).shape == (1, 1)


def test_popular_rows_get_more_slots_and_records_are_full():
    graph = star(40).graph  # one item that 40 users like
    table = SlotTable(41, 64, 41 * 8, (2, 0))
    counts_N = policy().first_counts(graph, table)
    capacities = [0, *(size // 5 for size in RECORD_BYTES)]
    # 13: from the record of 38 to that of 51, which is too large
    assert table.max_values - 13 < counts_N.sum() <= table.max_values
    assert counts_N[40] == counts_N.max() > 3 * counts_N[0]
    assert np.isin(counts_N, capacities).all()


def test_equal_rows_get_equal_slots():
    graph = halves(8, 8).graph
    counts_N = policy(power=1.0).first_counts(graph, SlotTable(32, 64, 32 * 12, (2, 0)))
    assert counts_N.tolist() == [12] * 32


def test_users_get_their_share_evenly():
    graph = star(40).graph
    table = SlotTable(41, 64, 200, (2, 0))
    counts_N = policy(user_share=0.8).first_counts(graph, table)
    assert counts_N.tolist() == [4] * 40 + [38]  # 160 over 40 users; the item wants 40, its record holds 38
    assert policy(user_share=0.0).first_counts(graph, SlotTable(41, 64, 64, (2, 0))).tolist() == [0] * 40 + [64]


def test_what_one_side_cannot_hold_goes_to_the_other():
    graph = star(40).graph  # one item, of at most 64 values
    assert policy(user_share=0.0).first_counts(graph, SlotTable(41, 64, 104, (2, 0))).tolist() == [1] * 40 + [64]


def test_a_budget_that_no_rows_can_hold_is_refused():
    with pytest.raises(UsageError, match=r"lower table\.budget or table\.base_width"):
        policy(user_share=0.5).first_counts(star(40).graph, SlotTable(41, 64, 41 * 64 + 1, (2, 0)))
