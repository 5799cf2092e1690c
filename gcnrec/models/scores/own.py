"""A loss of another package: a value for each positive, from its score and those of its negatives.

Letters: B positives, N negatives per positive (J of a pool), V nodes of the batch, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol

import torch
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.extensions.calls import amount, calling
from gcnrec.extensions.load import Own
from gcnrec.extensions.names import PAGE
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
from gcnrec.models.scores.in_batch import Candidates, OfPairs, Shared, candidates, pool_scores, shared_candidates, with_own
from gcnrec.ops.reduce import entries_of
from gcnrec.rows import Array, Entries
from gcnrec.sampling.sampler import Batch


class OwnLoss(Protocol):
    """What `loss.name = "package.module:Class"` names; the class is made of one dict, `loss.settings`.

    It may have an attribute `popularity`, a float from 0, default 0: how many times log q, the log of an item's share of the
    positives, a trained score falls short where negatives are drawn by popularity. The export adds it. A softmax at temperature t
    has t.
    """

    def terms(self, positive_B: torch.Tensor, negative_BN: torch.Tensor, log_weight_BN: torch.Tensor) -> torch.Tensor:
        """The loss of each positive, float32 (B), differentiable, from its own scores alone; the mean over the batch is trained.

        `positive_B` (B), `negative_BN` (B, N): scores by `loss.score`. A negative counts exp(`log_weight_BN`) times; -inf leaves
        it out, which may leave an entry without any.
        """
        ...


class OwnGiven(NamedTuple, Generic[Array]):
    """What a loss against a pool takes."""

    users: Entries[Array]
    positives: Entries[Array]
    pool: Candidates[Array]
    weights_B: Array | None
    own: OwnEntries[Array] | None


@dataclass(frozen=True)
class Terms:
    """The mean of what the class gives for each entry, weighted as the data weighs its positives."""

    name: str
    made: OwnLoss

    @classmethod
    def of(cls, own: Own) -> Terms:
        """The class that a job names. UsageError where a small example gets no term of each entry that can be trained."""
        terms, positive_B = cls(own.shown, own.make()), torch.linspace(-0.5, 0.5, 4).requires_grad_()
        amount(own.shown, terms.made, "popularity")
        with calling(own.shown, "terms on 4 positives with 3 negatives each"):
            loss = terms(positive_B, torch.linspace(-0.9, 0.9, 12).view(4, 3), torch.zeros(4, 3), None)
            loss.backward()  # type: ignore[no-untyped-call]
        return terms

    def __call__(
        self, positive_B: torch.Tensor, negative_BN: torch.Tensor, log_weight_BN: torch.Tensor, weights_B: torch.Tensor | None
    ) -> torch.Tensor:
        with calling(self.name, "terms"):
            terms_B = self.made.terms(positive_B, negative_BN, log_weight_BN)
        if not isinstance(terms_B, torch.Tensor) or terms_B.shape != positive_B.shape or terms_B.dtype != positive_B.dtype:
            came = f"{terms_B.dtype} {tuple(terms_B.shape)}" if isinstance(terms_B, torch.Tensor) else type(terms_B).__name__
            raise UsageError(
                f"{self.name}: terms must give float32 ({len(positive_B)},), the loss of each positive, got {came}; see {PAGE}"
            )
        if torch.is_grad_enabled() and positive_B.requires_grad and not terms_B.requires_grad:
            raise UsageError(f"{self.name}: terms must follow from the scores, got constant ones without a gradient; see {PAGE}")
        return (terms_B if weights_B is None else weights_B * terms_B).mean()


@dataclass(frozen=True)
class OwnInBatch(OfPairs):
    """Against the batch's other positives; several occurrences of one count as one negative with their number as its weight."""

    own_weight: float
    terms: Terms

    def prepare(self, batch: Batch) -> OwnGiven[NDArray[Any]]:
        weights_B, own = batch.triples.weights_B, own_entries(batch, self.own_weight)
        return OwnGiven(*pair_entries(batch), candidates(batch, None), weights_B, own)

    def prepare_part(self, batch: Batch, shared: Shared) -> OwnGiven[NDArray[Any]]:
        users, positives = entries_in(batch, batch.users_B), entries_of(shared.target_B, len(shared.items_J))
        weights_B, own = batch.triples.weights_B, own_entries(batch, self.own_weight)
        return OwnGiven(users, positives, shared_candidates(shared, None), weights_B, own)

    def _loss(
        self, rows_VD: torch.Tensor, pool_JD: torch.Tensor, positives_BD: torch.Tensor, given: OwnGiven[torch.Tensor]
    ) -> torch.Tensor:
        users_BD, own = take(rows_VD, given.users), own_of(rows_VD, given.own)
        return self.terms(*pool_scores(users_BD, positives_BD, pool_JD, given.pool, own), given.weights_B)


@dataclass(frozen=True)
class OwnSampled:
    """Against drawn negatives, each of which counts once."""

    own_weight: float
    terms: Terms

    def prepare(self, batch: Batch) -> Sampled[NDArray[Any]]:
        return sampled_entries(batch, self.own_weight)

    def __call__(self, rows_VD: torch.Tensor, given: Sampled[torch.Tensor]) -> torch.Tensor:
        users_BD, positives_BD = take(rows_VD, given.users), take(rows_VD, given.positives)
        scores_BN = losses.against(users_BD, negatives_of(rows_VD, given))
        negatives = with_own(own_of(rows_VD, given.own), users_BD, scores_BN, torch.zeros_like(scores_BN))
        return self.terms((users_BD * positives_BD).sum(1), *negatives, given.weights_B)
