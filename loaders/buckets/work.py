"""What an ingestion has done so far, in a folder that outlasts a killed process: the next one of the same input goes on from it.

`work.json` has the digest of settings and inputs, and how far each step came. It counts while the machine runs: what a crash of
the machine lost is not known.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field

from gcnrec.errors import DataError
from gcnrec.storage.documents import Document, checked, read_object, write_json
from gcnrec.storage.files import sync

FOLDER = "work"
"""Its name inside the dataset folder that is being written."""
_FORMAT = 1
_DOCUMENT = "work.json"
_CLOCK_SECONDS = 60.0
"""By which two readings of the moment at which the machine began may differ."""


class _State(Document):
    """`work.json`: `booted` is when the machine began, in seconds since 1970, `done` how far each step came."""

    format: int
    key: str
    booted: float
    done: dict[str, Any] = Field(default_factory=dict)


class Work:
    """The folder of a work whose settings and inputs have the digest `key`, and what is done of it."""

    def __init__(self, folder: Path, key: str, done: dict[str, Any]) -> None:
        self.folder, self._key, self._done = folder, key, done

    def done(self, step: str) -> Any:
        """What `note` kept of a step; None where it has not begun."""
        return self._done.get(step)

    def note(self, step: str, state: Any) -> None:
        """Keep how far a step came; what it wrote is in its files already."""
        self._done[step] = state
        state = {"format": _FORMAT, "key": self._key, "booted": psutil.boot_time(), "done": self._done}
        write_json(self.folder / _DOCUMENT, state)


def work_key(recipe: dict[str, Any]) -> str:
    """The digest of everything that decides what the work is."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode("utf-8", "surrogateescape")).hexdigest()


def goes_on(folder: Path, key: str, note: Callable[[str], object]) -> bool:
    """Whether a dataset folder that a killed process left unfinished has work with this `key`; `note` gets a sentence about it.

    A folder without work of any key is passed over in silence.
    """
    if not (folder / FOLDER).is_dir():
        return False
    found = _state(folder / FOLDER, key) is not None
    what = (
        "going on from there" if found else "of other settings, other inputs or an earlier start of the machine; beginning anew"
    )
    note(f"{folder} has what a killed process left unfinished, {what}")
    return found


def taken_up(folder: Path, key: str) -> Work:
    """The work in a dataset folder that is being written, which goes on where there is some."""
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    state = _state(place, key)
    return Work(place, key, dict(state.done) if state else {})


def end_work(folder: Path) -> None:
    """Remove the work, if there is any, from a dataset folder that is whole; its files then outlast a crash of the machine."""
    if (folder / FOLDER).is_dir():
        for path in folder.glob("*.*"):
            sync(path)
        shutil.rmtree(folder / FOLDER)


def _state(place: Path, key: str) -> _State | None:
    path = place / _DOCUMENT
    try:
        state = checked(_State, read_object(path, ""), str(path))
    except DataError:
        return None
    fits = state.format == _FORMAT and state.key == key and abs(state.booted - psutil.boot_time()) < _CLOCK_SECONDS
    return state if fits else None
