"""Titles of a few items, read from the file of item features that the data was made from; and texts of strangers, cut to size."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gcnrec.config import Data
from gcnrec.config.toml import validated
from gcnrec.errors import DataError, GcnrecError
from gcnrec.ids.id_types import family
from gcnrec.loaders.features.encode import FeatureFile
from gcnrec.loaders.features.texts import RULE
from gcnrec.loaders.ingest.inputs import Input
from gcnrec.loaders.recipe import first_change, inputs_of
from gcnrec.loaders.schema import Dataset

_NAMES = ("title", "name", "headline", "label", "caption", "description")
"""What a column of titles is called, or ends with behind `_`, the likeliest first."""
_MOST = 90
"""Characters of a title that are shown."""
_JOINERS = "\u200c\u200d"
"""Marks inside words and pictures, which are no characters of their own."""
_PILED = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1dc0-\u1dff\u20d0-\u20f0]{2})[\u0300-\u036f\u0483-\u0489\u1dc0-\u1dff\u20d0-\u20f0]+"
)
"""Accents above each other beyond the second, which reach into other lines."""
_ROWS = 4096


@dataclass(frozen=True)
class Titles:
    """What items are called: the text of each number that is asked for; `absent` says why these are ids, "" for titles."""

    texts: Mapping[int, str]
    absent: str = ""


def titles_of(dataset: Dataset, numbers: NDArray[np.integer]) -> Titles:
    """What the items of rising `numbers`, int32 (N), are called: by their titles where a file has some, else by their ids."""
    ids = dataset.item_ids.picked(numbers)
    texts = dict(zip(numbers.tolist(), map(shown_text, ids.to_pylist()), strict=True))
    try:
        source, column, name = _column(dataset)
        texts |= {number: title for number, title in _read(source, column, name, dataset, ids, numbers).items() if title}
    except (GcnrecError, OSError, pa.ArrowException) as problem:
        return Titles(texts, f"Items are shown by their ids: {problem}.")
    return Titles(texts)


def shown_text(value: Any, most: int = _MOST) -> str:
    """A value as one line of at most so many characters, without characters that steer the text around them; bytes as digits."""
    text = value.hex() if isinstance(value, bytes) else str(value)[: 8 * most]
    text = " ".join("".join(each if each.isprintable() or each in _JOINERS else " " for each in text).split())
    text = _PILED.sub(r"\1", unicodedata.normalize("NFC", text))
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\u2026"


def _column(dataset: Dataset) -> tuple[Input, str, str]:
    """The file of item features, its column of ids, and of titles. DataError, a reason, where there is none."""
    info = dataset.info
    text, base = info.get("data", {}).get("item_features"), info.get("inputs", {}).get("item_features")
    if "item_features" in info.get("tables", {}):
        raise DataError("their features were a table in memory")
    if text is None or info.get("data", {}).get("item") is None:
        raise DataError("the data has no file of items with a column such as 'title' (item_features)")
    if base is not None:
        data = validated(Data, {"item_features": text}, "dataset.json")
        change = first_change({"item_features": base}, inputs_of(data, None))
        if change:
            raise DataError(f"since ingestion, {change}")
    source, ids = FeatureFile("item", text, None, info["data"]["item"], info["data"].get("partition_type")).opened()
    name = _likeliest(
        [name for name, field in source.columns() if name != ids and _holds_text(field.type)],
        info.get("item_features", {}).get("columns", []),
    )
    if name is None:
        raise DataError(f"{Path(text).name} has no column of texts such as 'title'")
    return source, ids, name


def _holds_text(kind: pa.DataType) -> bool:
    """Whether a column holds texts, or lists of words."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return family(kind.value_type if is_list else kind) == "text"


def _likeliest(names: Sequence[str], fitted: Sequence[Mapping[str, Any]]) -> str | None:
    """The column of titles among those of texts: by its name, else the first one that became words; None without one."""
    for wanted in _NAMES:
        parts = {name: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in names}
        found = [name for name, text in parts.items() if text == wanted or text.endswith(f"_{wanted}")]
        if found:
            return min(found, key=len)
    words = [str(each.get("column")) for each in fitted if str(each.get("rule", "")).startswith(RULE)]
    return next((name for name in words if name in names), None)


def _read(source: Input, column: str, name: str, dataset: Dataset, ids: pa.Array, numbers: NDArray[np.integer]) -> dict[int, str]:
    """The titles of `ids`, whose numbers are `numbers`, by one pass over the file."""
    wanted = dataset.item_ids.cast(ids)
    found: dict[int, str] = {}
    expressions = {"id": source.expression(column), "title": source.expression(name)}
    for batch in source.batches(expressions, [column, name], _ROWS):
        places = pc.index_in(dataset.item_ids.cast(batch.column(0)), value_set=wanted, skip_nulls=True)
        rows = pc.indices_nonzero(pc.is_valid(places))
        titles = batch.column(1).take(rows).to_pylist()
        for place, title in zip(places.take(rows).to_pylist(), titles, strict=True):
            words = title if isinstance(title, list) else [title]
            found[int(numbers[place])] = shown_text(" ".join(word for word in words if word))
        if len(found) == len(numbers):
            break
    return found
