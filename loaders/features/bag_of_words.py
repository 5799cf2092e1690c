"""Lists of values, with counts or without, as features: few become columns, many are weighted by TF-IDF and projected.

Letters: R rows of a batch, W words kept, F columns that the input column becomes, E entries of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gcnrec.errors import UsageError
from gcnrec.loaders.features.categories import CATEGORIES, MultiHot, numbers_in
from gcnrec.loaders.features.values import Place, entries_of, merge_entries
from gcnrec.system.scratch import Scratch, Spool

MAX_WORDS = 2**16
"""Words kept at most, the most frequent ones; fewer where the memory limit does not hold the projection of as many."""
_CELL_BYTES = 36
"""What a word takes at most, for each column of the projection, while that is sought."""


Sparse = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
"""`indptr`, `indices` and `values` of sparse rows."""


@dataclass(frozen=True, slots=True)
class TfIdf:
    """log(1 + count) * idf per word, rows scaled to length 1, times `vectors_WF` where there are any.

    idf = log(1 + rows with words / rows with this word). Other words, and rows without any known one, add nothing.
    """

    name: str
    counts: str | None
    words: pa.Array
    idf_W: NDArray[np.float32]
    vectors_WF: NDArray[np.float32] | None

    @property
    def width(self) -> int:
        return len(self.words) if self.vectors_WF is None else self.vectors_WF.shape[1]

    def sparse(self, batch: pa.RecordBatch, first: int, place: Place) -> Sparse:
        """The weighted rows of `batch` before they are projected."""
        found = entries_of(batch, self.name, self.counts, first, place)
        numbers_E = numbers_in(found.words, self.words)
        known_E = numbers_E >= 0
        rows_E, words_E, counts_E = merge_entries(
            found.rows_E[known_E], numbers_E[known_E], found.counts_E[known_E], max(len(self.words), 1)
        )
        weights_E = np.log1p(counts_E) * self.idf_W[words_E]
        length_R = np.sqrt(np.bincount(rows_E, weights_E**2, len(batch)))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows_E, minlength=len(batch)))])
        return indptr.astype(np.int64), words_E.astype(np.int32), (weights_E / length_R[rows_E]).astype(np.float32)

    def encode(self, batch: pa.RecordBatch, first: int, place: Place) -> NDArray[np.float32]:
        indptr, indices, values = self.sparse(batch, first, place)
        rows_RF = np.zeros((len(batch), self.width), np.float32)
        if self.vectors_WF is None:
            rows_RF[np.repeat(np.arange(len(batch)), np.diff(indptr)), indices] = values
        else:
            _project(indptr, indices, values, self.vectors_WF, rows_RF)
        return rows_RF

    def described(self) -> dict[str, Any]:
        rule = "tf-idf" if self.vectors_WF is None else "tf-idf, truncated svd"
        return {"column": self.name, "counts": self.counts, "rule": rule, "width": self.width, "words": len(self.words)}

    def save(self, path: Path) -> None:
        """A Parquet table: word, idf, and its row of the projection."""
        columns: dict[str, pa.Array] = {"word": self.words, "idf": pa.array(self.idf_W)}
        if self.vectors_WF is not None:
            flat = pa.array(np.ascontiguousarray(self.vectors_WF).reshape(-1))
            columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, self.width)
        pq.write_table(pa.table(columns), path, compression="zstd")

    @staticmethod
    def load(path: Path, name: str, counts: str | None) -> TfIdf:
        """What `save` wrote."""
        table = pq.read_table(path).combine_chunks()
        vectors = None
        if "vector" in table.column_names:
            column = table.column("vector").combine_chunks()
            vectors = column.flatten().to_numpy().reshape(len(column), -1)
        return TfIdf(name, counts, table.column("word").combine_chunks(), table.column("idf").to_numpy(), vectors)

    def projected(self, width: int, batches: Iterable[tuple[int, pa.RecordBatch]], scratch: Scratch, place: Place) -> TfIdf:
        """The same with `width` right singular vectors of all weighted rows, which lie in `scratch` meanwhile."""
        # Imported here: it imports torch, which ingestion otherwise does without.
        from gcnrec.loaders.features.truncated_svd import right_vectors

        indptr, indices, values = (Spool(scratch.folder, dtype) for dtype in (np.int64, np.int32, np.float32))
        indptr.append(np.zeros(1, np.int64))
        for first, batch in batches:
            ends, numbers, weights = self.sparse(batch, first, place)
            indptr.append(ends[1:] + len(indices))
            indices.append(numbers)
            values.append(weights)
        vectors_WF = right_vectors(indptr.array(), indices.array(), values.array(), len(self.words), width, seed=0)
        return replace(self, vectors_WF=vectors_WF)


@dataclass(slots=True)
class BagFit:
    """Counts in how many rows each value is. Past `held` bytes of values, the rarer half is forgotten and counted anew.

    Counting takes several times `held` bytes. More words than `width` are to be projected on as many columns. Raises UsageError
    where that takes more than `limit` bytes, however few the words.
    """

    place: Place
    counts: str | None
    limit: int
    held: int
    width: int
    rows: int = 0
    pending_bytes: int = 0
    pending: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        if (needed := _CELL_BYTES * self.width**2) > self.limit:
            raise UsageError(
                f"text_width = {self.width} takes {needed:,} bytes to find, of which memory_limit allows {self.limit:,}; "
                "raise memory_limit or choose fewer columns"
            )

    def observe(self, batch: pa.RecordBatch, first: int) -> None:
        found = entries_of(batch, self.place.name, self.counts, first, self.place)
        coded = found.words.dictionary_encode()
        codes_E = coded.indices.to_numpy(zero_copy_only=False)
        rows_E, words_E, _ = merge_entries(found.rows_E, codes_E, found.counts_E, max(len(coded.dictionary), 1))
        rows_W = np.bincount(words_E, minlength=len(coded.dictionary))
        self.rows += len(np.unique(rows_E))
        self.pending.append(pa.table({"word": coded.dictionary, "rows": pa.array(rows_W)}))
        self.pending_bytes += self.pending[-1].nbytes
        if self.pending_bytes > self.held:
            self._merge()

    def fitted(self) -> MultiHot | TfIdf:
        """The encoding, not yet projected.

        Words of one row only tie no two rows together and are left out. Raises DataError when no word is left.
        """
        self._merge()
        table = self.pending[0].sort_by([("rows", "descending"), ("word", "ascending")])
        if self.counts is None and 0 < len(table) <= CATEGORIES:
            return MultiHot(self.place.name, table.column("word").combine_chunks().sort())
        most = min(MAX_WORDS, self.limit // (_CELL_BYTES * self.width))
        table = table.filter(pc.greater(table.column("rows"), 1)).slice(0, most)
        if not len(table):
            raise self.place.refuse("holds no value that two rows share; leave it out")
        rows_W = table.column("rows").to_numpy()
        idf_W = np.log1p(self.rows / rows_W).astype(np.float32)
        return TfIdf(self.place.name, self.counts, table.column("word").combine_chunks(), idf_W, None)

    def _merge(self) -> None:
        waiting = pa.concat_tables(self.pending)
        coded = waiting.column("word").combine_chunks().dictionary_encode()
        rows_W = np.bincount(coded.indices.to_numpy(), waiting.column("rows").to_numpy(), len(coded.dictionary))
        merged = pa.table({"word": coded.dictionary, "rows": rows_W.astype(np.int64)})
        if merged.nbytes > self.held:
            merged = merged.sort_by([("rows", "descending"), ("word", "ascending")]).slice(0, len(merged) // 2)
        self.pending, self.pending_bytes = [merged.combine_chunks()], 0


@numba.njit(parallel=True, cache=True, nogil=True)
def _project(indptr, indices, values, vectors, out):  # type: ignore[no-untyped-def]
    """`out` float32 (R, F) = the sparse rows (CSR) times `vectors` float32 (W, F)."""
    for row in numba.prange(len(indptr) - 1):
        out[row] = 0
        for at in range(indptr[row], indptr[row + 1]):
            word = np.uint64(indices[at])
            for column in range(vectors.shape[1]):
                out[row, column] += values[at] * vectors[word, column]
