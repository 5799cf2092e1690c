"""Checkpoints of a run: safetensors files that hold their progress and a digest in the header.

    last.safetensors                        a resumed run continues from it
    earlier-STAGE-EPOCH-STEP.safetensors    previous checkpoints, as many as are kept
    best.safetensors                        the epoch with the best validation, to be exported

A checkpoint is written under a temporary name, fsynced, read back and verified against the digest of its tensors. Then the last
checkpoint becomes an earlier one, the new one becomes the last, and the oldest is removed. So at any moment `newest` finds the
newest whole checkpoint. It skips a damaged one, which the next whole one removes.

`best` is replaced before the `last` that refers to it. A process that dies between them repeats the same steps after it is
resumed, and writes the same `best` again before anything reads it. A `last` of the same steps as `best` is a second name of that
file, where the file system has such names: large tables lie on disk once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open

from gcnrec.errors import DataError, first_line
from gcnrec.storage.documents import Document, open_regular, parsed, typed
from gcnrec.storage.files import atomic_file, remove
from gcnrec.storage.tensors import DTYPES, Saved, bytes_of, save_tensors

Tensors = dict[str, torch.Tensor]
FORMAT = "2"
_SIZES = {name: dtype.itemsize for dtype, name in DTYPES.items()}
_CHUNK_BYTES = 1 << 22
_MOST_HEADER = 1 << 20
"""Bytes of a header: a checkpoint has some dozens of tensors."""
_MOST_AXES = 8


class Position(Document):
    """Where a run is: `epoch` epochs of a stage are over, and `step` steps of the next. Progress has more keys."""

    stage: Literal["fit", "refit"]
    epoch: int = Field(ge=0, lt=10**9)
    step: int = Field(ge=0, lt=10**12)

    @property
    def name(self) -> str:
        """As the name of an earlier checkpoint has it."""
        return f"{self.stage}-{self.epoch:06d}-{self.step:09d}"


class _Header(Document):
    format: str
    progress: str
    sha256: str


class _Tensor(Document):
    dtype: str
    shape: tuple[Annotated[int, Field(ge=0, strict=True)], ...] = Field(max_length=_MOST_AXES)
    data_offsets: tuple[Annotated[int, Field(ge=0, strict=True)], Annotated[int, Field(ge=0, strict=True)]]


def save_checkpoint(path: Path, tensors: Saved, progress: dict[str, Any], then: Callable[[], None] | None = None) -> None:
    """Write tensors and progress to a file that is whole or absent. `then` runs after the file is verified, before it is renamed.

    Memory for a piece of a tensor is taken. Raises DataError when the file cannot be written or verified.
    """
    text = json.dumps(progress)
    digest = _digest(text, tensors)
    with atomic_file(path) as work:
        save_tensors(tensors, work, {"format": FORMAT, "progress": text, "sha256": digest})
        with work.open("rb") as file:
            os.fsync(file.fileno())
        if not _is_written(work, digest):
            raise DataError(f"{path} was read back otherwise than it was written; check this disk and this memory")
        if then:
            then()


def load_checkpoint(path: Path, remedy: str = "restore it, or train again") -> tuple[Tensors, dict[str, Any]]:
    """Tensors and progress of a checkpoint. DataError, with the `remedy`, when the file is damaged or missing."""
    try:
        return _loaded(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; {remedy}") from None
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} is damaged ({_reason(problem)}); {remedy}") from None


def _reason(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or first_line(problem)


def _loaded(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The same. ValueError and OSError, with the reason, for a file that is not as it was saved."""
    progress = parsed(_verified(path).progress.encode())
    typed(Position, progress)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, progress  # noqa: SIM118
    except SafetensorError as problem:
        raise ValueError(first_line(problem)) from None


def _verified(path: Path) -> _Header:
    """The header of a file whose content has the digest in it. Raises as `_loaded`."""
    with open_regular(path) as file:
        header, digest = _read(file, os.fstat(file.fileno()).st_size)
    if header.sha256 != digest:
        raise ValueError("its content is not what was saved")
    return header


def _is_written(path: Path, digest: str) -> bool:
    try:
        return _verified(path).sha256 == digest
    except (OSError, ValueError):
        return False


_EARLIER = re.compile(r"earlier-(fit|refit)-[0-9]{6,}-[0-9]{9,}\.safetensors")


class Checkpoints:
    """The checkpoints of the run in `folder`; the newest `keep` are kept to resume from."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder / "checkpoints", keep
        self._last: str | None = None
        self._best: dict[str, Any] | None = None
        self._damaged: list[Path] = []
        self.last, self.best = (self._folder / f"{name}.safetensors" for name in ("last", "best"))

    def newest(self, warn: Callable[[str], None]) -> tuple[Tensors, dict[str, Any]] | None:
        """The newest whole checkpoint; None when there is none. `warn` gets a sentence for each damaged one.

        Raises DataError when all are damaged.
        """
        found = [path for path in (self.last, *reversed(self._earlier())) if path.exists()]
        for path, previous in zip_longest(found, found[1:]):
            try:
                tensors, progress = _loaded(path)
            except (OSError, ValueError) as problem:
                damage = f"{path} is damaged ({_reason(problem)})"
                if previous is None:
                    raise DataError(f"{damage}; {self.anew}") from None
                self._damaged.append(path)
                warn(f"{damage}; the previous checkpoint, {previous.name}, is tried instead")
                continue
            if path == self.last:
                self._last = _position(progress)
                self._retain()  # the process that saved it may have died before that
            return tensors, progress
        return None

    @property
    def anew(self) -> str:
        """What helps where no checkpoint does."""
        return f"to train again from the start, remove the folder {self._folder} and resume"

    def has(self, progress: dict[str, Any]) -> bool:
        """Whether the last checkpoint has this progress."""
        return self._last == _position(progress)

    def save(self, tensors: Saved, progress: dict[str, Any]) -> None:
        """Make this the last one. Raises as `save_checkpoint`."""
        if self.last in self._damaged and (self.last.is_symlink() or not self.last.is_file()):
            remove(self.last)  # a folder, a pipe or a link: nothing can be written in its place
        if progress != self._best or not self._named_again():
            save_checkpoint(self.last, tensors, progress, self._set_aside)
        self._last = _position(progress)
        self._retain()

    def _named_again(self) -> bool:
        """Whether the best one, which this process saved and verified, could be made the last one too."""
        try:
            with atomic_file(self.last) as work:
                os.link(self.best, work)
                self._set_aside()
        except DataError:  # a file system without links
            return False
        return True

    def save_best(self, tensors: Saved, progress: dict[str, Any]) -> None:
        """Replace the checkpoint that is exported. Raises as `save_checkpoint`."""
        save_checkpoint(self.best, tensors, progress)
        self._best = progress

    def _retain(self) -> None:
        """Remove the oldest, so that with the last one `keep` are left."""
        earlier = self._earlier()
        for path in earlier[: max(0, len(earlier) - self._keep + 1)]:
            remove(path)

    def _set_aside(self) -> None:
        """Make room for a new last checkpoint."""
        for path in self._damaged:
            remove(path)
        self._damaged.clear()
        if self._last is not None and self._keep > 1:
            earlier = self._folder / f"earlier-{self._last}.safetensors"
            earlier.unlink(missing_ok=True)  # of a process that was killed between this link and the new name
            try:
                os.link(self.last, earlier)  # so that at any moment there is a last one
            except OSError:  # a file system without links
                self.last.rename(earlier)

    def _earlier(self) -> list[Path]:
        """Oldest first: names go by stage ("fit" comes before "refit"), epoch and step."""
        return sorted(path for path in self._folder.glob("earlier-*") if _EARLIER.fullmatch(path.name))


def _position(progress: dict[str, Any]) -> str:
    return typed(Position, progress).name


def _digest(progress: str, tensors: Saved) -> str:
    """The sha256 over progress, names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(progress.encode())
    for name in sorted(tensors):
        digest.update(_line(name, DTYPES[tensors[name].dtype], list(tensors[name].shape)))
        for piece in bytes_of(tensors[name]):
            digest.update(piece)
    return digest.hexdigest()


def _read(file: BinaryIO, size: int) -> tuple[_Header, str]:
    """Header and `_digest` of a safetensors file of `size` bytes, a piece at a time. ValueError unless they cover all of it."""
    begin = file.read(8)
    length = int.from_bytes(begin, "little")
    if len(begin) < 8 or length > size - 8:
        raise ValueError("it is cut short")
    if length > _MOST_HEADER:
        raise ValueError(f"its header must have at most {_MOST_HEADER:,} bytes, has {length:,}")
    described = parsed(file.read(length))
    if not isinstance(described, dict):
        raise ValueError(f"its header must be an object, is {type(described).__name__}")
    header = typed(_Header, described.pop("__metadata__", None))
    tensors = {name: typed(_Tensor, tensor) for name, tensor in described.items()}
    _check_cover(tensors, size - 8 - length)
    digest = hashlib.sha256(header.progress.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(_line(name, tensor.dtype, list(tensor.shape)))
        first, last = tensor.data_offsets
        file.seek(8 + length + first)
        while first < last:
            piece = file.read(min(_CHUNK_BYTES, last - first))
            if not piece:
                raise ValueError("it is cut short")
            digest.update(piece)
            first += len(piece)
    return header, digest.hexdigest()


def _check_cover(tensors: dict[str, _Tensor], size: int) -> None:
    """ValueError unless the tensors lie one behind the other in `size` bytes, each in as many as its shape and dtype need."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda each: each[1].data_offsets):
        first, last = tensor.data_offsets
        if tensor.dtype not in _SIZES:
            raise ValueError(f"tensor {name!a} has the unknown dtype {tensor.dtype!a}")
        if (first, last) != (end, end + math.prod(tensor.shape) * _SIZES[tensor.dtype]):
            raise ValueError(f"tensor {name!a} does not lie where its shape and the tensors before it end")
        end = last
    if end != size:
        raise ValueError("it is cut short" if end > size else f"{size - end:,} bytes follow its last tensor")


def _line(name: str, dtype: str, shape: list[int]) -> bytes:
    return f"\n{name} {dtype} {shape}\n".encode()
