"""Sums over parts equal a plain recursion to the bit, however the parts are dealt out to workers; rows go to owners and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcnrec.errors import DataError, UsageError
from gcnrec.workers.sums import Piece, by_owner, tree, tree_rows

WIDTHS = [1, 5, 16, 67]
POWERS = [1, 2, 4, 8, 16]


def floats(draw, shape):
    """Magnitudes that differ, so that the order of a sum shows, and zeros of both signs."""
    values = draw.standard_normal(shape) * 10.0 ** draw.integers(-4, 5, shape)
    return np.where(draw.random(shape) < 0.2, draw.choice([0.0, -0.0], shape), values).astype(np.float32)


def bits(values):
    return np.asarray(values, np.float32).view(np.uint32).tolist()


def summed(pieces):
    """The definition, by recursion: even pieces, then odd ones, so that p and p + P/2 meet first; None is absent."""
    if len(pieces) == 1:
        return pieces[0]
    left, right = summed(pieces[::2]), summed(pieces[1::2])
    if left is None or right is None:
        return right if left is None else left
    return left + right


def rows_summed(pieces):
    """{row: sum}, each row by the recursion over the pieces that have it."""
    found = [
        {
            row: tile_PD[at].numpy()
            for row, at in zip(rows_R.tolist(), range(len(rows_R)) if place_R is None else place_R, strict=True)
        }
        for rows_R, tile_PD, place_R in pieces
    ]
    return {row: summed([piece.get(row) for piece in found]) for row in sorted(set().union(*found))}


def piece_of(draw, rows, share, width):
    """A random part of the rows 0 .. rows - 1, far from each other, in a tile: row after row, or at places of a longer one."""
    rows_R = np.flatnonzero(draw.random(rows) < share) * 1_000_003
    if draw.random() < 0.5:
        return Piece(rows_R, torch.from_numpy(floats(draw, (len(rows_R), width))))
    place_R = draw.permutation(len(rows_R) + 3)[: len(rows_R)]
    return Piece(rows_R, torch.from_numpy(floats(draw, (len(rows_R) + 3, width))), place_R)


@st.composite
def pieces_of_rows(draw):
    """1 to 16 pieces of one width: some empty, some of all rows, most of a part that others have too."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    width, rows = draw(st.sampled_from(WIDTHS)), draw(st.integers(0, 40))
    shares = st.sampled_from([0.0, 0.1, 0.6, 1.0])
    return [piece_of(random, rows, draw(shares), width) for _ in range(draw(st.sampled_from(POWERS)))], width


def copies(pieces):
    return [(rows_R.copy(), tile_PD.clone()) for rows_R, tile_PD, _ in pieces]


@given(st.integers(0, 2**32), st.sampled_from(POWERS), st.sampled_from([(), (3,), (4, 5)]))
def test_a_tree_of_tensors_equals_its_recursion(seed, count, shape):
    draw = np.random.default_rng(seed)
    pieces = [torch.from_numpy(floats(draw, shape)) for _ in range(count)]
    before = [piece.clone() for piece in pieces]
    assert bits(tree(pieces)) == bits(summed([piece.numpy() for piece in pieces]))
    assert all(map(torch.equal, pieces, before))


def test_a_tree_by_hand():
    """(1e8 + -1e8) + (3 + 4): pieces 0 and 2 first. By rising number the small ones would be rounded away."""
    assert tree([torch.tensor([x]) for x in (1e8, 3.0, -1e8, 4.0)]).tolist() == [7.0]
    wide = tree([torch.tensor(x, dtype=torch.float64) for x in (0.1, 0.2)])
    assert wide.dtype == torch.float64 and wide.item() == 0.1 + 0.2


@settings(max_examples=40)
@given(pieces_of_rows())
def test_rows_equal_their_recursion_and_pieces_stay(given_pieces):
    pieces, width = given_pieces
    before = copies(pieces)
    rows_U, out_UD = tree_rows(pieces, width)
    expected = rows_summed(pieces)
    assert rows_U.dtype == np.int64 and rows_U.tolist() == list(expected)
    assert out_UD.shape == (len(expected), width) and bits(out_UD) == [bits(row) for row in expected.values()]
    for (rows_R, tile_RD, _), (old_R, old_RD) in zip(pieces, before, strict=True):
        assert np.array_equal(rows_R, old_R) and bits(tile_RD) == bits(old_RD)


@settings(max_examples=40)
@given(pieces_of_rows())
def test_the_number_of_workers_does_not_matter(given_pieces):
    """Worker w of W sums its parts p % W == w, and the owner the W results; zeros keep their sign."""
    pieces, width = given_pieces
    rows_U, out_UD = tree_rows(pieces, width)
    workers = 2
    while workers <= len(pieces):
        again_U, again_UD = tree_rows([Piece(*tree_rows(pieces[w::workers], width)) for w in range(workers)], width)
        assert np.array_equal(again_U, rows_U) and bits(again_UD) == bits(out_UD)
        tiles = [tile_PD.sum(0) for _, tile_PD, _ in pieces]
        assert bits(tree([tree(tiles[w::workers]) for w in range(workers)])) == bits(tree(tiles))
        workers *= 2


def test_an_absent_piece_is_no_zero():
    """-0.0 + 0.0 would be 0.0."""
    one = Piece(np.array([7]), torch.tensor([[-0.0]]))
    none = Piece(np.empty(0, np.int64), torch.empty(0, 1))
    for pieces in ([one], [none, one], [none, one, none, none], [one, none, one, none]):
        rows_U, out_UD = tree_rows(pieces, 1)
        assert rows_U.tolist() == [7] and bits(out_UD) == [[0x80000000]]


def test_many_rows_are_cut_into_ranges_of_any_number_of_threads(threads):
    """Pieces whose rows lie apart, of very different lengths, and a view with gaps between its rows."""
    draw = np.random.default_rng(5)
    tiles = [torch.from_numpy(floats(draw, (count, 8))) for count in (3000, 10, 0, 700)]
    lists = [np.sort(draw.choice(5000, 3000, replace=False)), np.arange(10), np.empty(0, np.int64), 10_000 + np.arange(700)]
    pieces = [Piece(*each) for each in zip(lists, tiles, strict=True)]
    pieces[3] = Piece(lists[3], torch.from_numpy(floats(draw, (700, 11)))[:, 2:10])
    expected = rows_summed(pieces)
    for count in (1, 2):
        threads(count)
        rows_U, out_UD = tree_rows(pieces, 8)
        assert rows_U.tolist() == list(expected) and bits(out_UD) == [bits(row) for row in expected.values()]


def test_other_pieces_are_refused():
    rows_R, tile_RD = np.arange(2), torch.ones(2, 3)
    for sum_of in (lambda: tree([tile_RD] * 3), lambda: tree([]), lambda: tree_rows([Piece(rows_R, tile_RD)] * 6, 3)):
        with pytest.raises(UsageError, match=r"needs 1, 2, 4, 8, \.\.\. pieces, got [036];"):
            sum_of()
    wrong = (rows_R, torch.ones(3, 3)), (rows_R, torch.ones(2, 4)), (rows_R, tile_RD.double()), (rows_R.astype(float), tile_RD)
    for piece in wrong:
        with pytest.raises(DataError, match="float32 tile of 2 x 3 on the CPU, got"):
            tree_rows([Piece(rows_R, tile_RD), Piece(*piece)], 3)
    for place_R in (np.array([0]), np.array([0, 2]), np.array([-1, 0])):
        with pytest.raises(DataError, match="a piece of 2 rows must have as many places in its tile of 2 rows, got"):
            tree_rows([Piece(rows_R, tile_RD), Piece(rows_R, tile_RD, place_R)], 3)


@given(st.sets(st.integers(0, 2**40), max_size=60), st.sampled_from([1, 2, 3, 8]))
def test_rows_are_grouped_by_their_owners(numbers, size):
    rows_R = np.array(sorted(numbers), np.int64)
    order_R, counts_W = by_owner(rows_R, size)
    owners_R = np.array([row % size for row in rows_R.tolist()], np.int64)
    assert order_R.tolist() == np.argsort(owners_R, kind="stable").tolist()
    assert counts_W.tolist() == [int((owners_R == w).sum()) for w in range(size)]
    assert order_R.dtype == counts_W.dtype == np.int64
