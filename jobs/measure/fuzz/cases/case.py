"""A case: files, damage to copies of sound folders, and a command line. Every damage is drawn from a number.

A case is data: it is drawn in one process and happens in another one, which may die of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from jobs.measure.fuzz.cases.malformed import (
    changed_array,
    changed_columns,
    changed_header,
    changed_json,
    changed_lines,
    changed_text,
)


@dataclass(frozen=True)
class Damage:
    """What happens to `file` of the working folder: `how` is one of `ways`, `number` decides the rest."""

    file: str
    how: str
    number: int


@dataclass(frozen=True)
class Case:
    """Files by their name in the working folder, and the command line; `kind` for the tally.

    `world`: sound folders and files that are copied there first. `writes`: where the command may write, by the first letters of
    the path; `--out` is added. `read_before`: a command reads the sound files first, and the damaged files get their old times.
    `sealed`: dataset.json gets the digests of the damaged files. `served`: what a server of this process answers.
    """

    kind: str
    files: dict[str, bytes]
    arguments: list[str]
    oracle: bool = False
    """Whether train and test must hold exactly the pairs of the files."""
    world: tuple[str, ...] = ()
    damages: tuple[Damage, ...] = ()
    writes: tuple[str, ...] = ()
    read_before: bool = False
    sealed: bool = False
    served: bytes = b""
    twin: Case | None = None
    """A sound case: where this one ends with exit code 0, its results must be the twin's."""
    links: tuple[tuple[str, str], ...] = ()
    """Names of links in the working folder, and where they lead."""
    checked: bool = False
    """Whether `check` of the same job must not accept what this command refuses."""


_BYTES = ["flip", "flip", "set", "cut", "append", "zero", "drop", "insert", "swap", "empty"]
_WHOLE = ["remove", "folder", "loop", "dangling", "pipe", "other"]
_OF_SUFFIX: dict[str, list[str]] = {
    ".json": ["json"] * 12, ".jsonl": ["lines"] * 12, ".toml": ["text"] * 8, ".npy": ["array"] * 8, ".lock": ["json"] * 4,
    ".parquet": ["columns"] * 8, ".safetensors": ["header"] * 8,
}  # fmt: skip


def ways(name: str) -> list[str]:
    """What may happen to a file of this name; a way that comes twice is drawn more often."""
    return _BYTES + _WHOLE + _OF_SUFFIX.get(Path(name).suffix, [])


def damage(what: Damage, folder: Path, keep_time: bool = False) -> None:
    """Damage a file below `folder`; with `keep_time` its modification time is put back, and the file stays the same inode."""
    path, draw = folder / what.file, Random(what.number)
    before = path.stat() if path.is_file() else None
    if what.how in _WHOLE:
        _replace(path, what.how, draw, folder)
    elif path.is_file() or not (path.exists() or path.is_symlink()):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.is_file() else b""
        with path.open("r+b" if path.is_file() else "wb") as file:
            file.truncate(0)
            file.write(_changed(content, what.how, draw))
    if before and keep_time and path.is_file():
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def seal(folder: Path) -> None:
    """Put the digests of the files that are there into dataset.json, and into the lineage of the runs next to the folder."""
    try:
        info = json.loads((folder / "dataset.json").read_text())
        for name, entry in info["files"].items():
            if (folder / name).is_file():
                content = (folder / name).read_bytes()
                entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        lines = "".join(f"{name} {entry['sha256']}\n" for name, entry in info["files"].items())
        old, new = info["digest"], hashlib.sha256(lines.encode()).hexdigest()
        (folder / "dataset.json").write_text(json.dumps({**info, "digest": new}, indent=2) + "\n")
        for lineage in folder.parent.glob("*/lineage.json"):
            lineage.write_text(lineage.read_text().replace(old, new))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # a dataset.json that is damaged itself stays as it is


def _replace(path: Path, how: str, draw: Random, folder: Path) -> None:
    others = [other for other in sorted(folder.rglob("*")) if other.is_file() and other != path]
    content = draw.choice(others).read_bytes() if others else b""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match how:
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("nowhere/at all")
        case "pipe":
            os.mkfifo(path)
        case "other":
            path.write_bytes(content)


def _changed(content: bytes, how: str, draw: Random) -> bytes:
    typed: dict[str, Callable[[bytes, Random], bytes]] = {
        "json": changed_json, "lines": changed_lines, "text": changed_text, "array": changed_array,
        "columns": changed_columns, "header": changed_header,
    }  # fmt: skip
    return typed[how](content, draw) if how in typed else changed_bytes(content, how, draw)


def changed_bytes(content: bytes, how: str, draw: Random) -> bytes:
    """The same bytes with some changed, lost, added or put elsewhere."""
    data = bytearray(content)
    at, count = draw.randrange(len(data) + 1), draw.choice([1, 1, 2, 7, 8, 64])
    match how:
        case "flip" if data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        case "set" if data:
            data[at % len(data)] = draw.randrange(256)
        case "cut":
            del data[at:]
        case "append":
            data += draw.choice([b"\0", b"\n", b"}", b"\xff", draw.randbytes(count), bytes(data[:64]), b" " * 100])
        case "zero":
            data[at : at + count] = bytes(len(data[at : at + count]))
        case "drop":
            del data[at : at + count]
        case "insert":
            data[at:at] = draw.randbytes(count)
        case "swap":
            data = data[at:] + data[:at]
        case "empty":
            data.clear()
    return bytes(data)


def at_random(draw: Random, files: list[str]) -> Damage:
    """A damage of one of the files."""
    file = draw.choice(files)
    return Damage(file, draw.choice(ways(file)), draw.getrandbits(32))
