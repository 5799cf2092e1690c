"""Where a table starts: singular vectors of the graph, random rows, or the rows of an earlier run.

Letters: N nodes, U users, I items, D width.
"""

from __future__ import annotations

import torch

from gcnrec.config import Job
from gcnrec.graph import BipartiteGraph
from gcnrec.models.spectral import top_singular
from gcnrec.random import Stage, normal


def start_rows(job: Job, graph: BipartiteGraph, width: int) -> torch.Tensor:
    """Float32 (N, width) rows whose root mean square is `model.start_scale`."""
    scale = job.model.start_scale
    if job.model.start == "normal":
        return torch.from_numpy(normal(job.train.seed, Stage.INIT, 0, (graph.num_nodes, width))).mul_(scale)
    left_UD, singular_D, right_ID = top_singular(graph, width, job.train.seed)
    rows_ND = torch.cat([left_UD, right_ID]).mul_(singular_D.sqrt())
    return rows_ND.mul_(scale / rows_ND.square().mean().sqrt().clamp_min(1e-30))
