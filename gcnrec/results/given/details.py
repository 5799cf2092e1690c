"""What an evaluation says in more detail when it is asked: metrics beyond accuracy, recall by an attribute, value of items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.loaders.schema import Dataset
from gcnrec.ranking.beyond_accuracy import BeyondAccuracy
from gcnrec.ranking.by_attribute import recall_by_value, value_metrics
from gcnrec.ranking.evaluate import Evaluation, HeldOutSplit
from gcnrec.results.given.attributes import Groups, read_attributes
from gcnrec.results.given.dropped import FileCounts
from gcnrec.runs.folder import Run
from gcnrec.storage.places import StrPath, place
from gcnrec.system.observer import Observer


@dataclass(frozen=True, slots=True)
class ItemDetails:
    """What a file says of the items: `groups` by column, `values_I` float64 (NaN without a value); `counts` of its rows."""

    groups: Mapping[str, Groups] = field(default_factory=dict)
    values_I: NDArray[np.float64] | None = None
    counts: FileCounts | None = None

    def added(self, result: Evaluation) -> dict[str, Any]:
        """What this adds to the metrics of an evaluation: `value_metrics`, and rows of recall by column under `per`."""
        found: dict[str, Any] = {}
        if self.values_I is not None:
            found |= value_metrics(self.values_I, result.items, len(result.per_user))
        if self.groups:
            each = self.groups.items()
            found["per"] = {name: recall_by_value(groups.codes_I, groups.labels, result.items) for name, groups in each}
        if self.counts is not None:
            found["attributes_unknown_items"] = self.counts.dropped["unknown_item"]
        return found


@dataclass(frozen=True, slots=True)
class Details:
    """What is asked for: recall `per` column of the file `attributes`, metrics weighted by its column `value`, `beyond_accuracy`.

    Raises UsageError for columns without a file, a file without columns, and a column that comes twice in `per`.
    """

    per: tuple[str, ...] = ()
    value: str | None = None
    attributes: StrPath | None = None
    beyond_accuracy: bool = False

    def __post_init__(self) -> None:
        columns = (*self.per, *((self.value,) if self.value is not None else ()))
        if columns and self.attributes is None:
            option = "--per" if self.per else "--value"
            raise UsageError(f"{option} needs --attributes FILE with the column {columns[0]!r} of the items; name one")
        if self.attributes is not None and not columns:
            raise UsageError("--attributes is read by --per COLUMN and --value COLUMN; add one, or leave --attributes out")
        twice = next((name for name in self.per if self.per.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"--per {twice} comes twice; give it once")

    def read(self, dataset: Dataset) -> ItemDetails:
        """The columns of the file, which has none without a name. DataError as of `read_attributes`, and for wrong values."""
        if self.attributes is None:
            return ItemDetails()
        of_value = {} if self.value is None else {self.value: "--value"}
        found = read_attributes(dataset, place(self.attributes), of_value | dict.fromkeys(self.per, "--per"))
        values_I = None if self.value is None else found.numbers(self.value)
        return ItemDetails({name: found.groups(name) for name in self.per}, values_I, found.counts)

    def beyond(self, run: Run, split: HeldOutSplit, scratch: Path, observer: Observer) -> BeyondAccuracy | None:
        """What measures lists beyond accuracy, None where that is not asked for. `scratch`: a folder to map embeddings in."""
        if not self.beyond_accuracy:
            return None
        rows_IF = _likeness(run, scratch)
        if rows_IF is None:
            lacking = f"{run.job.model.name} has no embeddings, and {run.dataset.name} no item features"
            observer.note(f"diversity is left out: {lacking}")
        return BeyondAccuracy.of(rows_IF, split.item_degrees_I, split.seen.parts)


def _likeness(run: Run, scratch: Path) -> NDArray[np.float32] | None:
    """Rows by which items are alike, float32 (I, F): the embeddings of a trained model, else features, None without either."""
    if run.job.model.closed_form:
        return run.dataset.item_features
    return run.embeddings(scratch, np.empty(0, np.int64)).items_IF.numpy()
