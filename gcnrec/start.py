"""Where a table starts: singular vectors of the graph, random rows, or the rows of an earlier run.

Letters: N nodes, P nodes of the earlier run, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.config import Job
from gcnrec.graph import BipartiteGraph
from gcnrec.models.hops import Hop
from gcnrec.models.spectral import top_singular
from gcnrec.random import Stage, normal


def table_width(job: Job) -> int:
    """Columns of the table: `model.width`, where "auto" is 64 for a dense table."""
    return 64 if job.model.width == "auto" else job.model.width


def start_rows(job: Job, graph: BipartiteGraph, width: int) -> torch.Tensor:
    """Float32 (N, width) rows whose root mean square is `model.start_scale`."""
    if job.model.start == "normal":
        return _noise(job, graph.num_nodes, width)
    left_UD, singular_D, right_ID = top_singular(graph, width, job.train.seed)
    rows_ND = torch.cat([left_UD, right_ID]).mul_(singular_D.sqrt())
    rows_ND.mul_(job.model.start_scale / _root_mean_square(rows_ND))
    beyond_D = singular_D == 0
    if beyond_D.any():  # more columns than the graph has rank: zeros on both sides would never get a gradient
        rows_ND[:, beyond_D] = _noise(job, graph.num_nodes, width)[:, beyond_D]
    return rows_ND


def continued_rows(job: Job, graph: BipartiteGraph, earlier_PD: torch.Tensor, places_N: NDArray[np.int32]) -> torch.Tensor:
    """Rows of an earlier run, and for nodes that it did not know one hop of propagation from neighbours that it did.

    `places_N`: a node's row in `earlier_PD`, -1 for a new node. Each side's new rows are scaled as its matched rows are to
    their own propagation; a new node without a matched neighbour starts from noise.
    """
    known = torch.from_numpy(places_N >= 0)
    rows_ND = torch.zeros(graph.num_nodes, earlier_PD.shape[1])
    rows_ND[known] = earlier_PD[torch.from_numpy(places_N[places_N >= 0].astype(np.int64))]
    hopped_ND = Hop(graph).full(rows_ND)
    for side in (slice(0, graph.num_users), slice(graph.num_users, graph.num_nodes)):
        own, hopped, old = rows_ND[side], hopped_ND[side], known[side]
        reference = hopped[old] if hopped[old].any() else hopped[~old]
        own[~old] = hopped[~old] * (_root_mean_square(own[old]) / _root_mean_square(reference))
    lost = ~known & (rows_ND == 0).all(1)
    rows_ND[lost] = _noise(job, graph.num_nodes, rows_ND.shape[1])[lost]
    return rows_ND


def _noise(job: Job, rows: int, width: int) -> torch.Tensor:
    return torch.from_numpy(normal(job.train.seed, Stage.INIT, 0, (rows, width))).mul_(job.model.start_scale)


def _root_mean_square(rows_RD: torch.Tensor) -> torch.Tensor:
    if not rows_RD.numel():
        return torch.ones(())
    return rows_RD.square().mean().sqrt().clamp_min(1e-30)
