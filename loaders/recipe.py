"""What a dataset is made from, as dataset.json keeps it: a `[data]` section whose paths hold from any working directory, and its
input files by size and time. All of it together decides the rows, so that it is the key under which a dataset is found again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from gcnrec.config import Data
from gcnrec.config.data import PATHS
from gcnrec.errors import UsageError
from gcnrec.loaders.conditions.condition import parse_condition
from gcnrec.loaders.ingest.listing import listed

PLACES = {"card", "folder", "digest", "name"}
"""Keys that say where a dataset is found, not what it holds."""
BOUNDS = {"max_id_bytes"}
"""Keys that refuse input and change no row of what is taken."""
RULES = 3
"""The number of ingestion's rules: raised whenever the same files and settings may give other rows than before."""
Inputs = dict[str, list[list[Any]]]
"""For each of `PATHS` that is set: path below what was named, bytes and time of every file."""
_KEY_DIGITS = 10


def recipe_of(data: Data, data_root: Path | None) -> dict[str, Any]:
    """Every key of `data` that is set, by name, without `PLACES` and `BOUNDS`; relative paths start at `data_root`."""
    if_any = {key: getattr(data, key) for key in ("weight_log", "features_text", "feature_weights")} | {
        "keep_other": data.behaviour
    }
    without_effect = {key for key, counts in if_any.items() if not counts}
    recipe = data.model_dump(exclude_none=True, exclude=PLACES | BOUNDS | without_effect)
    return recipe | {key: absolute(recipe[key], data_root) for key in PATHS if key in recipe}


def absolute(text: str, data_root: Path | None) -> str:
    """A path or glob as it is found from anywhere, links followed; a URI stays as it is."""
    return text if "://" in text else str(((data_root or Path()) / text).resolve())


def inputs_of(data: Data, data_root: Path | None, pinned: Collection[str] = ()) -> Inputs:
    """The files that `data` names, as they lie there now, without keys that are `pinned` by a sha256.

    Raises DataError where there are none.
    """
    texts = {key: getattr(data, key) for key in PATHS if key not in pinned}
    return {key: [list(stamp) for stamp in listed(text, data_root).stamps()] for key, text in texts.items() if text}


def conditions_of(data: Data) -> list[str]:
    """The SQL conditions on rows, and an expression of a weight that may call for the moment."""
    texts = [value for key, value in data.model_dump(exclude_none=True).items() if key.startswith("where")]
    return texts + ([data.weight] if data.weight and _is_sql(data.weight) else [])


def _is_sql(weight: str) -> bool:
    """Whether a weight may be an expression; the name of a column that reads like one has no effect here."""
    try:
        parse_condition(weight, key="weight")
    except UsageError:
        return False
    return True


def first_change(before: Inputs, now: Inputs) -> str:
    """The first file that has come, gone or changed, and how, as messages have it; empty where none has."""
    for key in dict.fromkeys((*before, *now)):
        had, has = ({path: (size, when) for path, size, when in inputs.get(key, [])} for inputs in (before, now))
        for path in sorted({*had, *has}):
            if path not in has:
                return f"{path} of data.{key} is gone"
            if path not in had:
                return f"{path} of data.{key} is new"
            if had[path] != has[path]:
                (size, _), (bytes_now, _) = had[path], has[path]
                how = f"from {size:,} to {bytes_now:,} bytes" if size != bytes_now else "its time of change is another"
                return f"{path} of data.{key} has changed ({how})"
    return ""


def dataset_key(data: Data, data_root: Path | None, inputs: Inputs, others: tuple[str, ...] = ()) -> str:
    """Ten hexadecimal digits over everything that decides a dataset's rows: rules, settings, `inputs`, and `others`.

    `others`: the text of a card, which pins the files that are not among `inputs`, and the moment of a condition on the time.
    """
    recipe = recipe_of(data, data_root)
    recipe |= {key: getattr(data, key) for key in PATHS if key in recipe and key not in inputs}
    if not (data.item_features or data.user_features):  # where words are features, the rarest go when memory is short
        del recipe["memory_limit"]
    whole = json.dumps([RULES, recipe, inputs, others], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:_KEY_DIGITS]


def folder_name(text: str) -> str:
    """`text` as the readable part of a folder's name: letters, digits and . _ -, none of them an option or hidden."""
    return re.sub(r"[^\w.-]+", "-", text)[:80].strip("-.") or "data"


def name_of(text: str) -> str:
    """What a data set is called after the file, folder, glob or URI `text`: the last part of it without wildcards."""
    path = text.partition("://")[2].partition("?")[0] if "://" in text else text
    parts = PurePosixPath(path).parts
    fixed = list(takewhile(lambda part: not re.search(r"[*?\[]", part), parts))
    last = PurePosixPath(fixed[-1]) if fixed else PurePosixPath()
    return (last.stem if len(fixed) == len(parts) else last.name).strip("/").lstrip("-.") or "data"
