"""Slot tables: the conformance of every table, records and slabs, and the budget under random rebuilds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.config import Sampler
from gcnrec.errors import DataError, UsageError
from gcnrec.models.hops import Hop
from gcnrec.models.lightgcn import LightGcn
from gcnrec.models.mf import MatrixFactorisation
from gcnrec.rows import ALL_NODES, RowNumbers, Ticket
from gcnrec.sampling.sampler import edge_sampler
from gcnrec.sparsity.first_support import fill, random_keys
from gcnrec.tables.arena import RECORD_BYTES, SlotBlock
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.rules import AdagradRow, Adam, AdamDense, AdamRow, Sgd
from gcnrec.tables.slots import SlotTable, in_blocks
from gcnrec.testing import check_table, checkerboard, dense_hop, encoded_by

RULES = [Sgd(), AdagradRow(1e-8), Adam(0.9, 0.999, 1e-8), AdamRow(0.9, 0.999, 1e-8), AdamDense(0.9, 0.999, 1e-8)]


def slots_of(weights_ND, mask_ND, state_width, dtype="float32", budget=None, numbers=ALL_NODES):
    """A slot table that stores weights_ND where mask_ND is set."""
    rows, width = weights_ND.shape
    scalars, per_value = state_width(0), state_width(1) - state_width(0)
    budget = int(mask_ND.sum()) if budget is None else budget
    table = SlotTable(rows, width, budget, (per_value, scalars), dtype, numbers=numbers)
    where = mask_ND.numpy()
    counts = where.sum(1).astype(np.int64)
    columns = np.nonzero(where)[1].astype(np.uint8)
    values = weights_ND.numpy()[where].astype(np.float32)
    with table.rebuild() as rebuild:
        rebuild.write(
            SlotBlock(
                0, counts, columns, values, np.zeros((per_value, len(values)), np.float32), np.zeros((rows, scalars), np.float32)
            )
        )
    return table


def random_mask(rows, width, seed, density=0.3):
    return torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) < density


def dense_of(table):
    return table.decode(table.read(Ticket(np.arange(table.num_rows)), with_state=False))


def test_conformance_with_every_column_stored():
    check_table(
        lambda weights, state_width: slots_of(weights, torch.ones_like(weights).bool(), lambda w: state_width if w else 0)
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("width", [5, 64, 256])
def test_an_update_equals_the_masked_dense_one(rule, width):
    """A row with k slots moves as a dense row k wide does."""
    draw = torch.Generator().manual_seed(width)
    weights, mask = torch.randn(40, width, generator=draw), random_mask(40, width, 1)
    table = slots_of(weights, mask, rule.state_width)
    peers = [DenseTable(row[m][None], rule.state_width(int(m.sum()))) for row, m in zip(weights, mask, strict=True)]
    for step in range(1, 4):
        rows_R = np.arange(40)[step % 2 :: 2] if not rule.every_row else np.arange(40)
        tile = torch.randn(len(rows_R), width, generator=draw)
        grad = table.stored(Ticket(rows_R), tile)
        table.write(rule.update(table.read(Ticket(rows_R), with_state=True), grad, step, 0.1))
        for row, g in zip(rows_R.tolist(), tile, strict=True):
            own, one = g[mask[row]][None], np.zeros(1, np.int64)
            if own.numel():
                rule.update(peers[row].read(Ticket(one), with_state=True), peers[row].stored(Ticket(one), own), step, 0.1)
    found = dense_of(table)
    assert not found[~mask].any()
    for row in range(40):
        own = peers[row].columns(0, peers[row].width)[0]
        assert torch.allclose(found[row][mask[row]], own, rtol=1e-6, atol=1e-7), row


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_worker_s_bfloat16_rows_get_the_bits_of_the_whole_table(rule, fake_device):
    """Nodes n with n % 2 == 1 as rows n // 2: in host memory, behind a device, and with the numbers of other nodes."""
    draw = torch.Generator().manual_seed(7)
    weights, mask, nodes = torch.randn(41, 24, generator=draw), random_mask(41, 24, 1), np.arange(41)
    whole = slots_of(weights, mask, rule.state_width, "bfloat16")
    own, staged, misnamed = (
        slots_of(weights[1::2], mask[1::2], rule.state_width, "bfloat16", numbers=numbers)
        for numbers in (RowNumbers(2, 1), RowNumbers(2, 1), ALL_NODES)
    )
    tables = own, PipelinedTable(staged, fake_device.FakeDevice(1)), misnamed
    for step in range(1, 4):
        nodes_R = nodes if rule.every_row else nodes[step % 3 :: 3]
        tile, odd = torch.randn(len(nodes_R), 24, generator=draw), nodes_R % 2 == 1
        for table, rows_R, own_tile in ((whole, nodes_R, tile), *((each, nodes_R[odd] // 2, tile[odd]) for each in tables)):
            ticket = table.prefetch(rows_R)
            grad = table.stored(ticket, own_tile)
            table.write(rule.update(table.read(ticket, with_state=True), grad, step, 0.1))
    found, behind, other = (table.drained() for table in tables)
    assert torch.equal(dense_of(found), dense_of(whole)[1::2]) and torch.equal(dense_of(behind), dense_of(found))
    assert torch.equal(found.last_N, whole.last_N[1::2]) and torch.equal(behind.last_N, found.last_N)
    assert not torch.equal(dense_of(other), dense_of(found))


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("width", [8, 130])
def test_an_encoder_on_slots_equals_one_on_the_same_dense_rows(layers, width):
    graph = checkerboard().graph
    weights, mask = (
        torch.randn(graph.num_nodes, width, generator=torch.Generator().manual_seed(0)),
        random_mask(graph.num_nodes, width, 2),
    )
    table, dense = slots_of(weights, mask, lambda width: 0), DenseTable(weights * mask, 0)
    batch = edge_sampler(Sampler(), graph, None, 40, 0).batch(0, 0)
    hop, leaf = dense_hop(graph), (weights * mask).double().requires_grad_()
    total = current = leaf
    for _ in range(layers):
        current = hop @ current
        total = total + current
    final = total / (layers + 1)
    nodes = torch.from_numpy(batch.nodes_V)
    upstream = torch.randn(len(nodes), width, generator=torch.Generator().manual_seed(3))
    exact = torch.autograd.grad((final[nodes] * upstream).sum() + (leaf[nodes] * upstream).sum(), leaf)[0]
    for dense_grad in (False, True):
        model = LightGcn(Hop(graph), layers, width, dense_grad)
        encoded, same = encoded_by(model, table, batch), encoded_by(model, dense, batch)
        assert torch.allclose(encoded.final_VD, same.final_VD, atol=1e-6)
        assert torch.equal(encoded.ego_VD, same.ego_VD)
        grad = encoded.pull(upstream, upstream)
        found = torch.zeros(graph.num_nodes, width)
        for row, at in zip(grad.rows_R.tolist(), grad.at_R.tolist(), strict=True):
            found[row][mask[row]] = grad.values_X[at : at + int(mask[row].sum())]
        assert torch.allclose(found.double(), exact * mask, atol=1e-5)
        exported, expected = torch.empty(2, graph.num_nodes, width)
        model.export(table, exported)
        model.export(dense, expected)
        assert torch.equal(exported, expected)


def test_matrix_factorisation_reads_and_pulls_at_the_slots():
    graph = checkerboard().graph
    weights, mask = torch.randn(graph.num_nodes, 16), random_mask(graph.num_nodes, 16, 4)
    table = slots_of(weights, mask, lambda width: 0)
    batch = edge_sampler(Sampler(), graph, None, 9, 0).batch(0, 0)
    encoded = encoded_by(MatrixFactorisation(16), table, batch)
    nodes = torch.from_numpy(batch.nodes_V)
    assert torch.equal(encoded.final_VD, (weights * mask)[nodes])
    grad = encoded.pull(torch.ones_like(encoded.final_VD), torch.ones_like(encoded.final_VD))
    assert grad.values_X.eq(2).all() and len(grad.values_X) == int(mask[nodes].sum())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_records_keep_values_and_state_through_checkpoints(dtype):
    rule = Adam(0.9, 0.999, 1e-8)
    weights, mask = torch.randn(300, 120), random_mask(300, 120, 5, 0.2)
    mask[7] = False
    table = slots_of(weights, mask, rule.state_width, dtype)
    rows = np.arange(300)
    rule.update(table.read(Ticket(rows), True), table.stored(Ticket(rows), torch.randn(300, 120)), 1, 0.1)
    other = SlotTable(300, 120, table.max_values, (2, 0), dtype)
    other.restore(table.tensors())
    assert all(torch.equal(one, two) for one, two in zip(table.tensors().values(), other.tensors().values(), strict=True))
    for each in (table, other):
        rule.update(each.read(Ticket(rows), True), each.stored(Ticket(rows), torch.ones(300, 120)), 2, 0.1)
    assert torch.equal(dense_of(table), dense_of(other))
    if dtype == "bfloat16":
        assert torch.equal(dense_of(table), dense_of(table).bfloat16().float())


def test_bfloat16_updates_are_right_on_average():
    """Steps far below the last place of 1.0 (2^-8): nearest rounding would lose all of them."""
    table = slots_of(torch.ones(1000, 8), torch.ones(1000, 8).bool(), lambda width: 0, "bfloat16")
    rows = np.arange(1000)
    for step in range(1, 101):
        Sgd().update(table.read(Ticket(rows), True), table.stored(Ticket(rows), torch.full((1000, 8), -1.0)), step, 1e-3)
    assert float(dense_of(table).mean()) == pytest.approx(1.1, abs=2e-3)


@pytest.mark.parametrize(("dtype", "value_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_bytes_are_those_of_the_records(dtype, value_bytes):
    capacity = [size // (value_bytes + 1) for size in RECORD_BYTES]
    for size, count in zip(RECORD_BYTES, capacity, strict=True):
        table = slots_of(torch.ones(4096, 256), torch.arange(256).repeat(4096, 1) < count, lambda width: 2 * width, dtype)
        assert table.num_values == 4096 * count and table.value_bytes == value_bytes * table.num_values
        records = table.value_bytes + table.index_bytes - 4096 * 5
        assert size * 4096 <= records <= 1.3 * size * 4096 + (1 << 12)
        assert table.state_bytes <= 1.2 * 8 * size / (value_bytes + 1) * 4096 + 4 * 4096 + (1 << 13)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_values_never_pass_the_budget(data):
    """Random pruning, growing and moving between rows: exact contents, budget kept, slabs reused."""
    rows, width, budget = 200, 30, 1500
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    table = SlotTable(rows, width, budget, (2, 1))
    truth = np.zeros((rows, width), np.float32)
    present = np.zeros((rows, width), bool)
    highest = 0
    for _ in range(data.draw(st.integers(1, 6))):
        keep = present & (draw.random((rows, width)) < draw.random())
        room = budget - int(keep.sum())
        free = np.flatnonzero(~keep.reshape(-1) & (draw.random(rows * width) < draw.random()))
        grown = np.zeros(rows * width, bool)
        grown[draw.permutation(free)[: int(draw.integers(0, room + 1))]] = True
        for target in (keep, keep | grown.reshape(rows, width)):
            truth = np.where(present, truth, draw.standard_normal((rows, width))).astype(np.float32)
            with table.rebuild() as rebuild:
                for first, last in table.blocks():
                    block = rebuild.read(first, last)
                    was, now = present[first:last], target[first:last]
                    assert np.array_equal(block.counts_R, was.sum(1))
                    assert np.array_equal(block.columns_X, np.nonzero(was)[1])
                    assert np.array_equal(block.values_X, truth[first:last][was])
                    values = truth[first:last][now]
                    moments = np.stack([values * 2, values * 3])
                    scalars = np.arange(first, last, dtype=np.float32)[:, None]
                    rebuild.write(SlotBlock(first, now.sum(1), np.nonzero(now)[1].astype(np.uint8), values, moments, scalars))
            present = target
            assert table.num_values == present.sum() <= budget
            highest = max(highest, table.num_values)
    assert table.max_values_seen == highest and table.num_values <= budget
    for block in in_blocks(table):
        stored = present[block.first : block.first + len(block.counts_R)]
        assert np.array_equal(block.values_X, truth[block.first : block.first + len(block.counts_R)][stored])
        assert np.array_equal(block.moments_MX, np.stack([block.values_X * 2, block.values_X * 3]))
        own = np.where(block.counts_R > 0, np.arange(block.first, block.first + len(block.counts_R)), 0)
        assert np.array_equal(block.scalars_RC[:, 0], own)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [300, 2000])
@pytest.mark.parametrize("count", [1, 2, 26, 52, 102])
def test_every_support_within_the_budget_has_room(count, rows, dtype):
    """Rows of one size each, also those that use their records worst, take turns with rows of another that spend the budget."""
    table = SlotTable(rows, 110, rows * count, (1, 0), dtype)
    rest = rows * count - (rows - 1)
    wide = np.ones(rows, np.int64)  # most rows small, a few as wide as can be
    wide[: rest // 101] += 101
    with table.rebuild() as rebuild:
        rebuild.write(block_of(np.full(rows, count)))
    for counts in (wide, np.full(rows, count), wide[::-1]):
        kept = np.minimum(counts, table.counts_N)
        for target in (kept, counts):
            with table.rebuild() as rebuild:
                for first, last in table.blocks():
                    rebuild.read(first, last)
                    rebuild.write(block_of(target[first:last], first))
        assert np.array_equal(table.counts_N, counts)


def block_of(counts_R, first=0):
    columns = np.concatenate([np.arange(count) for count in counts_R]).astype(np.uint8)
    size = len(columns)
    return SlotBlock(
        first, counts_R, columns, np.ones(size, np.float32), np.ones((1, size), np.float32),
        np.empty((len(counts_R), 0), np.float32),
    )  # fmt: skip


def test_a_write_beyond_the_budget_is_refused_before_it_is_made():
    table = slots_of(torch.ones(10, 4), torch.ones(10, 4).bool(), lambda width: 0)
    with table.rebuild() as rebuild:
        block = rebuild.read(0, 10)
        wide = SlotBlock(0, block.counts_R + 1, np.tile(np.arange(5, dtype=np.uint8), 10), np.ones(50, np.float32),
                         np.empty((0, 50), np.float32), block.scalars_RC)  # fmt: skip
        with pytest.raises(DataError, match="50 values would pass the budget of 40"):
            rebuild.write(wide)
        assert table.num_values == 0
        rebuild.write(block)
    assert dense_of(table).eq(1).all()


def test_what_cannot_be_restored_is_refused():
    table = slots_of(torch.ones(10, 4), torch.ones(10, 4).bool(), lambda width: 2 * width)
    for other in (
        SlotTable(9, 4, 40, (2, 0)),
        SlotTable(10, 3, 40, (2, 0)),
        SlotTable(10, 4, 40, (1, 0)),
        SlotTable(10, 4, 40, (2, 0), "bfloat16"),
    ):
        with pytest.raises(DataError, match="use the job it was saved by"):
            other.restore(table.tensors())
    with pytest.raises(DataError, match=r"the budget allows 39; set table\.budget"):
        SlotTable(10, 4, 39, (2, 0)).restore(table.tensors())
    with pytest.raises(UsageError, match="at most 256 columns"):
        SlotTable(10, 257, 40, (2, 0))


def test_what_is_restored_lies_where_it_lay_and_grows_as_it_would_have():
    """The same slabs in use after the same later changes, and the same most that was ever held."""
    tables = [SlotTable(400, 32, 3200, (2, 1)) for _ in range(2)]
    draws = np.random.default_rng(0)

    def change(table, seed):
        random = np.random.default_rng(seed)
        with table.rebuild() as rebuild:
            for first in range(0, 400, 40):
                rebuild.read(first, first + 40)
                counts_R = random.integers(0, 9, 40)
                columns_X = np.concatenate([np.sort(random.permutation(32)[:count]) for count in counts_R]).astype(np.uint8)
                size = len(columns_X)
                state = random.random((2, size), np.float32), random.random((40, 1), np.float32)
                rebuild.write(SlotBlock(first, counts_R, columns_X, random.random(size, np.float32), *state))

    for seed in range(3):
        change(tables[0], seed)
    tables[1].restore(tables[0].tensors())
    for seed in draws.integers(0, 100, 3):
        for table in tables:
            change(table, seed)
        figures = [(each.index_bytes, each.state_bytes, each.peak_bytes, each.max_values_seen) for each in tables]
        assert figures[0] == figures[1]
        one, other = (table.tensors() for table in tables)
        stored = (one["counts"] > 0).numpy()
        assert all(torch.equal(one[name], other[name]) for name in one if name != "location")
        assert torch.equal(one["location"][stored], other["location"][stored])


@pytest.mark.parametrize("state", [(2, 1), (0, 1), (0, 0)])
def test_files_of_some_rows_at_a_time_hold_what_rows_hold(state, monkeypatch):
    """Counted row by row, also where rows moved and some store nothing."""
    table, random = SlotTable(50, 16, 400, state, "bfloat16"), np.random.default_rng(1)
    counts_N, expected = random.integers(0, 9, 50), {name: [] for name in ("columns", "values", "moments", "scalars")}
    counts_N[3] = 0
    for _ in range(2):
        with table.rebuild() as rebuild:
            expected = {name: [] for name in expected}
            for first in range(0, 50, 10):
                counts_R = counts_N[first : first + 10]
                columns = [np.sort(random.permutation(16)[:count]) for count in counts_R]
                size, scalars_RC = counts_R.sum(), random.random((10, state[1]), np.float32)
                values_X, moments_MX = np.arange(size, dtype=np.float32), random.random((state[0], size), np.float32)
                rebuild.read(first, first + 10)
                block = counts_R, np.concatenate(columns).astype(np.uint8), values_X, moments_MX, scalars_RC
                rebuild.write(SlotBlock(first, *block))
                for part, own in zip(expected.values(), (*block[1:4], scalars_RC * (counts_R > 0)[:, None]), strict=True):
                    part.append(own)
        counts_N = counts_N[::-1].copy()
    counts_N = counts_N[::-1]
    monkeypatch.setattr("gcnrec.tables.slots._SAVED_ROWS", 7)
    found = table.tensors()
    assert found["counts"].tolist() == counts_N.tolist() and found["last"].tolist() == [0] * 50
    for name, parts in expected.items():
        whole = np.concatenate(parts, axis=1 if name == "moments" else 0)
        assert np.array_equal(found[name].float().numpy(), whole), name
    other = SlotTable(50, 16, 400, state, "bfloat16")
    other.restore(found)
    assert all(torch.equal(one, two) for one, two in zip(found.values(), other.tensors().values(), strict=True))


def test_state_of_rules_without_moments_takes_a_float_a_row():
    """Whatever records rows have: a slab of the smallest has room for six times as many rows as one of records of 48 bytes."""
    table = SlotTable(4096, 64, 4096 * 16, (0, 1), "bfloat16")
    fill(table, np.full(4096, 16, np.int64), lambda first, last: torch.ones(last - first, 64), random_keys(0), None)
    rows = np.array([0, 7, 4095])
    assert table.state_bytes == 4 * 4096 and table.read(Ticket(rows), True).state.at_R.tolist() == rows.tolist()
    assert table.value_bytes + table.index_bytes <= 4096 * (48 + 5) * 1.05
    assert len(table.last_N) == 0 and SlotTable(4096, 64, 4096, (0, 0)).state_bytes == 0


def test_records_beyond_the_reach_of_locations_are_refused(monkeypatch):
    monkeypatch.setattr("gcnrec.tables.arena.REACH_BYTES", 8192)
    table = SlotTable(2000, 64, 32_000, (0, 0), "float32")
    with pytest.raises(UsageError, match=r"32 GiB.*lower table\.budget"):
        fill(table, np.full(2000, 16, np.int64), lambda first, last: torch.ones(last - first, 64), random_keys(0), None)
