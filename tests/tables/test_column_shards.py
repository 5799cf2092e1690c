"""Columns of a table that are dealt out to workers, in threads."""

from __future__ import annotations

import pytest
import torch
from fake_world import run_workers
from hypothesis import given
from hypothesis import strategies as st

from gcnrec.tables.dealt import spans
from gcnrec.tables.dealt.columns import LINE, ColumnShards, most_workers, shares
from gcnrec.tables.dense import DenseTable


@given(st.integers(1, 300), st.data())
def test_shares_are_whole_lines_that_follow_each_other(width, data):
    size = data.draw(st.integers(1, most_workers(width)))
    found = shares(width, size)
    assert [column for each in found for column in range(width)[each]] == list(range(width))
    widths = [each.stop - each.start for each in found]
    assert len(found) == size and min(widths) > 0 and max(widths[:-1], default=0) - min(widths) <= 2 * LINE
    assert all(width % LINE == 0 for width in widths[:-1])


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("moments", [0, 1, 2])
@pytest.mark.parametrize("span", [1, 700, 1 << 25])
def test_dealt_and_collected_columns_are_the_table(size, moments, span, monkeypatch):
    monkeypatch.setattr(spans, "SPAN_BYTES", span)
    rows, width = 7, 40
    host = DenseTable(torch.empty(rows, width), moments * width)
    drawn = torch.Generator().manual_seed(0)
    before = {name: torch.randint(99, tensor.shape, generator=drawn).to(tensor.dtype) for name, tensor in host.tensors().items()}
    host.restore(before)
    shards = ColumnShards(rows, width, moments)

    def work(world):
        whole = None if world.rank else host
        local = shards.dealt(world, whole)
        dealt = {name: tensor.clone() for name, tensor in local.tensors().items()}
        own = local.tensors()
        for tensor in own.values():
            tensor += 1 + (0 if tensor is own["last"] else world.rank)
        shards.collected(world, local, whole)
        return dealt

    found = run_workers(size, work)
    for worker, columns in enumerate(shares(width, size)):
        wide = [columns.start + moment * width for moment in range(moments)]
        places = [column for first in wide for column in range(first, first + columns.stop - columns.start)]
        assert torch.equal(found[worker]["weights"], before["weights"][:, columns])
        assert torch.equal(found[worker]["state"], before["state"][:, places])
        assert torch.equal(found[worker]["last"], before["last"])
        assert torch.equal(host.columns(columns.start, columns.stop), before["weights"][:, columns] + 1 + worker)
        assert torch.equal(host.tensors()["state"][:, places], before["state"][:, places] + 1 + worker)
    assert torch.equal(host.last_N, before["last"] + 1)
