"""Runs against a base run on the same users: difference of every metric, paired interval, p-value.

Everything is paired by user: the interval is a bootstrap over users (percentiles), the p-value a two-sided sign-flip
(randomisation) test of mean difference 0, adjusted by Holm for all metrics of all runs compared at once.
Letters: R runs, H users with held-out items, M metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcnrec.errors import DataError, UsageError
from gcnrec.ranking.evaluate import metric_columns
from gcnrec.ranking.metrics import bootstrap_intervals, holm, sign_flip_p_values
from gcnrec.results.evaluate import Split, refuse_what_it_was_trained_on
from gcnrec.results.given.lists import JudgedLists
from gcnrec.runs.folder import Run
from gcnrec.runs.paths import evaluate_command, per_user_path
from gcnrec.runs.per_user import SAMPLED, read_per_user

TEST = "two-sided sign-flip test over users, Holm over all rows"


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of one run and of the base: `difference` = `value` - `base`, its 95 % interval, p-values."""

    run: str
    metric: str
    base: float
    value: float
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """`rows`: every run in the order given, every metric that all of them have; `num_users` were paired."""

    base: str
    split: str
    num_users: int
    test: str
    rows: tuple[Difference, ...]

    def __repr__(self) -> str:
        """One line a run: its difference in the first metric, with interval and p-value."""
        first = {row.run: row for row in reversed(self.rows)}
        lines = [
            f"{run!r}: {row.metric} {row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f}), p {row.p_holm:.3g}"
            for run, row in reversed(first.items())
        ]
        return f"Comparison(with {self.base!r} on {self.split}, {self.num_users:,} users; " + "; ".join(lines) + ")"


def compare_runs(
    base: Run,
    others: Sequence[Run | JudgedLists],
    split: Split = "test",
    bootstrap: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare evaluated runs by their per-user metrics; catalogue metrics (coverage, gini) have no users to pair.

    Raises UsageError when a run has not been evaluated or was trained on the split, or no metric is shared, DataError when
    the runs were measured on different data or users, or by lists that leave out different items (`evaluate.seen`).
    """
    if not others:
        raise UsageError("a comparison needs at least one run to compare with the base, none was given")
    for run in (base, *others):
        if not isinstance(run, JudgedLists):
            refuse_what_it_was_trained_on(run, split)
    tables = [_per_user(run, split) for run in (base, *others)]
    tables = _of_common_users(tables)
    for run, table in zip(others, tables[1:], strict=True):
        _check_same(base, tables[0], run, table)
    shared = [name for name in metric_columns(tables[0]) if all(name in table.column_names for table in tables)]
    if not shared:
        raise UsageError("the runs share no metric, they were evaluated with different --k; evaluate them with the same")
    values_RHM = [np.stack([table.column(name).to_numpy() for name in shared], axis=1) for table in tables]
    changes_RHM = [values_HM - values_RHM[0] for values_HM in values_RHM[1:]]
    intervals_R = [bootstrap_intervals(changes_HM, bootstrap, seed) for changes_HM in changes_RHM]
    p_RM = np.stack([sign_flip_p_values(changes_HM, permutations, seed) for changes_HM in changes_RHM])
    holm_RM = holm(p_RM.ravel()).reshape(p_RM.shape)
    rows = tuple(
        Difference(
            run=str(_place(run)),
            metric=metric,
            base=float(values_RHM[0][:, m].mean()),
            value=float(values_RHM[r + 1][:, m].mean()),
            difference=float(changes_RHM[r][:, m].mean()),
            low=float(intervals_R[r][0][m]),
            high=float(intervals_R[r][1][m]),
            p_value=float(p_RM[r, m]),
            p_holm=float(holm_RM[r, m]),
        )
        for r, run in enumerate(others)
        for m, metric in enumerate(shared)
    )
    return Comparison(str(base.folder), split, len(tables[0]), TEST, rows)


def _place(run: Run | JudgedLists) -> Path:
    return run.path if isinstance(run, JudgedLists) else run.folder


def _per_user(run: Run | JudgedLists, split: Split) -> pa.Table:
    if isinstance(run, JudgedLists):
        if run.split != split:
            raise UsageError(
                f"{run.path} judges {run.split}, and runs are compared on {split}; judge the lists with --split {split}"
            )
        return run.table
    path = per_user_path(run.folder, split)
    if not path.is_file():
        raise UsageError(f"{run.folder} has no {path.name}; run '{evaluate_command(run.folder, split)}' first")
    return read_per_user(run.folder, path, f"run '{evaluate_command(run.folder, split)}' again")


def _of_common_users(tables: list[pa.Table]) -> list[pa.Table]:
    """The tables, cut to the users that all of them have where one is of a sample (`evaluate.users`)."""
    if not any(SAMPLED in (table.schema.metadata or {}) for table in tables):
        return tables
    common = tables[0].column("user")
    for table in tables[1:]:
        common = common.filter(pc.is_in(common, value_set=table.column("user")))
    return [table.filter(pc.is_in(table.column("user"), value_set=common)) for table in tables]


def _seen_of(run: Run, table: pa.Table) -> str:
    """What the lists behind a per-user table left out, by `evaluate.seen`; earlier versions, which knew "all" only, do not say.

    Raises UsageError for a table of an earlier version on data with repeats: it counts hits that no list can hold.
    """
    said = (table.schema.metadata or {}).get(b"seen")
    if said is None and run.dataset.keeps_repeats:
        raise UsageError(
            f"{run.folder} was evaluated by an earlier version, which counts hits that no list can hold on data with "
            f"repeats = 'keep'; run '{evaluate_command(run.folder, 'test')}' again"
        )
    return "all" if said is None else said.decode(errors="replace")


def _check_same(base: Run, base_table: pa.Table, run: Run | JudgedLists, table: pa.Table) -> None:
    own, place = run.digest if isinstance(run, JudgedLists) else run.dataset.digest, _place(run)
    digests = [base.dataset.digest, own]
    if digests[0] != digests[1]:
        raise DataError(
            f"{base.folder} and {place} must be measured on the same dataset, their digests are {digests[0][:12]} "
            f"and {digests[1][:12]}; train and evaluate both on one dataset folder"
        )
    rules = [_seen_of(base, base_table), run.seen if isinstance(run, JudgedLists) else _seen_of(run, table)]
    if rules[0] != rules[1]:
        raise DataError(
            f"{base.folder} and {place} must be measured by lists that leave the same items out, evaluate.seen is "
            f"{rules[0]!r} and {rules[1]!r}; evaluate both with one --seen"
        )
    for name, what in (("user", "users"), ("num_held_out", "held-out items")):
        if not base_table.column(name).equals(table.column(name)):
            raise DataError(
                f"{base.folder} and {place} must be measured on the same {what}, their per-user files differ; evaluate both again"
            )
