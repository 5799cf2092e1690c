"""What losses take of a batch: rows of users, positives and negatives, and numbers of these that the host knows beforehand.

Letters: B positives, N negatives per positive, V nodes of the batch, R rows of a sum, D width.
"""

from __future__ import annotations

import math
from typing import Any, Generic, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.device import ops_for
from gcnrec.models import losses
from gcnrec.ops.reduce import entries_of
from gcnrec.rows import Array, Entries
from gcnrec.sampling.sampler import Batch


class Score(Protocol):
    """A loss of embeddings, unit length already where the score is the cosine."""

    def prepare(self, batch: Batch) -> Any:
        """What the loss takes from the host: arrays, in tuples, some named. Runs while earlier batches train."""
        ...

    def __call__(self, rows_VD: torch.Tensor, given: Any) -> torch.Tensor:
        """The loss, a scalar; `given` is what `prepare` gave, its arrays uploaded."""
        ...


class OwnEntries(NamedTuple, Generic[Array]):
    """The negatives of entries' own users: rows, some other row where there is none, and the log of the weight, float32 (B)."""

    rows: Entries[Array]
    log_weight_B: Array


class Sampled(NamedTuple, Generic[Array]):
    """Entries with drawn negatives, these flat (B * N). `weights_B` float32, `log_shares` of positives (B) and negatives (B, N).

    None where all weigh alike, where nothing is corrected, and where no entry has a negative of its own.
    """

    users: Entries[Array]
    positives: Entries[Array]
    negatives: Entries[Array]
    weights_B: Array | None
    log_shares: tuple[Array, Array] | None
    own: OwnEntries[Array] | None


def sampled_entries(batch: Batch, own_weight: float, log_share_I: NDArray[np.float32] | None = None) -> Sampled[NDArray[Any]]:
    """The entries of a batch whose negatives are drawn. `log_share_I`: what a score loses by its item, float32."""
    log_shares = None
    if log_share_I is not None:
        log_shares = log_share_I[batch.triples.positives_B], log_share_I[batch.triples.negatives_BN]
    negatives = entries_in(batch, batch.negatives_BN.reshape(-1))
    weights_B, own = batch.triples.weights_B, own_entries(batch, own_weight)
    return Sampled(*pair_entries(batch), negatives, weights_B, log_shares, own)


def pair_entries(batch: Batch) -> tuple[Entries[NDArray[Any]], Entries[NDArray[Any]]]:
    """The users and the positives of a batch."""
    return entries_in(batch, batch.users_B), entries_in(batch, batch.positives_B)


def own_entries(batch: Batch, weight: float) -> OwnEntries[NDArray[Any]] | None:
    """What each entry's user rated low; None where the sampler draws none."""
    if batch.disliked_B is None:
        return None
    has_B = batch.disliked_B >= 0
    log_weight_B = np.where(has_B, math.log(weight), -np.inf).astype(np.float32)
    return OwnEntries(entries_in(batch, np.where(has_B, batch.disliked_B, batch.positives_B)), log_weight_B)


def entries_in(batch: Batch, places_B: NDArray[np.int64]) -> Entries[NDArray[Any]]:
    """Entries at `places_B` of the batch's nodes."""
    return entries_of(np.ascontiguousarray(places_B), len(batch.nodes_V))


def take(rows_VD: torch.Tensor, entries: Entries[torch.Tensor]) -> torch.Tensor:
    """The row of each entry, (B, D), whose gradient sums duplicates in batch order."""
    return _Take.apply(rows_VD, entries)  # type: ignore[no-any-return]


def own_of(rows_VD: torch.Tensor, own: OwnEntries[torch.Tensor] | None) -> losses.Own | None:
    """The negative of each entry's own user, as losses take it."""
    return None if own is None else losses.Own(take(rows_VD, own.rows), own.log_weight_B)


def negatives_of(rows_VD: torch.Tensor, given: Sampled[torch.Tensor]) -> torch.Tensor:
    """The rows of drawn negatives, (B, N, D)."""
    return take(rows_VD, given.negatives).view(len(given.users.index_B), -1, rows_VD.shape[1])


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_VD: torch.Tensor, entries: Entries[torch.Tensor]) -> torch.Tensor:
        ctx.entries = entries
        return ops_for(rows_VD.device).gather(rows_VD.detach(), entries.index_B)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        grad_BD = grad_outputs[0]
        return ops_for(grad_BD.device).reduce_rows(ctx.entries, grad_BD), None
