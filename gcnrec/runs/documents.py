"""JSON of a run folder: documents written, read and verified. Keys that this version does not know are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gcnrec.errors import DataError
from gcnrec.system.files import atomic_file


class Document(BaseModel):
    """A frozen JSON object whose attributes have the names of its keys."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)


D = TypeVar("D", bound=Document)


def checked(kind: type[D], content: Any, where: str) -> D:
    """`content` as a `kind`. DataError, naming `where` and the key, when a value is missing or of another type."""
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
    key = ".".join(map(str, first["loc"]))
    raise DataError(f"{where} is damaged ({key + ': ' if key else ''}{first['msg'].lower()}); restore it, or train again")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document` to `path` as indented JSON. DataError when it cannot be written."""
    with atomic_file(path) as work:
        work.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`. DataError when it is missing or damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} cannot be read as JSON ({problem}); it is damaged, {_remedy(path)}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} must hold a JSON object, holds {type(document).__name__}; it is damaged, {_remedy(path)}")
    return document


def _remedy(path: Path) -> str:
    if not path.name.startswith("metrics"):
        return "train again"
    return f"run 'gcnrec evaluate {path.parent}{' --split valid' if 'valid' in path.name else ''}' again"
