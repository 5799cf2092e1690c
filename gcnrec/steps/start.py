"""Where a table starts: singular vectors of the graph, random rows, or the rows of an earlier run.

Letters: N nodes, P nodes of the earlier run, D width.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.config import Job
from gcnrec.graph import BipartiteGraph
from gcnrec.models.hops import Hop
from gcnrec.models.spectral import top_singular, varimax
from gcnrec.random import Stage, normal
from gcnrec.sparsity.budget import budget_values, room_for, table_width
from gcnrec.sparsity.first_support import fill, magnitude_keys, random_keys
from gcnrec.sparsity.policies import policy_of
from gcnrec.system.pages import trim_heap
from gcnrec.tables.dense import FILLED_ROWS, Allocate, DenseTable, in_ram
from gcnrec.tables.pipelined import HostTable
from gcnrec.tables.rules import rule_of
from gcnrec.tables.slots import SlotTable


def first_table(job: Job, graph: BipartiteGraph, rows_ND: torch.Tensor | None, allocate: Allocate = in_ram) -> HostTable:
    """The table that a job trains, from dense rows to start with (None: as `model.start` has it), in memory of `allocate`."""
    rule, width = rule_of(job.optimizer), table_width(job)
    if job.table.budget == 1.0:
        return _dense_table(job, graph, rows_ND, allocate)
    policy, scalars = policy_of(job, graph), rule.state_width(0)
    room = room_for(job, budget_values(job, graph.num_nodes), graph.num_nodes, width)
    table = SlotTable(graph.num_nodes, width, room, rule.state_width(1) - scalars, scalars, job.table.dtype, allocate)
    counts_N, keys = policy.first_counts(graph, table), policy.first_keys(job.train.seed)
    if job.sparsity.first is not None:
        keys = random_keys(job.train.seed) if job.sparsity.first == "random" else magnitude_keys
    if rows_ND is not None:
        fill(table, counts_N, lambda first, last: rows_ND[first:last], keys, None)
    elif job.model.start == "normal":
        # The largest of normal draws would all be large, so magnitude is no reason here.
        unless_magnitude = random_keys(job.train.seed) if keys is magnitude_keys else keys
        fill(table, counts_N, partial(_noise_block, job, width), unless_magnitude, job.model.start_scale)
    else:
        start_ND = spectral_rows(job, graph, width)
        start_ND = start_ND @ varimax(start_ND)
        fill(table, counts_N, lambda first, last: start_ND[first:last], keys, job.model.start_scale)
        del start_ND
    trim_heap()
    return table


def _noise_block(job: Job, width: int, first: int, last: int) -> torch.Tensor:
    """Standard normal rows first .. last-1, whatever the blocks they are asked for in."""
    return torch.from_numpy(normal(job.train.seed, Stage.INIT, 0, (last - first, width), first * width))


def _dense_table(job: Job, graph: BipartiteGraph, rows_ND: torch.Tensor | None, allocate: Allocate) -> DenseTable:
    width, state_width = table_width(job), rule_of(job.optimizer).state_width(table_width(job))
    if rows_ND is not None or job.model.start != "normal":
        return DenseTable(spectral_rows(job, graph, width) if rows_ND is None else rows_ND, state_width, allocate)
    table = DenseTable(torch.zeros(1, 1).expand(graph.num_nodes, width), state_width, allocate)  # may be larger than RAM
    table.fill(lambda first, last: _noise_block(job, width, first, last).mul_(job.model.start_scale))
    return table


def spectral_rows(job: Job, graph: BipartiteGraph, width: int) -> torch.Tensor:
    """The top singular vectors of the normalised interactions, times the roots of their values.

    Float32 (N, width), scaled to a root mean square of `model.start_scale`.
    """
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
    rows_ND = torch.empty(rows, width)
    for first in range(0, rows, FILLED_ROWS):
        last = min(first + FILLED_ROWS, rows)
        rows_ND[first:last] = _noise_block(job, width, first, last)
    return rows_ND.mul_(job.model.start_scale)


def _root_mean_square(rows_RD: torch.Tensor) -> torch.Tensor:
    if not rows_RD.numel():
        return torch.ones(())
    return rows_RD.square().mean().sqrt().clamp_min(1e-30)
