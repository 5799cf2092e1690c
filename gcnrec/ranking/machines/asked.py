"""What the leader says of a ranking, and how arrays reach the workers that rank.

Commands, in this order: `rank` (`Asked`), then round after round `users` and `lists`, then `ranked`.
Letters: I items, D width, A allowed items, X rows of any array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch

from gcnrec.ranking.scorer import EmbeddingScorer, View
from gcnrec.ranking.top_k import ByScore, ByViews, Question
from gcnrec.tables.dealt.spans import give, stretches, taken
from gcnrec.workers.world import World


@dataclass(frozen=True, slots=True)
class Asked:
    """The sizes of a ranking by the workers `rankers`, the leader first, `chunk` users at a time.

    `views`: of each view whether it has a scale and a column; None where the scorer ranks, which has a `column` or none.
    `allowed`: how many items lists may hold, None for all. `parts`: of seen items. `threads`: None for all cores of a machine.
    """

    rankers: list[int]
    chunk: int
    items: int
    width: int
    k: int
    column: bool
    views: list[tuple[bool, bool]] | None
    allowed: int | None
    parts: int
    threads: int | None

    @classmethod
    def about(
        cls, scorer: EmbeddingScorer, question: ByScore | ByViews, parts: int, rankers: list[int], chunk: int, threads: int | None
    ) -> Asked:
        """What is asked of `scorer`, where `parts` of seen items are left out."""
        column, views, allowed = scorer.column_I is not None, None, None
        if isinstance(question, ByViews):
            column, views = False, [(view.scale_I is not None, view.column_I is not None) for view in question.views]
        elif question.allowed is not None:
            allowed = len(question.allowed)
        items, width = scorer.items_ID.shape
        return cls(rankers, chunk, items, width, question.k, column, views, allowed, parts, threads)

    def command(self) -> dict[str, Any]:
        """What the leader publishes."""
        return {"do": "rank", **asdict(self)}

    @classmethod
    def of(cls, command: dict[str, Any]) -> Asked:
        """What `command` gave, after its way as JSON."""
        return cls(**{name: value for name, value in command.items() if name != "do"})

    @property
    def lists(self) -> int:
        """Lists of each user."""
        return 1 if self.views is None else len(self.views)

    @property
    def planes(self) -> int:
        """Numbers per item that come with a ranking."""
        return int(self.column) if self.views is None else sum(scaled + added for scaled, added in self.views)

    def question(self, allowed_A: torch.Tensor | None, planes: Sequence[torch.Tensor]) -> Question:
        """The question of the leader, from its allowed items, int32 (A), and its planes, float32 (I) each."""
        if self.views is None:
            return ByScore(self.k, None if allowed_A is None else allowed_A.numpy())
        left = iter(planes)
        views = [View(next(left) if scaled else None, next(left) if added else None) for scaled, added in self.views]
        return ByViews(self.k, tuple(views))


def planes_of(scorer: EmbeddingScorer, question: ByScore | ByViews) -> list[torch.Tensor]:
    """Numbers per item that `question` reads, float32 (I) each, in the order of `Asked.question`."""
    if isinstance(question, ByScore):
        return [] if scorer.column_I is None else [scorer.column_I]
    return [plane for view in question.views for plane in (view.scale_I, view.column_I) if plane is not None]


def sizes_of(world: World, rankers: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """A number for each worker: of `lengths` for the rankers, else 0."""
    by_ranker = dict(zip(rankers, lengths, strict=True))
    return [by_ranker.get(worker, 0) for worker in range(world.size)]


def give_all(world: World, rankers: Sequence[int], rows: torch.Tensor) -> None:
    """The leader sends `rows` to each other ranker, a span at a time."""
    others = len(rankers) - 1
    for stretch in stretches(len(rows), _row_bytes(rows, others)):
        piece = rows[stretch]
        give(world, [piece] * others, sizes_of(world, rankers, [len(piece)] * len(rankers)))


def taken_all(world: World, rankers: Sequence[int], form: torch.Tensor, length: int) -> torch.Tensor:
    """What `give_all` sends: `length` rows of the dtype and further axes of `form`, none for a worker that does not rank."""
    ranks = world.rank in rankers
    rows = form.new_empty((length if ranks else 0, *form.shape[1:]))
    for stretch in stretches(length, _row_bytes(form, len(rankers) - 1)):
        came = taken(world, form, stretch.stop - stretch.start if ranks else 0)
        if ranks:
            rows[stretch] = came  # copy: a span, into the whole array
    return rows


def _row_bytes(form: torch.Tensor, copies: int) -> int:
    return form.element_size() * prod(form.shape[1:]) * copies
