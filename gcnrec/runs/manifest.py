"""manifest.json: size and sha256 of the finished files of a run folder, so that later commands verify what they read.

    {"format": 1, "files": {"embeddings/items.parquet": {"bytes": 1, "sha256": "..."}, ...}, "own_sha256": "..."}

A checkpoint holds a digest of its own, and metrics.jsonl grows line by line: neither is listed. A file is listed while it has a
temporary name, just before it gets its own; `before` is then what it replaces. A process that is killed between the two leaves
that file, which is as whole as the new one. A folder of an earlier version has no list. The first writer lists all finished files
there.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gcnrec.errors import DataError
from gcnrec.integrity.digests import OWN, hashed, own_digest
from gcnrec.integrity.listed import Listed, Sha256, verify
from gcnrec.runs.contents import RunContents
from gcnrec.runs.paths import (
    FEATURES,
    JOB,
    LINEAGE,
    MANIFEST,
    MEMORY,
    MIXTURE,
    MODEL,
    TABLE,
    embeddings_paths,
    evaluate_command,
    metrics_path,
    per_user_path,
)
from gcnrec.storage.documents import Document, checked, read_object, write_json

FORMAT = 1
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")]


class _Entry(Listed):
    before: Listed | None = None


class _Manifest(Document):
    format: Literal[1]
    files: dict[_Name, _Entry]
    own_sha256: Sha256


def has_manifest(folder: Path) -> bool:
    """Whether a run folder lists its files."""
    return (folder / MANIFEST).exists()


def record(folder: Path, written: Mapping[Path, Path]) -> None:
    """List files of a run folder: `written` has each by the path that it will have, and where its content lies now.

    Files that are gone leave the list. DataError when a file cannot be read, or the list is damaged or cannot be written.
    """
    sources = {**({} if has_manifest(folder) else {path: path for path in _finished(folder)}), **written}
    listed = {name: entry for name, entry in _files(folder).items() if (folder / name).is_file()}
    kept: dict[str, Any] = {name: entry.model_dump(exclude_none=True) for name, entry in listed.items()}
    digests = hashed(list(sources.values()), lambda path: "check this disk")
    for (target, source), found in zip(sources.items(), digests, strict=True):
        name = _name(folder, target)
        kept[name] = {"bytes": source.stat().st_size, "sha256": found.sha256}
        if name in listed and source != target and listed[name].sha256 != found.sha256:
            kept[name]["before"] = {"bytes": listed[name].bytes, "sha256": listed[name].sha256}
    document: dict[str, Any] = {"format": FORMAT, "files": dict(sorted(kept.items()))}
    write_json(folder / MANIFEST, {**document, OWN: own_digest(document)})


def check(folder: Path, paths: Iterable[Path]) -> None:
    """Raise DataError unless the listed ones of `paths` that are there are as listed. Without a list, nothing is verified.

    What is there and is no file, such as a pipe, is not as listed. The listed mixture of a finished run has to be there, and one
    that is not listed may not: the run ranks otherwise.
    """
    files = _files(folder)
    if folder / MIXTURE in (paths := list(paths)) and MEMORY in files and MIXTURE not in files and (folder / MIXTURE).exists():
        raise DataError(f"{folder / MIXTURE} is not in manifest.json, it is no file of this run; remove it")
    required = {folder / MIXTURE} if MEMORY in files or (folder / MEMORY).is_file() else set()
    _check_listed(folder, files, [path for path in paths if path in required or path.exists() or path.is_symlink()])


def check_whole(folder: Path, paths: Iterable[Path]) -> None:
    """Raise DataError unless the listed ones of `paths` are there and as listed."""
    _check_listed(folder, _files(folder), paths)


def check_exports(folder: Path) -> None:
    """Raise DataError unless what training left in a finished run's folder is there and as listed."""
    files = _files(folder)
    partners = [folder / name for name in files if name.startswith("mixture/")]
    _check_listed(folder, files, [folder / MODEL, folder / TABLE, folder / FEATURES, *embeddings_paths(folder), *partners])


def _check_listed(folder: Path, files: Mapping[str, _Entry], paths: Iterable[Path]) -> None:
    expected = {path: files[_name(folder, path)] for path in paths if _name(folder, path) in files}
    for path, entry in expected.items():
        if entry.before is not None and path.is_file() and path.stat().st_size == entry.before.bytes and _is(path, entry.before):
            expected[path] = _Entry(bytes=entry.before.bytes, sha256=entry.before.sha256)
    verify(expected, MANIFEST, _remedy_in(folder))


def _is(path: Path, listed: Listed) -> bool:
    try:
        verify({path: listed}, MANIFEST, lambda path: "")
    except DataError:
        return False
    return True


def _files(folder: Path) -> dict[str, _Entry]:
    """The listed files by name; none without a list."""
    if not has_manifest(folder):
        return {}
    path = folder / MANIFEST
    remedy = f"remove it, the files of {folder} are then used as they are"
    document = read_object(path, remedy)
    manifest = checked(_Manifest, document, str(path), remedy)
    if manifest.own_sha256 != own_digest(document):
        raise DataError(f"{path} does not match the sha256 in it, it has changed since it was written; {remedy}")
    return dict(manifest.files)


def _finished(folder: Path) -> list[Path]:
    """The files of a run folder that can be listed, as far as they are there."""
    singles = [folder / name for name in (JOB, LINEAGE, MEMORY, MIXTURE, MODEL, TABLE, FEATURES)]
    measured = [metrics_path(folder, split) for split in ("test", "valid")]
    per_user = [per_user_path(folder, split) for split in ("test", "valid", "fit")]
    partners = sorted((folder / "mixture").glob("*.safetensors"))
    return [path for path in (*singles, *measured, *per_user, *embeddings_paths(folder), *partners) if path.is_file()]


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def resume_command(folder: Path, data: str | Path) -> str:
    """The command that continues a run, as a shell reads it: a path with a blank or a quote is one word."""
    return shlex.join(["gcnrec", "train", str(folder / JOB), "--data", str(data), "--out", str(folder), "--resume"])


def _remedy_in(folder: Path) -> Callable[[Path], str]:
    """What helps where a file is not as listed: the command that writes it again."""

    def remedy(path: Path) -> str:
        for split in ("test", "valid"):
            if path in (metrics_path(folder, split), per_user_path(folder, split)):
                return f"run '{evaluate_command(folder, split)}' again"
        if path == per_user_path(folder, "fit"):
            return "remove it, baselines are then not compared"
        if path.name == JOB:
            return f"restore it, or keep the change and remove {folder / MANIFEST}: the files are then used as they are"
        if path.name in (LINEAGE, MIXTURE):
            return "restore it, or train again"
        in_the_way = ["it"] if os.path.lexists(path) else []
        if path.name != MEMORY and (folder / MEMORY).is_file():
            in_the_way.append(str(folder / MEMORY))
        removed = f"remove {' and '.join(in_the_way)}, then " if in_the_way else ""
        data = RunContents(folder).lineage.data.folder
        return f"{removed}continue with '{resume_command(folder, data)}'"

    return remedy
