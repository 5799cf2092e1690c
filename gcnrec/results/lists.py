"""Lists as a file of original ids, streamed: memory does not grow with the lists.

Letters: R rows of a request, each with a list; B of them in a chunk; K list length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcnrec.interactions import Vocabulary
from gcnrec.ops.topk import TopK
from gcnrec.results.outputs import Output
from gcnrec.system.observer import Observer

_GROUP_BYTES = 2**23
"""Of lists that are written at a time, as a row group."""


_SOURCES = pa.array(["model", "fallback"])


@dataclass(frozen=True, slots=True)
class Columns:
    """What the two columns of ids are called: `of`, whose lists they are (`ids`, one a row), and `listed` (`vocabulary`).

    `fallback_R` bool: which lists are not the model's; a column `source` then says "model" or "fallback".
    """

    of: str
    ids: pa.Array
    listed: str
    vocabulary: Vocabulary
    fallback_R: NDArray[np.bool_] | None = None


def write_lists(out: Output, columns: Columns, chunks: Iterator[TopK], observer: Observer) -> NDArray[np.int64]:
    """Write the lists of all rows, in rising chunks of them, and return the length of each row's list, int64 (R).

    Columns: both ids in their Arrow types, `rank` int32 from 1, `score` float32, `source` where lists have several.
    """
    types = {columns.of: columns.ids.type, columns.listed: columns.vocabulary.type, "rank": pa.int32(), "score": pa.float32()}
    types |= {} if columns.fallback_R is None else {"source": pa.string()}
    lengths_R = np.zeros(len(columns.ids), np.int64)
    pending: list[pa.Table] = []
    with out.opened(pa.schema(types)) as write:
        for lists in chunks:
            filled_BK = lists.items_BK >= 0
            at, slots = np.nonzero(filled_BK)
            lengths_R[lists.users_B] = filled_BK.sum(axis=1)
            observer.work("ranking", int(lists.users_B[-1]) + 1, len(lengths_R))
            values = {
                columns.of: columns.ids.take(pa.array(lists.users_B[at])),
                columns.listed: columns.vocabulary.decode(lists.items_BK[filled_BK]),
                "rank": pa.array((slots + 1).astype(np.int32)),
                "score": pa.array(lists.scores_BK[filled_BK]),
            }
            if columns.fallback_R is not None:
                values["source"] = _SOURCES.take(pa.array(columns.fallback_R[lists.users_B[at]].astype(np.int8)))
            pending.append(pa.table(values, schema=pa.schema(types)))
            if sum(table.nbytes for table in pending) >= _GROUP_BYTES:
                write(pa.concat_tables(pending))
                pending.clear()
        write(pa.concat_tables([*pending, pa.schema(types).empty_table()]))
    return lengths_R
