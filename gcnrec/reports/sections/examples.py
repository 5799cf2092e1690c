"""Ten users of a run: what they took before, what they are recommended, and what they took in truth.

Letters: B users shown, K length of a list, N items shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import GcnrecError
from gcnrec.interactions import Interactions
from gcnrec.loaders.schema import Dataset
from gcnrec.random import Stage, generator
from gcnrec.ranking.seen import Split, judged_pairs, seen_items
from gcnrec.ranking.top_k import top_k
from gcnrec.reports.sections.titles import Titles, shown_text, titles_of
from gcnrec.results.evaluate import rule_of
from gcnrec.runs.folder import Run

USERS = 10
LENGTH = 10
_BEFORE = 8
"""Items of train that are shown of a user."""


@dataclass(frozen=True)
class Example:
    """A user with items as texts: the latest `before` of `num_before` ones, the `listed` ones with whether each is a hit, and the
    held-out ones that the list does not have."""

    user: str
    before: Sequence[str]
    num_before: int
    listed: Sequence[tuple[str, bool]]
    missed: Sequence[str]
    num_held_out: int

    @property
    def hits(self) -> int:
        """Held-out items in the list."""
        return sum(is_hit for _, is_hit in self.listed)


def examples_section(run: Run) -> dict[str, Any]:
    """`users`, and sentences `about` and `absent`. Where lists cannot be made, no users, and `absent` says why."""
    split: Split = "valid" if not len(run.dataset.test) and not run.refitted else "test"
    try:
        users, absent = _examples(run, split)
    except GcnrecError as problem:
        if isinstance(problem.__context__, OSError):  # such as a full disk, which ends a command at every other write too
            raise
        return {"users": [], "about": "", "absent": f"Example lists are left out: {problem}."}
    words = "validation" if split == "valid" else split
    about = f"Users are drawn at random, by the seed of the run, from those with held-out items of {words}. "
    about += "Lists leave out what metrics leave out."
    return {"users": users, "about": about if users else "", "absent": absent}


def _examples(run: Run, split: Split) -> tuple[list[Example], str]:
    """The lists of some users with pairs held out of `split`, and a sentence on how they were chosen."""
    dataset, rule = run.dataset, rule_of(run)
    pairs = judged_pairs(rule, dataset, split)
    users_B = chosen(pairs, dataset, run.job.train.seed)
    if not len(users_B):
        return [], "Example lists are left out: no user has held-out items."
    chunks = list(top_k(run.scorer(), users_B, LENGTH, seen_items(rule, dataset, split)))
    lists_BK = np.concatenate([chunk.items_BK for chunk in chunks])
    before = [_before(dataset, split, int(user)) for user in users_B]
    held_out = [pairs.items_E[pairs.users_E == user] for user in users_B]
    shown = [*(items[:_BEFORE] for items in before), *held_out, lists_BK[lists_BK >= 0]]
    titles = titles_of(dataset, np.unique(np.concatenate(shown)).astype(np.int32))
    order = np.argsort(users_B)
    names = dict(zip(users_B[order].tolist(), dataset.user_ids.picked(users_B[order]).to_pylist(), strict=True))
    made = [
        _example(shown_text(names[int(user)]), before[place], lists_BK[place], held_out[place], titles)
        for place, user in enumerate(users_B)
    ]
    return made, titles.absent


def chosen(pairs: Interactions, dataset: Dataset, seed: int) -> NDArray[np.int32]:
    """At most `USERS` users of `pairs`, int32 (B), drawn by `seed`; users with interactions of train come first."""
    held_U = np.unique(pairs.users_E)
    drawn_U = generator(seed, Stage.EXAMPLES).permutation(held_U).astype(np.int32)
    cold_U = dataset.graph.user_items.degrees[drawn_U] == 0
    return drawn_U[np.argsort(cold_U, kind="stable")][:USERS]


def _before(dataset: Dataset, split: Split, user: int) -> NDArray[np.int32]:
    """The items of a user before `split`, the latest first where times are known, else the most popular first."""
    csr = dataset.graph.user_items
    row = slice(int(csr.indptr[user]), int(csr.indptr[user + 1]))
    order = None if dataset.times_E is None else np.argsort(-dataset.times_E[row], kind="stable")
    items = csr.indices[row] if order is None else csr.indices[row][order]
    valid = dataset.valid
    of_user = np.flatnonzero(valid.users_E == user) if split == "test" else np.empty(0, np.int64)
    if valid.times_E is not None:
        of_user = of_user[np.argsort(-valid.times_E[of_user], kind="stable")]
    return np.concatenate([valid.items_E[of_user], items]).astype(np.int32)


def _example(
    user: str, before: NDArray[np.int32], list_K: NDArray[np.int32], held_out: NDArray[np.int32], titles: Titles
) -> Example:
    listed, held = [int(item) for item in list_K if item >= 0], {int(item) for item in held_out}
    return Example(
        user,
        [titles.texts[int(item)] for item in before[:_BEFORE]],
        len(before),
        [(titles.texts[item], item in held) for item in listed],
        [titles.texts[item] for item in sorted(held.difference(listed))],
        len(held),
    )
