"""Shares behind devices: fetched rows, sums and updates have the bits of the whole table, whatever transfers do."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch
from fake_device import FakeDevice, LazyDevice
from fake_world import run_workers
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.sparsity.first_support import fill, random_keys
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.tables.dealt.shards import DenseShards, SlotShards
from gcnrec.tables.dealt.staged import StagedShards
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.hot_rows import Prefixes
from gcnrec.tables.pipelined import PipelinedTable
from gcnrec.tables.rules import Sgd
from gcnrec.tables.slots import SlotTable
from gcnrec.workers.metered import Metered
from gcnrec.workers.world import Alone

WIDTH, RATE = 9, np.float32(0.5)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def table_of(kind, rows):
    """A table and its shards; rows of slots store from none to all columns."""
    if kind == "dense":
        return DenseTable(noise(1, rows, WIDTH), 0), DenseShards(rows, WIDTH, 0)
    counts_N = np.random.default_rng(rows).integers(0, WIDTH + 1, rows).astype(np.int16)
    table = SlotTable(rows, WIDTH, max(1, int(counts_N.sum())), (0, 0))
    fill(table, counts_N, lambda first, last: noise(1, rows, WIDTH)[first:last], random_keys(0), None)
    return table, SlotShards(rows, WIDTH, 0, 0, "float32")


class Released(FakeDevice):
    """Knows whether it was closed."""

    closed = False

    def close(self):
        self.closed = True


def staged(shards, device_of, hot=None):
    def behind(share):
        prefixes = None if hot is None else hot.among(share.numbers)
        return PipelinedTable(share, device_of(), prefixes)

    return StagedShards(shards, torch.device("cpu"), behind)


@st.composite
def programs(draw):
    """Rows, workers, which rows the parts of three batches ask for, and how many nodes devices keep."""
    rows, workers = draw(st.integers(1, 24)), draw(st.sampled_from([1, 2, 4]))
    parts = workers * draw(st.sampled_from([1, 2]))
    asked = st.sets(st.integers(0, rows - 1)) | st.just(set()) | st.just(set(range(rows)))
    batches = [[np.array(sorted(draw(asked)), np.int64) for _ in range(parts)] for _ in range(3)]
    users = draw(st.integers(0, rows))
    return rows, workers, batches, Prefixes(users, draw(st.integers(0, users)), draw(st.integers(0, rows - users)))


def gradients(batches):
    """Sizes differ from row to row and part to part, so that another order of a sum shows."""
    draw = np.random.default_rng(5)
    sized = [[(10.0 ** draw.integers(-4, 4, (len(rows_R), 1)), len(rows_R)) for rows_R in asked] for asked in batches]
    return [[(draw.standard_normal((rows, WIDTH)) * size).astype(np.float32) for size, rows in asked] for asked in sized]


def by_definition(whole_ND, is_stored_ND, batches, tiles):
    """Rows that each part gets, batch by batch: a row's gradient is added part after part, and the rate times it is taken off."""
    rows_ND, read = whole_ND.copy(), []
    for asked, of_parts in zip(batches, tiles, strict=True):
        read.append([rows_ND[rows_R].copy() for rows_R in asked])
        total_ND = np.zeros_like(rows_ND)
        for rows_R, tile in zip(asked, of_parts, strict=True):
            total_ND[rows_R] += tile
        rows_ND -= np.where(is_stored_ND, RATE * total_ND, np.float32(0))
    return read, rows_ND


@pytest.mark.parametrize("kind", ["dense", "slots"])
@pytest.mark.parametrize("device", [FakeDevice, LazyDevice])
@settings(max_examples=12)
@given(programs(), st.integers(0, 2**20))
def test_batches_announced_ahead_train_the_whole_table(kind, device, program, seed):
    rows, workers, batches, hot = program
    host, shards = table_of(kind, rows)
    whole_ND, tiles, seeds = host.columns(0, WIDTH).numpy().copy(), gradients(batches), count(seed)
    read, expected_ND = by_definition(whole_ND, whole_ND != 0, batches, tiles)

    def work(world):
        table = ExchangedTable(world, staged(shards, lambda: device(next(seeds)), hot), None if world.rank else host)
        table.deal()
        own, got = slice(world.rank, None, world.size), []
        ahead = table.announce(batches[0][own])
        for step, of_parts in enumerate(tiles):
            tickets, ahead = ahead, table.announce(batches[step + 1][own]) if step < 2 else []
            table.fetch(tickets)
            got.append([table.decode(table.read(ticket, with_state=False)).numpy().copy() for ticket in tickets])
            parts = zip(tickets, of_parts[own], strict=True)
            grad = table.pushed(tickets, [table.stored(ticket, torch.from_numpy(tile)) for ticket, tile in parts])
            table.write(Sgd().update(table.local.read(grad.ticket, with_state=True), grad, step + 1, float(RATE)))
        if world.rank:
            assert world.awaited() == {"do": "collect"}
            table.collect()
        return got, None if world.rank else table.drained().columns(0, WIDTH).numpy().copy()

    results = run_workers(workers, work)
    for rank, (got, _) in enumerate(results):
        for found, wanted in zip(got, read, strict=True):
            for tile, oracle in zip(found, wanted[rank::workers], strict=True):
                assert np.array_equal(tile, oracle)
    assert np.array_equal(results[0][1], expected_ND)


@pytest.mark.parametrize("kind", ["dense", "slots"])
def test_rows_that_were_announced_are_read_anew_when_the_table_is_dealt_out_again(kind):
    """The share before is given back; what is fetched afterwards is the leader's table as it was written whole."""
    rows_R, made = np.arange(1, 12), []

    def device_of():
        made.append(Released(len(made)))
        return made[-1]

    host, shards = table_of(kind, 12)
    after = noise(7, 12, WIDTH)

    def work(world):
        table = ExchangedTable(world, staged(shards, device_of), None if world.rank else host)
        table.deal()
        (ticket,) = table.announce([rows_R])
        world.counts([0] * world.size)  # all have announced before the leader's table changes
        if world.rank == 0:
            saved = host.tensors()
            name = "weights" if kind == "dense" else "values"
            host.restore({**saved, name: after if kind == "dense" else saved[name] * 2})
        table.deal()
        table.fetch([ticket])
        found = table.decode(table.read(ticket, with_state=False)).clone()
        table.close()
        return found

    before = host.columns(0, WIDTH).clone()
    results = run_workers(2, work)
    expected = (after if kind == "dense" else before * 2)[rows_R]
    assert all(torch.equal(found, expected) for found in results)
    assert len(made) == 4 and all(device.closed for device in made)


def test_a_worker_alone_trains_the_leaders_table_behind_its_device():
    host, shards = table_of("dense", 5)
    table = ExchangedTable(Alone(), staged(shards, lambda: LazyDevice(0)), host)
    before, rows_R = host.columns(0, WIDTH).clone(), np.array([0, 3])
    tickets = table.announce([rows_R, rows_R])
    table.fetch(tickets)
    grad = table.pushed(tickets, [table.stored(ticket, torch.ones(2, WIDTH)) for ticket in tickets])
    table.write(Sgd().update(table.local.read(grad.ticket, with_state=True), grad, 1, 0.5))
    assert torch.equal(host.columns(0, WIDTH), before), "the lazy device has written already"
    expected = before.clone()
    expected[rows_R] -= 1.0
    assert table.drained() is host and torch.equal(host.columns(0, WIDTH), expected)


@pytest.mark.parametrize("kind", ["dense", "slots"])
def test_whole_rows_travel_and_a_workers_own_go_to_nobody(kind):
    """Both workers read all 12 rows, of which each owns 6; the plan's counts and ids come first."""
    host, shards = table_of(kind, 12)

    def work(inner):
        world = Metered(inner)
        table = ExchangedTable(world, staged(shards, lambda: LazyDevice(inner.rank)), None if inner.rank else host)
        table.deal()
        (ticket,) = table.announce([np.arange(12)])
        sent = [world.bytes]
        table.fetch([ticket])
        sent.append(world.bytes)
        table.pushed([ticket], [table.stored(ticket, noise(0, 12, WIDTH))])
        return sent[1] - sent[0], world.bytes - sent[1], table.bytes_of(np.arange(1 - inner.rank, 12, 2))

    assert run_workers(2, work) == [(6 * 4 * WIDTH, 6 * 4 * WIDTH, 2 * 6 * 4 * WIDTH)] * 2
