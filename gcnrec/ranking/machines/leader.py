"""Users ranked by one worker of each machine, as the worker sees it that leads.

Rounds of whole chunks: each machine gets a share of the round's users, ranks them, reports, and sends its lists. The leader waits
for reports without a limit: exchanges, which have one, follow a command at once.
Letters: B users asked for, R users of a round, V lists of a user, K list length, I items, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.graph import Csr
from gcnrec.ops.topk import Seen, TopK
from gcnrec.ranking.machines.asked import Asked, give_all, planes_of, sizes_of
from gcnrec.ranking.scorer import EmbeddingScorer, Scorer, View
from gcnrec.ranking.top_k import USERS_PER_CHUNK, ByScore, ByViews, Here, Ranker, seen_of, side_by_side, top_k, top_k_views
from gcnrec.tables.dealt.spans import fetched, give
from gcnrec.workers.world import World

ROUND_BYTES = 1 << 26
"""Of the rows and lists of a machine's users in a round, and at least a chunk of them for each thread of the leader."""
Rankers = Callable[[int], Ranker]
"""Gives who ranks so many users at a time."""


def rankers_of(world: World, threads: int | None) -> Rankers:
    """Who ranks for the leader of `world`: itself where all workers are of one machine, else a worker of each machine.

    `threads`: of a worker that ranks, None for all cores of its machine.
    """
    first = sorted(set(world.machines))
    return Here if len(first) == 1 else partial(ByMachines, world, tuple(first), threads)


@dataclass(frozen=True)
class ByMachines:
    """The workers `rankers` of `world` rank, the leader first, on `threads` each. The others must follow
    (`gcnrec.training.workers.follower`).

    The leader alone ranks where it has a thread for each chunk, and by scorers other than embeddings.
    """

    world: World
    rankers: tuple[int, ...]
    threads: int | None
    users_per_chunk: int = USERS_PER_CHUNK

    def top_k(
        self,
        scorer: Scorer,
        users_B: NDArray[np.int32],
        k: int,
        exclude: Csr | Seen | None,
        candidates: NDArray[np.int32] | None = None,
    ) -> Iterator[TopK]:
        if not isinstance(scorer, EmbeddingScorer) or self._are_few(users_B):
            return top_k(scorer, users_B, k, exclude, candidates, self.users_per_chunk)
        return (lists for (lists,) in self._ranked(scorer, ByScore.of(k, candidates), users_B, seen_of(exclude)))

    def top_k_views(
        self, scorer: EmbeddingScorer, views: Sequence[View], users_B: NDArray[np.int32], k: int, exclude: Seen
    ) -> Iterator[tuple[TopK, ...]]:
        if self._are_few(users_B):
            return top_k_views(scorer, views, users_B, k, exclude, self.users_per_chunk)
        return self._ranked(scorer, ByViews(k, tuple(views)), users_B, exclude)

    def _are_few(self, users_B: NDArray[np.int32]) -> bool:
        return len(users_B) <= self.users_per_chunk * torch.get_num_threads()

    def _ranked(
        self, scorer: EmbeddingScorer, question: ByScore | ByViews, users_B: NDArray[np.int32], seen: Seen
    ) -> Iterator[tuple[TopK, ...]]:
        """The lists of each chunk. An error leaves followers without the last command: a leader that fails ends them."""
        asked = Asked.about(scorer, question, len(seen.parts), [*self.rankers], self.users_per_chunk, self.threads)
        ranking = _Ranking(self.world, asked, scorer, question, seen)
        self.world.publish(asked.command())
        ranking.give_items()
        share = max(
            torch.get_num_threads(), ROUND_BYTES // (self.users_per_chunk * (4 * asked.width + 8 * asked.k * asked.lists))
        )
        step = share * len(self.rankers) * self.users_per_chunk
        for first in range(0, len(users_B), step):
            yield from ranking.round(users_B[first : first + step])
        self.world.publish({"do": "ranked"})


@dataclass(frozen=True, slots=True)
class _Ranking:
    """A ranking that has begun: what it asks for, and what the leader has."""

    world: World
    asked: Asked
    scorer: EmbeddingScorer
    question: ByScore | ByViews
    seen: Seen

    def give_items(self) -> None:
        """What rankers need whoever their users are."""
        allowed = self.question.allowed if isinstance(self.question, ByScore) else None
        for rows in (self.scorer.items_ID, *planes_of(self.scorer, self.question)):
            give_all(self.world, self.asked.rankers, rows)
        if allowed is not None:
            give_all(self.world, self.asked.rankers, torch.from_numpy(allowed))

    def round(self, users_R: NDArray[np.int32]) -> Iterator[tuple[TopK, ...]]:
        """The lists of users whom all machines rank at once, chunk by chunk."""
        chunk, rankers = self.asked.chunk, self.asked.rankers
        count = -(-len(users_R) // chunk)
        cuts = [chunk * (ranker * count // len(rankers)) for ranker in range(len(rankers))]
        shares = [users_R[first:end] for first, end in pairwise([*cuts, len(users_R)])]
        self.world.publish({"do": "users", "users": [len(share) for share in shares]})
        self._give_users(shares)
        own = list(side_by_side(partial(self._ranked, shares[0]), range(0, len(shares[0]), chunk)))
        self.world.await_reports(len(rankers) - 1)  # synchronize: the workers that rank
        self.world.publish({"do": "lists"})
        brought = self._brought(shares)  # before whoever reads lists takes time: exchanges have a limit
        yield from own
        for share, lists in zip(shares[1:], brought, strict=True):
            yield from self._chunks(share, *lists)

    def _give_users(self, shares: list[NDArray[np.int32]]) -> None:
        """Rows of users and their seen items, to the machines that rank them."""
        rankers, others = self.asked.rankers, shares[1:]
        give(self.world, [self.scorer.prepare(share) for share in others], sizes_of(self.world, rankers, [*map(len, shares)]))
        for part in self.seen.parts:
            picked = [part.picked(share) for share in others]  # copy: the seen items of a round's users
            degrees = [torch.from_numpy(each.degrees) for each in picked]
            give(self.world, degrees, sizes_of(self.world, rankers, [*map(len, shares)]))
            edges = [0, *(each.num_edges for each in picked)]
            give(self.world, [torch.from_numpy(each.indices) for each in picked], sizes_of(self.world, rankers, edges))

    def _ranked(self, users: NDArray[np.int32], start: int) -> tuple[TopK, ...]:
        chunk_B = users[start : start + self.asked.chunk]
        return self.question.lists(self.scorer, chunk_B, self.seen.of(chunk_B))

    def _brought(self, shares: list[NDArray[np.int32]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Items, int32, and scores, float32, of the lists of each other machine, flat."""
        rankers, places = self.asked.rankers, self.asked.lists * self.asked.k
        sizes = sizes_of(self.world, rankers, [places * len(share) for share in shares])
        items = fetched(self.world, torch.empty(0, dtype=torch.int32), sizes)
        scores = fetched(self.world, torch.empty(0), sizes)
        return [(items[ranker], scores[ranker]) for ranker in rankers[1:]]

    def _chunks(self, share: NDArray[np.int32], items: torch.Tensor, scores: torch.Tensor) -> Iterator[tuple[TopK, ...]]:
        """The lists of a machine's users, chunk by chunk, as they stand in `items` and `scores`."""
        places = self.asked.lists * self.asked.k
        for start in range(0, len(share), self.asked.chunk):
            chunk_B = share[start : start + self.asked.chunk]
            here = slice(places * start, places * (start + len(chunk_B)))
            shape = self.asked.lists, len(chunk_B), self.asked.k
            items_VBK, scores_VBK = items[here].view(shape).numpy(), scores[here].view(shape).numpy()
            if np.isnan(scores_VBK).any():  # no list of this chunk: it is ranked here, to say whose scores are no numbers
                yield self._ranked(share, start)
            else:
                yield tuple(TopK(chunk_B, *each) for each in zip(items_VBK, scores_VBK, strict=True))
