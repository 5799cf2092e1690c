"""Losses of entries alone, or of entries and the negatives that were drawn for each.

Letters: B positives, N negatives per positive, V nodes of the batch, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.models import losses
from gcnrec.models.scores.entries import (
    Sampled,
    negatives_of,
    own_of,
    pair_entries,
    sampled_entries,
    take,
)
from gcnrec.rows import Entries
from gcnrec.sampling.sampler import Batch


@dataclass(frozen=True)
class Bpr:
    """`losses.bpr`; `own_weight`: what the negative of an entry's own user weighs."""

    own_weight: float

    def prepare(self, batch: Batch) -> Sampled[NDArray[Any]]:
        return sampled_entries(batch, self.own_weight)

    def __call__(self, rows_VD: torch.Tensor, given: Sampled[torch.Tensor]) -> torch.Tensor:
        own = own_of(rows_VD, given.own)
        users_BD, positives_BD = take(rows_VD, given.users), take(rows_VD, given.positives)
        return losses.bpr(users_BD, positives_BD, negatives_of(rows_VD, given), given.weights_B, own)


@dataclass(frozen=True)
class DirectAu:
    """`losses.directau`."""

    uniformity: float

    def prepare(self, batch: Batch) -> tuple[Entries[NDArray[Any]], Entries[NDArray[Any]]]:
        return pair_entries(batch)

    def __call__(self, rows_VD: torch.Tensor, given: tuple[Entries[torch.Tensor], Entries[torch.Tensor]]) -> torch.Tensor:
        users_BD, positives_BD = (take(rows_VD, side) for side in given)
        return losses.directau(users_BD, positives_BD, self.uniformity)


@dataclass(frozen=True)
class SampledSoftmax:
    """`losses.sampled_softmax`. `log_share_I`, float32: what a score loses by its item; None corrects nothing."""

    own_weight: float
    temperature: float
    log_share_I: NDArray[np.float32] | None

    def prepare(self, batch: Batch) -> Sampled[NDArray[Any]]:
        return sampled_entries(batch, self.own_weight, self.log_share_I)

    def __call__(self, rows_VD: torch.Tensor, given: Sampled[torch.Tensor]) -> torch.Tensor:
        users_BD, positives_BD = take(rows_VD, given.users), take(rows_VD, given.positives)
        own, negatives_BND = own_of(rows_VD, given.own), negatives_of(rows_VD, given)
        return losses.sampled_softmax(
            users_BD, positives_BD, negatives_BND, self.temperature, given.log_shares, given.weights_B, own
        )
