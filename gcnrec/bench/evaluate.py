"""Bench `evaluate`: exact top-k of all items for all users, train items left out.

Ours against torch (matrix product, mask, `torch.topk`, users in chunks of three sizes) and implicit's top-k. Every
variant lives in a process of its own, warmed up there, so that a peak holds nothing of another; repetitions still
alternate. Lists agree when the scores at every rank do (ties may swap items).
Letters: U users, I items, D width, B users of a chunk, K list length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.bench.graphs import graph_of
from gcnrec.bench.harness import Row, Variant, measure, use_threads
from gcnrec.bench.memory import Measured, measured
from gcnrec.bench.worker import Worker
from gcnrec.graph import Csr
from gcnrec.random import Stage, generator
from gcnrec.ranking.scorer import EmbeddingScorer
from gcnrec.ranking.top_k import top_k_all

TOLERANCE = 1e-4
_WARM_USERS = 5000

Lists = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Items and scores, (U, K) each."""


@dataclass(frozen=True)
class Inputs:
    """The same for every variant: `users_UD`, `items_ID` float32, `seen` user -> train items."""

    users_UD: torch.Tensor
    items_ID: torch.Tensor
    seen: Csr
    k: int
    threads: int

    def first(self, num_users: int) -> Inputs:
        indptr = self.seen.indptr[: num_users + 1]
        seen = Csr(indptr, self.seen.indices[: indptr[-1]], self.seen.columns)
        return Inputs(self.users_UD[:num_users], self.items_ID, seen, self.k, self.threads)


def run(
    dataset: Path | None = None,
    k: int = 20,
    width: int = 64,
    torch_chunks: tuple[int, ...] = (256, 1024, 4096),
    threads: int | None = None,
    runs: int = 5,
) -> Iterator[Row]:
    """Rows of the bench; `dataset` is a dataset folder, None a synthetic graph of Gowalla's size. Units are users."""
    make = partial(inputs, dataset, k, width, use_threads(threads))
    contenders: list[tuple[str, Callable[[Inputs], Lists]]] = [("gcnrec", ours)]
    contenders += [(f"torch-topk-{chunk}", partial(torch_topk, chunk)) for chunk in torch_chunks]
    contenders.append(("implicit", implicit_topk))
    with ExitStack() as workers:
        starts = [(name, partial(_start, make, rank, workers)) for name, rank in contenders]
        variants = [Variant(name, start, lambda worker: worker(_rank_once)) for name, start in starts]
        num_users = len(make().users_UD)
        yield from measure("evaluate", variants, num_users, score_difference, TOLERANCE, runs=runs)


def inputs(dataset: Path | None, k: int, width: int, threads: int) -> Inputs:
    """Train lists of `dataset` (or synthetic ones) and random embeddings of which popular items score higher."""
    seen = graph_of(dataset).user_items
    draws = generator(0, Stage.INIT)
    popularity_I = np.log1p(np.bincount(seen.indices, minlength=seen.columns))
    users_UD = 0.3 * draws.standard_normal((seen.rows, width), np.float32)
    items_ID = 0.3 * draws.standard_normal((seen.columns, width), np.float32)
    items_ID *= (0.2 + popularity_I / popularity_I.max())[:, None].astype(np.float32)
    users_UD[:, 0] = 1.0
    items_ID[:, 0] = popularity_I / popularity_I.max()
    return Inputs(torch.from_numpy(users_UD), torch.from_numpy(items_ID), seen, k, threads)


def score_difference(expected: Lists, lists: Lists) -> float:
    """The largest difference of the scores at a rank."""
    return float(np.abs(expected[1] - lists[1]).max())


def ours(given: Inputs) -> Lists:
    """`gcnrec evaluate`'s ranking: product, mask and selection in one pass over chunks of users."""
    lists = top_k_all(
        EmbeddingScorer(given.users_UD, given.items_ID), np.arange(len(given.users_UD), dtype=np.int32), given.k, given.seen
    )
    return lists.items_BK, lists.scores_BK


def torch_topk(chunk: int, given: Inputs) -> Lists:
    """The product into one reused buffer, seen items masked by one indexed write, `torch.topk`."""
    num_users, num_items = len(given.users_UD), len(given.items_ID)
    items_UK = torch.empty(num_users, given.k, dtype=torch.int32)
    scores_UK = torch.empty(num_users, given.k)
    buffer_BI = torch.empty(min(chunk, num_users), num_items)
    for first in range(0, num_users, chunk):
        last = min(first + chunk, num_users)
        scores_BI = torch.mm(given.users_UD[first:last], given.items_ID.T, out=buffer_BI[: last - first])
        indptr = given.seen.indptr[first : last + 1]
        rows = torch.from_numpy(np.repeat(np.arange(last - first), np.diff(indptr)))
        scores_BI[rows, torch.from_numpy(given.seen.indices[indptr[0] : indptr[-1]].astype(np.int64))] = -torch.inf
        best = torch.topk(scores_BI, given.k, dim=1)
        items_UK[first:last], scores_UK[first:last] = best.indices, best.values
    return items_UK.numpy(), scores_UK.numpy()


def implicit_topk(given: Inputs) -> Lists:
    """The ranking of the `implicit` library, which leaves out the seen items by itself."""
    from implicit.cpu.topk import topk
    from scipy.sparse import csr_matrix

    seen = given.seen
    values = np.ones(len(seen.indices), np.float32)
    filtered = csr_matrix((values, seen.indices, seen.indptr), (seen.rows, seen.columns))
    items_UK, scores_UK = topk(
        given.items_ID.numpy(), given.users_UD.numpy(), given.k, filter_query_items=filtered, num_threads=given.threads
    )
    return items_UK, scores_UK


def _start(make: Callable[[], Inputs], rank: Callable[[Inputs], Lists], workers: ExitStack) -> Worker:
    """A process that holds the inputs and has ranked a few thousand users: compiled, threads started."""
    worker = workers.enter_context(Worker())
    worker(_prepare, make, rank)
    return worker


_kept: dict[str, Any] = {}
"""Inputs of a variant's own process between repetitions; always empty in the parent."""


def _prepare(make: Callable[[], Inputs], rank: Callable[[Inputs], Lists]) -> None:
    given = make()
    use_threads(given.threads)
    rank(given.first(min(_WARM_USERS, len(given.users_UD))))
    _kept.update(given=given, rank=rank)


def _rank_once() -> Measured:
    return measured(_kept["rank"], _kept["given"])
