"""Which export ranks: theory's, which follows from the loss, unless validation proves another better.

Every validation ranks by all exports of `gcnrec.ranking.export_rules.export_rules` from one matrix product. The first one drives
early stopping and is the curve. Of the best epoch's validation another replaces it only where its paired gain, over all
validation users, exceeds two standard errors: the choice among six must not follow noise.
Letters: H users with held-out items, F width of the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import BipartiteGraph
from gcnrec.loaders.schema import Dataset
from gcnrec.ops.topk import TopK, contained
from gcnrec.ranking import metrics
from gcnrec.ranking.evaluate import HeldOutSplit, Measures, held_out_of, judge_lists
from gcnrec.ranking.export_rules import Exported, ExportRule, ExportRules
from gcnrec.ranking.held_out import Held
from gcnrec.ranking.seen import seen_in_validation, seen_rule, validation_pairs
from gcnrec.ranking.top_k import Here, Ranker
from gcnrec.runs.contents import RunContents

if TYPE_CHECKING:
    from gcnrec.config import Evaluate
    from gcnrec.system.observer import Observer

ERRORS_NEEDED = 2.0
"""Standard errors by which another export must be better."""
_HERE = Here()


@dataclass(frozen=True)
class _Rival:
    """Per-user values of `evaluate.metric` under one of the other exports, float64 (H), filled chunk by chunk."""

    rule: ExportRule
    values_H: NDArray[np.float64]


def validate_exports(
    exports: ExportRules,
    trained: Exported,
    graph: BipartiteGraph,
    dataset: Dataset,
    settings: Evaluate,
    observer: Observer,
    ranker: Ranker = _HERE,
) -> dict[str, Any]:
    """`valid`: every metric at the cut-off of `evaluate.metric`, of the first rule, whose export `trained` is; `seen`: what lists
    leave out (`gcnrec.ranking.seen`).

    `exports`: for each other rule its mean of `evaluate.metric`, the mean paired `gain` and its standard `error`.
    """
    name, cut = metrics.split_name(settings.metric)
    scorer = trained.scorer
    pairs = validation_pairs(settings, dataset)
    held = held_out_of(scorer, pairs)
    per_user = metrics.per_user_with(settings.own)
    rivals = [_Rival(rule, np.empty(len(held.users_H))) for rule in exports.rules[1:]]
    split = HeldOutSplit.of(pairs, graph, seen_in_validation(settings, dataset))
    chunks = ranker.top_k_views(scorer, exports.views(trained), held.users_H, min(cut, scorer.num_items), split.seen)
    report = partial(observer.work, "validating")
    lists = _judging_rivals(chunks, rivals, held, per_user[name], cut)
    result = judge_lists(lists, split, held, Measures([cut], tilt=settings.tilt, per_user=per_user), report)
    own_H = result.per_user.column(settings.metric).to_numpy()
    compared = {rival.rule.name: _compared(rival.values_H, own_H) for rival in rivals}
    return {"valid": result.metrics, "seen": seen_rule(settings.seen, dataset), **({"exports": compared} if compared else {})}


def chosen_rule(rules: Sequence[ExportRule], folder: Path, epoch: int) -> ExportRule:
    """The rule that ranks, by the validation of `epoch` as the run recorded it; the first rule where there was none."""
    fit = RunContents(folder).epochs("fit")
    recorded = next((each.exports for each in reversed(fit) if each.epoch == epoch), {})
    proved = [
        (recorded[rule.name].gain, rule)
        for rule in rules[1:]
        if rule.name in recorded and recorded[rule.name].gain > ERRORS_NEEDED * recorded[rule.name].error
    ]
    return max(proved, key=lambda pair: pair[0])[1] if proved else rules[0]  # of equal gains the first


def _judging_rivals(
    chunks: Iterator[tuple[TopK, ...]], rivals: Sequence[_Rival], held: Held, metric: metrics.Metric, k: int
) -> Iterator[TopK]:
    """The lists of the first rule; lists of the others are evaluated in passing."""
    done = 0
    for first, *others in chunks:
        here = slice(done, done + len(first.users_B))
        for rival, lists in zip(rivals, others, strict=True):
            hits_BK = contained(lists.items_BK, held.lists(lists.users_B))
            judged = metrics.Judged(lists.items_BK, hits_BK, held.items.degrees[here])
            rival.values_H[here] = metric(judged, k)
        done = here.stop
        yield first


def _compared(values_H: NDArray[np.float64], own_H: NDArray[np.float64]) -> dict[str, float]:
    """Mean, mean paired difference to `own_H`, and its standard error (infinite for a single user)."""
    differences_H = values_H - own_H
    count = len(differences_H)
    error = float(differences_H.std(ddof=1) / math.sqrt(count)) if count > 1 else float(np.finfo(np.float64).max)
    return {"value": float(values_H.mean()), "gain": float(differences_H.mean()), "error": error}
