"""Tables of other formats that are made of Parquet files: a log says which files count, so none is read without it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from gcnrec.errors import DataError
from gcnrec.loaders.bounds.footer import footer_size
from gcnrec.loaders.files.delta import EXPORT

_LOGS = {"Delta": "_delta_log", "Iceberg": "metadata", "Hudi": ".hoodie"}
"""The folder of the log inside a table of each format."""
_EXPORTS = {
    "Delta": EXPORT,
    "Iceberg": "in DuckDB: COPY (FROM iceberg_scan('{}')) TO 'plain.parquet'",
    "Hudi": "in Spark: spark.read.format('hudi').load('{}').write.parquet('plain')",
}
_WHOLE = "name the folder of the table itself, or "
"""What helps with a part of a table, or a folder above it, where the log can be read."""
_MOST_FOOTER = 2**20
"""Bytes of the footer of a log's file that is looked into."""


def refuse_tables(filesystem: fs.FileSystem, root: str, files: Iterable[str]) -> None:
    """DataError where `root`, a folder above it, or a folder between it and `files` is a Delta, Iceberg or Hudi table."""
    inside = {root}
    for path in files:
        for folder in map(str, PurePosixPath(path).parents):
            if folder in inside or not folder.startswith(root):
                break
            if "=" not in PurePosixPath(folder).name:  # no partition is a table of its own
                inside.add(folder)
    _refuse(filesystem, sorted(inside))
    local = isinstance(filesystem, fs.LocalFileSystem)
    above = (Path(root).absolute() if local else PurePosixPath(root)).parents
    with suppress(OSError):  # what lies above need not be readable
        _refuse(filesystem, [str(folder) for folder in above if str(folder) != "."])


def is_delta(filesystem: fs.FileSystem, folder: str) -> bool:
    """Whether a folder is a Delta table."""
    log = f"{folder.rstrip('/')}/{_LOGS['Delta']}"
    (info,) = filesystem.get_file_info([log])
    is_folder = bool(info.type == fs.FileType.Directory)
    return is_folder and _is_log(filesystem, "Delta", filesystem.get_file_info(fs.FileSelector(log)))


def _refuse(filesystem: fs.FileSystem, folders: list[str]) -> None:
    places = [(kind, folder, f"{folder.rstrip('/')}/{log}") for folder in folders for kind, log in _LOGS.items()]
    for (kind, folder, log), info in zip(places, filesystem.get_file_info([log for *_, log in places]), strict=True):
        if info.type == fs.FileType.Directory and _is_log(filesystem, kind, filesystem.get_file_info(fs.FileSelector(log))):
            raise DataError(
                f"{folder} is a {kind} table, whose log in {log} says which files count, and plain Parquet is expected; "
                f"{_WHOLE if kind == 'Delta' else ''}"
                f"export its current version ({_EXPORTS[kind].format(folder)}) and name what comes of it"
            )


def _is_log(filesystem: fs.FileSystem, kind: str, entries: list[fs.FileInfo]) -> bool:
    """Whether the files of a folder are a log of `kind`. A checkpoint of Delta that can name no file decides nothing."""
    names = [entry.base_name for entry in entries]
    if kind == "Hudi":
        return "hoodie.properties" in names
    if kind == "Iceberg":
        return any(name.endswith(".metadata.json") for name in names)
    if any(name.endswith(".json") or name == "_last_checkpoint" for name in names):
        return True
    return any(_adds_files(filesystem, entry.path) for entry in entries if entry.path.endswith(".parquet"))


def _adds_files(filesystem: fs.FileSystem, checkpoint: str) -> bool:
    try:
        with filesystem.open_input_file(checkpoint) as source:
            if footer_size(source) > _MOST_FOOTER:
                return True
            schema = pq.read_schema(source)
    except (OSError, pa.ArrowException):
        return True  # the log cannot be read, so that it may name files
    return "add" in schema.names and pa.types.is_struct(schema.field("add").type)
