"""Mixtures of a trained model and closed forms: sums of probabilities, not of scores.

    score(u, i) = w P(i|u) + sum over partners k of w_k Q_k(i|u)
    P(i|u)   = exp(s_ui / tau) / sum over j of exp(s_uj / tau),  s the trained score as exported, tau the loss's temperature
    Q_k(i|u) = max(s_kui, 0) / sum over j of max(s_kuj, 0)

Both are taken over all items, before any is left out, so that a weight means the same for every user and carries over to other
data. A partner without a positive score for a user adds nothing: a user whom no partner knows, and an item, gets P alone.
A weight of P of 0 leaves it to order what all partners leave at zero.

Letters: B users of a chunk, T items of a tile, U users, I items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.ops.arrays import copy_columns
from gcnrec.ops.shares import add_shares, add_softmax
from gcnrec.ranking.scorer import Scorer, WholeScorer
from gcnrec.system.scratch import trim_heap

BLOCK_USERS = 128
"""Users whose scores by one part are held at a time."""
LEAST_USERS = 16
"""Fewer are filled up: matrix products of very few rows are rounded in another order than of many."""
MIXTURE_ROWS = 5
"""Rows of I floats that a user of a chunk takes at most: sum, scores of a part, and what the part makes them from."""
TIE_WEIGHT = 2.0**-30
"""What a weight of 0 of P counts as: it orders items that all partners leave at zero, and scores that differ by less."""


@dataclass(frozen=True)
class Softmax:
    """P: the softmax of `scorer`'s scores over `temperature`.

    `add` adds `weight` times the users' distributions to `out_BI` float32; `scratch_BI` of its shape is overwritten.
    """

    scorer: Scorer
    temperature: float

    def add(self, users_B: NDArray[np.int32], weight: float, scratch_BI: torch.Tensor, out_BI: torch.Tensor) -> None:
        _score_all(self.scorer, users_B, scratch_BI)
        add_softmax(scratch_BI, self.temperature, weight or TIE_WEIGHT, out_BI)


@dataclass(frozen=True)
class Shares:
    """Q: positive scores over their sum; `add` as of `Softmax`."""

    scorer: Scorer

    def add(self, users_B: NDArray[np.int32], weight: float, scratch_BI: torch.Tensor, out_BI: torch.Tensor) -> None:
        _score_all(self.scorer, users_B, scratch_BI)
        add_shares(scratch_BI, weight, out_BI)


Part = Softmax | Shares
"""A model as a distribution over all items."""


class Blocks:
    """Blocks of scores, used again once they are free.

    Their fresh pages would cost as much as the scores in them, and on the heap they leave holes that small, longer-lived blocks
    keep from being filled again.
    """

    def __init__(self) -> None:
        self._free: list[torch.Tensor] = []

    def rows(self, count: int, width: int) -> torch.Tensor:
        """Float32 (count, width) of any content; its memory is taken again when this very tensor is gone."""
        block = self._free.pop() if self._free else torch.empty(0)
        if len(block) < count * width:
            block = torch.empty(count * width)
        rows_RW = block[: count * width].view(count, width)
        finalize(rows_RW, self._free.append, block).atexit = False
        return rows_RW


@dataclass(frozen=True)
class MixtureScorer:
    """Ranks by the weighted sum of its parts, the trained one first."""

    parts: tuple[Part, ...]
    weights: tuple[float, ...]
    blocks: Blocks = field(default_factory=Blocks, compare=False, repr=False)

    @property
    def num_users(self) -> int:
        return self.parts[0].scorer.num_users

    @property
    def num_items(self) -> int:
        return self.parts[0].scorer.num_items

    def prepare(self, users_B: NDArray[np.int32]) -> torch.Tensor:
        """All scores of the chunk, float32 (B, I): sums over all items come before the first score.

        Besides them, memory holds `BLOCK_USERS` rows of I floats, and as many again for a part that needs all of its scores.
        """
        filled_B = filled(users_B)
        trim_heap()  # what chunks and the reading of models leave behind would add up
        out_BI = self.blocks.rows(len(filled_B), self.num_items).zero_()
        scratch_BI = self.blocks.rows(min(BLOCK_USERS + LEAST_USERS, len(filled_B)), self.num_items)
        for first, last in _blocks(len(filled_B)):
            for part, weight in zip(self.parts, self.weights, strict=True):
                part.add(filled_B[first:last], weight, scratch_BI[: last - first], out_BI[first:last])
        return out_BI

    def score(self, prepared: torch.Tensor, first: int, last: int, out_BT: torch.Tensor) -> None:
        copy_columns(prepared[: len(out_BT)], first, last, out_BT)


def _score_all(scorer: Scorer, users_B: NDArray[np.int32], out_BI: torch.Tensor) -> None:
    if isinstance(scorer, WholeScorer):
        scorer.write(users_B, out_BI)
    else:
        scorer.score(scorer.prepare(users_B), 0, scorer.num_items, out_BI)


def filled(users_B: NDArray[np.int32]) -> NDArray[np.int32]:
    """The users, the last one repeated until there are `LEAST_USERS`."""
    missing = max(0, LEAST_USERS - len(users_B)) if len(users_B) else 0
    return np.concatenate([users_B, np.repeat(users_B[-1:], missing)])


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    """Ranges of about `BLOCK_USERS` that cover `count` users; a short rest joins the previous block."""
    first = 0
    while first < count:
        last = count if count - first < BLOCK_USERS + LEAST_USERS else first + BLOCK_USERS
        yield first, last
        first = last
