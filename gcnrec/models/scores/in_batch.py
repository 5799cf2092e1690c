"""Losses whose negatives are the batch's other positives, and the bilateral softmax, which counts users.

Letters: B positives, N negatives per positive, J distinct positives (the in-batch pool), U distinct users, V nodes of the batch,
D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.models import losses
from gcnrec.models.scores.entries import (
    OwnEntries,
    Sampled,
    entries_in,
    negatives_of,
    own_entries,
    own_of,
    pair_entries,
    sampled_entries,
    take,
)
from gcnrec.ops.reduce import entries_of
from gcnrec.rows import Array, Entries
from gcnrec.sampling.sampler import Batch


class Candidates(NamedTuple, Generic[Array]):
    """The distinct positives of a batch: all nodes from `first` on, or with `rows` these.

    `target_B`: the place of each entry's own. `bias_J`, float32: the log of how often a candidate occurs in the batch, with the
    correction of its score; `own_B`, float32: what an entry's own gets more, so that the correction is left. `items_J`: their
    items, where nodes stand at several dates. An item at two dates is two candidates.
    """

    target_B: Array
    bias_J: Array
    own_B: Array
    items_J: Array | None
    rows: Entries[Array] | None
    first: int


class PoolGiven(NamedTuple, Generic[Array]):
    """What the softmax over a pool takes."""

    users: Entries[Array]
    pool: Candidates[Array]
    weights_B: Array | None
    own: OwnEntries[Array] | None


class BslGiven(NamedTuple, Generic[Array]):
    """What the bilateral softmax takes: `groups` are entries by user, every user has some."""

    users: Entries[Array]
    positives: Entries[Array]
    pool: Candidates[Array]
    groups: Entries[Array]
    own: OwnEntries[Array] | None


@dataclass(frozen=True, slots=True)
class Shared:
    """A pool that parts of a batch share: `items_J` int32, how often each occurs, `counts_J` int64, and the places `target_B`,
    int64, of a part's positives."""

    items_J: NDArray[np.int32]
    counts_J: NDArray[np.int64]
    target_B: NDArray[np.int64]


class PoolScore(Protocol):
    """A loss whose candidates may come from elsewhere: parts of a batch share them."""

    def prepare_part(self, batch: Batch, shared: Shared) -> Any:
        """What `of_part` takes from the host, as `Score.prepare`."""
        ...

    def of_part(self, rows_VD: torch.Tensor, pool_JD: torch.Tensor, given: Any) -> torch.Tensor:
        """The mean loss of a part, whose nodes have `rows_VD`, against the pool."""
        ...


@dataclass(frozen=True)
class PoolSoftmax:
    """`losses.pool_softmax`. `log_share_I`, float32: what a score loses by its item; None corrects nothing."""

    own_weight: float
    temperature: float
    product_dtype: torch.dtype
    log_share_I: NDArray[np.float32] | None

    def prepare(self, batch: Batch) -> PoolGiven[NDArray[Any]]:
        return self._given(batch, candidates(batch, self.log_share_I))

    def prepare_part(self, batch: Batch, shared: Shared) -> PoolGiven[NDArray[Any]]:
        return self._given(batch, shared_candidates(shared, self.log_share_I))

    def _given(self, batch: Batch, pool: Candidates[NDArray[Any]]) -> PoolGiven[NDArray[Any]]:
        users = entries_in(batch, batch.users_B)
        return PoolGiven(users, pool, batch.triples.weights_B, own_entries(batch, self.own_weight))

    def __call__(self, rows_VD: torch.Tensor, given: PoolGiven[torch.Tensor]) -> torch.Tensor:
        return self.of_part(rows_VD, rows_of(rows_VD, given.pool), given)

    def of_part(self, rows_VD: torch.Tensor, pool_JD: torch.Tensor, given: PoolGiven[torch.Tensor]) -> torch.Tensor:
        users_BD = take(rows_VD, given.users)
        pool = losses.Pool(pool_JD, given.pool.bias_J, given.pool.own_B, given.pool.items_J)
        own = own_of(rows_VD, given.own)
        return losses.pool_softmax(
            users_BD, pool, given.pool.target_B, self.temperature, given.weights_B, self.product_dtype, own
        )


class OfPairs:
    """A loss of positives and a pool, of the rows of both: what it is given has `positives` and `pool`."""

    def __call__(self, rows_VD: torch.Tensor, given: Any) -> torch.Tensor:
        return self._loss(rows_VD, rows_of(rows_VD, given.pool), take(rows_VD, given.positives), given)

    def of_part(self, rows_VD: torch.Tensor, pool_JD: torch.Tensor, given: Any) -> torch.Tensor:
        return self._loss(rows_VD, pool_JD, take(pool_JD, given.positives), given)

    def _loss(self, rows_VD: torch.Tensor, pool_JD: torch.Tensor, positives_BD: torch.Tensor, given: Any) -> torch.Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class BslInBatch(OfPairs):
    """`losses.bsl` against the batch's other positives."""

    own_weight: float
    temperature: float
    positive_temperature: float

    def prepare(self, batch: Batch) -> BslGiven[NDArray[Any]]:
        pool = candidates(batch, None)
        return BslGiven(*pair_entries(batch), pool, _by_user(batch), own_entries(batch, self.own_weight))

    def prepare_part(self, batch: Batch, shared: Shared) -> BslGiven[NDArray[Any]]:
        users, positives = entries_in(batch, batch.users_B), entries_of(shared.target_B, len(shared.items_J))
        pool, own = shared_candidates(shared, None), own_entries(batch, self.own_weight)
        return BslGiven(users, positives, pool, _by_user(batch), own)

    def _loss(
        self, rows_VD: torch.Tensor, pool_JD: torch.Tensor, positives_BD: torch.Tensor, given: BslGiven[torch.Tensor]
    ) -> torch.Tensor:
        users_BD, own = take(rows_VD, given.users), own_of(rows_VD, given.own)
        scores = pool_scores(users_BD, positives_BD, pool_JD, given.pool, own)
        return losses.bsl(*scores, given.groups, self.temperature, self.positive_temperature)


@dataclass(frozen=True)
class BslSampled:
    """`losses.bsl` against drawn negatives."""

    own_weight: float
    temperature: float
    positive_temperature: float

    def prepare(self, batch: Batch) -> tuple[Sampled[NDArray[Any]], Entries[NDArray[Any]]]:
        return sampled_entries(batch, self.own_weight), _by_user(batch)

    def __call__(self, rows_VD: torch.Tensor, given: tuple[Sampled[torch.Tensor], Entries[torch.Tensor]]) -> torch.Tensor:
        drawn, groups = given
        users_BD, positives_BD = take(rows_VD, drawn.users), take(rows_VD, drawn.positives)
        scores_BN = losses.against(users_BD, negatives_of(rows_VD, drawn))
        scores_B, bias_BN = (users_BD * positives_BD).sum(1), torch.zeros_like(scores_BN)
        negatives = with_own(own_of(rows_VD, drawn.own), users_BD, scores_BN, bias_BN)
        return losses.bsl(scores_B, *negatives, groups, self.temperature, self.positive_temperature)


def _by_user(batch: Batch) -> Entries[NDArray[Any]]:
    users_U, group_B = np.unique(batch.users_B, return_inverse=True)
    return entries_of(group_B, len(users_U))


def candidates(batch: Batch, log_share_I: NDArray[np.float32] | None) -> Candidates[NDArray[Any]]:
    """The distinct positives of a batch, candidates of each user. `log_share_I` float32: the log of an item's share, for logq."""
    places_J, target_B = np.unique(batch.positives_B, return_inverse=True)
    counts_J = np.bincount(target_B, minlength=len(places_J))
    nodes_V, nodes_J = batch.nodes_V, batch.nodes_V[places_J]
    items_J = nodes_J - (batch.nodes_V[batch.positives_B[0]] - batch.triples.positives_B[0])
    rows = None if batch.disliked_B is None else entries_of(places_J, len(nodes_V))
    dated = bool((nodes_V[1:] == nodes_V[:-1]).any())
    biases = _biases(Shared(items_J, counts_J, target_B), log_share_I)
    return Candidates(target_B, *biases, items_J if dated else None, rows, batch.num_users)


def shared_candidates(shared: Shared, log_share_I: NDArray[np.float32] | None) -> Candidates[NDArray[Any]]:
    """Candidates whose rows come from elsewhere."""
    return Candidates(shared.target_B, *_biases(shared, log_share_I), None, None, 0)


def _biases(shared: Shared, log_share_I: NDArray[np.float32] | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`bias_J` and `own_B` of `Candidates`."""
    log_count_J = np.log(shared.counts_J.astype(np.float32))
    own_J = np.zeros_like(log_count_J) if log_share_I is None else -log_share_I[shared.items_J]
    bias_J = log_count_J + own_J
    return bias_J, (own_J - bias_J)[shared.target_B]


def rows_of(rows_VD: torch.Tensor, pool: Candidates[torch.Tensor]) -> torch.Tensor:
    """The rows of the pool, float32 (J, D), out of the batch's nodes."""
    return rows_VD[pool.first :] if pool.rows is None else take(rows_VD, pool.rows)


def pool_scores(
    users_BD: torch.Tensor, positives_BD: torch.Tensor, pool_JD: torch.Tensor, pool: Candidates[torch.Tensor],
    own: losses.Own | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Scores of positives (B), scores of candidates (B, J) and the log of what each counts; -inf for an entry's own.

    `own` adds a column to both matrices.
    """
    target_B, items_J = pool.target_B, pool.items_J
    bias_BJ = pool.bias_J.repeat(len(target_B), 1).scatter(1, target_B[:, None], -torch.inf)
    if items_J is not None:
        bias_BJ.masked_fill_(losses.twins(items_J, target_B), -torch.inf)
    return (users_BD * positives_BD).sum(1), *with_own(own, users_BD, users_BD @ pool_JD.T, bias_BJ)


def with_own(
    own: losses.Own | None, users_BD: torch.Tensor, scores_BJ: torch.Tensor, bias_BJ: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and log weights of each row's negatives, with the row's own as the last column."""
    if own is None:
        return scores_BJ, bias_BJ
    own_B, log_mass_B = (users_BD * own.rows_BD).sum(1), torch.logsumexp(bias_BJ, 1)
    bias_B = own.log_weight_B + log_mass_B.masked_fill(torch.isinf(log_mass_B), 0.0)
    return torch.cat([scores_BJ, own_B[:, None]], 1), torch.cat([bias_BJ, bias_B[:, None]], 1)
