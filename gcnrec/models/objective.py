"""From a batch's embeddings to one scalar: gathers triples, scores, applies the loss and the L2 of layer 0.

Letters: B positives, N negatives per positive, J distinct positives (the in-batch pool), V nodes of the batch, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from gcnrec.device import ops_for, place
from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.models import losses
from gcnrec.sampling.sampler import Batch

if TYPE_CHECKING:
    from gcnrec.config import Loss, Sampler

Score = Callable[[torch.Tensor, Batch], torch.Tensor]
"""A loss of embeddings, unit length already where the score is the cosine: (rows_VD, batch) -> scalar."""


@dataclass(frozen=True)
class Objective:
    """`__call__` returns the mean loss of a batch, differentiable in `final_VD` and `ego_VD`."""

    loss: Score
    cosine: bool
    l2: float

    def __call__(self, final_VD: torch.Tensor, ego_VD: torch.Tensor, batch: Batch) -> torch.Tensor:
        rows_VD = F.normalize(final_VD, dim=1) if self.cosine else final_VD
        total = self.loss(rows_VD, batch)
        if self.l2:
            every = [batch.users_B, batch.positives_B, batch.negatives_BN.reshape(-1)]
            every += [] if batch.disliked_B is None else [batch.disliked_B[batch.disliked_B >= 0]]
            uses_V = np.bincount(np.concatenate(every), minlength=len(batch.nodes_V)).astype(np.float32)
            weighted = ego_VD * place(np.sqrt(uses_V), ego_VD.device)[:, None]
            total = total + self.l2 * losses.half_squared_norm(weighted, len(batch.users_B))
        return total


def objective_of(settings: Loss, sampler: Sampler, graph: BipartiteGraph, weighted: bool) -> Objective:
    """The objective that a job's `loss` and `sampler` sections name; `weighted`: positives come with weights."""
    if weighted and settings.name in ("bsl", "directau"):
        raise UsageError(
            f"loss.name = '{settings.name}' cannot weight its positives; use bpr or softmax, or ingest without weights"
        )
    in_batch = sampler.negatives == "in_batch"
    weight = settings.negative_weight or 0.0
    loss: Score
    match settings.name:
        case "bpr":
            loss = partial(_bpr, weight)
        case "directau":
            loss = partial(_directau, settings.uniformity)
        case "bsl":
            temperatures = (settings.temperature, settings.positive_temperature or settings.temperature)
            loss = partial(_bsl_in_batch if in_batch else _bsl_sampled, weight, *temperatures)
        case "softmax":
            log_share_I = settings.logq * _log_shares(sampler, graph) if settings.logq else None
            if in_batch:
                dtype = getattr(torch, settings.precision)
                loss = partial(_softmax_in_batch, weight, settings.temperature, dtype, log_share_I)
            else:
                loss = partial(_softmax_sampled, weight, settings.temperature, log_share_I)
    return Objective(loss, settings.score == "cosine" and settings.name != "directau", settings.l2)


def slow_precision(settings: Loss, sampler: Sampler, on_gpu: bool) -> str | None:
    """A sentence where `loss.precision` makes training slow: bfloat16 on a CPU without instructions for it; else None."""
    products = settings.name == "softmax" and sampler.negatives == "in_batch" and settings.precision == "bfloat16"
    if not products or on_gpu or has_bfloat16():
        return None
    return (  # measured: products of 2048 rows of width 64 take 11 times as long on a Xeon with AVX2
        "loss.precision = 'bfloat16' on this CPU, which has no instructions for it, makes the loss about ten times slower; set "
        "loss.precision = 'float32'"
    )


def has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 by instructions of its own, as far as torch knows."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def take(rows_VD: torch.Tensor, index: NDArray[np.int64]) -> torch.Tensor:
    """rows[index], whose gradient sums duplicates in batch order."""
    return _Take.apply(rows_VD, index)  # type: ignore[no-any-return]


def _bpr(weight: float, rows_VD: torch.Tensor, batch: Batch) -> torch.Tensor:
    own = _own(weight, rows_VD, batch)
    return losses.bpr(*_pairs(rows_VD, batch), _negatives(rows_VD, batch), _weights(batch, rows_VD), own)


def _directau(uniformity: float, rows_VD: torch.Tensor, batch: Batch) -> torch.Tensor:
    return losses.directau(*_pairs(rows_VD, batch), uniformity)


def _softmax_sampled(
    weight: float, temperature: float, log_share_I: torch.Tensor | None, rows_VD: torch.Tensor, batch: Batch
) -> torch.Tensor:
    corrections = None
    if log_share_I is not None:
        sides = (batch.triples.positives_B, batch.triples.negatives_BN)
        of_positives, of_negatives = (log_share_I[torch.from_numpy(side.astype(np.int64))].to(rows_VD.device) for side in sides)
        corrections = of_positives, of_negatives
    users_BD, positives_BD = _pairs(rows_VD, batch)
    weights, own = _weights(batch, rows_VD), _own(weight, rows_VD, batch)
    return losses.sampled_softmax(users_BD, positives_BD, _negatives(rows_VD, batch), temperature, corrections, weights, own)


def _softmax_in_batch(
    weight: float, temperature: float, dtype: torch.dtype, log_share_I: torch.Tensor | None, rows_VD: torch.Tensor, batch: Batch
) -> torch.Tensor:
    target_B, pool_JD, log_count_J = _pool(rows_VD, batch)
    own_J = torch.zeros_like(log_count_J)
    if log_share_I is not None:
        own_J = -log_share_I[torch.from_numpy(_pool_items(batch))].to(rows_VD.device)
    users_BD = take(rows_VD, batch.users_B)
    pool = losses.Pool(pool_JD, log_count_J + own_J, own_J, _items_of_several_dates(batch, rows_VD.device))
    own = _own(weight, rows_VD, batch)
    return losses.pool_softmax(users_BD, pool, target_B, temperature, _weights(batch, rows_VD), dtype, own)


def _bsl_in_batch(
    weight: float, temperature: float, positive_temperature: float, rows_VD: torch.Tensor, batch: Batch
) -> torch.Tensor:
    target_B, pool_JD, log_count_J = _pool(rows_VD, batch)
    users_BD, positives_BD = _pairs(rows_VD, batch)
    bias_BJ = log_count_J.repeat(len(target_B), 1).scatter(1, target_B[:, None], -torch.inf)
    if (items_J := _items_of_several_dates(batch, rows_VD.device)) is not None:
        bias_BJ.masked_fill_(losses.twins(items_J, target_B), -torch.inf)
    scores_B, scores_BJ = (users_BD * positives_BD).sum(1), users_BD @ pool_JD.T
    negatives = _with_own(_own(weight, rows_VD, batch), users_BD, scores_BJ, bias_BJ)
    return losses.bsl(scores_B, *negatives, place(batch.users_B, rows_VD.device), temperature, positive_temperature)


def _bsl_sampled(
    weight: float, temperature: float, positive_temperature: float, rows_VD: torch.Tensor, batch: Batch
) -> torch.Tensor:
    users_BD, positives_BD = _pairs(rows_VD, batch)
    scores_BN = losses.against(users_BD, _negatives(rows_VD, batch))
    scores_B, bias_BN = (users_BD * positives_BD).sum(1), torch.zeros_like(scores_BN)
    negatives = _with_own(_own(weight, rows_VD, batch), users_BD, scores_BN, bias_BN)
    return losses.bsl(scores_B, *negatives, place(batch.users_B, rows_VD.device), temperature, positive_temperature)


def _with_own(
    own: losses.Own | None, users_BD: torch.Tensor, scores_BJ: torch.Tensor, bias_BJ: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and log weights of each row's negatives, with the row's own as the last column."""
    if own is None:
        return scores_BJ, bias_BJ
    own_B, log_mass_B = (users_BD * own.rows_BD).sum(1), torch.logsumexp(bias_BJ, 1)
    bias_B = own.log_weight_B + log_mass_B.masked_fill(torch.isinf(log_mass_B), 0.0)
    return torch.cat([scores_BJ, own_B[:, None]], 1), torch.cat([bias_BJ, bias_B[:, None]], 1)


def _own(weight: float, rows_VD: torch.Tensor, batch: Batch) -> losses.Own | None:
    """The negative of each entry's own user; None where the sampler draws none."""
    if batch.disliked_B is None:
        return None
    has_B = batch.disliked_B >= 0
    log_weight_B = np.where(has_B, math.log(weight), -np.inf).astype(np.float32)
    rows_BD = take(rows_VD, np.where(has_B, batch.disliked_B, batch.positives_B))
    return losses.Own(rows_BD, place(log_weight_B, rows_VD.device))


def _pairs(rows_VD: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return take(rows_VD, batch.users_B), take(rows_VD, batch.positives_B)


def _negatives(rows_VD: torch.Tensor, batch: Batch) -> torch.Tensor:
    flat = take(rows_VD, batch.negatives_BN.reshape(-1))
    return flat.view(*batch.negatives_BN.shape, rows_VD.shape[1])


def _weights(batch: Batch, rows_VD: torch.Tensor) -> torch.Tensor | None:
    weights_B = batch.triples.weights_B
    return None if weights_B is None else place(weights_B, rows_VD.device)


def _pool(rows_VD: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The batch's distinct positives: position of each row's own, their rows, log of their counts in the batch.

    An item at two dates is two of them.
    """
    if batch.disliked_B is None:
        target_B, pool_JD = batch.positives_B - batch.num_users, rows_VD[batch.num_users :]
    else:
        places_J, target_B = np.unique(batch.positives_B, return_inverse=True)
        pool_JD = take(rows_VD, places_J)
    counts_J = np.bincount(target_B, minlength=len(pool_JD)).astype(np.float32)
    return place(target_B, rows_VD.device), pool_JD, place(np.log(counts_J), rows_VD.device)


def _pool_items(batch: Batch) -> NDArray[np.int64]:
    """The item of each candidate of the pool, ascending, int64 (J)."""
    nodes_J = batch.nodes_V[np.unique(batch.positives_B)]
    return nodes_J - (batch.nodes_V[batch.positives_B[0]] - batch.triples.positives_B[0])


def _items_of_several_dates(batch: Batch, device: torch.device) -> torch.Tensor | None:
    """The item of each candidate of the pool, where nodes stand at several dates; None where all candidates differ by item."""
    nodes_V = batch.nodes_V
    return place(_pool_items(batch), device) if (nodes_V[1:] == nodes_V[:-1]).any() else None


def _log_shares(sampler: Sampler, graph: BipartiteGraph) -> torch.Tensor:
    """log q(i): how likely one draw of a negative is item i. An in-batch negative is the item of a random train edge."""
    power = {"in_batch": 1.0, "uniform": 0.0, "popularity": sampler.popularity_power}[sampler.negatives]
    shares_I = np.power(graph.item_users.degrees.astype(np.float64), power)
    return torch.from_numpy(np.log(np.maximum(shares_I / shares_I.sum(), 1e-30)).astype(np.float32))


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_VD: torch.Tensor, index: NDArray[np.int64]) -> torch.Tensor:
        ops = ops_for(rows_VD.device)
        ctx.index, ctx.num_rows = ops.place(index), len(rows_VD)
        return ops.gather(rows_VD.detach(), ctx.index)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        grad_BD = grad_outputs[0]
        return ops_for(grad_BD.device).reduce_rows(ctx.index, grad_BD, ctx.num_rows), None
