"""The export that follows from the loss: from trained rows to the embeddings that rank.

Softmax and sampled losses learn, at their optimum, with s the trained score of user u and item i,

    s / tau = log p(i|u) - a (1 - x) log q_i + const(u)

q_i: share of item i among the training positives, or with `model.popularity_days` among recent ones, a prior in place of
the prior that training removed; x = `loss.logq`; a = 1 for in-batch negatives, `popularity_power` for
popularity negatives, 0 for uniform ones (logits of negative sampling: Levy & Goldberg 2014; logQ: Yi et al. 2019). Ranking by
p(i|u) therefore adds a column, s + tau a (1 - x) log q_i. Limits: `exclude_seen` has no such optimum; bsl is exact only with one
positive per user and batch; directau has no derivation; a loss of
another package says itself what tau is; weights of positives do not enter q.

Letters: N nodes, U users, I items, R consecutive rows of a side, F width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gcnrec.config import Loss, Model, Sampler
from gcnrec.extensions.calls import amount
from gcnrec.graph import BipartiteGraph
from gcnrec.ranking.popularity import counted
from gcnrec.ranking.scorer import EmbeddingScorer, View
from gcnrec.system.pages import let_go

Kind = Literal["theory", "cosine", "inner", "powers"]

CANDIDATE_FACTORS = (0.5, 0.75, 1.25)
"""Multiples of the column that validation may choose instead of 1."""
SHORTEST = 1e-12
"""Rows of at most this length have no direction."""


@dataclass(frozen=True)
class ExportRule:
    """How a trained score becomes the score that ranks; carried from the fit to the refit as a rule, not as numbers.

    `theory`: the trained score plus `factor` times the column. `cosine`, `inner`: that product alone. `powers`: items get the
    length |e|**norm_power * degree**degree_power, and the inner product ranks.
    """

    kind: Kind
    factor: float = 1.0

    @property
    def name(self) -> str:
        """As records name it: `theory`, `0.5 theory`, `cosine`, `inner`, `powers`."""
        return self.kind if self.kind != "theory" or self.factor == 1.0 else f"{self.factor:g} theory"


class Stretches(Protocol):
    """Embeddings that rank, to be read once: the users' rows, then the items', in stretches that rise."""

    @property
    def rule(self) -> ExportRule: ...

    @property
    def width(self) -> int: ...

    @property
    def factor(self) -> float:
        """Of `popularity` in the score."""
        ...

    @property
    def item_columns(self) -> tuple[str, ...]:
        """What items have besides: of `popularity` and `length`, as fields of `Exported` are."""
        ...

    def user_rows(self, first: int, last: int) -> torch.Tensor:
        """Rows of users `first .. last-1`, float32 (R, F)."""
        ...

    def item_rows(self, first: int, last: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Rows of items `first .. last-1`, float32 (R, F), and their `item_columns` by name, float32 (R)."""
        ...


@dataclass(frozen=True)
class Exported:
    """Embeddings that rank by inner product, plus `factor * popularity_I` where there is a column.

    `users_UF`, `items_IF` float32; `popularity_I` float32, log q; `lengths_I` float32, of the items before they got length 1,
    None where they keep their own.
    """

    rule: ExportRule
    users_UF: torch.Tensor
    items_IF: torch.Tensor
    popularity_I: torch.Tensor | None = None
    factor: float = 0.0
    lengths_I: torch.Tensor | None = None

    @property
    def scorer(self) -> EmbeddingScorer:
        """Ranks by these embeddings."""
        column_I = None if self.popularity_I is None else self.factor * self.popularity_I
        return EmbeddingScorer(self.users_UF, self.items_IF, column_I)

    @property
    def width(self) -> int:
        return self.users_UF.shape[1]

    @property
    def item_columns(self) -> tuple[str, ...]:
        return tuple(self._columns)

    @property
    def _columns(self) -> dict[str, torch.Tensor]:
        columns = {"popularity": self.popularity_I, "length": self.lengths_I}
        return {name: column for name, column in columns.items() if column is not None}

    def user_rows(self, first: int, last: int) -> torch.Tensor:
        """A view, whose pages are given back when the next one is asked for."""
        let_go(self.users_UF)
        return self.users_UF[first:last]

    def item_rows(self, first: int, last: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        let_go(self.items_IF)
        return self.items_IF[first:last], {name: column[first:last] for name, column in self._columns.items()}


@dataclass(frozen=True)
class ExportedInStretches:
    """`Stretches` of rows as the encoder gives them, which `take(first, last)` yields once, as new memory: float32 (R, F).

    Values are those of `ExportRules.exported`, to the bit.
    """

    rules: ExportRules
    rule: ExportRule
    num_users: int
    width: int
    degrees_I: NDArray[np.int64] | NDArray[np.float64]
    take: Callable[[int, int], torch.Tensor]

    @property
    def factor(self) -> float:
        return self.rules.factor_of(self.rule)

    @property
    def item_columns(self) -> tuple[str, ...]:
        has = {"popularity": self.rule.kind == "theory", "length": self.rules.has_unit_rows(self.rule)}
        return tuple(name for name, there in has.items() if there)

    @cached_property
    def _typical(self) -> float:
        return self.rules.typical_degree(self.degrees_I)

    @cached_property
    def _popularity_I(self) -> torch.Tensor:
        return log_shares(self.degrees_I, self._typical)

    def user_rows(self, first: int, last: int) -> torch.Tensor:
        rows_RF = self.take(first, last)
        if self.rules.has_unit_rows(self.rule):
            unit_length_(rows_RF)
        return rows_RF

    def item_rows(self, first: int, last: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rows_RF, columns = self.take(self.num_users + first, self.num_users + last), {}
        if self.rule.kind == "theory":
            columns["popularity"] = self._popularity_I[first:last]
        if self.rule.kind == "powers":
            self.rules.scale_by_powers_(rows_RF, self.degrees_I[first:last], self._typical)
        elif self.rules.has_unit_rows(self.rule):
            columns["length"] = unit_length_(rows_RF)
        return rows_RF, columns


@dataclass(frozen=True)
class ExportRules:
    """How trained rows become embeddings that rank, for one job: `rules` that validation compares, the first by theory.

    `cosine`: whether the trained score is a cosine. `column`: tau a (1 - x), what the trained score lacks of log p(i|u), in units
    of log q; 0 where nothing is known to be missing. `unseen_degree`, `norm_power`, `degree_power`, `popularity_days`: as in
    `[model]`.
    """

    rules: tuple[ExportRule, ...]
    cosine: bool
    column: float
    unseen_degree: float | None = None
    norm_power: float = 1.0
    degree_power: float = 0.0
    popularity_days: float | None = None

    def exported(
        self, rows_NF: torch.Tensor, num_users: int, degrees_I: NDArray[np.int64] | NDArray[np.float64], rule: ExportRule
    ) -> Exported:
        """The embeddings of `rule` from rows as the encoder gives them, which are scaled in place.

        `degrees_I`: of the graph that the model was trained on, as `popularity_of` has them.
        """
        users_UF, items_IF = rows_NF[:num_users], rows_NF[num_users:]
        if rule.kind == "powers":
            self.scale_by_powers_(items_IF, degrees_I, self.typical_degree(degrees_I))
            return Exported(rule, users_UF, items_IF)
        lengths_I = None
        if self.has_unit_rows(rule):
            unit_length_(users_UF)
            lengths_I = unit_length_(items_IF)
        popularity_I = log_shares(degrees_I, self.typical_degree(degrees_I)) if rule.kind == "theory" else None
        return Exported(rule, users_UF, items_IF, popularity_I, self.factor_of(rule), lengths_I)

    def has_unit_rows(self, rule: ExportRule) -> bool:
        """Whether `rule` gives every row length 1."""
        return rule.kind == "cosine" or (rule.kind == "theory" and self.cosine)

    def factor_of(self, rule: ExportRule) -> float:
        """How often the score of `rule` adds the popularity column, where there is one."""
        return rule.factor * self.column if rule.kind == "theory" else 0.0

    def views(self, trained: Exported) -> list[View]:
        """The scores of every rule from the inner products of `trained`, the export of the first; ranks are as by `exported`.

        Lengths of users do not change a user's ranking where no column is added.
        """
        items_IF, lengths_I = trained.items_IF, trained.lengths_I
        views = []
        for rule in self.rules:
            scale_I, column_I = None, None
            if rule.kind == "inner":
                scale_I = lengths_I
            elif rule.kind == "cosine" and lengths_I is None:
                scale_I = 1.0 / items_IF.norm(dim=1).clamp_min(SHORTEST)
            elif rule.kind == "theory" and trained.popularity_I is not None:
                column_I = rule.factor * self.column * trained.popularity_I
            views.append(View(scale_I, column_I))
        return views

    def popularity_of(self, graph: BipartiteGraph, rule: ExportRule) -> NDArray[np.int64] | NDArray[np.float64]:
        """What `rule` reads of the popularity of items, (I): degrees, or for a column counts by `popularity_days`."""
        return counted(graph, self.popularity_days if rule.kind == "theory" else None)

    def typical_degree(self, degrees_I: NDArray[np.int64] | NDArray[np.float64]) -> float:
        """What an item without positives counts as: `unseen_degree`, else exp of the mean log degree of the others."""
        if self.unseen_degree is not None:
            return self.unseen_degree
        known_I = degrees_I[degrees_I > 0]
        return float(np.exp(np.log(known_I).mean())) if len(known_I) else 1.0

    def scale_by_powers_(
        self, items_IF: torch.Tensor, degrees_I: NDArray[np.int64] | NDArray[np.float64], typical_degree: float
    ) -> None:
        """Give every row, in place, the length |e|**norm_power * degree**degree_power; degree 0 counts as `typical_degree`."""
        if self.norm_power != 1.0:
            items_IF *= items_IF.norm(dim=1, keepdim=True).clamp_min(SHORTEST) ** (self.norm_power - 1.0)
        if self.degree_power:
            degrees = np.where(degrees_I > 0, degrees_I, typical_degree).astype(np.float32)
            items_IF *= torch.from_numpy(degrees**self.degree_power)[:, None]


def export_rules(model: Model, loss: Loss, sampler: Sampler) -> ExportRules:
    """The rules of a job's sections; one rule where `model.popularity`, or `norm_power` and `degree_power`, fix it."""
    cosine, column = loss.score == "cosine" or loss.name == "directau", _column(loss, sampler)
    powers = model.norm_power, model.degree_power
    return ExportRules(_rules(model, cosine, column), cosine, column, model.unseen_degree, *powers, model.popularity_days)


def _rules(model: Model, cosine: bool, column: float) -> tuple[ExportRule, ...]:
    if (model.norm_power, model.degree_power) != (1.0, 0.0):
        return (ExportRule("powers"),)
    if isinstance(model.popularity, float):
        return (ExportRule("theory", model.popularity),)
    if model.popularity != "auto":
        return (ExportRule(model.popularity),)
    plain: tuple[ExportRule, ...] = (ExportRule("cosine"), ExportRule("inner"))
    plain = plain if cosine else plain[::-1]
    if column == 0.0:  # the trained product is what theory exports
        return plain
    return (ExportRule("theory"), *plain, *(ExportRule("theory", factor) for factor in CANDIDATE_FACTORS))


def _column(loss: Loss, sampler: Sampler) -> float:
    power = {"in_batch": 1.0, "uniform": 0.0, "popularity": sampler.popularity_power}[sampler.negatives]
    match loss.name:
        case "softmax":
            return loss.temperature * power * (1.0 - loss.logq)
        case "bsl":
            return loss.temperature * power
        case "bpr":  # log sigmoid(s_ui - s_uj) is a softmax over two at temperature 1
            return power
        case "directau":
            return 0.0
        case _:
            assert loss.own is not None  # a section takes no other name
            return amount(loss.own.shown, loss.own.make(), "popularity") * power


def log_shares(degrees_I: NDArray[np.int64] | NDArray[np.float64], unseen_degree: float) -> torch.Tensor:
    """log q, float32 (I): degree over the sum of degrees, where a degree of 0 counts as `unseen_degree`."""
    counted_I = np.where(degrees_I > 0, degrees_I, unseen_degree)
    return torch.from_numpy(np.log(counted_I / max(degrees_I.sum(), 1)).astype(np.float32))


def unit_length_(rows_RF: torch.Tensor) -> torch.Tensor:
    """Divide every row by its length, in place, and return the lengths, float32 (R); a row of zeros stays."""
    lengths_R = rows_RF.norm(dim=1)
    rows_RF /= lengths_R.clamp_min(SHORTEST)[:, None]
    return lengths_R
