"""Ids and numbers: `Vocabulary` converts between them, `Interactions` holds edges as numbers.

*Ids* come from the user's data and keep their Arrow type; *numbers* are 0 .. n-1 by falling train degree.
Letters: E interactions, U users, I items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.errors import DataError
from gcnrec.ids.id_types import as_ids, plain

MAX_NODES = 2**31 - 1
_CHUNK = 2**16


class Vocabulary(ABC):
    """Original ids in the order of their numbers: `ids[number]`. Ids are unique and hold no null."""

    @property
    @abstractmethod
    def ids(self) -> pa.Array: ...

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def type(self) -> pa.DataType:
        """The Arrow type of the ids."""
        return self.ids.type

    @property
    def nbytes(self) -> int:
        """What all ids take, or will take, in memory."""
        return int(self.ids.nbytes)

    def chunks(self, rows: int) -> Iterator[pa.Array]:
        """All ids in the order of their numbers, at most `rows` at a time."""
        for first in range(0, len(self), rows):
            yield self.ids.slice(first, rows)

    @cached_property
    def _lookup(self) -> pa.Array:
        return self.ids.cast(plain(self.ids.type))

    def numbers(self, ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
        """Numbers of `ids`; -1 where an id is null, unknown or out of the range of the vocabulary's type.

        Raises DataError for ids of another family, for example text where integers are expected.
        """
        found = pc.fill_null(pc.index_in(self.cast(ids), value_set=self._lookup, skip_nulls=True), -1)
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        return found.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)

    def cast(self, ids: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """`ids` in the `plain` form of the vocabulary's type, null where they are out of its range; DataError as of `numbers`."""
        try:
            return as_ids(ids, self.type)
        except (pa.ArrowException, ValueError) as problem:
            raise DataError(f"ids of type {ids.type} cannot be read as {self.type}: {problem}") from None

    def picked(self, numbers: NDArray[np.integer]) -> pa.Array:
        """The original ids of rising `numbers`, by one pass over all ids: what `decode` gives, but not all of them in memory."""
        parts, first = [pa.array([], self.type)], 0
        for chunk in self.chunks(_CHUNK):
            low, high = np.searchsorted(numbers, (first, first + len(chunk)))
            parts.append(chunk.take(pa.array(numbers[low:high] - first)))
            first += len(chunk)
        return pa.chunked_array(parts, self.type).combine_chunks()

    def decode(self, numbers: NDArray[np.integer]) -> pa.Array:
        """The original ids of `numbers`, in their Arrow type."""
        return self.ids.take(pa.array(numbers))


class MemoryVocabulary(Vocabulary):
    """A vocabulary whose ids lie in memory. Raises DataError where one is null."""

    def __init__(self, ids: pa.Array) -> None:
        if ids.null_count:
            raise DataError(f"ids must not be null, {ids.null_count} are; drop or map them before building a vocabulary")
        self._ids = ids

    @property
    def ids(self) -> pa.Array:
        return self._ids


@dataclass(frozen=True, slots=True)
class Interactions:
    """Edges by number: `users_E`, `items_E` int32; `times_E` int64 seconds or None; `weights_E` float32 or None."""

    users_E: NDArray[np.int32]
    items_E: NDArray[np.int32]
    times_E: NDArray[np.int64] | None
    weights_E: NDArray[np.float32] | None
    user_ids: Vocabulary
    item_ids: Vocabulary

    def __post_init__(self) -> None:
        count = len(self.users_E)
        for name in ("items_E", "times_E", "weights_E"):
            column = getattr(self, name)
            if column is not None and len(column) != count:
                raise DataError(f"{name} must have one entry per interaction: expected {count}, got {len(column)}")
        for name, numbers, size in (("users_E", self.users_E, len(self.user_ids)), ("items_E", self.items_E, len(self.item_ids))):
            if count and (int(numbers.min()) < 0 or int(numbers.max()) >= size):
                raise DataError(f"{name} must lie in 0 .. {size - 1}, got {numbers.min()} .. {numbers.max()}")

    def __len__(self) -> int:
        return len(self.users_E)
