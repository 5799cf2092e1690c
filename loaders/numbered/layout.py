"""The folder that `--numbered` names: its places, `numbered.json`, and which settings go with it.

`users/` and `items/` hold ids by number, `train/`, `valid/` and `test/` pairs of numbers. `docs/your-data.md` has the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import AfterValidator, ConfigDict, Field

from gcnrec.config import Data
from gcnrec.config.toml import validated
from gcnrec.errors import DataError, UsageError, shown
from gcnrec.ids.id_types import family
from gcnrec.integrity.listed import Count
from gcnrec.interactions import MAX_NODES
from gcnrec.loaders.ingest.listing import listed
from gcnrec.storage.documents import MOST_BYTES, Document, checked, object_of

DOCUMENT = "numbered.json"
FORMAT = 1
NODES = ("users", "items")
PAIRS = ("train", "valid", "test")
AGAIN = "write the folder anew"
_TAKEN = (
    "name",
    "user",
    "item",
    "user_features",
    "item_features",
    "features_text",
    "feature_weights",
    "text_width",
    "memory_limit",
    "max_id_bytes",
)
"""Keys of `[data]` that say nothing of rows."""

Nodes = Annotated[int, Field(strict=True, ge=1, le=MAX_NODES)]


def _a_type_of_ids(name: str) -> str:
    try:
        fits = family(pa.type_for_alias(name)) is not None
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"expects Arrow's name of a type of ids such as string or int64, got {shown(name)}")
    return name


class Types(Document):
    """What the dataset's ids are: Arrow's names of types. Engines change types, so that the files may have others."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    user: Annotated[str, AfterValidator(_a_type_of_ids)] | None = None
    item: Annotated[str, AfterValidator(_a_type_of_ids)] | None = None


class Numbered(Document):
    """`numbered.json`: how many rows each folder has; `split` is how the engine held out `valid` and `test`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal[1]
    users: Nodes
    items: Nodes
    train: Annotated[int, Field(strict=True, ge=1)]
    valid: Count = 0
    test: Count = 0
    split: Literal["given", "random", "leave_last", "temporal", "cold_items"] = "given"
    types: Types = Types()

    def rows(self, role: str) -> int:
        """How many rows the folder `role` has."""
        return int(getattr(self, role))


def inside(text: str, name: str) -> str:
    """The path of `name` in the folder `text`, which may be a URI with a query."""
    path, mark, query = text.partition("?") if "://" in text else (text, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def read_document(text: str, base: Path | None) -> Numbered:
    """`numbered.json` of the folder `text`; a relative path starts at `base`.

    Raises DataError where it is missing, as long as an engine writes, and where it is no such document.
    """
    try:
        listing = listed(inside(text, DOCUMENT), base)
    except DataError as problem:
        written = f"{DOCUMENT} is written last, wait for the engine, or name another folder"
        raise DataError(f"{text} must be a folder of numbered pairs ({problem}); {written}") from None
    info = listing.infos[0]
    if info.base_name != DOCUMENT or (info.size or 0) > MOST_BYTES:
        raise DataError(f"{info.path} must be a file {DOCUMENT} of at most {MOST_BYTES:,} bytes; {AGAIN}")
    try:
        with listing.filesystem.open_input_stream(info.path, compression=None) as file:
            content = file.read(MOST_BYTES)
    except OSError as problem:
        raise DataError(f"{info.path} cannot be read ({problem}); {AGAIN}") from None
    document = object_of(content, info.path, AGAIN)
    found = document.get("format")
    if found != FORMAT or type(found) is not int:  # true and 1.0 equal 1
        raise DataError(f"{info.path} must have format {FORMAT}, has {shown(found)}; {AGAIN}")
    return checked(Numbered, document, info.path, AGAIN)


def settings_of(given: Mapping[str, Any], card: Path | None = None) -> Data:
    """The keys of `[data]` in `given`, with "user" and "item" as the names of ids in other files where it has none.

    Raises UsageError for a card, and for a key that says which rows count: the engine has decided that.
    """
    given = {"card": str(card), **given} if card else given
    strange = next((key for key in given if key not in _TAKEN), None)
    if strange is not None:
        what = "a card" if strange == "card" else f"--{strange.replace('_', '-')}"
        raise UsageError(
            f"--numbered takes pairs that an engine has filtered, split, merged and numbered, and no {what}; leave it out, or "
            "ingest the interactions themselves with --train"
        )
    return validated(Data, {"user": "user", "item": "item", **given}, "ingest --numbered")
