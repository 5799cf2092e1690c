"""What lists are to hold besides the best items: at most so many of a kind, and items unlike each other.

Letters: I items, F width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.export_rules import unit_length_
from gcnrec.ranking.relist import Cap, Relist
from gcnrec.results.given.id_files import columns_of, open_ids
from gcnrec.runs.folder import Run


@dataclass(frozen=True, slots=True)
class Relisting:
    """How lists are chosen from the ranking (`gcnrec.ranking.relist`).

    `max_per`: by a column of the file `attributes`, how many items of one value a list may hold; items without a value, or absent
    from the file, are not counted. `diversity` from 0, by score alone, to below 1. Raises UsageError for other values.
    """

    max_per: Mapping[str, int] = field(default_factory=dict)
    attributes: Path | None = None
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
        return bool(self.max_per) or self.diversity > 0.0

    def of(self, run: Run, dataset: Dataset, scratch: Path) -> Relist:
        """What chooses the lists of a run, whose `dataset` may have new items behind its own; these have no likeness.

        DataError where the file lacks a column or names an item twice; UsageError for diversity without embeddings.
        """
        caps = tuple(Cap(groups_I, most) for groups_I, most in self._groups(dataset))
        unit_IF = None
        if self.diversity:
            if run.job.model.closed_form:
                raise UsageError(f"--diversity compares embeddings, and {run.folder} holds {run.job.model.name}, which has none")
            rows_IF = run.embeddings(scratch).items_IF
            unit_length_(rows_IF)  # in place: these rows are this call's own
            fresh = len(dataset.item_ids) - len(rows_IF)
            unit_IF = (
                np.concatenate([rows_IF.numpy(), np.zeros((fresh, rows_IF.shape[1]), np.float32)]) if fresh else rows_IF.numpy()
            )
        return Relist(caps, self.diversity, unit_IF)

    def _groups(self, dataset: Dataset) -> list[tuple[NDArray[np.int32], int]]:
        if self.attributes is None:
            return []
        _, items = columns_of(dataset)
        found = []
        for column, most in self.max_per.items():
            with open_ids(self.attributes) as table:
                if column not in table.names:
                    known = ", ".join(map(repr, table.names))[:200]
                    raise DataError(f"{self.attributes} must have the column {column!r} of --max-per, it has {known}")
                ids, values = table.labelled(items, column)
            numbers = items.vocabulary.numbers(ids)
            known_E = numbers >= 0
            if len(np.unique(numbers[known_E])) != known_E.sum():
                raise DataError(f"{self.attributes} must name each item once, some come twice; keep one row of each")
            found.append((_codes(numbers[known_E], values.filter(pa.array(known_E)), len(dataset.item_ids)), most))
        return found


def _codes(numbers: NDArray[np.int32], values: pa.ChunkedArray, num_items: int) -> NDArray[np.int32]:
    """The group of each item, equal for equal values; -1 without a value. DataError for lists and structs."""
    groups_I = np.full(num_items, -1, np.int32)
    try:
        codes = pc.dictionary_encode(values).combine_chunks()
    except pa.ArrowException:
        raise DataError(f"--max-per needs a column of texts or numbers, it is of type {values.type}; name another") from None
    indices = codes.indices if isinstance(codes, pa.DictionaryArray) else codes
    groups_I[numbers] = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False)
    return groups_I
