"""Rows n % W of a whole table go to worker n % W with their state, and come back as the workers left them, a span at a time."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from fake_world import run_workers

from gcnrec.tables.arena import SlotBlock
from gcnrec.tables.dealt import spans
from gcnrec.tables.dealt.shards import DenseShards, SlotShards
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.slots import SlotTable

WORKERS = [2, 3, 4]
ROWS = [1, 3, 41]
SPANS = [1, 200, 1 << 25]
"""A row of each worker, some rows, all rows."""
WIDTH = 6


class Counting:
    """A world that notes how many bytes an exchange of this worker sent or got at most."""

    def __init__(self, world):
        self.rank, self.size, self.most, self._world = world.rank, world.size, 0, world

    def exchange(self, sent, outs, ins):
        came = self._world.exchange(sent, outs, ins)
        self.most = max(self.most, sent.nbytes, came.nbytes)
        return came

    def counts(self, outs):
        return self._world.counts(outs)


def numbered(tensor, first):
    """first, first + 1, ... in place, as far as its dtype reaches."""
    tensor.copy_(torch.arange(first, first + tensor.numel()).view(tensor.shape))


def dense_table(rows, state_width):
    table = DenseTable(torch.zeros(rows, WIDTH), state_width)
    for number, tensor in enumerate(table.tensors().values()):
        numbered(tensor, 1000 * number)
    return table


def slot_table(given, seed):
    """Rows of 0 to 6 values; values, state and steps are all different."""
    draw = np.random.default_rng(seed)
    counts_N = draw.integers(0, WIDTH + 1, given.num_rows)
    chosen = [np.sort(draw.choice(WIDTH, count, replace=False)) for count in counts_N]
    size = int(counts_N.sum())
    table = SlotTable(given.num_rows, WIDTH, max(size, 1), (given.moments, given.scalars), given.dtype)
    moments_MX = np.arange(given.moments * size, dtype=np.float32).reshape(given.moments, size)
    scalars_NC = draw.random((given.num_rows, given.scalars), np.float32) * (counts_N > 0)[:, None]
    columns_X = np.concatenate(chosen).astype(np.uint8)
    with table.rebuild() as rebuild:
        rebuild.write(SlotBlock(0, counts_N, columns_X, np.arange(size, dtype=np.float32), moments_MX, scalars_NC))
    numbered(table.last_N, 7)
    return table


def as_rows(tensors):
    """For each row of a table of slots, all that is stored of it; state of moments by value."""
    ends = np.cumsum(tensors["counts"].numpy().astype(int))
    rows = []
    for row, (end, count) in enumerate(zip(ends, tensors["counts"].tolist(), strict=True)):
        by_value = (tensors["columns"], tensors["values"], tensors["moments"].T)
        own = [each[end - count : end].tolist() for each in by_value]
        rows.append([*own, tensors["scalars"][row].tolist(), tensors["last"][row].tolist()])
    return rows


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", WORKERS)
def test_dense_rows_go_to_their_workers_and_back(size, rows, span, monkeypatch):
    monkeypatch.setattr(spans, "SPAN_BYTES", span)
    for state_width in (0, 1, 2 * WIDTH):
        host, given = dense_table(rows, state_width), DenseShards(rows, WIDTH, state_width)
        before = {name: tensor.clone() for name, tensor in host.tensors().items()}

        def work(world, host=host, given=given):
            numba.set_num_threads(1)
            whole = None if world.rank else host
            mine = given.dealt(world, whole)
            came = {name: tensor.clone() for name, tensor in mine.tensors().items()}
            for tensor in mine.tensors().values():
                tensor.mul_(2).add_(world.rank)
            given.collected(world, mine, whole)
            return came

        for rank, came in enumerate(run_workers(size, work)):
            for name, tensor in before.items():
                assert torch.equal(came[name], tensor[rank::size])
                assert torch.equal(host.tensors()[name][rank::size], 2 * tensor[rank::size] + rank)


@pytest.mark.parametrize("given", [(2, 0, "float32"), (1, 1, "bfloat16"), (0, 1, "float32"), (0, 0, "bfloat16")])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", WORKERS)
def test_slots_go_to_their_workers_and_back(size, rows, given, monkeypatch):
    given = SlotShards(rows, WIDTH, *given)
    for seed, span in enumerate(SPANS):
        monkeypatch.setattr(spans, "SPAN_BYTES", span)
        host = slot_table(given, seed)
        before, columns = as_rows(host.tensors()), host.tensors()["columns"]

        def work(world, host=host):
            numba.set_num_threads(1)
            whole = None if world.rank else host
            mine = given.dealt(world, whole)
            came = as_rows(mine.tensors())
            tensors = {name: tensor for name, tensor in mine.tensors().items() if name not in ("location", "most")}
            for name in ("values", "moments", "last"):
                tensors[name] = 2 * tensors[name]
            tensors["scalars"] = tensors["scalars"] / 2
            mine.restore(tensors)
            given.collected(world, mine, whole)
            return came

        for rank, came in enumerate(run_workers(size, work)):
            assert came == before[rank::size]
        doubled = [
            [cols, [2 * x for x in values], [[2 * m for m in each] for each in moments], [c / 2 for c in scalars], 2 * last]
            for cols, values, moments, scalars, last in before
        ]
        assert as_rows(host.tensors()) == doubled
        assert torch.equal(host.tensors()["columns"], columns) and host.num_values == len(columns)


@pytest.mark.parametrize("given", [DenseShards(500, WIDTH, 2 * WIDTH), SlotShards(500, WIDTH, 2, 1, "float32")])
def test_no_exchange_is_larger_than_a_span(given, monkeypatch):
    monkeypatch.setattr(spans, "SPAN_BYTES", 2000)

    def work(world):
        numba.set_num_threads(1)
        counting = Counting(world)
        host = dense_table(500, 2 * WIDTH) if isinstance(given, DenseShards) else slot_table(given, 0)
        whole = None if world.rank else host
        given.collected(counting, given.dealt(counting, whole), whole)
        return counting.most

    rows_of_workers = 3 * 4 * 2 * WIDTH
    assert 500 < max(run_workers(3, work)) <= 2000 + rows_of_workers
