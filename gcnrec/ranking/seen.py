"""What is left out of the lists that held-out pairs are judged by: `evaluate.seen`.

`gcnrec recommend` writes the same lists where it leaves the same items out, so that lists reach every figure.
A held-out pair that is left out as seen is in no list: a miss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gcnrec.config import Evaluate
from gcnrec.graph import Behaviour, Csr
from gcnrec.interactions import Interactions
from gcnrec.loaders.schema import Dataset
from gcnrec.ops.topk import ItemLists, Seen, contained
from gcnrec.ranking.held_out import Held, chosen, sampled

Split = Literal["valid", "test"]
SeenRule = Literal["target", "all", "none"]
"""`target`: a user's items of train, and for test also of validation, are left out, and items that the user rated low until then;
`none`: no item is. `all`: the items of all behaviours are left out, and held-out pairs among these are not judged. Data with one
behaviour has "all" for "target"."""


def seen_rule(given: SeenRule | None, dataset: Dataset) -> SeenRule:
    """The rule that a job gives, else what its data decides: "none" where ingestion kept repeats, else the target's items."""
    if given is None:
        given = "none" if dataset.keeps_repeats else "target"
    return "all" if given == "target" and not dataset.others else given


def may_repeat(given: SeenRule | None, dataset: Dataset) -> bool:
    """Whether held-out pairs may be repeats that lists can hold: ingestion kept them, and nothing is left out."""
    return dataset.keeps_repeats and seen_rule(given, dataset) == "none"


def seen_items(rule: SeenRule, dataset: Dataset, split: Split) -> Seen:
    """User -> items left out of the lists of `split` by `rule`."""
    if rule == "none":
        return Seen(())
    others = known_others(dataset, split) if rule == "all" else ()
    negatives = dataset.known_negatives(later=0 if split == "valid" else 1)
    return Seen((*_taken_before(dataset, split), *negatives, *(other.graph.user_items for other in others)))


def judged_pairs(rule: SeenRule, dataset: Dataset, split: Split, users: int | None = None) -> Interactions:
    """The held-out pairs of `split` that lists are judged by: of `users` users, drawn as `gcnrec.ranking.held_out` says, None: of
    all. With "all", none that its user has met by another behaviour."""
    return sampled(_judged(rule, dataset, split), users)


def _judged(rule: SeenRule, dataset: Dataset, split: Split) -> Interactions:
    held_out = dataset.test if split == "test" else dataset.valid
    if rule != "all" or not dataset.others or not len(held_out):
        return held_out
    new_E = np.ones(len(held_out), np.bool_)
    for other in known_others(dataset, split):
        new_E &= ~contained(held_out.items_E[:, None], ItemLists(other.graph.user_items, held_out.users_E))[:, 0]
    return chosen(held_out, new_E)


def seen_in_validation(settings: Evaluate, dataset: Dataset) -> Seen:
    """User -> items left out of the lists of validation by a job's `[evaluate]`."""
    return seen_items(seen_rule(settings.seen, dataset), dataset, "valid")


def known_others(dataset: Dataset, split: Split) -> tuple[Behaviour, ...]:
    """Other behaviours as they are known when `split` begins."""
    return tuple(other.until_test if split == "test" else other for other in dataset.others)


def validation_pairs(settings: Evaluate, dataset: Dataset) -> Interactions:
    """The validation pairs that lists are judged by, by a job's `[evaluate]`."""
    return judged_pairs(seen_rule(settings.seen, dataset), dataset, "valid", settings.users)


def out_of_reach(held_out: Interactions, seen: Seen) -> int:
    """How many held-out pairs, each counted once, `seen` leaves out, so that no list holds them."""
    if not len(held_out):
        return 0
    held = Held.of(held_out)
    users_E, items_E1 = held.users_H[held.items.row_numbers()], held.items.indices[:, None]
    lost_E1 = np.zeros(items_E1.shape, np.bool_)
    for part in seen.parts:
        lost_E1 |= contained(items_E1, ItemLists(part, users_E))
    return int(lost_E1.sum())


@dataclass(frozen=True, slots=True)
class Lost:
    """Held-out pairs of `split` that no list by `rule` holds: `pairs` of all `held`, `rated_low` of them are no
    repeats, but of items that the user rated low before."""

    split: Split
    rule: SeenRule
    pairs: int
    rated_low: int
    held: int

    @classmethod
    def of(cls, dataset: Dataset, split: Split, rule: SeenRule, held_out: Interactions, seen: Seen) -> Lost:
        """The pairs of `held_out` that `seen` leaves out, both of `split` by `rule`."""
        pairs = out_of_reach(held_out, seen)
        repeats = pairs if dataset.negatives is None or not pairs else out_of_reach(held_out, Seen(_taken_before(dataset, split)))
        return cls(split, rule, pairs, pairs - repeats, len(held_out))

    def sentence(self, of_job: bool) -> str:
        """What a warning says, where the rule is that of the run's job, or another that an evaluation was given."""
        low = f", {self.rated_low:,} of them as items that their user rated low" if self.rated_low else ""
        rule = f"evaluate.seen = {self.rule!r}" if of_job else f"--seen {self.rule}"
        remedy = "train with evaluate.seen = 'none' to rank them" if of_job else "--seen none ranks them"
        return (
            f"{self.pairs:,} of {self.held:,} {self.split} pairs are seen already{low}, and {rule} leaves them out, so that no "
            f"list can hold them and each counts as a miss; {remedy}"
        )


def lost_in_validation(settings: Evaluate, dataset: Dataset) -> Lost:
    """The validation pairs that no list holds, by a job's `[evaluate]`."""
    rule = seen_rule(settings.seen, dataset)
    return Lost.of(dataset, "valid", rule, validation_pairs(settings, dataset), seen_items(rule, dataset, "valid"))


def _taken_before(dataset: Dataset, split: Split) -> tuple[Csr, ...]:
    """User -> items of the target until `split` begins."""
    return dataset.known_items(*([dataset.valid] if split == "test" else []))
