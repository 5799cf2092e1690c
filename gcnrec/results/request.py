"""What a `recommend` call asks for, read from its files of users, items, candidates and exclusions.

Letters: R users asked for (rows of the request, in its order), I items, E pairs.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.graph import Csr, csr_from_edges
from gcnrec.ids.id_types import held
from gcnrec.interactions import MemoryVocabulary, Vocabulary
from gcnrec.loaders.schema import Dataset
from gcnrec.results.id_files import columns_of, ids_of, read_table


@dataclass(frozen=True, slots=True)
class RequestFiles:
    """The files of a `recommend` call (`gcnrec.results.recommend`); None where one is not given."""

    users: Path | None
    items: Path | None
    candidates: Path | None
    exclude: Path | None
    new_users: Path | None
    new_items: Path | None

    @property
    def bring_nodes(self) -> bool:
        return self.new_users is not None or self.new_items is not None

    @property
    def given(self) -> list[Path]:
        return [path for path in astuple(self) if path is not None]


@dataclass(frozen=True, slots=True)
class Request:
    """`ids`: the users asked for, each once; `numbers_R` int32: their user numbers, -1 where the dataset has none.

    `allowed_I` bool: the items that may be listed; `candidates` and `excluded`: items per row of the request, or None.
    `unknown_users` and `unknown_items` count ids of the files that the dataset does not have.
    """

    ids: pa.Array
    numbers_R: NDArray[np.int32]
    allowed_I: NDArray[np.bool_]
    candidates: Csr | None
    excluded: Csr | None
    unknown_users: int
    unknown_items: int


def read_request(dataset: Dataset, files: RequestFiles, keep_unknown: bool) -> Request:
    """Users of the first file that names some, else all by number; unknown ones only with `keep_unknown`.

    An `exclude` file of one column names items to leave out for everybody, otherwise user and item pairs.
    Raises DataError for a file that cannot be read or of which no id is known.
    """
    ids, numbers_R, unknown_users = _users(dataset, files.users or files.candidates or files.new_users, keep_unknown)
    rows = MemoryVocabulary(ids)
    allowed_I, unknown_items = np.full(len(dataset.item_ids), files.items is None), 0
    if files.items is not None:
        numbers, unknown_items = _items(dataset, files.items)
        allowed_I[numbers] = True
    candidates, exclude = files.candidates, files.exclude
    listed, excluded = None, None
    if candidates is not None:
        listed, unknown = _pairs(dataset, candidates, rows)
        unknown_items += unknown
    if exclude is not None and read_table(exclude, columns_of(dataset)[1]).num_columns == 1:
        numbers, unknown = _items(dataset, exclude)
        allowed_I[numbers] = False
        unknown_items += unknown
    elif exclude is not None:
        excluded, unknown = _pairs(dataset, exclude, rows)
        unknown_items += unknown
    return Request(ids, numbers_R, allowed_I, listed, excluded, unknown_users, unknown_items)


def _users(dataset: Dataset, path: Path | None, keep_unknown: bool) -> tuple[pa.Array, NDArray[np.int32], int]:
    """Distinct ids in their first order, their numbers, and how many are unknown."""
    if path is None:
        return dataset.user_ids.ids, np.arange(len(dataset.user_ids), dtype=np.int32), 0
    users, items = columns_of(dataset)
    ids = pc.unique(ids_of(path, read_table(path, users, items), users))
    numbers = dataset.user_ids.numbers(ids)
    known = numbers >= 0
    if not (keep_unknown or known.any()):
        raise DataError(f"{path} must name users of {dataset.name}, none of its {len(ids)} ids is one; check its user column")
    if not keep_unknown:
        ids, numbers = ids.filter(pa.array(known)), numbers[known]
    kind = dataset.user_ids.type
    # An id beyond the range of the type is unknown, and keeps the wider type in which the file gave it.
    ids = ids.cast(kind) if held(kind, ids) == kind else ids
    return ids, numbers, int((~known).sum())


def _items(dataset: Dataset, path: Path) -> tuple[NDArray[np.int32], int]:
    """Numbers of the known items in the file, and how many distinct ids are unknown."""
    users, items = columns_of(dataset)
    ids = pc.unique(ids_of(path, read_table(path, items, users), items))
    numbers = dataset.item_ids.numbers(ids)
    if not (numbers >= 0).any():
        raise DataError(f"{path} must name items of {dataset.name}, none of its {len(ids)} ids is one; check its item column")
    return numbers[numbers >= 0], int((numbers < 0).sum())


def _pairs(dataset: Dataset, path: Path, rows: Vocabulary) -> tuple[Csr, int]:
    """Items per row from a file of pairs, asked users only, and how many distinct items are unknown."""
    users, items = columns_of(dataset)
    table = read_table(path, users, items)
    rows_E = rows.numbers(ids_of(path, table, users))
    item_ids = ids_of(path, table, items)
    items_E = dataset.item_ids.numbers(item_ids)
    if not (items_E >= 0).any():
        raise DataError(f"{path} must name items of {dataset.name}, none of its {len(items_E)} ids is one; check its item column")
    unknown = len(pc.unique(item_ids.filter(pa.array(items_E < 0))))
    keep_E = (rows_E >= 0) & (items_E >= 0)
    return csr_from_edges(rows_E[keep_E], items_E[keep_E], len(rows), len(dataset.item_ids)), unknown
