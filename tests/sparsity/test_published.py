"""Every policy on a table small enough to work out by hand, and the budget under any sequence of explorations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.config import Job
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.sparsity.exchange import Change
from gcnrec.sparsity.first_support import fill
from gcnrec.sparsity.policy import Moment
from gcnrec.sparsity.published import Dsl, Gradual, Pattern, RandomGrowth, Rigl, SparseRec, Static, rows_by_degree, unit_factors
from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.slots import SlotTable, dense_rows
from gcnrec.testing import checkerboard
from gcnrec.training.plan import plan_of

_ = 0.0


@dataclass
class Known:
    """Gradients given as an array."""

    grad_ND: np.ndarray

    def tile(self, first, last):
        return self.grad_ND[first:last].copy()


def table_of(rows, budget=None):
    """A table that stores what is not zero; the moments of a value are 10 and 100 times it."""
    rows_ND = np.array(rows, np.float32)
    stored = rows_ND != 0
    table = SlotTable(*rows_ND.shape, int(stored.sum()) if budget is None else budget, (2, 0))
    values = rows_ND[stored]
    with table.rebuild() as rebuild:
        scalars = np.empty((len(rows_ND), 0), np.float32)
        columns = np.nonzero(stored)[1].astype(np.uint8)
        rebuild.write(SlotBlock(0, stored.sum(1), columns, values, np.stack([values * 10, values * 100]), scalars))
    return table


def cells(table):
    """{(row, column): (value, m, v)}, rounded."""
    block = table.unpack(0, table.num_rows)
    planes = np.concatenate([block.values_X[None], block.moments_MX]).T.round(4).tolist()
    return dict(zip(zip(block.rows_X.tolist(), block.columns_X.tolist(), strict=True), map(tuple, planes), strict=True))


def old(value):
    return pytest.approx((value, 10 * value, 100 * value), rel=1e-4)


FRESH = (0.0, 0.0, 0.0)
TWO_ROWS = [[0.5, -0.1, _, _], [_, _, 0.3, 0.05]]
STEEP = Known(np.array([[0.0, 0.9, 0.2, -0.8], [0.7, 0.1, 0.0, 0.05]], np.float32))


def test_static_changes_nothing():
    table = table_of(TWO_ROWS)
    before = cells(table)
    assert Static().explore(table, Moment(0.1, 0), None) == Change() and cells(table) == before
    assert Static().stop == 0.0


@pytest.mark.parametrize("progress", [0.0, 0.25])
def test_rigl_by_hand(progress):
    """Of 4 values ceil(0.25 * (1 + cos(pi * progress / 0.75)) * 4) = 2 go: 0.05 and -0.1. The steepest cells that are not
    stored then are (0, 1), which so stays as it was, and (0, 3), which is new."""
    table = table_of(TWO_ROWS)
    assert Rigl(0.5, 0.75).explore(table, Moment(progress, 0), STEEP) == Change(2, 2, 1)
    assert cells(table) == {(0, 0): old(0.5), (0, 1): old(-0.1), (0, 3): FRESH, (1, 2): old(0.3)}


@pytest.mark.parametrize(("progress", "count"), [(0.0, 2), (0.5, 2), (0.9, 1), (1.0, 1)])
def test_dsl_by_hand(progress, count):
    """0.5, 0.2525, 0.017 and 0.005 of 4 values, rounded up."""
    table = table_of(TWO_ROWS)
    change = Dsl(0.5).explore(table, Moment(progress, 0), STEEP)
    if count == 2:
        assert change == Change(2, 2, 1)
        assert cells(table) == {(0, 0): old(0.5), (0, 1): old(-0.1), (0, 3): FRESH, (1, 2): old(0.3)}
    else:  # 0.05 goes, and (0, 3) is the steepest of what is not stored
        assert change == Change(1, 1, 0)
        assert cells(table) == {(0, 0): old(0.5), (0, 1): old(-0.1), (0, 3): FRESH, (1, 2): old(0.3)}
    assert Dsl(0.5).stop == 1.0


def test_a_row_may_become_empty_and_the_budget_moves_to_another():
    table = table_of([[0.1, 0.2, _, _], [_, _, 3.0, 4.0]])
    steep = Known(np.array([[0, 0, 0, 0], [1, 1, 0, 0]], np.float32))
    assert Rigl(1.0, 0.75).explore(table, Moment(0.375, 0), steep) == Change(2, 2, 0)
    assert cells(table) == {(1, 0): FRESH, (1, 1): FRESH, (1, 2): old(3.0), (1, 3): old(4.0)}


def test_set_by_hand():
    """Half of 4 values go, 0.05 and -0.1; two of the six cells without a value come, each as often as the others."""
    grown = np.zeros((2, 4))
    for seed in range(150):
        table = table_of(TWO_ROWS)
        change = RandomGrowth(0.5, 0.75, seed).explore(table, Moment(0.2, seed % 3), None)
        found = cells(table)
        assert found.pop((0, 0)) == old(0.5) and found.pop((1, 2)) == old(0.3) and len(found) == 2
        assert (change.pruned, change.grown) == (2, 2)
        for cell, state in found.items():
            kept = {(0, 1): old(-0.1), (1, 3): old(0.05)}.get(cell)
            assert state == (FRESH if kept is None else kept)
            grown[cell] += 1
        assert change.regrown == sum(cell in ((0, 1), (1, 3)) for cell in found)
    # 150 draws of 2 out of 6: mean 50, standard deviation 5.8; five of them.
    assert grown[0, 0] == grown[1, 2] == 0 and np.abs(grown[grown > 0] - 50).max() < 29


def test_set_depends_on_seed_and_number_only():
    def explored(seed, number):
        table = table_of(TWO_ROWS)
        RandomGrowth(0.5, 0.75, seed).explore(table, Moment(0.2, number), None)
        return cells(table)

    assert explored(0, 0) == explored(0, 0)
    assert len({tuple(explored(seed, number)) for seed in range(3) for number in range(3)}) > 3


def corner_graph():
    """Two users, two items, one edge: only user 0 and item 0 (node 2) have a degree."""
    return BipartiteGraph.from_edges(np.zeros(1, np.int32), np.zeros(1, np.int32), 2, 2)


def test_sparserec_grows_on_drawn_rows_only():
    """Half of four rows are drawn, and two have no degree: rows 0 and 2. Of 5 values 0.8, ceil(4), go, all but 0.9; of these
    (0, 1) comes back, and (0, 0), (2, 0) and (2, 3) are new. The steep cells of rows 1 and 3 do not count."""
    table = table_of([[_, 0.1, _, _], [0.2, 0.9, _, _], [_, _, 0.3, _], [_, _, _, 0.4]])
    steep = Known(np.array([[0.5, -0.6, 0.1, 0.1], [9, 9, 9, 9], [0.7, 0.1, 0.2, 0.4], [-9, 9, 9, 9]], np.float32))
    policy = SparseRec(corner_graph(), 0, 1, 0.8, 0.75, 4)
    assert policy.batches == 4 and policy.stop == 0.75
    assert policy.explore(table, Moment(0.0, 0), steep) == Change(4, 4, 1)
    assert cells(table) == {(0, 0): FRESH, (0, 1): old(0.1), (1, 1): old(0.9), (2, 0): FRESH, (2, 3): FRESH}


def test_sparserec_gives_up_no_more_than_drawn_rows_can_take():
    """Rows 0 and 2 have room for 1 value, so that 1 goes, not all 7; it comes to them though they have no gradient."""
    table = table_of([[0.7, 0.6], [0.1, 0.2], [0.5, _], [0.3, 0.4]])
    steep = Known(np.array([[0, 0], [9, 9], [0, 0], [9, 9]], np.float32))
    assert SparseRec(corner_graph(), 0, 1, 1.0, 0.75, 4).explore(table, Moment(0.0, 0), steep) == Change(1, 1, 0)
    assert cells(table)[2, 1] == FRESH and (1, 0) not in cells(table) and table.num_values == 7


def test_rows_are_drawn_by_degree_anew_each_time():
    draw = np.random.default_rng(0)
    users, items = (40 * draw.random(400) ** 3).astype(np.int32), draw.integers(0, 40, 400).astype(np.int32)
    graph = BipartiteGraph.from_edges(users, items, 40, 40)
    degrees = np.concatenate([graph.user_items.degrees, graph.item_users.degrees])
    drawn = np.stack([rows_by_degree(graph, 3, number) for number in range(200)])
    assert (drawn.sum(1) == 40).all() and np.array_equal(drawn[7], rows_by_degree(graph, 3, 7))
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], rows_by_degree(graph, 4, 0))
    share = drawn.mean(0)
    # Degrees of 15 and more against 3 and less: far more than the standard error of 0.035 of one row's share.
    assert share[degrees >= 15].min() > share[degrees <= 3].max() + 0.2


def test_sparserec_starts_from_the_blocks_of_the_graph():
    """Rank 2 on the checkerboard: a row's value lies in the column of its own block, and users and items agree."""
    graph = checkerboard().graph
    policy = SparseRec(graph, 0, 1, 0.3, 0.75, 4)
    table = SlotTable(graph.num_nodes, 2, graph.num_nodes, (0, 0))
    counts = policy.first_counts(graph, table)
    assert (counts == 1).all()
    fill(table, counts, lambda first, last: torch.ones(last - first, 2), policy.first_keys(0), None)
    columns = table.unpack(0, graph.num_nodes).columns_X
    assert columns.reshape(-1, 2).tolist() in ([[0, 1]] * 24, [[1, 0]] * 24)
    factors = unit_factors(graph, 2, 0)
    for side in (factors[: graph.num_users], factors[graph.num_users :]):
        assert np.square(side).sum(0) == pytest.approx([1, 1], rel=1e-5)


PATTERN_ROW = [[0.4, 0.3, 0.1, *[_] * 17, 0.2, *[_] * 11], [_] * 32, [*[_] * 16, 5.0, 6.0, 7.0, 8.0, *[_] * 12]]


def steep_pattern():
    """Row 0: steep at 2 and 30, then at 5. Row 1 is only steep at 31. Row 2 has no gradient."""
    grad = np.zeros((3, 32), np.float32)
    grad[0, [2, 30, 5]] = [0.9, -0.8, 0.7]
    grad[1, 31] = 1.0
    return Known(grad)


def test_nm_while_the_pattern_is_loose():
    """12 values of 3 rows: 4 of 32. The share 0.4 * (1 + cos(pi * 5 / 12)) = 0.503 of them, 0.1 and 0.2, go; (0, 2) comes back
    and (0, 30) is new. The empty row fills up, the last three from the left; the row without a gradient stays."""
    table = table_of(PATTERN_ROW, budget=12)
    assert Pattern(0.8, 0.75).explore(table, Moment(0.3125, 4), steep_pattern()) == Change(2, 6, 1)
    found = cells(table)
    first = {column: state for (row, column), state in found.items() if row == 0}
    assert first == {0: old(0.4), 1: old(0.3), 2: old(0.1), 30: FRESH}
    assert [column for row, column in found if row == 1] == [0, 1, 2, 31]
    assert {column: state for (row, column), state in found.items() if row == 2} == {16 + n: old(5.0 + n) for n in range(4)}


@pytest.mark.parametrize("moment", [Moment(0.74, 100), Moment(0.5, 0), Moment(0.6, 3)])
def test_nm_tightens_to_two_of_sixteen(moment):
    """Whatever the interval, the last exploration before 0.75 leaves 2 values in each half of a row. At 0.74 and 0.6 the
    share is below a quarter of 2 values, which rounds to none; at 0.5 it is 0.25 of them, which rounds to none, too."""
    table = table_of(PATTERN_ROW, budget=12)
    Pattern(1.0 if moment.progress > 0.5 else 0.5, 0.75).explore(table, moment, steep_pattern())
    found = cells(table)
    first = {column: state for (row, column), state in found.items() if row == 0}
    assert first == {0: old(0.4), 1: old(0.3), 20: old(0.2), 30: FRESH}
    assert [column for row, column in found if row == 1] == [0, 1, 16, 31]
    assert {c: s for (row, c), s in found.items() if row == 2} == {0: FRESH, 1: FRESH, 18: old(7.0), 19: old(8.0)}


def test_nm_rounds_the_budget_down_to_a_whole_pattern():
    graph = checkerboard(4).graph
    cases = [
        (64, 16, [64, 32, 16], 16), (64, 19, [64, 32, 16], 16), (256, 8, [256, 128, 64, 32], 8),
        (256, 12, [256, 128, 64, 32], 8), (24, 5, [24], 5), (96, 3, [96, 48], 2),
    ]  # fmt: skip
    for width, budget, groups, per_row in cases:
        table = SlotTable(8, width, 8 * budget + 3, (0, 0))
        assert Pattern._groups(table) == (groups, per_row)
        assert Pattern(0.3, 0.75).first_counts(graph, table).tolist() == [per_row] * 8
    with pytest.raises(UsageError, match="a budget of 7 is none for each of 8 rows"):
        Pattern(0.3, 0.75).first_counts(graph, SlotTable(8, 64, 7, (0, 0)))


THREE_ROWS = [[0.1, 0.2, 0.3, 0.4], [1.1, 1.2, 1.3, 1.4], [0.5, 0.6, 0.7, 0.8]]


def test_gradual_by_hand():
    """12 values to 4 between 0.25 and 0.75: at half of it 4 + 8 / 8 = 5 are left, the largest; then 4."""
    table, policy = table_of(THREE_ROWS), Gradual(4)
    assert policy.explore(table, Moment(0.25, 4), None) == Change()
    assert policy.explore(table, Moment(0.5, 9), None) == Change(7, 0, 0)
    assert cells(table) == {(1, 0): old(1.1), (1, 1): old(1.2), (1, 2): old(1.3), (1, 3): old(1.4), (2, 3): old(0.8)}
    assert policy.explore(table, Moment(0.75, 14), None) == Change(1, 0, 0)
    assert policy.explore(table, Moment(0.8, 15), None) == Change() and table.num_values == 4
    assert table.max_values_seen == 12


def test_gradual_with_one_exploration_is_one_shot_magnitude_pruning():
    table = table_of(THREE_ROWS)
    assert Gradual(4).explore(table, Moment(0.5, 0), None) == Change(8, 0, 0) and table.num_values == 4


def job_of(policy, budget=0.25, **sparsity):
    settings = {"model": {"width": 32}, "table": {"budget": budget}, "sparsity": {"policy": policy, **sparsity}}
    return Job.parse(settings, [], "test")


HARD = ["static", "set", "rigl", "dsl", "sparserec", "nm", "dynamic"]


@pytest.mark.parametrize("policy", [*HARD, "gradual"])
def test_every_policy_of_a_job(policy):
    graph = checkerboard().graph
    job = job_of(policy)
    width, budget, plan = 32, 8 * graph.num_nodes, plan_of(job, graph.num_nodes)
    table = SlotTable(graph.num_nodes, width, plan.max_values, (2, 0))
    chosen = plan.policy(graph)
    counts = chosen.first_counts(graph, table)
    assert counts.sum() <= table.max_values and counts.max() <= table.max_count
    rows = torch.randn(graph.num_nodes, width, generator=torch.Generator().manual_seed(0))
    fill(table, counts, lambda first, last: rows[first:last], chosen.first_keys(0), 0.1)
    if policy in HARD:
        # dynamic fills whole records, of 6 and 9 values, and only those
        assert table.max_values == budget and (counts.sum() == budget or (policy == "dynamic" and counts.min() >= 6))
    else:
        assert table.num_values == table.max_values == width * graph.num_nodes
        chosen.explore(table, Moment(0.9, 3), None)
        assert table.num_values == budget


def test_a_table_without_a_policy_is_refused():
    with pytest.raises(UsageError, match="a budget below 1 needs a policy that keeps it"):
        job_of("none")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(HARD), st.integers(0, 2**31), st.sampled_from([0.1, 0.25, 0.5]), st.lists(st.floats(0, 0.74), max_size=4))
def test_the_budget_holds_under_any_sequence_of_explorations(policy, seed, share, moments):
    """Values stay what the table was filled to, and never pass the budget in between."""
    graph, width = checkerboard(40).graph, 32
    draw = np.random.default_rng(seed)
    table = SlotTable(80, width, math.floor(share * 80 * width), (2, 1))
    chosen = plan_of(job_of(policy, ratio=float(draw.random())), 80).policy(graph)
    rows = torch.from_numpy(draw.standard_normal((80, width)).astype(np.float32))
    fill(table, chosen.first_counts(graph, table), lambda first, last: rows[first:last], chosen.first_keys(seed), 0.1)
    filled = table.num_values
    assert filled == table.max_values or policy in ("nm", "dynamic")
    for number, progress in enumerate(sorted(moments)):
        steep = Known((draw.standard_normal((80, width)) * (draw.random((80, 1)) < 0.7)).astype(np.float32))
        change = chosen.explore(table, Moment(progress, number), steep)
        assert table.num_values == filled and change.pruned == change.grown >= change.regrown
    assert table.max_values_seen <= table.max_values
    stored = dense_rows(table.tensors(), width) != 0
    assert int(stored.sum()) <= filled
