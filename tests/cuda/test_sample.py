"""Draws on the GPU's kernels: equal, integer for integer, to the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcnrec.cuda import sample as cuda
from gcnrec.cuda.propagate import Csr as DeviceCsr
from gcnrec.errors import UsageError
from gcnrec.graph import csr_from_edges
from gcnrec.ops.draws import alias, neighbours
from gcnrec.ops.draws import sample as ops
from gcnrec.random import DrawKey


def graph():
    """Rows without a neighbour, with one, with any number up to a hub that has every column."""
    degrees = np.r_[2000, np.arange(80), 0, 3]
    draw = np.random.default_rng(0)
    columns = np.concatenate([draw.permutation(2000)[:degree] for degree in degrees])
    rows = np.repeat(np.arange(len(degrees)), degrees).astype(np.int32)
    return csr_from_edges(rows, columns.astype(np.int32), len(degrees), 2000)


CSR = graph()


def on_device(csr):
    return DeviceCsr(torch.from_numpy(np.array(csr.indptr)), torch.from_numpy(np.array(csr.indices)), csr.columns)


@pytest.mark.parametrize("fanout", [1, 2, 3, 10, 16, 17, 32, 33, 63, 64])
@pytest.mark.parametrize(("seed", "step", "hop", "first_node"), [(0, 1, 0, 0), (2**63 + 5, 2**40 + 7, 2, 1000)])
def test_neighbours(host, fanout, seed, step, hop, first_node):
    rows = np.r_[np.arange(CSR.rows), 0, 40, 0].astype(np.int32)
    indptr, indices = neighbours.sample_neighbours(CSR, rows, fanout, DrawKey(seed, step, hop, first_node))
    found, places = cuda.sample_neighbours(on_device(CSR), torch.from_numpy(rows), fanout, DrawKey(seed, step, hop, first_node))
    assert found.tolist() == indptr.tolist() and len(places) == len(rows) * fanout
    assert places[: indptr[-1]].tolist() == indices.tolist()


def test_no_targets(host):
    indptr, indices = cuda.sample_neighbours(on_device(CSR), torch.empty(0, dtype=torch.int32), 5, DrawKey(0, 1, 0, 0))
    assert indptr.tolist() == [0] and len(indices) == 0 and host.launches == []


@pytest.mark.parametrize("fanout", [0, 65])
def test_a_fanout_beyond_the_limits(fanout):
    with pytest.raises(UsageError, match="a fanout must lie in"):
        cuda.sample_neighbours(on_device(CSR), torch.zeros(1, dtype=torch.int32), fanout, DrawKey(0, 1, 0, 0))


def table_on_device(table):
    return cuda.AliasTable(torch.from_numpy(table.thresholds_I), torch.from_numpy(table.others_I))


@pytest.mark.parametrize("fanout", [1, 5, 33, 64])
@pytest.mark.parametrize(("seed", "step", "hop", "first_node"), [(0, 1, 0, 0), (2**63 + 5, 2**40 + 7, 2, 1000)])
def test_weighted_neighbours(host, fanout, seed, step, hop, first_node):
    rows = np.r_[np.arange(CSR.rows), 0, 40, 0].astype(np.int32)
    weights = np.random.default_rng(0).integers(0, 5, len(CSR.indices)) + 0.25
    tables = alias.alias_rows(CSR, weights)
    indptr, indices = alias.sample_weighted(CSR, tables, rows, fanout, DrawKey(seed, step, hop, first_node))
    keys = (torch.from_numpy(rows), fanout, DrawKey(seed, step, hop, first_node))
    found, places = cuda.sample_weighted(on_device(CSR), table_on_device(tables), *keys)
    assert found.tolist() == indptr.tolist() and places[: indptr[-1]].tolist() == indices.tolist()


@pytest.mark.parametrize("excluding", [True, False])
@pytest.mark.parametrize(("seed", "step"), [(0, 1), (2**63 + 5, 2**40 + 7)])
def test_negatives(host, seed, step, excluding):
    """Row 0 has seen everything: its last attempt counts. Short rows redraw now and then."""
    users = np.r_[0, 80, np.arange(70, 80), 5].astype(np.int32)
    table = ops.popularity_table(np.random.default_rng(0).integers(0, 9, CSR.columns), 0.75)
    expected = ops.negatives(users, 40, table, CSR if excluding else None, seed, step)
    seen = on_device(CSR) if excluding else None
    found = cuda.negatives(torch.from_numpy(users), 40, table_on_device(table), seen, seed, step)
    assert found.tolist() == expected.tolist()
    assert cuda.ATTEMPTS == ops.ATTEMPTS
