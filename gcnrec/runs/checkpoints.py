"""Checkpoints of a run: safetensors files that hold their progress and a digest in the header.

    last.safetensors                        a resumed run continues from it
    earlier-STAGE-EPOCH-STEP.safetensors    previous checkpoints, as many as are kept
    best.safetensors                        the epoch with the best validation, to be exported

A checkpoint is written under a temporary name, fsynced, read back and verified against the digest of its tensors. Then the last
checkpoint becomes an earlier one, the new one becomes the last, and the oldest is removed. So at any moment `newest` finds the
newest whole checkpoint. It skips a damaged one, which the next whole one removes.

`best` is replaced before the `last` that refers to it. A process that dies between them repeats the same steps after it is
resumed, and writes the same `best` again before anything reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from gcnrec.errors import DataError, UsageError
from gcnrec.system.files import atomic_file
from gcnrec.system.tensors import save_tensors

Tensors = dict[str, torch.Tensor]
FORMAT = "2"
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""By their names in safetensors."""
_CHUNK_BYTES = 1 << 22


def save_checkpoint(path: Path, tensors: Tensors, progress: dict[str, Any], then: Callable[[], None] | None = None) -> None:
    """Write tensors and progress to a file that is whole or absent. `then` runs after the file is verified, before it is renamed.

    Raises DataError when the file cannot be written or verified.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}  # copy: only of padded rows
    text = json.dumps(progress)
    digest = _digest(text, whole)
    with atomic_file(path) as work:
        save_tensors(whole, work, {"format": FORMAT, "progress": text, "sha256": digest})
        with work.open("rb") as file:
            os.fsync(file.fileno())
        if verified(work)["sha256"] != digest:
            raise DataError(f"{path} was read back otherwise than it was written; check this disk and this memory")
        if then:
            then()


def load_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and progress of a checkpoint. DataError when the file is damaged, UsageError when it is missing."""
    if not path.exists():
        raise UsageError(f"there is no checkpoint at {path}; start the run without --resume")
    header = verified(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors, dict(json.loads(header["progress"]))


def verified(path: Path) -> dict[str, str]:
    """The header of a file whose content has the digest in it. DataError when it has another."""
    try:
        with path.open("rb") as file:
            header, digest = _read(file, path.stat().st_size)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise DataError(f"{path} is damaged ({problem}); {_AGAIN}") from None
    if header["sha256"] != digest:
        raise DataError(f"{path} is damaged (its content is not what was saved); {_AGAIN}")
    return header


_AGAIN = "to train again from the start, remove the folder 'checkpoints' and resume"


_EARLIER = re.compile(r"earlier-(fit|refit)-[0-9]{6,}-[0-9]{9,}\.safetensors")


class Checkpoints:
    """The checkpoints of the run in `folder`; the newest `keep` are kept to resume from."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder / "checkpoints", keep
        self._last: str | None = None
        self._damaged: list[Path] = []
        self.last, self.best = (self._folder / f"{name}.safetensors" for name in ("last", "best"))

    def newest(self, warn: Callable[[str], None]) -> tuple[Tensors, dict[str, Any]] | None:
        """The newest whole checkpoint; None when there is none. `warn` gets a sentence for each damaged one.

        Raises DataError when all are damaged.
        """
        found = [path for path in (self.last, *reversed(self._earlier())) if path.exists()]
        for number, path in enumerate(found):
            try:
                tensors, progress = load_checkpoint(path)
            except DataError as problem:
                if path is found[-1]:
                    raise
                self._damaged.append(path)
                damage = str(problem).removesuffix(f"; {_AGAIN}")
                warn(f"{damage}; the previous checkpoint, {found[number + 1].name}, is tried instead")
                continue
            if path == self.last:
                self._last = _position(progress)
                self._retain()  # the process that saved it may have died before that
            return tensors, progress
        return None

    def has(self, progress: dict[str, Any]) -> bool:
        """Whether the last checkpoint has this progress."""
        return self._last == _position(progress)

    def save(self, tensors: Tensors, progress: dict[str, Any]) -> None:
        """Make this the last one. Raises as `save_checkpoint`."""
        save_checkpoint(self.last, tensors, progress, self._set_aside)
        self._last = _position(progress)
        self._retain()

    def save_best(self, tensors: Tensors, progress: dict[str, Any]) -> None:
        """Replace the checkpoint that is exported. Raises as `save_checkpoint`."""
        save_checkpoint(self.best, tensors, progress)

    def _retain(self) -> None:
        """Remove the oldest, so that with the last one `keep` are left."""
        earlier = self._earlier()
        for path in earlier[: max(0, len(earlier) - self._keep + 1)]:
            path.unlink()

    def _set_aside(self) -> None:
        """Make room for a new last checkpoint."""
        for path in self._damaged:
            path.unlink(missing_ok=True)
        self._damaged.clear()
        if self._last is not None and self._keep > 1:
            self.last.rename(self._folder / f"earlier-{self._last}.safetensors")

    def _earlier(self) -> list[Path]:
        """Oldest first: names go by stage ("fit" comes before "refit"), epoch and step."""
        return sorted(path for path in self._folder.glob("earlier-*") if _EARLIER.fullmatch(path.name))


def _position(progress: dict[str, Any]) -> str:
    return f"{progress['stage']}-{progress['epoch']:06d}-{progress['step']:09d}"


def _digest(progress: str, tensors: Tensors) -> str:
    """The sha256 over progress, names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(progress.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(_line(name, _DTYPES[tensor.dtype], list(tensor.shape)))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(file: BinaryIO, size: int) -> tuple[dict[str, str], str]:
    """Header and `_digest` of a safetensors file, a piece at a time."""
    length = int.from_bytes(file.read(8), "little")
    if length > size:
        raise ValueError("it is cut short")
    described = json.loads(file.read(length))
    header: dict[str, str] = described.pop("__metadata__")
    digest = hashlib.sha256(header["progress"].encode())
    for name, tensor in sorted(described.items()):
        digest.update(_line(name, tensor["dtype"], tensor["shape"]))
        first, last = tensor["data_offsets"]
        file.seek(8 + length + first)
        while first < last:
            piece = file.read(min(_CHUNK_BYTES, last - first))
            if not piece:
                raise ValueError("it is cut short")
            digest.update(piece)
            first += len(piece)
    return {"sha256": "", **header}, digest.hexdigest()


def _line(name: str, dtype: str, shape: list[int]) -> bytes:
    return f"\n{name} {dtype} {shape}\n".encode()
