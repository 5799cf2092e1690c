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
import torch
from numpy.typing import NDArray

from gcnrec.errors import DataError, UsageError
from gcnrec.ids.id_types import plain
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.export_rules import unit_length_
from gcnrec.ranking.relist import Cap, Relist
from gcnrec.results.given.dropped import FileCounts
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
        """A cap for each column of the file, which is read once: it may come through a pipe."""
        assert self.attributes is not None
        _, items = columns_of(dataset)
        with open_ids(self.attributes) as table:
            of_ids = table.name_of(items)
            for column in self.max_per:
                if column not in table.names or column == of_ids:
                    others = ", ".join(map(repr, (name for name in table.names if name != of_ids)))[:200] or "no other"
                    raise DataError(
                        f"{self.attributes} must have the column {column!r} of --max-per, and one of ids, it has {others}"
                    )
            ids, *columns = table.with_columns(items, list(self.max_per))
            is_text = table.is_text
        numbers_E = items.vocabulary.numbers(ids)
        known_E = numbers_E >= 0
        if not known_E.any():
            raise DataError(
                f"{self.attributes} must name items of {dataset.name}, none of its {len(ids)} ids is one; check its item column"
            )
        if len(np.unique(numbers_E[known_E])) != known_E.sum():
            raise DataError(f"{self.attributes} must name each item once, some come twice; keep one row of each")
        caps = tuple(
            Cap(_groups(numbers_E, _codes(name, values, is_text), len(dataset.item_ids)), most)
            for (name, most), values in zip(self.max_per.items(), columns, strict=True)
        )
        return caps, [FileCounts("--attributes", len(ids), {"unknown_item": int((~known_E).sum())})]


def _groups(numbers_E: NDArray[np.int32], codes_E: NDArray[np.int32], num_items: int) -> NDArray[np.int32]:
    """The group of each item; -1 for items that are not in the file."""
    groups_I, known_E = np.full(num_items, -1, np.int32), numbers_E >= 0
    groups_I[numbers_E[known_E]] = codes_E[known_E]
    return groups_I


def _codes(name: str, values: pa.ChunkedArray, is_text: bool) -> NDArray[np.int32]:
    """A number for each row, equal for equal values; -1 without a value, as an empty field of CSV is. DataError for lists."""
    try:
        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        plain_ = values.cast(plain(kind)).combine_chunks()
        if is_text:
            plain_ = pc.if_else(pc.equal(plain_, ""), pa.scalar(None, plain_.type), plain_)
        codes = pc.dictionary_encode(plain_)
    except pa.ArrowException:
        raise DataError(
            f"--max-per needs a column of texts or numbers, {name!r} is of type {values.type}; name another"
        ) from None
    return pc.fill_null(codes.indices.cast(pa.int32()), -1).to_numpy(zero_copy_only=False)
