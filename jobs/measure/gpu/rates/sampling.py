"""Neighbours drawn on the GPU, the graph's edges in pinned host memory or on the device, and by the CPU's cores."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from gcnrec.cuda import sample
from gcnrec.cuda.propagate import Csr
from gcnrec.graph import Csr as HostCsr
from gcnrec.ops.draws import neighbours
from gcnrec.random import DrawKey
from jobs.measure.gpu.bed import SETS, Bed, Work, race, report_timings, row_sets

FANOUTS = (10, 25)
SHAPE, LEAST, MOST = 0.8, 8, 20_000
"""Degrees: `LEAST` over a uniform draw to the power of `SHAPE`; few rows have thousands of edges, the mean is about 40."""
FILL_EDGES = 1 << 26


def run(bed: Bed) -> None:
    nodes = bed.sizes.nodes
    indptr = _indptr(bed, nodes)
    edges = int(indptr[-1])
    pinned = bed.table().view(torch.int32)[:edges]
    for first in range(0, edges, FILL_EDGES):
        part = pinned[first : first + FILL_EDGES]
        part.copy_(torch.randint(0, nodes, (len(part),), dtype=torch.int32, device=bed.device))
    places = {"host": Csr(indptr, pinned, nodes), "device": Csr(indptr, pinned.to(bed.device), nodes)}
    host = HostCsr(indptr.cpu().numpy(), pinned.numpy(), nodes)
    targets = min(nodes // 4, max(16, bed.sizes.call_bytes >> 10))
    sets = [rows.int() for rows in row_sets(bed, nodes, targets)]
    on_host = [rows.cpu().numpy() for rows in sets]
    for fanout in FANOUTS:
        drawn = int(sample.sample_neighbours(places["host"], sets[0], fanout, DrawKey(1, 1, 0, 0))[0][-1])

        def on_bed(csr: Csr, run: int, fanout: int = fanout) -> None:
            sample.sample_neighbours(csr, sets[run % SETS], fanout, DrawKey(1, run, 0, 0))

        def on_cores(run: int, fanout: int = fanout) -> None:
            neighbours.sample_neighbours(host, on_host[run % SETS], fanout, DrawKey(1, run, 0, 0))

        works: dict[str, Work] = {f"gcnrec-{place}": partial(on_bed, csr) for place, csr in places.items()}
        facts = {"fanout": fanout, "nodes": nodes, "edges": edges, "targets": targets}
        report_timings(bed, "sample", race(bed, works | {"gcnrec-cpu-cores": on_cores}), drawn, 4 * drawn, **facts)
        _require_equal(places["host"], host, sets[0], fanout)


def _indptr(bed: Bed, nodes: int) -> torch.Tensor:
    draws = torch.Generator(bed.device).manual_seed(3)
    uniform = torch.rand(nodes, generator=draws, device=bed.device, dtype=torch.float64).clamp_min(1e-9)
    degrees = (LEAST * uniform**-SHAPE).clamp_max(MOST).long()
    indptr = torch.zeros(nodes + 1, dtype=torch.int64, device=bed.device)
    torch.cumsum(degrees, 0, out=indptr[1:])
    return indptr


def _require_equal(csr: Csr, host: HostCsr, rows_T: torch.Tensor, fanout: int) -> None:
    """The GPU must draw the CPU's integers, at full size too."""
    few = rows_T[: min(len(rows_T), 20_000)].contiguous()
    expected, columns = neighbours.sample_neighbours(host, few.cpu().numpy(), fanout, DrawKey(1, 2, 0, 0))
    found, places = sample.sample_neighbours(csr, few, fanout, DrawKey(1, 2, 0, 0))
    if not np.array_equal(found.cpu().numpy(), expected) or not np.array_equal(places.cpu().numpy()[: expected[-1]], columns):
        raise RuntimeError(f"the GPU draws other neighbours than the CPU at a fanout of {fanout}")
