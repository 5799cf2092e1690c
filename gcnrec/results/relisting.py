"""What lists are to hold besides the best items: at most so many of a kind, and items unlike each other.

Letters: I items, F width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from gcnrec.errors import UsageError
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.export_rules import unit_length_
from gcnrec.ranking.relist import Cap, Relist
from gcnrec.results.given.attributes import read_attributes
from gcnrec.results.given.dropped import FileCounts
from gcnrec.runs.folder import Run
from gcnrec.storage.places import Given, place


@dataclass(frozen=True, slots=True)
class Relisting:
    """How lists are chosen from the ranking (`gcnrec.ranking.relist`).

    `max_per`: by a column of the file `attributes`, how many items of one value a list may hold; items without a value, or absent
    from the file, are not counted. `diversity` from 0, by score alone, to below 1. Raises UsageError for other values.
    """

    max_per: Mapping[str, int] = field(default_factory=dict)
    attributes: Given | None = None
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if self.max_per and self.attributes is None:
            raise UsageError(
                f"--max-per needs --attributes FILE with the column {next(iter(self.max_per))!r} of the items; name one"
            )
        if self.attributes is not None and not self.max_per:
            raise UsageError("--attributes is read by --max-per COLUMN=N alone; add it, or leave --attributes out")
        wrong = next((name for name, most in self.max_per.items() if most < 1), None)
        if wrong is not None:
            raise UsageError(f"--max-per {wrong} must be at least 1, got {self.max_per[wrong]}")
        if not 0.0 <= self.diversity < 1.0:
            raise UsageError(f"--diversity must be from 0 to below 1, got {self.diversity:g}")

    @property
    def changes(self) -> bool:
        """Whether lists differ from the beginning of the ranking."""
        return bool(self.max_per) or self.diversity > 0.0

    def of(self, run: Run, dataset: Dataset, items_IF: torch.Tensor | None) -> tuple[Relist, list[FileCounts]]:
        """What chooses the lists of a run, and the rows of `attributes` without effect.

        `dataset` may have new items behind those of the run, and `items_IF` the embeddings of all, which get length 1 in
        place; None for a closed form.
        DataError where the file lacks a column or names an item twice; UsageError for diversity without embeddings.
        """
        if self.diversity and items_IF is None:
            raise UsageError(
                f"--diversity compares embeddings, and {run.folder} holds {run.job.model.name}, which has none; leave it out"
            )
        if items_IF is not None:
            unit_length_(items_IF)
        caps, counts = self._caps(dataset) if self.attributes is not None else ((), [])
        return Relist(caps, self.diversity, None if items_IF is None else items_IF.numpy()), counts

    def _caps(self, dataset: Dataset) -> tuple[tuple[Cap, ...], list[FileCounts]]:
        """A cap for each column of the file."""
        assert self.attributes is not None
        read = read_attributes(dataset, place(self.attributes), dict.fromkeys(self.max_per, "--max-per"))
        return tuple(Cap(read.groups(name).codes_I, most) for name, most in self.max_per.items()), [read.counts]
