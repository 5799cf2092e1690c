"""What a worker does in a ranking that another leads: one of each machine ranks, the rest take part in exchanges of nothing.

Letters: I items, D width, R users of a round, K list length.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch

from gcnrec.errors import DivergedError
from gcnrec.graph import Csr
from gcnrec.ops.topk import Seen, TopK
from gcnrec.ranking.machines.asked import Asked, taken_all
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import side_by_side
from gcnrec.tables.dealt.spans import bring, taken
from gcnrec.workers.world import World


def follow_ranking(world: World, asked: Asked) -> dict[str, Any]:
    """Take part in the ranking that the leader begins, until it publishes what is no part of one, which is returned."""
    share = _Share(world, asked)
    while True:
        command = world.awaited()
        match command["do"]:
            case "users":
                share.rank(command["users"])
            case "lists":
                share.bring()
            case _:
                return command


class _Share:
    """The items that this worker ranks, and the lists of its users of a round."""

    def __init__(self, world: World, asked: Asked) -> None:
        self._world, self._asked, rankers = world, asked, asked.rankers
        self._items_ID = taken_all(world, rankers, torch.empty(0, asked.width), asked.items)
        planes = [taken_all(world, rankers, torch.empty(0), asked.items) for _ in range(asked.planes)]
        allowed = None
        if asked.allowed is not None:
            allowed = taken_all(world, rankers, torch.empty(0, dtype=torch.int32), asked.allowed)
        self._column_I = planes[0] if asked.column else None
        self._question = asked.question(allowed, planes)
        self._items, self._scores = torch.empty(0, dtype=torch.int32), torch.empty(0)

    def rank(self, users: list[int]) -> None:
        """Take the rows of this worker's users and what they have seen, and rank; `users`: how many each ranker has."""
        count = dict(zip(self._asked.rankers, users, strict=True)).get(self._world.rank, 0)
        rows_RD = taken(self._world, torch.empty(0, self._asked.width), count)
        seen = Seen(tuple(self._seen(count) for _ in range(self._asked.parts)))
        places = self._asked.lists * self._asked.k
        self._items = torch.empty(places * count, dtype=torch.int32)
        self._scores = torch.full((places * count,), torch.nan)  # which say that a chunk has no lists
        if count:
            with suppress(DivergedError):  # the leader raises it too
                self._fill(EmbeddingScorer(rows_RD, self._items_ID, self._column_I), seen)
        if self._world.rank in self._asked.rankers:
            self._world.report()

    def bring(self) -> None:
        """Send the leader the lists of the round."""
        bring(self._world, self._items)
        bring(self._world, self._scores)

    def _seen(self, count: int) -> Csr:
        """Items that are left out of the lists of `count` users, a row each."""
        degrees_R = taken(self._world, torch.empty(0, dtype=torch.int64), count).numpy()
        indices = taken(self._world, torch.empty(0, dtype=torch.int32), int(degrees_R.sum())).numpy()
        return Csr(np.concatenate([np.zeros(1, np.int64), np.cumsum(degrees_R)]), indices, self._asked.items)

    def _fill(self, scorer: EmbeddingScorer, seen: Seen) -> None:
        """Rank the users of `scorer`: chunk after chunk, list after list, (lists, chunk, K) values each."""
        chunk, done = self._asked.chunk, 0

        def rank(start: int) -> tuple[TopK, ...]:
            users_B = np.arange(start, min(start + chunk, scorer.num_users), dtype=np.int32)
            return self._question.lists(scorer, users_B, seen.of(users_B))

        for lists in side_by_side(rank, range(0, scorer.num_users, chunk)):
            for one in lists:
                here = slice(done, done + one.items_BK.size)
                self._items[here] = torch.from_numpy(one.items_BK).view(-1)  # copy: of a list's chunk, among all of the round
                self._scores[here] = torch.from_numpy(one.scores_BK).view(-1)
                done = here.stop
