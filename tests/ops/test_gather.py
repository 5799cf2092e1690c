"""Reading and writing rows against a Python loop, in planes of every pitch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.errors import DataError
from gcnrec.ops.gather import gather, move, padded, put
from gcnrec.tables.dense import aligned


def plane_of(rows, width):
    plane = aligned(rows, width)
    return plane.copy_(torch.randn(rows, width, generator=torch.Generator().manual_seed(width)))


@pytest.mark.parametrize("width", [1, 3, 16, 33, 48, 64, 65, 100, 128, 150])
def test_gather(width):
    plane = plane_of(20, width)
    index = np.array([19, 0, 7, 7, 3, 0])  # any order, repeats
    out = gather(plane, index)
    assert [row.tolist() for row in out] == [plane[int(i)].tolist() for i in index]


def test_gather_from_a_read_only_index_and_into_a_buffer():
    plane, index = plane_of(20, 16), np.arange(5)
    index.flags.writeable = False
    buffer = torch.full((5, 16), torch.nan)
    assert gather(plane, index, buffer) is buffer and torch.equal(buffer, plane[:5])


def test_nothing_is_written_beside_the_rows():
    whole = torch.full((7, 150), -1.0)
    gather(plane_of(20, 150), np.arange(5), whole[1:6])
    assert torch.equal(whole[1:6], plane_of(20, 150)[:5]) and (whole[[0, 6]] == -1).all()


@pytest.mark.parametrize("width", [1, 3, 16, 33, 48, 64, 65, 100, 128, 150])
def test_put(width):
    """Rows come from memory with gaps, and nothing is written between those of the plane."""
    whole, index = aligned(20, 160), np.array([19, 0, 7, 3])
    plane, rows = whole.fill_(-1)[:, :width], plane_of(4, width)
    put(plane, index, rows)
    expected = {int(row): rows[k].tolist() for k, row in enumerate(index)}
    assert [row.tolist() for row in plane] == [expected.get(row, [-1.0] * width) for row in range(20)]
    assert (whole[:, width:] == -1).all()


def test_put_of_nothing_and_of_another_shape():
    plane = plane_of(20, 16)
    before = plane.clone()
    put(plane, np.empty(0, np.int64), torch.empty(0, 16))
    assert torch.equal(plane, before)
    for wrong in (torch.zeros(2, 16), torch.zeros(3, 15)):
        with pytest.raises(DataError, match="rows must be 3 x 16, got"):
            put(plane, np.arange(3), wrong)


@pytest.mark.parametrize("width", [1, 3, 16, 33, 48, 64, 65, 100, 128, 150])
def test_move(width):
    source, target = plane_of(20, width), aligned(9, width).fill_(-1.0)
    index, places = np.array([19, 0, 7, 7]), np.array([8, 2, 0, 5])  # any order, a row twice
    move(source, index, target, places)
    for place in range(9):
        at = np.flatnonzero(places == place)
        assert target[place].tolist() == (source[int(index[at[0]])].tolist() if len(at) else [-1.0] * width)


def test_move_of_nothing_and_of_other_shapes():
    source, target = plane_of(4, 16), plane_of(3, 16)
    before = target.clone()
    move(source, np.empty(0, np.int64), target, np.empty(0, np.int64))
    assert torch.equal(target, before)
    with pytest.raises(DataError, match="got 2 rows of width 16 for 1 places of width 16; match both"):
        move(source, np.arange(2), target, np.arange(1))
    with pytest.raises(DataError, match="got 1 rows of width 16 for 1 places of width 8; match both"):
        move(source, np.arange(1), torch.zeros(3, 8), np.arange(1))


def test_gather_of_nothing():
    assert gather(plane_of(20, 16), np.empty(0, np.int64)).shape == (0, 16)


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("width", [1, 33, 64])
def test_padded_shares_memory_and_is_contiguous(rows, width):
    plane = plane_of(rows, width)
    array = padded(plane)
    assert array.flags.c_contiguous and len(array) == rows and array.shape[1] >= width
    assert np.array_equal(array[:, :width], plane.numpy())
    if rows:
        array[0, 0] = 42.0
        assert plane[0, 0] == 42.0


def test_threads_do_not_matter(threads):
    plane, index = plane_of(500, 33), np.random.default_rng(0).integers(0, 500, 3000)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(gather(plane, index))
    assert torch.equal(*results)
