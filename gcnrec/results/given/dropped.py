"""What of the files of a `recommend` call is dropped, and why: counts for the summary, sentences for the output.

Letters: E pairs, R users asked for (rows of the request, in its order), I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gcnrec.graph import Csr
from gcnrec.ops.topk import ItemLists, contained

WORDS = {
    "unknown_user": "of unknown users", "unknown_item": "of unknown items", "not_asked": "of lists that are not made here",
    "known_item": "of items that the data has", "repeated": "repeated", "seen": "seen", "excluded": "excluded",
}  # fmt: skip
"""Why a row of a file is dropped, as keys of the summary, and in words."""


@dataclass(frozen=True, slots=True)
class FileCounts:
    """The `rows` of the file that an option names, and how many of them are `dropped`: each by one reason of `WORDS`."""

    option: str
    rows: int
    dropped: dict[str, int]

    @property
    def key(self) -> str:
        """The option as the summary names it."""
        return self.option.removeprefix("--").replace("-", "_")

    @property
    def summary(self) -> dict[str, int]:
        return {"rows": self.rows, **self.dropped}

    @property
    def sentence(self) -> str | None:
        """What is dropped, in words; None where each row counts."""
        parts = [f"{count:,} {WORDS[reason]}" for reason, count in self.dropped.items() if count]
        if not parts:
            return None
        return f"{self.option}: {sum(self.dropped.values()):,} of {self.rows:,} rows have no effect: {', '.join(parts)}"

    def with_dropped(self, **more: int) -> FileCounts:
        """The same with further reasons."""
        return replace(self, dropped={**self.dropped, **more})


def seen_and_excluded(
    candidates: Csr, users_R: NDArray[np.int32], known: Sequence[Csr], excluded: Csr | None, allowed_I: NDArray[np.bool_]
) -> tuple[int, int]:
    """How many pairs of `candidates` (row of the request -> items) are seen, and how many of the others are excluded.

    `users_R`: user numbers, -1 for unknown ones; `known`: user -> items that are left out as seen; `excluded`: row -> items.
    """
    rows_E, items_E = candidates.row_numbers(), candidates.indices
    users_E, seen_E = users_R[rows_E], np.zeros(len(rows_E), np.bool_)
    for part in known:
        seen_E |= contained(items_E[:, None], ItemLists(part, np.maximum(users_E, 0)))[:, 0]
    seen_E &= users_E >= 0
    excluded_E = ~allowed_I[items_E]
    if excluded is not None:
        excluded_E |= contained(items_E[:, None], ItemLists(excluded, rows_E))[:, 0]
    return int(seen_E.sum()), int((excluded_E & ~seen_E).sum())
