"""Reading and writing rows on the GPU's kernels, against plain indexing: every pitch, width and alignment."""

from __future__ import annotations

import pytest
import torch

from gcnrec.cuda.gather import gather, put
from gcnrec.errors import DataError
from gcnrec.tables.dense import aligned


def adopted(rows, width, pitch, skip=0):
    """A plane that somebody else allocated: any pitch, any first address that floats may have."""
    buffer = torch.full((rows * pitch + skip,), torch.nan)
    return buffer[skip:].as_strided((rows, width), (pitch, 1))


def filled(plane):
    return plane.copy_(torch.arange(plane.numel()).view(plane.shape) + 1.0)


# More rows than the tiles of a block have on their way at once.
INDEX = torch.tensor([19, 0, 7, 7, 3, 0, 18] * 20)


@pytest.mark.parametrize("width", [1, 3, 4, 16, 20, 33, 48, 64, 100, 256])
def test_gather_from_aligned_planes(host, width):
    plane = filled(aligned(20, width))
    assert torch.equal(gather(plane, INDEX), plane[INDEX])
    assert "shifted" not in host.launches[0][0]


@pytest.mark.parametrize("skip", [0, 1, 4, 31])
@pytest.mark.parametrize(("width", "pitch"), [(33, 33), (40, 40), (36, 60), (64, 68), (100, 100), (129, 131), (5, 7)])
def test_gather_from_adopted_planes(host, width, pitch, skip):
    plane = filled(adopted(20, width, pitch, skip))
    assert torch.equal(gather(plane, INDEX), plane[INDEX])
    assert ("shifted" in host.launches[0][0]) == (width > 32)


def test_vectors_of_16_bytes_only_where_everything_allows(host):
    gather(aligned(4, 64), torch.zeros(1, dtype=torch.int64))
    gather(adopted(4, 64, 64, 1), torch.zeros(1, dtype=torch.int64))
    gather(aligned(4, 63), torch.zeros(1, dtype=torch.int64))
    assert [name.rsplit("_", 1)[1] for name, _, _ in host.launches] == ["16", "4", "4"]


def test_into_a_buffer_with_a_capped_grid_and_nothing_beside_it(host):
    plane, around = filled(aligned(20, 64)), torch.full((300, 72), -1.0)
    index = torch.randint(0, 20, (298,), generator=torch.Generator().manual_seed(0))
    buffer = around[1:-1, 4:68]
    assert gather(plane, index, buffer, max_blocks=1) is buffer
    assert host.launches[0][1] == 1 and torch.equal(buffer, plane[index])
    buffer.fill_(-1.0)
    assert (around == -1.0).all()


def test_nothing_to_read_launches_nothing(host):
    assert gather(aligned(20, 16), torch.empty(0, dtype=torch.int64)).shape == (0, 16)
    assert gather(aligned(20, 0), INDEX).shape == (140, 0)
    assert host.launches == []


@pytest.mark.parametrize(("width", "pitch"), [(1, 1), (33, 35), (64, 64), (100, 128)])
def test_put_changes_its_rows_only(host, width, pitch):
    plane = filled(adopted(20, width, pitch))
    expected, index = plane.clone(), torch.tensor([19, 0, 7])
    rows = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    expected[index] = rows
    put(plane, index, rows)
    assert torch.equal(plane, expected)


@pytest.mark.parametrize(
    ("plane", "index", "sentence"),
    [
        (torch.zeros(3, 4, dtype=torch.float64), torch.zeros(1, dtype=torch.int64), "must be a float32 matrix"),
        (torch.zeros(4, 3).T, torch.zeros(1, dtype=torch.int64), "each row in one piece"),
        (torch.zeros(3, 4), torch.zeros(1, dtype=torch.int32), "must be torch.int64"),
        (torch.zeros(3, 4), torch.zeros(4, dtype=torch.int64)[::2], "must be contiguous"),
    ],
)
def test_what_kernels_cannot_read_is_refused(host, plane, index, sentence):
    with pytest.raises(DataError, match=sentence):
        gather(plane, index)
