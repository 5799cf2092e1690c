"""What a dataset is made from, as dataset.json keeps it: a `[data]` section whose paths hold from any working directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gcnrec.config import Data

PATHS = ("train", "test", "valid", "item_features", "user_features")
PLACES = {"card", "folder", "digest"}
"""Keys that say where a dataset is found, not what it holds."""


def recipe_of(data: Data, data_root: Path | None) -> dict[str, Any]:
    """Every key of `data` that is set, by name, without `PLACES`; relative paths start at `data_root`."""
    recipe = data.model_dump(exclude_none=True, exclude=PLACES)
    return recipe | {key: absolute(recipe[key], data_root) for key in PATHS if key in recipe}


def absolute(text: str, data_root: Path | None) -> str:
    """A path or glob as it is found from anywhere, links followed; a URI stays as it is."""
    return text if "://" in text else str(((data_root or Path()) / text).resolve())
