"""From a batch's embeddings to one scalar: the loss of a job, and the L2 of layer 0.

Letters: V nodes of the batch, I items, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.graph import BipartiteGraph
from gcnrec.models import losses
from gcnrec.models.scores.entries import Score
from gcnrec.models.scores.in_batch import BslInBatch, BslSampled, PoolSoftmax
from gcnrec.models.scores.own import OwnInBatch, OwnSampled, Terms
from gcnrec.models.scores.sampled import Bpr, DirectAu, SampledSoftmax
from gcnrec.rows import Array
from gcnrec.sampling.sampler import Batch

if TYPE_CHECKING:
    from gcnrec.config import Loss, Sampler


class ObjectiveGiven(NamedTuple, Generic[Array]):
    """What the objective takes from the host: what its score takes, and how L2 weighs the nodes' rows, float32 (V) or None."""

    score: Any
    l2_roots_V: Array | None
    num_positives: int


@dataclass(frozen=True)
class Objective:
    """`__call__` returns the mean loss of a batch, differentiable in `final_VD` and `ego_VD`."""

    score: Score
    cosine: bool
    l2: float

    def prepare(self, batch: Batch) -> ObjectiveGiven[NDArray[Any]]:
        """What `__call__` takes from the host. Runs while earlier batches train."""
        return ObjectiveGiven(self.score.prepare(batch), roots_of_uses(batch) if self.l2 else None, len(batch.users_B))

    def __call__(self, final_VD: torch.Tensor, ego_VD: torch.Tensor, given: ObjectiveGiven[torch.Tensor]) -> torch.Tensor:
        rows_VD = F.normalize(final_VD, dim=1) if self.cosine else final_VD
        total = self.score(rows_VD, given.score)
        if given.l2_roots_V is not None:
            total = total + losses.half_squared_norm(ego_VD, given.l2_roots_V, given.num_positives, self.l2)
        return total


def objective_of(settings: Loss, sampler: Sampler, graph: BipartiteGraph, weighted: bool) -> Objective:
    """The objective that a job's `loss` and `sampler` sections name; `weighted`: positives come with weights."""
    if weighted and settings.name in ("bsl", "directau"):
        raise UsageError(
            f"loss.name = '{settings.name}' cannot weight its positives; use bpr or softmax, or ingest without weights"
        )
    in_batch = sampler.negatives == "in_batch"
    weight = settings.negative_weight or 0.0
    score: Score
    match settings.name:
        case "bpr":
            score = Bpr(weight)
        case "directau":
            score = DirectAu(settings.uniformity)
        case "bsl":
            temperatures = (settings.temperature, settings.positive_temperature or settings.temperature)
            score = (BslInBatch if in_batch else BslSampled)(weight, *temperatures)
        case "softmax":
            log_share_I = settings.logq * _log_shares(sampler, graph) if settings.logq else None
            if in_batch:
                score = PoolSoftmax(weight, settings.temperature, getattr(torch, settings.precision), log_share_I)
            else:
                score = SampledSoftmax(weight, settings.temperature, log_share_I)
        case _:
            assert settings.own is not None  # a section takes no other name
            score = (OwnInBatch if in_batch else OwnSampled)(weight, Terms.of(settings.own))
    return Objective(score, settings.score == "cosine" and settings.name != "directau", settings.l2)


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


def roots_of_uses(batch: Batch) -> NDArray[np.float32]:
    """The roots of how often nodes occur in the batch's entries, float32 (V): L2 counts every use of a row."""
    every = [batch.users_B, batch.positives_B, batch.negatives_BN.reshape(-1)]
    every += [] if batch.disliked_B is None else [batch.disliked_B[batch.disliked_B >= 0]]
    return np.sqrt(np.bincount(np.concatenate(every), minlength=len(batch.nodes_V)).astype(np.float32))


def _log_shares(sampler: Sampler, graph: BipartiteGraph) -> NDArray[np.float32]:
    """log q(i): how likely one draw of a negative is item i. An in-batch negative is the item of a random train edge."""
    power = {"in_batch": 1.0, "uniform": 0.0, "popularity": sampler.popularity_power}[sampler.negatives]
    shares_I = np.power(np.diff(graph.item_users.indptr).astype(np.float64), power)
    return np.log(np.maximum(shares_I / shares_I.sum(), 1e-30)).astype(np.float32)
