"""Rows of dealt tables: what parts fetch are the table's rows, what they push is summed in one tree, and all comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_world import run_workers
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.rows import Ticket
from gcnrec.sparsity.first_support import fill, random_keys
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.tables.dealt.shards import DenseShards, SlotShards
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.slots import SlotTable
from gcnrec.workers.world import Alone

WIDTH = 3
SHAPES = {"sgd": (0, 0), "adagrad_row": (0, 1), "adam": (2, 0), "adam_row": (0, 2), "one moment and a scalar": (1, 1)}
"""Floats of state of a value, and of a row; `adam_row` has a row's second moment and more in this test."""


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(rows, state_width=0, width=WIDTH):
    """A table whose values, states and steps are all different."""
    table = DenseTable(torch.zeros(rows, width), state_width)
    last = torch.arange(rows, dtype=torch.int32) * 3
    table.restore({"weights": noise(1, rows, width), "state": noise(2, rows, state_width), "last": last})
    return table


def slots(rows, shape, dtype="float32", width=8):
    """A slot table with rows of 0 to `width` values, and states that are all different."""
    counts_N = np.random.default_rng(rows).integers(0, width + 1, rows).astype(np.int16)
    table = SlotTable(rows, width, max(1, int(counts_N.sum())), shape, dtype)
    fill(table, counts_N, lambda first, last: noise(3, rows, width)[first:last], random_keys(0), None)
    values = int(counts_N.sum())
    own = {"moments": noise(4, shape[0], values), "scalars": noise(5, rows, shape[1])}
    table.restore({**table.tensors(), **own, "last": torch.arange(rows, dtype=torch.int32) * 2})
    return table


def without_most(tensors):
    """What a checkpoint holds of a table, less what it held at most."""
    return {name: tensor.clone() for name, tensor in tensors.items() if name != "most"}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@st.composite
def requests(draw):
    """Rows of a table, parts, workers, and which rows each part asks for: none, some of others, all."""
    rows, parts = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 4, 8]))
    workers = draw(st.sampled_from([size for size in (1, 2, 4, 8) if size <= parts]))
    asked = st.sets(st.integers(0, rows - 1)) | st.just(set()) | st.just(set(range(rows)))
    return rows, workers, [np.array(sorted(draw(asked)), np.int64) for _ in range(parts)]


def pushed_by_parts(asked, seed):
    """A gradient for each part, of all sizes from 2^-20 to 2^20, so that another order of a sum shows."""
    sizes = [torch.from_numpy(2.0 ** np.random.default_rng([seed, part]).integers(-20, 20, (len(rows_R), 1)))
             for part, rows_R in enumerate(asked)]  # fmt: skip
    return [
        noise(100 * seed + part, len(rows_R), WIDTH) * size.float()
        for part, (rows_R, size) in enumerate(zip(asked, sizes, strict=True))
    ]


def in_a_tree(pieces):
    """The sum of float32 pieces, None where a part has none: halves first, as the page of workers says."""
    if len(pieces) == 1:
        return pieces[0]
    half = len(pieces) // 2
    pairs = zip(pieces[:half], pieces[half:], strict=True)
    return in_a_tree([b if a is None else a if b is None else a + b for a, b in pairs])


def summed(asked, tiles):
    """Row -> the tree's sum of its gradients, by plain loops."""
    at = [{int(row): place for place, row in enumerate(rows_R)} for rows_R in asked]
    rows = sorted({row for places in at for row in places})
    of_part = [[tiles[part][places[row]].numpy() if row in places else None for part, places in enumerate(at)] for row in rows]
    return dict(zip(rows, map(in_a_tree, of_part), strict=True))


def exchanged(world, host, shards, asked, tiles):
    """What a worker fetches of its parts, and the rows and gradients that it has to update, by their number in the table."""
    table = ExchangedTable(world, shards, host if world.rank == 0 else None)
    if world.size > 1:
        table.deal()
    own = range(world.rank, len(asked), world.size)
    tickets = table.announce([asked[part] for part in own])
    later = table.announce([asked[part] for part in reversed(own)])  # of the next batch
    table.fetch(tickets)
    fetched = [table.decode(table.read(ticket, with_state=False)) for ticket in tickets]
    found = table.pushed(tickets, [table.stored(ticket, tiles[part]) for ticket, part in zip(tickets, own, strict=True)])
    table.fetch(later)
    again = [table.decode(table.read(ticket, with_state=False)) for ticket in later]
    local = table.local.read(Ticket(found.rows_R), with_state=True)
    numbers = found.rows_R * local.numbers.stride + local.numbers.first
    return fetched, again[::-1], numbers, found


@settings(max_examples=40)
@given(requests(), st.integers(0, 10**6))
def test_dense_rows_come_from_their_owners_and_gradients_go_there(drawn, seed):
    rows, size, asked = drawn
    table, tiles = dense(rows), pushed_by_parts(asked, seed)
    weights_ND, oracle = table.columns(0, WIDTH).clone(), summed(asked, tiles)
    results = run_workers(size, lambda world: exchanged(world, table, DenseShards(rows, WIDTH, 0), asked, tiles))
    seen = []
    for rank, (fetched, again, numbers, grad) in enumerate(results):
        for part, tile, second in zip(range(rank, len(asked), size), fetched, again, strict=True):
            assert torch.equal(tile, weights_ND[asked[part]]) and torch.equal(second, tile)
        assert (numbers % size == rank).all() and (np.diff(numbers) > 0).all()
        for number, row_D in zip(numbers.tolist(), grad.values_X.view(-1, WIDTH).numpy(), strict=True):
            assert row_D.tobytes() == oracle[number].tobytes()
        seen += numbers.tolist()
    assert sorted(seen) == sorted(oracle)


@settings(max_examples=15)
@given(requests(), st.sampled_from(["float32", "bfloat16"]), st.integers(0, 10**6))
def test_slots_come_from_their_owners_and_take_the_gradient_of_what_they_store(drawn, dtype, seed):
    rows, size, asked = drawn
    table, tiles = slots(rows, (0, 0), dtype, WIDTH), pushed_by_parts(asked, seed)
    saved, oracle = table.tensors(), summed(asked, tiles)
    stored = np.split(saved["columns"].numpy(), np.cumsum(saved["counts"].numpy().astype(int))[:-1])
    whole_ND = table.columns(0, WIDTH).clone()
    shards = SlotShards(rows, WIDTH, 0, 0, dtype)
    for rank, (fetched, _, numbers, grad) in enumerate(
        run_workers(size, lambda world: exchanged(world, table, shards, asked, tiles))
    ):
        for part, tile in zip(range(rank, len(asked), size), fetched, strict=True):
            assert torch.equal(tile, whole_ND[asked[part]])
        expected = [oracle[number][stored[number]] for number in numbers.tolist()]
        assert grad.values_X.numpy().tobytes() == b"".join(each.tobytes() for each in expected)


@settings(max_examples=15)
@given(requests(), st.integers(0, 10**6))
def test_the_leader_gets_whole_gradients_of_all_parts(drawn, seed):
    rows, size, asked = drawn
    tiles = pushed_by_parts(asked, seed)
    oracle = summed(asked, tiles)

    def work(world):
        table = ExchangedTable(world, DenseShards(rows, WIDTH, 0), dense(rows) if world.rank == 0 else None)
        own = range(world.rank, len(asked), world.size)
        return table.whole(table.announce([asked[part] for part in own]), [tiles[part] for part in own])

    (numbers, tile_RD), *others = run_workers(size, work)
    assert numbers.tolist() == sorted(oracle) and all(len(each) == len(other) == 0 for each, other in others)
    assert all(
        row_D.tobytes() == oracle[number].tobytes() for number, row_D in zip(numbers.tolist(), tile_RD.numpy(), strict=True)
    )


def test_a_table_whose_rows_nobody_reads_exchanges_nothing():
    class Silent(Alone):
        def exchange(self, sent, outs, ins):
            raise AssertionError("nothing is to be sent")

        borrow = exchange

    table = ExchangedTable(Silent(), DenseShards(5, WIDTH, 0), dense(5), reads_rows=False)
    tickets = table.announce([np.arange(2), np.arange(3)])
    table.fetch(tickets)
    assert len(table.pushed(tickets, []).rows_R) == 0


KINDS = {"dense": None, "float32": "float32", "bfloat16": "bfloat16"}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rows", [1, 3, 29])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_dealt_out_and_collected_is_what_was(kind, rows, shape, size):
    """Also with fewer rows than workers; each worker has its rows alone, with their state."""
    if kind == "dense":
        width = shape[0] * WIDTH + shape[1]
        table, shards = dense(rows, width), DenseShards(rows, WIDTH, width)
    else:
        table, shards = slots(rows, shape, kind), SlotShards(rows, 8, *shape, kind)
    before = without_most(table.tensors())

    def work(world):
        exchanged = ExchangedTable(world, shards, table if world.rank == 0 else None)
        assert exchanged.stale == (world.rank == 0)
        exchanged.deal()
        assert not exchanged.stale
        mine = without_most(exchanged.local.tensors())
        world.counts([0] * size)  # all have dealt out before the leader forgets
        if world.rank == 0:
            table.restore(emptied(table.tensors()))
            assert exchanged.stale
        exchanged.collect()
        assert not exchanged.stale
        return mine

    dealt = run_workers(size, work)
    assert equal(without_most(table.tensors()), before)
    for rank, mine in enumerate(dealt):
        for name in ({"weights", "state"} if kind == "dense" else {"counts", "scalars"}) | {"last"}:
            assert torch.equal(mine[name], before[name][rank::size])
        if kind != "dense":
            owner_X = torch.repeat_interleave(torch.arange(rows) % size, before["counts"].long())
            for name in ("columns", "values", "moments"):
                assert torch.equal(mine[name], before[name][..., owner_X == rank])


def emptied(tensors):
    """The same columns of the same rows, with values and states of zero."""
    keeps = ("counts", "columns", "location", "most")
    return {name: tensor if name in keeps else torch.zeros_like(tensor) for name, tensor in tensors.items()}


def test_updates_come_to_the_leader_when_it_asks_and_rows_written_whole_replace_them():
    """The leader asks once: nothing is exchanged again before the next update."""

    def work(world):
        table = ExchangedTable(world, DenseShards(6, WIDTH, 0), dense(6) if world.rank == 0 else None)
        table.deal()
        found = []
        for number in range(2):
            rows = table.local.read(Ticket(np.arange(3)), with_state=True)
            rows.weights[rows.at_R] = 10.0 * (number + 1) + world.rank
            table.write(rows)
            if world.rank:
                assert world.awaited() == {"do": "collect"}
                table.collect()
            else:
                found += [table.drained().columns(0, 1)[:, 0].tolist() for _ in range(2)]
        if world.rank == 0:
            table.write(table.local.read(Ticket(np.arange(3)), with_state=True))
            host = table._host
            host.restore({name: torch.full_like(tensor, 7) for name, tensor in host.tensors().items()})
            found.append(table.drained().columns(0, 1)[:, 0].tolist())
        return found

    found, _ = run_workers(2, work)
    assert found == [[10.0, 11.0] * 3] * 2 + [[20.0, 21.0] * 3] * 2 + [[7.0] * 6]


def test_a_follower_has_no_whole_table():
    with pytest.raises(ValueError, match="only the leader"):
        ExchangedTable(Alone(), DenseShards(4, WIDTH, 0), None).drained()
