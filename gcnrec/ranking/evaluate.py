"""Exact evaluation of a scorer: every item ranked for every user with held-out items, metrics per user, intervals, deciles.

Users without held-out items are not averaged. A held-out pair that is also among the seen ones is in no list and is a miss
(ingestion drops such pairs unless `repeats` keeps them; `evaluate.seen = "none"` leaves nothing out: `gcnrec.ranking.seen`).
Letters: U users, I items, H users with held-out items, M metrics, B users of a chunk, K list length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.graph import BipartiteGraph
from gcnrec.interactions import Interactions
from gcnrec.ops.topk import Seen, TopK, contained
from gcnrec.ranking import metrics
from gcnrec.ranking.beyond_accuracy import BeyondAccuracy
from gcnrec.ranking.held_out import Held, chosen
from gcnrec.ranking.pairs.tilt import NAMES, Tilt
from gcnrec.ranking.scorer import Scorer
from gcnrec.ranking.top_k import Here, Ranker
from gcnrec.system.observer import SILENT

NUM_DECILES = 10
NO_SEGMENT = "(none)"
ReportRanked = Callable[[int, int], None]
"""Reports how many users of how many are ranked."""
_UNREPORTED: ReportRanked = partial(SILENT.work, "ranking")
_HERE = Here()


PerItem = dict[int, NDArray[np.int32]]
"""Counts of every item by list length, int32 (I)."""
Degrees = Callable[[NDArray[np.int32]], NDArray[np.int64]]
"""Train degrees of the given users, int64, in their order: no array has an entry for every user."""


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """Of each item: in how many pairs it is held out, int32 (I); how many lists hold it, and how many of these as a hit."""

    held_out_I: NDArray[np.int32]
    exposure_I: PerItem
    hits_I: PerItem

    @classmethod
    def none(cls, num_items: int, ks: Sequence[int]) -> ItemCounts:
        """Zeros."""
        exposure_I, hits_I = ({k: np.zeros(num_items, np.int32) for k in ks} for _ in range(2))
        return cls(np.zeros(num_items, np.int32), exposure_I, hits_I)

    def add(self, items_BK: NDArray[np.int32], hits_BK: NDArray[np.bool_]) -> None:
        """Count lists, in place and in time by their length: item -1 is none."""
        for k, exposure_I in self.exposure_I.items():
            first_BK, hit_BK = items_BK[:, :k], hits_BK[:, :k]
            np.add.at(exposure_I, first_BK[first_BK >= 0], 1)
            np.add.at(self.hits_I[k], first_BK[hit_BK], 1)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model ranks a split.

    `metrics`: name@k -> mean over users (coverage@k, gini@k, long_tail@k, serendipity@k: over all lists); `intervals`: 95 %
    bootstrap percentile interval over users of every mean; `per_user`: one row per user with held-out items: `user` (original
    id), `degree` (train), `num_held_out`, then every per-user metric; `deciles`: see `popularity_deciles`.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_user: pa.Table
    deciles: list[dict[str, Any]]
    items: ItemCounts


@dataclass(frozen=True, slots=True)
class HeldOutSplit:
    """A split that lists are judged by: held-out `pairs`, `seen` (user -> items left out of lists), degrees of train."""

    pairs: Interactions
    seen: Seen
    item_degrees_I: NDArray[np.int64]
    user_degrees: Degrees

    @classmethod
    def of(cls, pairs: Interactions, train: BipartiteGraph, seen: Seen) -> HeldOutSplit:
        """Pairs held out from `train`, judged by lists without the items `seen`."""
        return cls(pairs, seen, train.item_users.degrees, train.user_items.degrees_of)


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured: metrics at the list lengths `ks`; intervals over users from `resamples` drawn by `seed`, 0 for none.

    `per_user`: metrics of each list, by name. `tilt` above 0 adds the metrics of `gcnrec.ranking.pairs.tilt`, `beyond` those of
    `gcnrec.ranking.beyond_accuracy`.
    """

    ks: Sequence[int] = (10, 20, 50)
    resamples: int = 0
    seed: int = 0
    tilt: float = 0.0
    beyond: BeyondAccuracy | None = None
    per_user: Mapping[str, metrics.Metric] = field(default_factory=metrics.PER_USER.copy)

    @property
    def lengths(self) -> list[int]:
        """`ks`, rising, each once."""
        return sorted(set(self.ks))


def evaluate(
    scorer: Scorer, split: HeldOutSplit, measures: Measures, report: ReportRanked = _UNREPORTED,
    candidates: NDArray[np.int32] | None = None, ranker: Ranker = _HERE,
) -> Evaluation:  # fmt: skip
    """Rank all items (or `candidates`) that are not seen, for every user with held-out items, and judge the lists.

    Raises DataError when no user has held-out items or the scorer is of other sizes, DivergedError for NaN scores.
    """
    held = held_out_of(scorer, split.pairs)
    lists = ranker.top_k(scorer, held.users_H, min(max(measures.ks), scorer.num_items), split.seen, candidates)
    return judge_lists(lists, split, held, measures, report)


def held_out_of(scorer: Scorer, held_out: Interactions) -> Held:
    """The held-out items of each user with any. DataError for none, or for a scorer of other sizes."""
    num_users, num_items = len(held_out.user_ids), len(held_out.item_ids)
    if (scorer.num_users, scorer.num_items) != (num_users, num_items):
        raise DataError(
            f"a scorer must know {num_users} users and {num_items} items, this one knows {scorer.num_users} and "
            f"{scorer.num_items}; evaluate a run with the dataset folder it was trained on"
        )
    return Held.of(held_out)


def judge_lists(
    lists: Iterator[TopK], split: HeldOutSplit, held: Held, measures: Measures, report: ReportRanked = _UNREPORTED
) -> Evaluation:
    """The evaluation of ranked lists of the users of `held`, in their order."""
    names, values_MH, items, unexpected = _judge(lists, held, split, measures, report)
    columns = dict(zip(names, values_MH, strict=True))
    means = {name: float(values_H.mean()) for name, values_H in columns.items()}
    for k in measures.lengths:
        means[f"coverage@{k}"] = metrics.coverage(items.exposure_I[k])
        means[f"gini@{k}"] = metrics.gini(items.exposure_I[k])
        means[f"long_tail@{k}"] = metrics.long_tail(items.exposure_I[k], split.item_degrees_I)
    for k, count in unexpected.items():
        means[f"serendipity@{k}"] = count / max(int(items.hits_I[k].sum()), 1)
    intervals: dict[str, tuple[float, float]] = {}
    if measures.resamples:
        low_M, high_M = metrics.bootstrap_intervals(values_MH.T, measures.resamples, measures.seed)
        intervals = dict(zip(names, zip(low_M.tolist(), high_M.tolist(), strict=True), strict=True))
    about = {
        "user": split.pairs.user_ids.picked(held.users_H),
        "degree": split.user_degrees(held.users_H),
        "num_held_out": held.items.degrees,
    }
    deciles = popularity_deciles(split.item_degrees_I, items.held_out_I, items.hits_I)
    return Evaluation(means, intervals, pa.table({**about, **columns}), deciles, items)


def popularity_deciles(item_degrees_I: NDArray[np.int64], held_out_I: NDArray[np.int32], hits_I: PerItem) -> list[dict[str, Any]]:
    """Recall by item popularity: ten groups of a tenth of the *items* each, decile 1 the most popular by train degree.

    `recall@k` of a decile is hits on its items / held-out interactions with its items (None without any), pooled over
    users; weighted by `held_out`, the deciles average to all hits / all held-out interactions.
    """
    share, longer = divmod(len(item_degrees_I), NUM_DECILES)
    ends = [number * share + min(number, longer) for number in range(1, NUM_DECILES + 1)]
    rows = []
    for number, items in enumerate(metrics.by_popularity(item_degrees_I, ends), start=1):
        held_out, degrees = int(held_out_I[items].sum()), item_degrees_I[items]
        least, most = (int(degrees.min()), int(degrees.max())) if len(degrees) else (None, None)
        row: dict[str, Any] = {"decile": number, "items": len(degrees), "min_degree": least, "max_degree": most}
        row["held_out"] = held_out
        for k, hits in hits_I.items():
            row[f"hits@{k}"] = int(hits[items].sum())
            row[f"recall@{k}"] = row[f"hits@{k}"] / held_out if held_out else None
        rows.append(row)
    return rows


def by_segment(per_user: pa.Table, names_H: NDArray[np.object_]) -> dict[str, dict[str, float]]:
    """Segment -> number of users and mean of every per-user metric; `names_H` is the segment of every row, or None."""
    labels_H = np.array([NO_SEGMENT if name is None else str(name) for name in names_H])
    found = {}
    for label in np.unique(labels_H).tolist():
        part = per_user.filter(pa.array(labels_H == label))
        means = {name: float(np.mean(part.column(name).to_numpy())) for name in metric_columns(per_user)}
        found[label] = {"users": len(part), **means}
    return found


def cold_metrics(scorer: Scorer, split: HeldOutSplit, ks: Sequence[int], ranker: Ranker = _HERE) -> dict[str, dict[str, float]]:
    """Recall and ndcg by whether users and items are cold: the graph that the model was trained on gives them no edge.

    Group of held-out pairs -> `users`, `pairs`, recall@k and ndcg@k over the users with such pairs.

    `warm`: user and item have train edges; `cold_items`: the item has none; `cold_users`: the user has none. These rank all items
    that are not seen; other held-out items of a user are ranked, too, and are no hits. `cold_items_apart` ranks cold items only,
    `warm_apart` the others only.
    Empty where no held-out pair is cold; a group without pairs is left out.
    """
    held_out, item_degrees_I = split.pairs, split.item_degrees_I
    cold_item_E, cold_user_E = item_degrees_I[held_out.items_E] == 0, split.user_degrees(held_out.users_E) == 0
    if not (cold_item_E.any() or cold_user_E.any()):
        return {}
    cold_I, warm_I = (np.flatnonzero(side_I).astype(np.int32) for side_I in (item_degrees_I == 0, item_degrees_I > 0))
    groups: dict[str, tuple[NDArray[np.bool_], NDArray[np.int32] | None]] = {
        "warm": (~cold_item_E & ~cold_user_E, None),
        "warm_apart": (~cold_item_E & ~cold_user_E, warm_I),
        "cold_items": (cold_item_E, None),
        "cold_items_apart": (cold_item_E, cold_I),
        "cold_users": (cold_user_E, None),
    }
    found = {}
    for name, (chosen_E, candidates) in groups.items():
        if chosen_E.any():
            part = replace(split, pairs=chosen(held_out, chosen_E))
            found[name] = group_metrics(scorer, part, ks, candidates, ranker)
    return found


def group_metrics(
    scorer: Scorer, split: HeldOutSplit, ks: Sequence[int], candidates: NDArray[np.int32] | None = None,
    ranker: Ranker = _HERE,
) -> dict[str, float]:  # fmt: skip
    """`users`, `pairs`, recall@k and ndcg@k of the pairs of `split`; raises as `evaluate`."""
    means = evaluate(scorer, split, Measures(ks), candidates=candidates, ranker=ranker).metrics
    counts = {"users": float(len(np.unique(split.pairs.users_E))), "pairs": float(len(split.pairs))}
    return counts | {f"{metric}@{k}": means[f"{metric}@{k}"] for metric in ("recall", "ndcg") for k in sorted(set(ks))}


def metric_columns(per_user: pa.Table) -> list[str]:
    """The columns of a per-user table that are metrics: `name@k`."""
    return [name for name in per_user.column_names if "@" in name]


def _judge(
    chunks: Iterator[TopK], held: Held, split: HeldOutSplit, measures: Measures, report: ReportRanked
) -> tuple[list[str], NDArray[np.float64], ItemCounts, dict[int, int]]:
    """Names and values, float64 (M, H), of the per-user metrics; counts of items; by list length, hits that popularity lacks."""
    num_items, num_users, ks, degrees_I = held.items.columns, len(held.users_H), measures.lengths, split.item_degrees_I
    tilted = Tilt.of(held.items, degrees_I, measures.tilt, ks) if measures.tilt else None
    beyond = measures.beyond
    kinds = (*measures.per_user, *(NAMES if tilted else ()), "novelty", *(beyond.names if beyond else ()))
    names = [f"{kind}@{k}" for kind in kinds for k in ks]
    values_MH = np.empty((len(names), num_users))
    columns = dict(zip(names, values_MH, strict=True))
    counts = ItemCounts.none(num_items, ks)
    np.add.at(counts.held_out_I, held.items.indices, 1)
    unexpected, done = dict.fromkeys(ks if beyond else (), 0), 0
    for lists in chunks:
        here = slice(done, done + len(lists.users_B))
        hits_BK = contained(lists.items_BK, held.lists(lists.users_B))
        judged = metrics.Judged(lists.items_BK, hits_BK, held.items.degrees[here])
        information_BK = metrics.self_information(degrees_I[lists.items_BK], len(split.pairs.user_ids))
        for k in ks:
            for name, metric in measures.per_user.items():
                columns[f"{name}@{k}"][here] = metric(judged, k)
            for name, values_B in tilted.judge(judged, here, k).items() if tilted else ():
                columns[name][here] = values_B
            columns[f"novelty@{k}"][here] = metrics.novelty(judged, k, information_BK)
        counts.add(lists.items_BK, hits_BK)
        if beyond:
            for name, values_B in beyond.diversity(lists, ks).items():
                columns[name][here] = values_B
            slots_P, places_P = np.nonzero(hits_BK)[1], beyond.places(lists, hits_BK)
            for k in ks:
                unexpected[k] += int(((slots_P < k) & (places_P >= k)).sum())
        done = here.stop
        report(done, num_users)
    return names, values_MH, counts, unexpected
