"""What must not happen unnoticed while a model trains: numbers that are not finite, a loss that explodes, one list for everyone.

Letters: B users looked at, K list length, I items.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DivergedError
from gcnrec.ops.topk import ItemLists, empty_lists, keep_best
from gcnrec.ranking.scorer import EmbeddingScorer, Scorer
from gcnrec.ranking.top_k import ITEMS_PER_TILE, USERS_PER_CHUNK, top_k

if TYPE_CHECKING:
    from gcnrec.ranking.export_rules import ExportRule, Stretches

RUNNING_STEPS = 32
"""A running loss is the mean of the first so many steps, and from then on a moving mean in which a step weighs 1 in so many."""
_LEAST_RISE = 0.5
"""Nats: a loss near zero may double without meaning anything."""
_LOOKED_AT = 256
_SAME = 0.95
"""Mean share of the commonest items in the lists of single users from which on they are one list."""


Gradients = Mapping[str, Sequence[torch.Tensor]]
"""Tensors by what they are called in a sentence."""


class Loss(NamedTuple):
    """The loss of a step (1 ..)."""

    step: int
    value: float


class Check(Protocol):
    """What sees to it that a step whose loss or gradient is not finite updates nothing, and raises DivergedError."""

    @property
    def bad(self) -> torch.Tensor | None:
        """`RowGrad.bad` of every update; None where a bad step does not come that far."""
        ...

    def judge(self, step: int, loss: torch.Tensor, gradients: Gradients) -> list[Loss]:
        """Judge a step before it updates; returns the losses that are known by now and were not yet returned, in order."""
        ...

    def settled(self) -> list[Loss]:
        """The losses of all other steps that were judged."""
        ...


class Immediate:
    """Knows of every step before it updates: the host waits for its loss."""

    bad = None

    def judge(self, step: int, loss: torch.Tensor, gradients: Gradients) -> list[Loss]:
        return [Loss(step, finite(step, loss, gradients))]

    def settled(self) -> list[Loss]:
        """None are left."""
        return []


def finite(step: int, loss: torch.Tensor, gradients: Gradients) -> float:
    """The loss as a number. DivergedError, with the step and the first of `gradients` by name, when one is not finite.

    Gradients are judged by their sums: a sum of numbers beyond 1e38 has left training too.
    """
    names = list(chain.from_iterable([name] * len(tensors) for name, tensors in gradients.items()))
    sums = [tensor.detach().sum() for tensor in chain.from_iterable(gradients.values())]
    value, *totals = torch.stack([loss.detach(), *sums]).tolist()  # synchronize: a bad step must stop before it updates
    bad = [name for name, total in zip(names, totals, strict=True) if not np.isfinite(total)]
    if np.isfinite(value) and not bad:
        return float(value)
    raise diverged(step, value, f"the {bad[0]}" if np.isfinite(value) else "the loss")


def diverged(step: int, value: float, what: str) -> DivergedError:
    """The error that ends a run at a step whose loss, or `what`, is not finite."""
    return DivergedError(
        f"{what} is not finite at step {step} (loss {value}), and this step updated nothing; "
        "begin another run with a lower optimizer.learning_rate or a higher loss.temperature"
    )


@dataclass(frozen=True, slots=True)
class LossTrend:
    """Where the loss of a stage is: steps counted, the running loss, and of the first epoch its start and its lowest.

    Frozen, as it is part of what checkpoints keep.
    """

    count: int = 0
    running: float = 0.0
    start: float = 0.0
    lowest: float = sys.float_info.max

    def after(self, loss: float, first_epoch: bool) -> LossTrend:
        """The trend with the loss of one more step."""
        count = self.count + 1
        running = self.running + (loss - self.running) / min(count, RUNNING_STEPS)
        if not first_epoch:
            return LossTrend(count, running, self.start, self.lowest)
        return LossTrend(count, running, running if count <= RUNNING_STEPS else self.start, min(self.lowest, running))

    def check(self, step: int, limit: float) -> None:
        """DivergedError when the running loss exceeds the first epoch's lowest by more than `limit` times the usual size.

        The usual size is the largest of that lowest loss, its fall until then, and half a nat; a limit of 0 checks nothing.
        Losses of cosines are bounded and rarely exceed it. On Gowalla, rates that made training worse reached 1.2 times, rates
        that made it explode 5 times and more.
        """
        usual = max(abs(self.lowest), self.start - self.lowest, _LEAST_RISE)
        if limit and self.count and self.running - self.lowest > limit * usual:
            raise DivergedError(
                f"the loss explodes: its mean over the last steps is {self.running:.4g} at step {step}, and was "
                f"{self.lowest:.4g} in the first epoch; begin another run with a lower optimizer.learning_rate, or "
                "resume this with train.loss_limit = 0 if it should"
            )


def looked_at(num_users: int) -> NDArray[np.int32]:
    """The users whose lists `one_list_for_everyone` compares, rising."""
    return np.unique(np.linspace(0, num_users - 1, _LOOKED_AT).astype(np.int32))


def one_list_for_everyone(scorer: Scorer, chunk: int = USERS_PER_CHUNK) -> str | None:
    """A sentence when the best items, seen ones included, are nearly the same for all of a sample of users; else None.

    Lists of a tenth of the items or of 10 are compared with the items that most of them have. Fewer than 10 users or 20 items
    say nothing.
    """
    users_B, k = _looked_at(scorer.num_users, scorer.num_items)
    if not len(users_B):
        return None
    lists = [lists.items_BK for lists in top_k(scorer, users_B, k, None, users_per_chunk=chunk)]
    return _one_list(np.concatenate(lists))


class Watched:
    """`Stretches` that pass on to their reader, while a sample of the users ranks all items among them: `said` has the result."""

    def __init__(self, final: Stretches, num_users: int, num_items: int) -> None:
        self._final, self._num_items = final, num_items
        self._users_B, k = _looked_at(num_users, num_items)
        self._rows_BF = torch.empty(len(self._users_B), final.width)
        self._best = empty_lists(self._users_B, k)
        self._none = ItemLists.empty(len(self._users_B), num_items)

    @property
    def rule(self) -> ExportRule:
        return self._final.rule

    @property
    def width(self) -> int:
        return self._final.width

    @property
    def factor(self) -> float:
        return self._final.factor

    @property
    def item_columns(self) -> tuple[str, ...]:
        return self._final.item_columns

    def user_rows(self, first: int, last: int) -> torch.Tensor:
        rows_RF = self._final.user_rows(first, last)
        begin, end = np.searchsorted(self._users_B, [first, last])
        self._rows_BF[begin:end] = rows_RF[torch.from_numpy(self._users_B[begin:end].astype(np.int64) - first)]
        return rows_RF

    def item_rows(self, first: int, last: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rows_RF, columns = self._final.item_rows(first, last)
        popularity_R = columns.get("popularity")
        scorer = EmbeddingScorer(self._rows_BF, rows_RF, None if popularity_R is None else self.factor * popularity_R)
        for row in range(0, len(rows_RF) if len(self._users_B) else 0, ITEMS_PER_TILE):
            end = min(row + ITEMS_PER_TILE, len(rows_RF))
            scores_BT = torch.empty(len(self._rows_BF), end - row)
            scorer.score(self._rows_BF, row, end, scores_BT)
            keep_best(scores_BT.numpy(), first + row, self._none, self._best)
        return rows_RF, columns

    def said(self) -> str | None:
        """As `one_list_for_everyone`, once all rows were read."""
        return _one_list(self._best.items_BK) if len(self._users_B) else None


def _looked_at(num_users: int, num_items: int) -> tuple[NDArray[np.int32], int]:
    """The users whose lists are compared, and the length of these; none where they would say nothing."""
    k = min(10, num_items // 10)
    if num_users < 10 or k < 2:
        return np.empty(0, np.int32), 1
    return looked_at(num_users), k


def _one_list(items_BK: NDArray[np.int32]) -> str | None:
    users, k = items_BK.shape
    items_X, counts_X = np.unique(items_BK[items_BK >= 0], return_counts=True)  # not a count of every item
    common_K = items_X[np.argsort(-counts_X, kind="stable")[:k]]
    share = float(np.isin(items_BK, common_K).mean())
    if share < _SAME:
        return None
    return (
        f"the model ranks the same items for everyone: of the top {k} of {users} users, {share:.0%} are the same "
        f"{k} items; train longer, or lower optimizer.learning_rate, or set model.popularity = 'cosine'"
    )
