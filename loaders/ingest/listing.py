"""Which files an input names: one file, a folder, a glob or a URI, the same in each place that names Parquet.

The rules are those of `pyarrow.dataset`. Below the folder or the fixed part of the pattern, names that begin with _ or . are left
out: temporary folders, markers and checksums of the programs that write there. A pattern that spells such a name takes it. Of a
folder, files count whose name ends like Parquet, or whose content begins like it: Hive's files have no ending.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from glob import escape
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from gcnrec.config.data import IN_MEMORY
from gcnrec.errors import DataError, UsageError, first_line, os_remedy
from gcnrec.loaders.files.delta import snapshot
from gcnrec.loaders.files.table_formats import is_delta, refuse_tables
from gcnrec.storage.remote.address import masked
from gcnrec.storage.remote.store import arrow_files

_SUFFIXES = (".parquet", ".parq", ".pq")
_MAGIC = b"PAR1"
"""The first bytes of a Parquet file, for Hive's files, whose names have no ending."""
ARROW_PROTOCOLS = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "mock")
"""What pyarrow opens itself; fsspec opens others."""
_PATIENCE_SECONDS = 30
_MOST_NAMES = 1_000_000
"""Names below a local folder that are looked at: more is no data set but a whole disk."""
_WILD = re.compile(r"[*?\[]")
_URI = re.compile(r"(?P<head>[^:/]+://[^/?#]*)(?P<path>[^?#]*)(?P<tail>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of `filesystem`, sorted by path; `root` is the folder, or the fixed part of the pattern, that `text` names.

    The root of a single file is its folder. `infos` has size and time of each file, in the order of `files`.
    """

    text: str
    filesystem: fs.FileSystem
    root: str
    infos: tuple[fs.FileInfo, ...]
    key_types: Mapping[str, pa.DataType] = field(default_factory=dict)
    """Types of partition keys where a table's log declares them."""

    @property
    def files(self) -> list[str]:
        return [info.path for info in self.infos]

    def inside(self, path: str) -> str:
        """`path` relative to the root; the whole path where it lies elsewhere."""
        return path.removeprefix(self.root.rstrip("/") + "/") if self.root else path

    def stamps(self) -> list[tuple[str, int, str]]:
        """Of each file: the path below the root, bytes, and the time of its last change in ns; no text where none is known."""
        return [(self.inside(info.path), info.size or 0, str(info.mtime_ns or "")) for info in self.infos]


def listed(text: str, base: Path | None = None) -> Listing:
    """The files that `text` names; relative paths start at `base`. Nothing but names, sizes and first bytes is read.

    The folder of a Delta table stands for the files that count by its log, which is read. Raises DataError where nothing is
    there, where a folder or pattern has no Parquet file, for a part of a Delta table, and for an Iceberg or Hudi table.
    """
    if text.startswith(IN_MEMORY):
        raise DataError(
            f"{text} was a table in memory, which is gone; give it again by gcnrec.ingest, or name the dataset by --data"
        )
    if masked(text.partition("?")[0]) != text.partition("?")[0]:
        raise DataError(
            f"expected an address without a password, got {masked(text)}, as datasets and jobs keep the text; give credentials "
            "as the store's own configuration or environment has them"
        )
    try:
        filesystem, root, pattern = _located(text, base)
        (info,) = filesystem.get_file_info([root])
        if not pattern and info.type == fs.FileType.NotFound:
            raise DataError(f"no such file or folder: {root}")
        if not pattern and info.type == fs.FileType.Directory and is_delta(filesystem, root):
            return _of_table(text, filesystem, root)
        if pattern:
            infos = list(_matched(filesystem, root, pattern))
        elif info.type == fs.FileType.Directory:
            infos = list(_in_folder(filesystem, root))
        elif info.type != fs.FileType.File:
            raise DataError(f"{root} must be a Parquet file or a folder of such, is a pipe or a device; write it to a file first")
        else:
            infos, root = [info], str(PurePosixPath(root).parent)
        if not infos:
            what = "matches no Parquet file" if pattern else "is a folder without a Parquet file"
            raise DataError(
                f"{text} {what} (looked for names ending in {', '.join(_SUFFIXES)}); "
                "a name that begins with _ or . is left out unless the path or pattern spells it"
            )
        local = isinstance(filesystem, fs.LocalFileSystem)
        infos = list(_once(root, infos)) if local else [*{info.path: info for info in infos}.values()]
        listing = Listing(text, filesystem, root, tuple(sorted(infos, key=lambda info: info.path)))
        refuse_tables(listing.filesystem, listing.root, listing.files)
    except UsageError as problem:  # of an address: here it is data that cannot be had
        raise DataError(f"{text} cannot be opened ({problem})") from None
    except ImportError as problem:
        raise DataError(f"{text} cannot be opened ({first_line(problem)}); install it, or name a local copy") from None
    except (OSError, pa.ArrowException, ValueError) as problem:
        remedy = os_remedy(problem, "check the address, or name a local copy")
        raise DataError(f"{text} cannot be opened ({first_line(problem)}); {remedy}") from None
    return listing


def _of_table(text: str, filesystem: fs.FileSystem, root: str) -> Listing:
    """The files of the current version of a Delta table."""
    table = snapshot(text if _URI.fullmatch(text) else root)
    infos = filesystem.get_file_info([_joined(root, path) for path in table.paths])
    absent = next((info for info in infos if info.type != fs.FileType.File), None)
    if absent is not None:
        raise DataError(f"{text} is a Delta table that counts the file {absent.path}, which is not there; restore it")
    return Listing(text, filesystem, root, tuple(sorted(infos, key=lambda info: info.path)), table.key_types)


def _once(root: str, infos: Iterable[fs.FileInfo]) -> Iterable[fs.FileInfo]:
    """Each local file once: under its own path, not that of a link to its folder, or else under the shortest."""
    own: dict[Path, fs.FileInfo] = {}
    straight = Path(root).resolve()
    for info in sorted(infos, key=lambda info: (info.path.count("/"), info.path)):
        place = Path(info.path).resolve()
        if place not in own or place == straight / Path(info.path).relative_to(root):
            own[place] = info
    return own.values()


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a path: its `name`, what a `pattern` with wildcards matches in its place, and whether it is `wild`."""

    name: str
    pattern: str
    wild: bool


def _located(text: str, base: Path | None) -> tuple[fs.FileSystem, str, list[_Part]]:
    """The filesystem, the fixed part of the path, and the parts of the pattern below it; none for a path without wildcards.

    A part with wildcards that lies there by this very name is no pattern. In a URI, ? begins the query.
    """
    uri = _URI.fullmatch(text)
    parts = [_Part(name, name, bool(_WILD.search(name))) for name in Path(text).parts]
    if uri is not None:
        own = uri["path"].rstrip("/").split("/")
        parts = [_Part(unquote(name), _decoded(name), bool(_WILD.search(name))) for name in own]
    count = next((number for number, part in enumerate(parts) if part.wild), len(parts))
    filesystem: fs.FileSystem = fs.LocalFileSystem()
    if uri is not None:
        address = uri["head"] + "/".join(own[:count])
        known = uri["head"].partition("://")[0] in ARROW_PROTOCOLS
        query = _with_patience(uri["head"], uri["tail"])
        filesystem, root = fs.FileSystem.from_uri(address + query) if known else arrow_files(address + query)
    else:
        root = str((base or Path()).joinpath(*(part.name for part in parts[:count])))
    parts = parts[count:]
    while parts:
        there = _joined(root, parts[0].name)
        if parts[0].wild and filesystem.get_file_info(there).type == fs.FileType.NotFound:
            break
        root, parts = there, parts[1:]
    return filesystem, root, parts


def _with_patience(head: str, query: str) -> str:
    """The query of a URI, with a limit for Google's storage, which else tries for 15 minutes and heeds no signal meanwhile."""
    if not head.startswith(("gs://", "gcs://")) or "retry_limit_seconds" in query:
        return query
    return f"{query}{'&' if '?' in query else '?'}retry_limit_seconds={_PATIENCE_SECONDS}"


def _decoded(part: str) -> str:
    """A part of a URI as a pattern: an encoded wildcard stands for itself."""
    return re.sub(r"(?:%[0-9A-Fa-f]{2})+", lambda code: escape(unquote(code[0])), part)


def _joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder else name


def _hidden(name: str, pattern: str = "") -> bool:
    """Whether `name` is one to leave out, unless the pattern begins with the same _ or . itself."""
    return name.startswith(("_", ".")) and name[0] != pattern[:1]


def _matched(filesystem: fs.FileSystem, root: str, pattern: list[_Part]) -> Iterator[fs.FileInfo]:
    """The files that the pattern takes below `root`, and the Parquet files of the folders that it takes."""
    found = filesystem.get_file_info([root])
    for part in pattern:
        folders = [info.path for info in found if info.type == fs.FileType.Directory]
        if part.pattern == "**":
            found = [info for folder in folders for info in (*filesystem.get_file_info([folder]), *_below(filesystem, folder))]
            found = [info for info in found if info.type == fs.FileType.Directory]
        elif not part.wild:
            found = filesystem.get_file_info([_joined(folder, part.name) for folder in folders])
        else:
            fits = re.compile(translate(part.pattern)).match
            inside = [info for folder in folders for info in filesystem.get_file_info(fs.FileSelector(folder))]
            found = [info for info in inside if fits(info.base_name) and not _hidden(info.base_name, part.pattern)]
    for info in found:
        if info.type == fs.FileType.Directory:
            yield from _in_folder(filesystem, info.path)
        elif info.type == fs.FileType.File:
            yield info


def _below(filesystem: fs.FileSystem, folder: str) -> Iterator[fs.FileInfo]:
    """Everything in `folder` and its folders that is not hidden."""
    if isinstance(filesystem, fs.LocalFileSystem):
        yield from _below_here(filesystem, folder)
        return
    start = folder.rstrip("/") + "/"
    for info in filesystem.get_file_info(fs.FileSelector(folder, recursive=True)):
        if not any(map(_hidden, info.path.removeprefix(start).split("/"))):
            yield info


def _below_here(filesystem: fs.LocalFileSystem, folder: str) -> Iterator[fs.FileInfo]:
    """`_below` of a local folder: each folder once, links last. A link to a folder above would else be followed 40 times."""
    (start,) = filesystem.get_file_info([folder])
    folders, links, seen, looked = [start], list[fs.FileInfo](), set[tuple[int, int]](), 0
    while folders or links:
        # Links last: a folder keeps its own path where a link leads to it, too.
        here = folders.pop() if folders else links.pop(0)
        state = Path(here.path).stat()
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        if here is not start:
            yield here
        for info in filesystem.get_file_info(fs.FileSelector(here.path)):
            looked += 1
            if looked > _MOST_NAMES:
                raise DataError(f"{folder} holds more than {_MOST_NAMES:,} files and folders; name a folder with fewer")
            if _hidden(info.base_name):
                continue
            if info.type == fs.FileType.Directory:
                (links if Path(info.path).is_symlink() else folders).append(info)
            else:
                yield info


def _in_folder(filesystem: fs.FileSystem, folder: str) -> Iterator[fs.FileInfo]:
    for info in _below(filesystem, folder):
        # Neither a link to nothing, as in pyarrow.dataset, nor a pipe, whose reader would wait for ever.
        if info.type != fs.FileType.File:
            continue
        if info.path.lower().endswith(_SUFFIXES) or (info.size and _begins_like_parquet(filesystem, info.path)):
            yield info


def _begins_like_parquet(filesystem: fs.FileSystem, path: str) -> bool:
    with filesystem.open_input_stream(path, compression=None) as file:
        return bool(file.read(len(_MAGIC)) == _MAGIC)
