"""Keeps fetched files, synthetic worlds and shops: the name of an entry holds the sha256 of its content, verified at each use.

    data/downloads/ml-100k/ratings-0123456789abcdef-SHA256.parquet       a file
    data/downloads/synthetic/world-0123456789abcdef-SHA256               a folder of files
                                   |                 its content
                                   what it is made from

An entry appears in one rename, so two processes may make the same one at once: the last file, or the first folder, stays.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gcnrec.errors import DataError
from gcnrec.integrity.digests import sha256_of
from gcnrec.storage.files import clear_leftovers, remove, work_path

_KEY_DIGITS = 16
_DIGEST = re.compile("[^-]+")


@dataclass(frozen=True)
class Entry:
    """One thing in `folder`, made from what `key` spells out. `name` holds letters, digits and any of `. _ -`."""

    folder: Path
    name: str
    key: str
    suffix: str = ""

    def find(self, note: Callable[[str], None], known: str | None = None) -> Path | None:
        """The entry, if it is there and as it was made; a damaged one is removed, with a line for `note`.

        What killed processes left in the folder is removed first.

        `known` is the sha256 of its content, if known beforehand: any other entry counts as damaged.
        Raises DataError where something lies in its place that gcnrec does not put there, such as a link.
        """
        self._check_folder()
        clear_leftovers(self.folder)
        for path in sorted(self.folder.glob(f"{self._start}*{self.suffix}")):
            digest = path.name.removeprefix(self._start).removesuffix(self.suffix)
            if not _DIGEST.fullmatch(digest) or not (path.exists() or path.is_symlink()):  # another entry, or one just removed
                continue
            if _digest(path) == digest == (known or digest):
                return path
            note(f"{path} is not what was kept there, by its sha256; making it anew")
            remove(path)
        return None

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder next to the entry, for `keep` to take it from; removed at the end."""
        self._check_folder()
        clear_leftovers(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        unique = f"making-{secrets.token_hex(4)}"  # two threads may make the same entry
        with work_path(self.folder / unique) as work:
            work.mkdir()
            try:
                yield work
            finally:
                remove(work)

    def keep(self, made: Path) -> Path:
        """Rename the file or folder `made` to the entry; returns its path."""
        target = self.folder / f"{self._start}{_digest(made)}{self.suffix}"
        try:
            made.replace(target)
        except OSError:
            if not (made.is_dir() and target.is_dir()):  # otherwise another process has made the same folder
                raise
        return target

    @property
    def _start(self) -> str:
        return f"{self.name}-{hashlib.sha256(self.key.encode()).hexdigest()[:_KEY_DIGITS]}-"

    def _check_folder(self) -> None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise DataError(f"{self.folder} must be a folder that gcnrec made for downloads, is a link or a file; remove it")


def _digest(path: Path) -> str:
    """The sha256 of a file, or over the names and digests of the files of a folder. DataError for anything else."""
    kind = path.lstat().st_mode
    if stat.S_ISREG(kind):
        return sha256_of(path)
    if not stat.S_ISDIR(kind):
        raise DataError(f"{path} must be a file or folder that gcnrec made, is a link or a device; remove it")
    inside = sorted(path.iterdir())
    return hashlib.sha256("".join(f"{file.name} {_digest(file)}\n" for file in inside).encode()).hexdigest()
