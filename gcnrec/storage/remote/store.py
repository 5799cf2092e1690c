"""Single files of a store, by fsspec. The driver of a store is a package of its own, such as s3fs, gcsfs or adlfs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnrec.errors import DataError, GcnrecError, UsageError, first_line, install
from gcnrec.storage.remote.address import Address, masked

_PIECE_BYTES = 1 << 20
_HALF = ".gcnrec-part"
"""What a file's name ends with until it is whole."""


@dataclass(frozen=True, slots=True)
class Store:
    """The files at and below an address: `root` is the path of the address in the filesystem `files` of fsspec."""

    address: Address
    files: Any
    root: str

    def path(self, inside: str = "") -> str:
        """The path of a file below the address; of the address itself without `inside`."""
        return f"{self.root}/{inside}" if inside else self.root

    def is_file(self, inside: str = "") -> bool:
        """Whether a file lies there, not a folder."""
        with self._named(inside):
            return bool(self.files.isfile(self.path(inside)))

    def names(self) -> list[str]:
        """Paths of all files below the address, relative to it, ascending; empty where there is no folder."""
        with self._named(""):
            self.files.invalidate_cache()
            if not self.files.isdir(self.root):
                return []
            root = self.root.rstrip("/") + "/"
            return sorted(str(path).removeprefix(root) for path in self.files.find(self.root))

    def read(self, inside: str, most: int) -> bytes | None:
        """The bytes of a small file, None where it is absent. DataError for more than `most` bytes."""
        with self._named(inside):
            if not self.files.isfile(self.path(inside)):
                return None
            with self.files.open(self.path(inside), "rb") as file:
                content = bytes(file.read(most + 1))
        if len(content) > most:
            raise DataError(f"{self._shown(inside)} must have at most {most:,} bytes, has more; upload it again")
        return content

    def write(self, inside: str, content: bytes) -> None:
        """Write a small file at once, in place of another."""
        with self._named(inside):
            self._make_folder(inside)
            self.files.pipe_file(self.path(inside), content)

    def put(self, local: Path, inside: str) -> None:
        """Upload a file of a folder; its name may stand for half of it meanwhile, as the folder's marker says."""
        with self._named(inside):
            self._make_folder(inside)
            self.files.put_file(str(local), self.path(inside))

    def put_alone(self, local: Path) -> None:
        """Upload the file of the address under another name, then rename it: its name never stands for half of it."""
        with self._named(""):
            self._make_folder("")
            self.files.put_file(str(local), self.root + _HALF)
            if self.files.isfile(self.root):
                self.files.rm_file(self.root)
            self.files.mv(self.root + _HALF, self.root)

    def get(self, local: Path, inside: str = "") -> str:
        """Fetch a file to `local` and return the sha256 of its bytes."""
        digest = hashlib.sha256()
        local.parent.mkdir(parents=True, exist_ok=True)
        with self._named(inside), self.files.open(self.path(inside), "rb") as source, local.open("wb") as target:
            while piece := source.read(_PIECE_BYTES):
                digest.update(piece)
                target.write(piece)
        return digest.hexdigest()

    def remove(self, inside: str) -> None:
        """Remove a file."""
        with self._named(inside):
            self.files.rm_file(self.path(inside))

    def _make_folder(self, inside: str) -> None:
        with suppress(Exception):  # stores of objects have no folders; where one is missing, the write says so
            self.files.makedirs(self.path(inside).rpartition("/")[0] or "/", exist_ok=True)

    def _shown(self, inside: str) -> str:
        return f"{self.address}/{inside}" if inside else str(self.address)

    @contextmanager
    def _named(self, inside: str) -> Iterator[None]:
        """Whatever a driver raises is a DataError that names the file: drivers have exceptions of their own."""
        try:
            yield
        except (GcnrecError, MemoryError):
            raise
        except Exception as problem:
            why = masked(first_line(problem))
            raise DataError(
                f"{self._shown(inside)} cannot be read or written ({type(problem).__name__}: {why}); check the address, the "
                "network and the credentials of this machine, and repeat the command"
            ) from problem


def open_store(address: Address) -> Store:
    """The store of an address. UsageError where fsspec, or its driver for the protocol, is missing."""
    files, root = _opened(address.text)
    return Store(address, files, root.rstrip("/"))


def arrow_files(text: str) -> tuple[Any, str]:
    """A filesystem of `pyarrow.fs` over fsspec's, and the path in it, for an address that pyarrow does not know."""
    from pyarrow import fs

    files, root = _opened(text)
    return fs.PyFileSystem(fs.FSSpecHandler(files)), root


def _opened(text: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it. UsageError where it cannot be opened."""
    protocol = text.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError(f"{masked(text)} needs fsspec, which is not installed; {install('remote')}") from None
    try:
        files, root = url_to_fs(text)
    except ImportError as problem:
        raise UsageError(
            f"{masked(text)} needs fsspec's driver for {protocol} ({first_line(problem)}); install that package with pip"
        ) from None
    except ValueError as problem:
        raise UsageError(
            f"{masked(text)} has a protocol that fsspec does not know ({masked(first_line(problem))}); correct the address"
        ) from None
    return files, str(root)
