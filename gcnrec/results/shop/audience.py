"""The users most likely to take each item of a file: `gcnrec recommend RUN --for-items FILE`.

Scores of two users compare only as numbers of one kind, so that a list orders users by the interactions to expect of them,

    score(u, i) = P(i|u) * (1 + n_u)

P(i|u): the probability that the user's next interaction is with the item. It is the softmax of a trained score over all items,
the share of a closed form's positive scores, or the mixture of both (`gcnrec.closed_forms.mixture`). n_u: the user's known
interactions. Active users therefore come first where tastes are alike.
Letters: U users, R users to choose from, J items that get a list, K list length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcnrec.closed_forms.mixture import MixtureScorer, Shares, Softmax
from gcnrec.graph import csr_from_edges
from gcnrec.loaders.schema import Dataset
from gcnrec.ops.topk import Hidden, ItemLists, TopK, empty_lists
from gcnrec.ranking.audience import Crowd, EqualScorer, audiences
from gcnrec.ranking.export_rules import export_rules
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.seen import validation_pairs
from gcnrec.results.evaluate import Trained
from gcnrec.results.fold_in import Widened, with_new_nodes
from gcnrec.results.given.dropped import FileCounts
from gcnrec.results.given.id_files import columns_of, open_ids
from gcnrec.results.given.request import Named, Request, RequestFiles, check_wishes, left_out, named, read_request
from gcnrec.results.lists import Columns, write_lists
from gcnrec.results.memory_bounds import audience_chunks, recommendation_bytes
from gcnrec.results.outputs import Output
from gcnrec.runs.folder import Run
from gcnrec.system.observer import SILENT, Observer, kept
from gcnrec.system.scratch import memory_errors_as_sentences
from gcnrec.training.mixture_choice import temperature_of


@dataclass(frozen=True, slots=True)
class AudienceSummary:
    """What was written: `items` got a list, `short` of them one of fewer than k users, `fallback` one by activity alone.

    `untrained` got one by the model, which knows no interaction of theirs. `unknown_items` and `unknown_users` count ids of the
    files that the run does not know. `dropped`: of each file that was given, its `rows`, and those without effect, by reason.
    """

    out: Path
    items: int
    rows: int
    short: int
    fallback: int
    untrained: int
    unknown_items: int
    unknown_users: int
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AudienceFiles:
    """The files of a call: `items` that get a list; `users` to choose from, all by default; the others as of `recommend`."""

    items: Path
    users: Path | None = None
    exclude: Path | None = None
    new_users: Path | None = None
    new_items: Path | None = None

    @property
    def request(self) -> RequestFiles:
        """The files as those of `recommend`."""
        return RequestFiles(self.users, None, None, self.exclude, self.new_users, self.new_items, attributes=self.items)


@dataclass(frozen=True, slots=True)
class AudienceOptions:
    """`k` users in a list, which leaves out users who have the item by `seen`; `fallback` "popularity" as of `recommend`.

    Raises UsageError for values that are none.
    """

    k: int
    seen: str = "all"
    fallback: str | None = None

    def __post_init__(self) -> None:
        check_wishes(self.k, self.seen, self.fallback)


def audience(
    run: Run, files: AudienceFiles, options: AudienceOptions, out: Path | Output, *, memory_limit: str | None = None,
    observer: Observer = SILENT,
) -> AudienceSummary:  # fmt: skip
    """Write `out`: item and user (original ids in their Arrow types), rank int32 from 1, score float32.

    Lists come in the order of `files.items`. A list has at most `options.k` users, and no user whose score is 0. With `fallback`,
    items that the model was not trained on get the users with most interactions (score: 1 + their number), and a column `source`
    says "model" or "fallback". `memory_limit` (default: of the job) bounds memory; the process and mapped files do not count.
    Raises UsageError when `out` exists, DataError when a file cannot be read or none of its ids is known, DeviceError when the
    limit is too small for the data.
    """
    output, limit = Output.of(out), run.job.evaluate.memory_limit if memory_limit is None else memory_limit
    output.refuse_inputs(files.request.given)
    longest = min(options.k, len(run.dataset.user_ids))
    chunks = audience_chunks(limit, recommendation_bytes(run, files.request, limit), run, longest)
    with memory_errors_as_sentences(limit):
        return _written(run, files, options, output, chunks, kept(observer))


def _written(
    run: Run, files: AudienceFiles, options: AudienceOptions, out: Output, chunks: tuple[int, int], observer: Observer
) -> AudienceSummary:
    wider = with_new_nodes(run, files.new_users, files.new_items, out.scratch) if files.request.bring_nodes else None
    dataset = wider.dataset if wider else run.dataset
    request = read_request(dataset, files.request, keep_unknown=False)
    asked, of_items = _asked(dataset, files.items, request)
    counts = [*(wider.counts if wider else ()), of_items, *request.counts]
    for sentence in filter(None, (each.sentence for each in counts)):
        observer.note(sentence)
    untrained_J = Trained(dataset, run.refitted).of_items()[asked.numbers] == 0
    lists = _Lists(
        min(options.k, len(request.ids)), asked.numbers, untrained_J & (options.fallback is not None),
        probabilities(run, wider, out.scratch), _crowd(dataset, request, options.seen), chunks,
        partial(observer.work, "ranking"),
    )  # fmt: skip
    columns = Columns("item", asked.ids, "user", dataset.user_ids, None if options.fallback is None else untrained_J)
    lengths_J = write_lists(out, columns, lists.in_blocks(), SILENT)
    listed_J = lengths_J > 0
    made = AudienceSummary(
        out=out.path, items=int(listed_J.sum()), rows=int(lengths_J.sum()), short=int((listed_J & (lengths_J < options.k)).sum()),
        fallback=int((listed_J & lists.popular_J).sum()), untrained=int((listed_J & untrained_J & ~lists.popular_J).sum()),
        unknown_items=of_items.dropped["unknown_item"] + request.unknown_items, unknown_users=request.unknown_users,
        dropped={each.key: each.summary for each in counts},
    )  # fmt: skip
    if made.untrained and not (dataset.item_features is not None and run.job.model.reads_features):
        observer.warn(
            f"{made.untrained:,} of {made.items:,} items have no interaction that {run.folder} knows, so their lists say nothing "
            "of them; --fallback popularity gives them the most active users"
        )
    return made


def probabilities(run: Run, wider: Widened | None, scratch: Path) -> MixtureScorer:
    """P(i|u) by the run, or by `wider`, the run with new nodes: users' sums are 1, less where a part has no score."""
    scorer: Scorer = wider.scorer if wider else run.scorer(scratch)
    if isinstance(scorer, MixtureScorer):
        total = sum(scorer.weights)
        return replace(scorer, weights=tuple(weight / total for weight in scorer.weights))
    if run.job.model.closed_form:
        return MixtureScorer((Shares(scorer),), (1.0,))
    return MixtureScorer((Softmax(scorer, _temperature(run, scratch)),), (1.0,))


def _temperature(run: Run, scratch: Path) -> float:
    """The temperature of the trained scores: of the mixture that the run chose, or as it would choose one."""
    if run.mixture is not None:
        return run.mixture.temperature
    pairs, job = validation_pairs(run.job.evaluate, run.dataset), run.job
    held = csr_from_edges(pairs.users_E, pairs.items_E, len(pairs.user_ids), len(pairs.item_ids)) if len(pairs) else None
    cosine = export_rules(job.model, job.loss, job.sampler).cosine
    return temperature_of(job.loss, cosine, run.embeddings(scratch), held)


def _asked(dataset: Dataset, path: Path, request: Request) -> tuple[Named, FileCounts]:
    """The items of the file that get a list, each once, and the rows without effect."""
    _, items = columns_of(dataset)
    with open_ids(path) as table:
        found = named(table, items, dataset.name)
    known_J = found.numbers >= 0
    allowed_J = known_J & request.allowed_I[found.numbers]
    dropped = {"unknown_item": found.unknown, "repeated": found.repeated, "excluded": int((known_J & ~allowed_J).sum())}
    numbers = found.numbers[allowed_J]
    return Named(dataset.item_ids.decode(numbers), numbers, found.rows), FileCounts("--for-items", found.rows, dropped)


def _crowd(dataset: Dataset, request: Request, seen: str) -> Crowd:
    """The users of the request by number, weighed by 1 + their known interactions; lists leave out users as `--seen` says."""
    order_R = np.argsort(request.numbers_R, kind="stable").astype(np.int32)
    users_R, known = request.numbers_R[order_R], left_out(dataset, seen)
    counted = dataset.known_items(*(() if seen in ("train", "none") else (dataset.valid, dataset.test)))
    activity_U = 1 + np.sum([part.degrees for part in counted], axis=0)

    def hidden(rows_B: NDArray[np.int32]) -> Hidden:
        lists = [ItemLists(part, users_R[rows_B]) for part in known]
        if request.excluded is not None:
            lists.append(ItemLists(request.excluded, order_R[rows_B]))
        return Hidden(tuple(lists))

    return Crowd(users_R, activity_U[users_R].astype(np.float32), hidden)


@dataclass(frozen=True, slots=True)
class _Lists:
    """The lists of the items `numbers_J`, by `scorer`; of items `popular_J` by the weights of the crowd alone.

    `chunks`: how many users are scored at a time, and how many items have their lists held at a time. All users are scored for
    each of these blocks of items.
    """

    k: int
    numbers_J: NDArray[np.int32]
    popular_J: NDArray[np.bool_]
    scorer: Scorer
    crowd: Crowd
    chunks: tuple[int, int]
    report: Callable[[int, int], None]

    def in_blocks(self) -> Iterator[TopK]:
        """All lists in the order of the file, which name user numbers."""
        users, block = self.chunks
        for first in range(0, len(self.numbers_J), block):
            rows_J = np.arange(first, min(first + block, len(self.numbers_J)), dtype=np.int32)
            yield self._block(rows_J, users)

    def _block(self, rows_J: NDArray[np.int32], users: int) -> TopK:
        made, popular_J = empty_lists(rows_J, self.k), self.popular_J[rows_J]
        equal = EqualScorer(self.scorer.num_users, self.scorer.num_items)
        for scorer, chosen_J in ((self.scorer, ~popular_J), (equal, popular_J)):
            at_J = np.flatnonzero(chosen_J)
            at_J = at_J[np.argsort(self.numbers_J[rows_J[at_J]])]
            if len(at_J):
                best = audiences(scorer, self.numbers_J[rows_J[at_J]], self.k, self.crowd, users, self.report)
                made.items_BK[at_J] = np.where(best.items_BK >= 0, self.crowd.users_R[best.items_BK], -1)
                made.scores_BK[at_J] = best.scores_BK
        return made
