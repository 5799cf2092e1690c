"""The document that makes a folder at an address whole: which files it has, with size and sha256.

It is written twice: before the first file it says that an upload has begun, after the last file that the folder is whole. The
first, or a document that is cut short, means half an upload.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field, field_validator

from gcnrec.errors import DataError
from gcnrec.storage.documents import MOST_BYTES, Document, checked, json_text, parsed
from gcnrec.storage.remote.store import Store

NAME = "gcnrec-upload.json"
FORMAT = 1


class Held(Document):
    """A file: its bytes and their sha256."""

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Marker(Document):
    """What lies at an address; `complete` False: an upload has begun. `data`: the address of a run's dataset."""

    format: int = FORMAT
    complete: bool = False
    files: dict[str, Held] = Field(default_factory=dict)
    data: str = ""

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, Held]) -> dict[str, Held]:
        for name in files:
            parts = PurePosixPath(name).parts
            if not parts or PurePosixPath(name).is_absolute() or ".." in parts or not name.isprintable() or name == NAME:
                raise ValueError(f"{name!a} is no path inside a folder")
        return files


def read_marker(store: Store) -> Marker | None:
    """The marker at an address, None where there is none; a marker that is cut short says that an upload has begun."""
    content = store.read(NAME, MOST_BYTES)
    if content is None:
        return None
    try:
        document = parsed(content)
    except ValueError:
        return Marker()
    where, remedy = f"{store.address}/{NAME}", "upload the folder again"
    marker = checked(Marker, document, where, remedy)
    if marker.format != FORMAT:
        raise DataError(f"{where} must have format {FORMAT}, has {marker.format}; {remedy}")
    return marker


def write_marker(store: Store, marker: Marker) -> None:
    """Write the marker of an address."""
    store.write(NAME, json_text(json.loads(marker.model_dump_json())).encode())
