"""Exact ranking of all items in bounded memory: chunks of users times tiles of items, one running top-k.

Each thread ranks its own chunk from the first tile to the last, so that no thread ever waits for another.
Letters: B users of a chunk (or all users asked for), T items of a tile, K list length, I items.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.errors import DivergedError, UsageError
from gcnrec.graph import Csr
from gcnrec.ops.topk import Hidden, ItemLists, Seen, TopK, empty_lists, hide, keep_best, keep_best_listed
from gcnrec.ranking.popularity import PopularityScorer
from gcnrec.ranking.scorer import EmbeddingScorer, Scorer, View

Result = TypeVar("Result")

USERS_PER_CHUNK = 512
ITEMS_PER_TILE = 1024
"""2 MiB of scores a thread: they are still in the processor's caches when the top-k reads them."""


class Question(Protocol):
    """What lists are to hold."""

    def lists(self, scorer: EmbeddingScorer, users_B: NDArray[np.int32], hidden: Hidden) -> tuple[TopK, ...]:
        """The lists of one chunk of users: one TopK for each ranking that is asked for. DivergedError for NaN scores."""
        ...


@dataclass(frozen=True, slots=True)
class ByScore:
    """The best `k` items by the scorer, of `allowed` ones, ascending int32 (None: of all)."""

    k: int
    allowed: NDArray[np.int32] | None = None
    items_per_tile: int = ITEMS_PER_TILE

    @classmethod
    def of(cls, k: int, candidates: NDArray[np.int32] | None, items_per_tile: int = ITEMS_PER_TILE) -> ByScore:
        """`candidates` in any order."""
        return cls(k, None if candidates is None else np.unique(candidates).astype(np.int32), items_per_tile)

    def lists(self, scorer: Scorer, users_B: NDArray[np.int32], hidden: Hidden) -> tuple[TopK]:
        listed = None if self.allowed is None else ItemLists.shared(self.allowed, len(users_B), scorer.num_items)
        return (rank_chunk(scorer, users_B, self.k, hidden, listed, self.items_per_tile),)


@dataclass(frozen=True, slots=True)
class ByViews:
    """The best `k` items by each of `views` of the scorer's inner products, whose own column is not added."""

    k: int
    views: tuple[View, ...]

    def lists(self, scorer: EmbeddingScorer, users_B: NDArray[np.int32], hidden: Hidden) -> tuple[TopK, ...]:
        products = EmbeddingScorer(scorer.users_UD, scorer.items_ID)
        best, none = tuple(empty_lists(users_B, self.k) for _ in self.views), ItemLists.empty(len(users_B), products.num_items)
        prepared = products.prepare(users_B)
        pair = torch.empty(2, len(users_B) * min(ITEMS_PER_TILE, products.num_items))
        for first, last in _tiles(products.num_items, ITEMS_PER_TILE, None):
            products_BT, scores_BT = (each[: len(users_B) * (last - first)].view(len(users_B), last - first) for each in pair)
            products.score(prepared, first, last, products_BT)
            for view, lists in zip(self.views, best, strict=True):
                view.score(products_BT, first, last, scores_BT)
                hide(scores_BT.numpy(), first, hidden)
                keep_best(scores_BT.numpy(), first, none, lists)
        return best


class Ranker(Protocol):
    """Who ranks, and how many users at a time. Lists are the same, to the bit, whoever does."""

    def top_k(
        self,
        scorer: Scorer,
        users_B: NDArray[np.int32],
        k: int,
        exclude: Csr | Seen | None,
        candidates: NDArray[np.int32] | None = None,
    ) -> Iterator[TopK]:
        """As the function `top_k`."""
        ...

    def top_k_views(
        self, scorer: EmbeddingScorer, views: Sequence[View], users_B: NDArray[np.int32], k: int, exclude: Seen
    ) -> Iterator[tuple[TopK, ...]]:
        """As the function `top_k_views`."""
        ...


def top_k(
    scorer: Scorer,
    users_B: NDArray[np.int32],
    k: int,
    exclude: Csr | Seen | None,
    candidates: NDArray[np.int32] | None = None,
    users_per_chunk: int = USERS_PER_CHUNK,
    items_per_tile: int = ITEMS_PER_TILE,
) -> Iterator[TopK]:
    """The best `k` items of every user, one TopK per chunk of users, in the order of `users_B`.

    `exclude`: user number -> items left out; `candidates`: the item numbers that may be listed (None: all).
    Memory: per thread of torch, one tile of scores and two chunks' lists. Chunk and tile size do not change the ranking
    of given scores. Raises DivergedError for NaN scores.
    """
    question, seen = ByScore.of(k, candidates, items_per_tile), seen_of(exclude)

    def rank(start: int) -> TopK:
        chunk_B = users_B[start : start + users_per_chunk]
        return question.lists(scorer, chunk_B, seen.of(chunk_B))[0]

    return in_chunks(scorer, rank, range(0, len(users_B), users_per_chunk))


def seen_of(exclude: Csr | Seen | None) -> Seen:
    """The same as `Seen`."""
    return Seen((exclude,)) if isinstance(exclude, Csr) else exclude or Seen(())


def top_k_all(
    scorer: Scorer, users_B: NDArray[np.int32], k: int, exclude: Csr | Seen | None, candidates: NDArray[np.int32] | None = None
) -> TopK:
    """`top_k` in one piece: items int32 and scores float32 of shape (len(users_B), k)."""
    whole = empty_lists(users_B, k)
    done = 0
    for part in top_k(scorer, users_B, k, exclude, candidates):
        whole.items_BK[done : done + len(part.users_B)] = part.items_BK
        whole.scores_BK[done : done + len(part.users_B)] = part.scores_BK
        done += len(part.users_B)
    return whole


def rank_chunk(
    scorer: Scorer,
    users_B: NDArray[np.int32],
    k: int,
    hidden: Hidden,
    listed: ItemLists | None = None,
    items_per_tile: int = ITEMS_PER_TILE,
) -> TopK:
    """The best `k` items of one chunk of users; tiles without a listed item are not scored."""
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    best = empty_lists(users_B, k)
    prepared = scorer.prepare(users_B)
    none = ItemLists.empty(len(users_B), scorer.num_items)
    buffer = torch.empty(len(users_B) * min(items_per_tile, scorer.num_items))
    for first, last in _tiles(scorer.num_items, items_per_tile, listed):
        scores_BT = buffer[: len(users_B) * (last - first)].view(len(users_B), last - first)
        scorer.score(prepared, first, last, scores_BT)
        hide(scores_BT.numpy(), first, hidden)
        if listed is None:
            keep_best(scores_BT.numpy(), first, none, best)
        else:
            keep_best_listed(scores_BT.numpy(), first, none, listed, best)
    return best


def whole_ranking(
    scorer: Scorer, user_1: NDArray[np.int32], hidden: Hidden, listed: ItemLists | None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """All items that one user may get and their scores, by falling score, then rising item; in memory for a score an item."""
    prepared, scores_1I = scorer.prepare(user_1), torch.empty(1, scorer.num_items)
    for first, last in _tiles(scorer.num_items, ITEMS_PER_TILE, None):
        tile_1T = torch.empty(1, last - first)
        scorer.score(prepared, first, last, tile_1T)
        scores_1I[:, first:last] = tile_1T
    hide(scores_1I.numpy(), 0, hidden)
    scores_I = scores_1I.numpy()[0]
    if listed is not None:
        allowed_I = np.zeros(len(scores_I), np.bool_)
        allowed_I[listed.csr.row(listed.rows_B[0])] = True
        scores_I[~allowed_I] = -np.inf
    if np.isnan(scores_I).any():
        raise DivergedError(
            f"scores must be numbers, got NaN for user number {user_1[0]}; train again with a smaller learning rate"
        )
    order = np.argsort(-scores_I, kind="stable")[: int((scores_I > -np.inf).sum())].astype(np.int32)
    return order, scores_I[order]


def top_k_views(
    scorer: EmbeddingScorer,
    views: Sequence[View],
    users_B: NDArray[np.int32],
    k: int,
    exclude: Seen,
    users_per_chunk: int = USERS_PER_CHUNK,
) -> Iterator[tuple[TopK, ...]]:
    """`top_k` of several views at once, a list of each for every chunk of users; all share one matrix product a tile.

    `scorer` brings the inner products; its own column is not added.
    """
    question = ByViews(k, tuple(views))

    def rank(start: int) -> tuple[TopK, ...]:
        chunk_B = users_B[start : start + users_per_chunk]
        return question.lists(scorer, chunk_B, exclude.of(chunk_B))

    return in_chunks(scorer, rank, range(0, len(users_B), users_per_chunk))


@dataclass(frozen=True)
class Here:
    """This process ranks, on as many threads as torch uses."""

    users_per_chunk: int = USERS_PER_CHUNK

    def top_k(
        self,
        scorer: Scorer,
        users_B: NDArray[np.int32],
        k: int,
        exclude: Csr | Seen | None,
        candidates: NDArray[np.int32] | None = None,
    ) -> Iterator[TopK]:
        return top_k(scorer, users_B, k, exclude, candidates, self.users_per_chunk)

    def top_k_views(
        self, scorer: EmbeddingScorer, views: Sequence[View], users_B: NDArray[np.int32], k: int, exclude: Seen
    ) -> Iterator[tuple[TopK, ...]]:
        return top_k_views(scorer, views, users_B, k, exclude, self.users_per_chunk)


def _tiles(num_items: int, items_per_tile: int, listed: ItemLists | None) -> Iterator[tuple[int, int]]:
    """Rising ranges of items that cover all of them, or all the listed ones."""
    needed = None if listed is None else np.unique(listed.csr.indices // items_per_tile)
    for tile in range(-(-num_items // items_per_tile)) if needed is None else needed.tolist():
        yield tile * items_per_tile, min((tile + 1) * items_per_tile, num_items)


def in_chunks(scorer: Scorer, rank: Callable[[int], Result], starts: Sequence[int]) -> Iterator[Result]:
    """`map(rank, starts)`, on several threads where the scorer starts none of its own and needs little memory a chunk."""
    light = isinstance(scorer, (EmbeddingScorer, PopularityScorer))
    return side_by_side(rank, starts) if light and len(starts) > 1 else map(rank, starts)


def side_by_side(rank: Callable[[int], Result], starts: Sequence[int]) -> Iterator[Result]:
    """`map` on as many threads as torch uses, each with torch to itself; results in order, few ahead of the reader."""
    threads = torch.get_num_threads()
    ready = Barrier(threads)

    def start_thread() -> None:
        torch.set_num_threads(1)  # for the calling thread, and for threads started later
        ready.wait()

    with ThreadPoolExecutor(threads) as pool:
        for begun in [pool.submit(start_thread) for _ in range(threads)]:
            begun.result()
        torch.set_num_threads(threads)
        ahead: deque[Future[Result]] = deque()
        try:
            for start in starts:
                ahead.append(pool.submit(rank, start))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
