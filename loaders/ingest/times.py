"""Times that a split leaves unused: advice, while data is ingested, on how to cut by them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa

from gcnrec.config import Data

_NAMED = re.compile(r"(^|[_.])(time|timestamp|datetime|date|ts)([_.]|$)", re.IGNORECASE)
"""Names that columns of numbers have when these are times."""


def time_advice(data: Data, split: str, columns: Iterable[tuple[str, pa.Field]]) -> str | None:
    """A sentence for a `random` split of data that holds times; None for other splits, and where there are none.

    `columns`: paths and fields of the train input.
    """
    if split != "random":
        return None
    why = "models are asked about the future, which random pairs judge wrongly where popularity changes"
    if data.time:
        return f"split = 'random' leaves column {data.time!r} unused: {why}; prefer --split temporal"
    used = {data.user, data.item, data.weight, data.rating}
    times = [path for path, field in columns if path not in used and _holds_times(path, field.type)]
    return f"column {times[0]!r} may hold times: {why}; prefer --time {times[0]}, which splits by time" if times else None


def _holds_times(path: str, kind: pa.DataType) -> bool:
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return True
    return bool((pa.types.is_integer(kind) or pa.types.is_floating(kind)) and _NAMED.search(path))
