"""What travels of rows and gradients: as slots the bits of whole rows, in bytes that fall with the density."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_world import run_workers
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.rows import RowNumbers, Ticket
from gcnrec.sparsity.first_support import fill, random_keys
from gcnrec.tables.arena import RECORD_BYTES, VALUE_BYTES
from gcnrec.tables.dealt.exchanged import ExchangedTable
from gcnrec.tables.dealt.plan import joined
from gcnrec.tables.dealt.shards import DenseShards, SlotShards
from gcnrec.tables.dealt.wire import SlotWire
from gcnrec.tables.dense import DenseTable
from gcnrec.tables.slots import SlotTable
from gcnrec.workers.metered import Metered

WIDTH = 9
DTYPES = ["float32", "bfloat16"]


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slots_of(counts_N, width, dtype, seed=0):
    """A slot table of which row n stores counts_N[n] columns, drawn at random."""
    counts_N = np.asarray(counts_N, np.int16)
    table = SlotTable(len(counts_N), width, max(1, int(counts_N.sum())), (0, 0), dtype)
    fill(table, counts_N, lambda first, last: noise(seed, len(counts_N), width)[first:last], random_keys(seed), None)
    return table


def table_of(kind, rows, seed):
    """A table and its shards. Of slots, a row stores from none to all of its columns."""
    if kind == "dense":
        return DenseTable(noise(seed, rows, WIDTH), 0), DenseShards(rows, WIDTH, 0)
    counts_N = np.random.default_rng(seed).integers(0, WIDTH + 1, rows)
    counts_N[::4] = 0
    return slots_of(counts_N, WIDTH, kind, seed), SlotShards(rows, WIDTH, 0, 0, kind)


def owned(world, shards, host):
    table = ExchangedTable(world, shards, None if world.rank else host)
    table.deal()
    return table


def stepped(table, asked, tiles):
    """Tiles that the parts of a worker get, and the gradient of its own rows."""
    tickets = table.announce(asked)
    table.fetch(tickets)
    fetched = [table.decode(table.read(ticket, with_state=False)).clone() for ticket in tickets]
    return fetched, table.pushed(tickets, [table.stored(ticket, tile) for ticket, tile in zip(tickets, tiles, strict=True)])


@st.composite
def requests(draw):
    """Rows of a table, workers, and which rows each part asks for: none, some, all."""
    rows, workers = draw(st.integers(1, 30)), draw(st.sampled_from([1, 2, 4]))
    parts = workers * draw(st.sampled_from([1, 2]))
    asked = st.sets(st.integers(0, rows - 1)) | st.just(set()) | st.just(set(range(rows)))
    return rows, workers, [np.array(sorted(draw(asked)), np.int64) for _ in range(parts)]


def gradients(asked, seed):
    """Sizes differ from row to row and part to part, so that the order of a sum shows."""
    draw = np.random.default_rng(seed)
    sizes = [10.0 ** draw.integers(-4, 5, (len(rows_R), 1)) for rows_R in asked]
    return [torch.from_numpy((draw.standard_normal((len(size), WIDTH)) * size).astype(np.float32)) for size in sizes]


def in_a_tree(pieces):
    """The definition: even pieces, then odd ones; a part without the row is left out."""
    if len(pieces) == 1:
        return pieces[0]
    left, right = in_a_tree(pieces[::2]), in_a_tree(pieces[1::2])
    return left if right is None else right if left is None else left + right


def summed(number, asked, tiles):
    rows = (np.flatnonzero(rows_R == number) for rows_R in asked)
    return in_a_tree([tile[int(at[0])].numpy() if len(at) else None for at, tile in zip(rows, tiles, strict=True)])


@pytest.mark.parametrize("kind", ["dense", *DTYPES])
@settings(max_examples=12)
@given(requests(), st.integers(0, 2**20))
def test_rows_and_gradients_have_the_bits_of_whole_rows(kind, drawn, seed):
    rows, workers, asked = drawn
    host, shards = table_of(kind, rows, seed)
    whole_ND, tiles = host.columns(0, WIDTH).clone(), gradients(asked, seed)

    def work(world):
        own = slice(world.rank, None, world.size)
        table = owned(world, shards, host)
        return *stepped(table, asked[own], tiles[own]), table.local

    for rank, (fetched, grad, local) in enumerate(run_workers(workers, work)):
        for tile, rows_R in zip(fetched, asked[rank::workers], strict=True):
            assert torch.equal(tile, whole_ND[rows_R])
        numbers = np.unique(np.concatenate(asked))
        numbers = numbers[numbers % workers == rank]
        assert np.array_equal(grad.rows_R, numbers // workers)
        mine = [torch.from_numpy(summed(number, asked, tiles))[None] for number in numbers]
        oracle = local.stored(Ticket(grad.rows_R), torch.cat(mine) if mine else torch.empty(0, WIDTH))
        assert grad.values_X.numpy().tobytes() == oracle.values_X.numpy().tobytes() and torch.equal(grad.at_R, oracle.at_R)


class Counted(Metered):
    """Counts exchanges too."""

    exchanges = 0

    def exchange(self, sent, outs, ins):
        self.exchanges += 1
        return super().exchange(sent, outs, ins)

    def borrow(self, rows, width, ins):
        self.exchanges += 1
        return super().borrow(rows, width, ins)


def sent_by(shards, host, rows):
    """What each of two workers sends in `fetch` and in `pushed`, of parts that read all of so many rows: bytes, exchanges."""

    def work(inner):
        world = Counted(inner)
        table, found = owned(world, shards, host), []
        (ticket,) = table.announce([np.arange(rows)])

        def note(act):
            before = world.bytes, world.exchanges
            result = act()
            found.append((world.bytes - before[0], world.exchanges - before[1]))
            return result

        note(lambda: table.fetch([ticket]))
        grad = table.stored(ticket, noise(0, rows, host.width))
        note(lambda: table.pushed([ticket], [grad]))
        return found, table.bytes_of(np.arange(1 - world.rank, rows, 2))

    return run_workers(2, work)


def record_bytes(count, dtype):
    return min((size for size in RECORD_BYTES if size >= count * (VALUE_BYTES[dtype] + 1)), default=0) if count else 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_are_those_of_counts_records_and_stored_values(dtype):
    """A worker sends its own rows to the other, and the gradients of the other's. Rows of no value have a count alone."""
    counts_N = np.random.default_rng(3).integers(0, 65, 41)
    counts_N[5:9] = 0
    found = sent_by(SlotShards(41, 64, 0, 0, dtype), slots_of(counts_N, 64, dtype), 41)
    for rank, (sent, _) in enumerate(found):
        own, others = counts_N[rank::2], counts_N[1 - rank :: 2]
        rows = len(own) + sum(record_bytes(count, dtype) for count in own)
        assert sent == [(rows, 2), (4 * others.sum(), 1)]


@pytest.mark.parametrize(
    ("kind", "stored", "row", "gradient"),
    [
        ("dense", 64, 256, 256),
        ("float32", 64, 1 + 320, 256),
        ("float32", 32, 1 + 160, 128),
        ("float32", 16, 1 + 80, 64),
        ("float32", 0, 1, 0),
        ("bfloat16", 64, 1 + 192, 256),
        ("bfloat16", 16, 1 + 48, 64),
    ],
)
def test_bytes_fall_with_the_density(kind, stored, row, gradient):
    """20 rows of 64 columns, of which each worker owns 10; whole rows take two exchanges, slots one more."""
    if kind == "dense":
        host, shards = DenseTable(noise(0, 20, 64), 0), DenseShards(20, 64, 0)
    else:
        host, shards = slots_of([stored] * 20, 64, kind), SlotShards(20, 64, 0, 0, kind)
    exchanges = 1 if kind == "dense" else 2
    for sent, predicted in sent_by(shards, host, 20):
        assert sent == [(10 * row, exchanges), (10 * gradient, 1)] and predicted == 10 * (row + gradient)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("workers", [1, 2])
def test_an_exploration_may_come_after_rows_were_announced(dtype, workers):
    """Counts and columns are those of the moment when rows are fetched."""
    before, after = slots_of([3] * 12, WIDTH, dtype, 1), slots_of(np.arange(12) % (WIDTH + 1), WIDTH, dtype, 2)
    host = SlotTable(12, WIDTH, 200, (0, 0), dtype)
    host.restore(without_places(before))
    rows_R = np.arange(1, 12)
    tile, shards = noise(4, 11, WIDTH), SlotShards(12, WIDTH, 0, 0, dtype)

    def work(world):
        table = owned(world, shards, host)
        (ticket,) = table.announce([rows_R])
        world.counts([0] * world.size)  # all have their rows before the leader's table changes
        if world.rank == 0:
            host.restore(without_places(after))
        table.deal()
        table.fetch([ticket])
        fetched = table.decode(table.read(ticket, with_state=False))
        return fetched, table.pushed([ticket], [table.stored(ticket, tile)]), table.local

    for fetched, grad, local in run_workers(workers, work):
        assert torch.equal(fetched, after.columns(0, WIDTH)[rows_R])
        assert len(grad.values_X) == sum(local.counts_N[grad.rows_R])


def without_places(table):
    return {name: tensor for name, tensor in table.tensors().items() if name not in ("location", "most")}


@pytest.mark.parametrize("kind", ["dense", *DTYPES])
@pytest.mark.parametrize("workers", [1, 2])
def test_fetched_rows_stay_as_they_are_when_their_owners_update_them(kind, workers):
    host, shards = table_of(kind, 16, 5)
    whole_ND = host.columns(0, WIDTH).clone()

    def work(world):
        table = owned(world, shards, host)
        (ticket,) = table.announce([np.arange(16)])
        table.fetch([ticket])
        table.local.read(Ticket(np.arange(16 // world.size)), with_state=False).weights.zero_()
        rows = table.read(ticket, with_state=False)
        flat = [rows.weights[at : at + count] for at, count in zip(rows.at_R.tolist(), rows.count_R.tolist(), strict=True)]
        return table.decode(rows), torch.cat(flat), rows.numbers

    for tile, values_X, numbers in run_workers(workers, work):
        assert torch.equal(tile, whole_ND) and numbers == RowNumbers()
        values_X = values_X.view(torch.bfloat16).float() if kind == "bfloat16" else values_X
        found = whole_ND[whole_ND != 0]
        assert torch.equal(values_X, found)


def test_slots_do_not_travel_from_a_table_of_whole_rows():
    with pytest.raises(TypeError, match="a table of slots was expected, came DenseTable"):
        SlotWire().row_bytes(DenseTable(torch.zeros(2, 3), 0), np.arange(2))


@pytest.mark.parametrize("sizes", [[3, 4, 3], [0, 10, 0], [10], [0, 0, 10]])
def test_pieces_that_follow_each_other_are_joined_without_a_copy(sizes):
    tile = torch.arange(60.0).view(10, 6)
    found = joined(torch.split(tile, sizes))
    assert torch.equal(found, tile)
    assert found.data_ptr() == tile.data_ptr()


def test_other_pieces_are_copied():
    tile, wide = torch.arange(60.0).view(10, 6), torch.arange(80.0).view(10, 8)
    first, second, third = torch.split(tile, [3, 4, 3])
    assert torch.equal(joined([second, first]), tile[[3, 4, 5, 6, 0, 1, 2]])
    assert torch.equal(joined([first, third]), tile[[0, 1, 2, 7, 8, 9]])
    assert torch.equal(joined([wide[:4, 2:], wide[4:, 2:]]), wide[:, 2:])
    assert joined([tile[:0], tile[:0]]).shape == (0, 6)
