"""What is left out of the lists that held-out pairs are judged by: `evaluate.seen`.

`gcnrec recommend` writes the same lists where it leaves the same items out, so that lists reach every figure.
A held-out pair that is left out as seen is in no list: a miss.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from gcnrec.config import Evaluate
from gcnrec.graph import csr_from_edges
from gcnrec.interactions import Interactions
from gcnrec.loaders.schema import Dataset
from gcnrec.ops.topk import ItemLists, Seen, contained

SeenRule = Literal["all", "none"]
"""`all`: a user's items of train, and for test also of validation, are left out; `none`: no item is."""


def seen_rule(given: SeenRule | None, dataset: Dataset) -> SeenRule:
    """The rule that a job gives, else what its data decides: "none" where ingestion kept repeats, else "all"."""
    if given is not None:
        return given
    return "none" if dataset.keeps_repeats else "all"


def seen_items(rule: SeenRule, dataset: Dataset, split: Literal["valid", "test"]) -> Seen:
    """User -> items left out of the lists of `split` by `rule`."""
    if rule == "none":
        return Seen(())
    return Seen(dataset.known_items(*([dataset.valid] if split == "test" else [])))


def seen_in_validation(settings: Evaluate, dataset: Dataset) -> Seen:
    """User -> items left out of the lists of validation by a job's `[evaluate]`."""
    return seen_items(seen_rule(settings.seen, dataset), dataset, "valid")


def out_of_reach(held_out: Interactions, seen: Seen) -> int:
    """How many held-out pairs, each counted once, `seen` leaves out, so that no list holds them."""
    held = csr_from_edges(held_out.users_E, held_out.items_E, len(held_out.user_ids), len(held_out.item_ids))
    users_E, items_E1 = held.row_numbers(), held.indices[:, None]
    lost_E1 = np.zeros(items_E1.shape, np.bool_)
    for part in seen.parts:
        lost_E1 |= contained(items_E1, ItemLists(part, users_E))
    return int(lost_E1.sum())


def lost_pairs(lost: int, of: int, split: str) -> str:
    """The sentence about `lost` of the `of` held-out pairs of `split` that no list holds."""
    return (
        f"{lost:,} of {of:,} {split} pairs are seen already, and evaluate.seen = 'all' leaves them out, so that no list can hold "
        "them and each counts as a miss; train with evaluate.seen = 'none' to rank them"
    )
