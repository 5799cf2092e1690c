"""Top-k lists of a run as a Parquet file of original ids, streamed: memory does not grow with the lists.

Letters: R users asked for (rows of the request, in its order), B rows of a chunk, I items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import Csr, csr_from_edges
from gcnrec.loaders.schema import Dataset
from gcnrec.ops.topk import Hidden, ItemLists, Seen, TopK, empty_lists
from gcnrec.ranking.machines.leader import rankers_of
from gcnrec.ranking.popularity import PopularityScorer
from gcnrec.ranking.relist import Ranking, Relist, pool
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.top_k import Ranker, in_chunks, rank_chunk, whole_ranking
from gcnrec.results.evaluate import Trained, rule_of
from gcnrec.results.fold_in import Widened, with_new_nodes
from gcnrec.results.given.dropped import FileCounts, seen_and_excluded
from gcnrec.results.given.request import Request, RequestFiles, check_wishes, left_out, read_request
from gcnrec.results.lists import Columns, write_lists
from gcnrec.results.memory_bounds import most_items, recommendation_bytes, users_per_chunk
from gcnrec.results.outputs import Output
from gcnrec.results.relisting import Relisting
from gcnrec.runs.folder import Run
from gcnrec.system.observer import SILENT, Observer, kept
from gcnrec.system.scratch import memory_errors_as_sentences
from gcnrec.workers.world import Alone, World


@dataclass(frozen=True, slots=True)
class RecommendSummary:
    """What was written: `users` got a list, `short` of them one of fewer than k items, `fallback` one by popularity.

    `untrained` got one by the model, which knows no interaction of theirs. `unknown_users` and `unknown_items` count ids of the
    given files that the dataset does not know. `dropped`: of each file that was given, its `rows`, and how many of them have no
    effect, by reason (`gcnrec.results.given.dropped`).
    """

    out: Path
    users: int
    rows: int
    short: int
    fallback: int
    untrained: int
    unknown_users: int
    unknown_items: int
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """`k`, `seen`, `fallback` and `relisting` of `gcnrec.recommend`. Raises UsageError for values that are none."""

    k: int
    seen: str = "all"
    fallback: str | None = None
    relisting: Relisting = field(default_factory=Relisting)

    def longest(self, num_items: int) -> int:
        """How many items of a user are ranked at first."""
        return pool(self.k, num_items) if self.relisting.changes else min(self.k, num_items)

    def __post_init__(self) -> None:
        check_wishes(self.k, self.seen, self.fallback)


def write_recommendations(
    run: Run,
    files: RequestFiles,
    options: ListOptions,
    out: Output,
    *,
    memory_limit: str | None = None,
    observer: Observer = SILENT,
    world: World | None = None,
) -> RecommendSummary:
    """Write the lists of a run to `out`, as `gcnrec.recommend` says (`gcnrec.api.lists`), and count them.

    Raises DataError when a file cannot be read or none of its ids is known, DeviceError when `memory_limit` (default: of the job)
    is too small for the data. `world`: the workers that this process leads, default this process alone. Their machines share the
    users where lists are the beginning of the ranking of the same items for all.
    """
    out.refuse_inputs(files.given)
    limit = run.job.evaluate.memory_limit if memory_limit is None else memory_limit
    fixed = recommendation_bytes(run, files, limit)
    longest = options.longest(most_items(run, files.new_items))
    chunk = users_per_chunk(limit, fixed, run, longest, "recommending from")
    with memory_errors_as_sentences(limit):
        ranker = rankers_of(world or Alone(), run.job.train.threads)(chunk)
        return _recommended(run, files, _Call(options, out, chunk, ranker), kept(observer))


@dataclass(frozen=True, slots=True)
class _Call:
    """What lists hold, where they go, how many are made at a time, and who ranks where they are the beginning of a ranking."""

    options: ListOptions
    out: Output
    rows: int
    ranker: Ranker


def _recommended(run: Run, files: RequestFiles, call: _Call, observer: Observer) -> RecommendSummary:
    options, scratch = call.options, call.out.scratch
    wider = with_new_nodes(run, files.new_users, files.new_items, scratch) if files.bring_nodes else None
    dataset = wider.dataset if wider else run.dataset
    request = read_request(dataset, files, keep_unknown=options.fallback is not None)
    known = left_out(dataset, options.seen)
    relist, of_attributes = _relist(run, wider, dataset, options, scratch)
    counts = [*(wider.counts if wider else ()), *_counted(request, known), *of_attributes]
    for sentence in filter(None, (each.sentence for each in counts)):
        observer.note(sentence)
    if rule_of(run) == "all" and dataset.others and options.seen != "met":
        observer.note(
            "evaluate.seen = 'all' judged this run by lists without items of any behaviour; --seen met gives such lists"
        )
    if rule_of(run) == "none" and options.seen != "none":
        observer.note("evaluate.seen = 'none' judged this run by lists that leave nothing out; --seen none gives such lists")
    lists = _Lists(
        k=min(options.k, len(dataset.item_ids)),
        asked=options.k,
        request=request,
        known=known,
        scorer=wider.scorer if wider else run.scorer(scratch, np.unique(request.numbers_R[request.numbers_R >= 0])),
        popularity=None if options.fallback is None else PopularityScorer.of(dataset.graph),
        untrained_R=_untrained(Trained(dataset, run.refitted), request.numbers_R),
        relist=relist,
    )
    columns = Columns("user", request.ids, "item", dataset.item_ids, lists.untrained_R if lists.falls_back else None)
    lengths_R = write_lists(call.out, columns, lists.in_chunks(call), observer)
    made = lists.summary(call.out.path, lengths_R, wider.unknown_items if wider else 0)
    made = replace(made, dropped={each.key: each.summary for each in counts})
    if made.untrained and not (dataset.user_features is not None and run.job.model.reads_features):
        observer.warn(
            f"{made.untrained:,} of {made.users:,} users have no interaction that {run.folder} knows, "
            "so their lists say nothing of them; --fallback popularity gives them the most popular items"
        )
    return made


def _untrained(trained: Trained, numbers_R: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which rows are of users without an interaction that the run trains on, unknown users (-1) among them."""
    untrained_R = numbers_R < 0
    untrained_R[~untrained_R] = trained.of_users(numbers_R[~untrained_R]) == 0
    return untrained_R


def _relist(
    run: Run, wider: Widened | None, dataset: Dataset, options: ListOptions, scratch: Path
) -> tuple[Relist | None, list[FileCounts]]:
    """What chooses lists from the ranking, None where they are its beginning; and the rows of the file without effect."""
    if not options.relisting.changes:
        return None, []
    items_IF = None
    if options.relisting.diversity and not run.job.model.closed_form:
        # copy: lists are scored by the rows of new nodes; a run's own are mapped anew
        items_IF = wider.trained.items_ID.clone() if wider else run.embeddings(scratch, np.empty(0, np.int64)).items_IF
    return options.relisting.of(run, dataset, items_IF)


def _counted(request: Request, known: Sequence[Csr]) -> Iterator[FileCounts]:
    """The counts of a request, of candidates with the pairs that are seen or excluded."""
    for each in request.counts:
        if each.option == "--candidates" and request.candidates is not None:
            seen, excluded = seen_and_excluded(request.candidates, request.numbers_R, known, request.excluded, request.allowed_I)
            yield each.with_dropped(seen=seen, excluded=excluded)
        else:
            yield each


@dataclass(frozen=True, slots=True)
class _Lists:
    """The lists of a request: of `k` items by `scorer`; by `popularity`, unless it is None, for rows of untrained users.

    `k` is what was `asked` for, or all items where these are fewer.
    `known`: user -> items left out. They are not merged, as a user may know very many. `untrained_R`: the user had no interaction
    in what the model was trained on or is folded in from.
    """

    k: int
    asked: int
    request: Request
    known: Sequence[Csr]
    scorer: Scorer
    popularity: PopularityScorer | None
    untrained_R: NDArray[np.bool_]
    relist: Relist | None = None

    @property
    def falls_back(self) -> bool:
        """Whether untrained users get lists by popularity."""
        return self.popularity is not None

    def in_chunks(self, call: _Call) -> Iterator[TopK]:
        """All lists in the order of the request, so many rows at a time."""
        return self._plain(call.ranker) if self._are_plain else self._chosen(call.rows)

    @property
    def _are_plain(self) -> bool:
        """Whether lists are the beginning of the model's ranking of the same items, without what their user knows."""
        request = self.request
        of_rows = request.candidates, request.available, request.excluded
        return self.relist is None and not self.falls_back and all(each is None for each in of_rows)

    def _plain(self, ranker: Ranker) -> Iterator[TopK]:
        allowed_I, done = self.request.allowed_I, 0
        allowed = None if allowed_I.all() else np.flatnonzero(allowed_I).astype(np.int32)
        for lists in ranker.top_k(self.scorer, self.request.numbers_R, self.k, Seen(tuple(self.known)), allowed):
            yield replace(lists, users_B=np.arange(done, done + len(lists.users_B), dtype=np.int32))
            done += len(lists.users_B)

    def _chosen(self, rows: int) -> Iterator[TopK]:
        count = len(self.request.ids)

        def rank(start: int) -> TopK:
            return self._ranked(np.arange(start, min(start + rows, count), dtype=np.int32))

        return in_chunks(self.scorer, rank, range(0, count, rows))

    def summary(self, out: Path, lengths_R: NDArray[np.int64], unknown_items: int) -> RecommendSummary:
        listed_R = lengths_R > 0
        untrained = int((self.untrained_R & listed_R).sum())
        return RecommendSummary(
            out=out,
            users=int(listed_R.sum()),
            rows=int(lengths_R.sum()),
            short=int((listed_R & (lengths_R < self.asked)).sum()),
            fallback=untrained if self.falls_back else 0,
            untrained=0 if self.falls_back else untrained,
            unknown_users=self.request.unknown_users,
            unknown_items=self.request.unknown_items + unknown_items,
        )

    def _ranked(self, rows_B: NDArray[np.int32]) -> TopK:
        merged = empty_lists(rows_B, self.k)
        popular_B = self.untrained_R[rows_B] & self.falls_back
        for scorer, chosen_B in ((self.scorer, ~popular_B), (self.popularity, popular_B)):
            rows = rows_B[chosen_B]
            if len(rows) and scorer is not None:
                lists = self._best(scorer, rows)
                merged.items_BK[chosen_B], merged.scores_BK[chosen_B] = lists.items_BK, lists.scores_BK
        return merged

    def _best(self, scorer: Scorer, rows_B: NDArray[np.int32]) -> TopK:
        users_B, hidden, listed = self.request.numbers_R[rows_B], self._hidden(rows_B), _listed(self.request, rows_B)
        if self.relist is None:
            return rank_chunk(scorer, users_B, self.k, hidden, listed)
        best = rank_chunk(scorer, users_B, pool(self.k, scorer.num_items), hidden, listed)

        def whole(at: int) -> Ranking:
            row_B = rows_B[at : at + 1]
            return whole_ranking(scorer, users_B[at : at + 1], self._hidden(row_B), _listed(self.request, row_B))

        return self.relist.lists(best, self.k, whole)

    def _hidden(self, rows_B: NDArray[np.int32]) -> Hidden:
        """What each row must not get: its user's known items and its exclusions."""
        users_B = self.request.numbers_R[rows_B]
        lists = [ItemLists(csr, users_B) for csr in self.known]
        if self.request.excluded is not None:
            lists.append(ItemLists(self.request.excluded, rows_B))
        return Hidden(tuple(lists))


def _listed(request: Request, rows_B: NDArray[np.int32]) -> ItemLists | None:
    """What each row may get; None: every item."""
    if request.candidates is not None:
        chosen = request.candidates.picked(rows_B)
        keep_E = request.allowed_I[chosen.indices]
        csr = csr_from_edges(chosen.row_numbers()[keep_E], chosen.indices[keep_E], len(rows_B), len(request.allowed_I))
        return ItemLists(csr, np.arange(len(rows_B), dtype=np.int32))
    if request.available is not None:
        return request.available.listed(rows_B)
    if request.allowed_I.all():
        return None
    return ItemLists.shared(np.flatnonzero(request.allowed_I).astype(np.int32), len(rows_B), len(request.allowed_I))
