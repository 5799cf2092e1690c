"""The dataset folder: its format, its writer and its reader.

`dataset.json` (`format = 1`) names every file with shape, dtype and sha256; an unknown format is refused. `digest` covers the
digests of all files, `own_sha256` the other keys; dataset folders of earlier versions lack that. No other file of the folder is
opened. Each is verified before it is used, once for each user and state of the file (`gcnrec.integrity`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from gcnrec.errors import DataError, GcnrecError, first_line, os_remedy, reading
from gcnrec.graph import (
    Behaviour,
    BipartiteGraph,
    Csr,
    History,
    LaterRows,
    Weights,
    csr_from_edges,
    latest_weight,
    mapped,
    open_csr,
    summed_logarithm,
    summed_weight,
)
from gcnrec.ids.id_types import plain
from gcnrec.integrity.digests import OWN, own_digest, sha256_of
from gcnrec.integrity.facts import recalled, remember
from gcnrec.integrity.listed import Count, Listed, Sha256, verify
from gcnrec.interactions import MAX_NODES, Interactions, MemoryVocabulary, Vocabulary
from gcnrec.storage.documents import Document, checked, read_object
from gcnrec.storage.files import exchanged, followed, local, remove, sync, unfinished, work_path
from gcnrec.storage.locks import awaited, locked
from gcnrec.storage.places import StrPath, place
from gcnrec.system.observer import SILENT

FORMAT = 1
_OF_DATASETS = re.compile(
    r"dataset\.json|(users|items|valid|test)\.parquet|"
    r"(behaviour_[0-9]+\.)?((user_items|item_users)\.[a-z_]+\.npy|(times|weights)\.npy)|"
    r"behaviour_[0-9]+\.later\.parquet|"
    r"negative\.(user_items\.(indptr|indices)\.npy|(valid|test)\.parquet)|"
    r"(user|item)_features(\.[0-9]+\.parquet|\.npy)"
)
"""Names of the files of a dataset folder."""
_PARTS = ("user_items.indptr", "user_items.indices", "item_users.indptr", "item_users.indices")
_REQUIRED = (*(f"{part}.npy" for part in _PARTS), "users.parquet", "items.parquet", "valid.parquet", "test.parquet")
NEGATIVES = "negative.user_items"
"""What the files of the CSR of negative pairs begin with."""
_LATER_NEGATIVES = ("negative.valid.parquet", "negative.test.parquet")
_CHECKS = 1
"""The version of `_check_content`: what an earlier one let pass is looked at again."""
_AGAIN = "ingest again"

Nodes = Annotated[int, Field(strict=True, ge=0, le=MAX_NODES)]


class _Entry(Listed):
    """A file of `dataset.json`: `shape` of an array or of a table, `dtype` of the array or of each column."""

    shape: tuple[Count, ...]
    dtype: str | dict[str, str]


class _Column(Document):
    """A column of features as it was fitted; `file` holds its words."""

    file: str | None = None


class _Features(Document):
    """How the features of a side were made."""

    columns: tuple[_Column, ...] = ()


class _Other(Document):
    """A behaviour that is not predicted: its graph has `edges`."""

    name: str
    edges: Count


class _Behaviours(Document):
    """What users did with items: the `target`, and the `others` in the order of their files."""

    target: str
    others: tuple[_Other, ...] = ()


class _Info(Document):
    """`dataset.json`, as far as this package reads it."""

    format: int
    name: str
    digest: Sha256
    own_sha256: Sha256 | None = None
    files: dict[str, _Entry]
    num_users: Nodes
    num_items: Nodes
    num_train: Count = 0
    num_valid: Count = 0
    num_test: Count = 0
    split: str = ""
    rules: int = Field(default=1, strict=True)
    data: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, list[tuple[str, int | None, int | str | None]]] = Field(default_factory=dict)
    report: dict[str, Any] = Field(default_factory=dict)
    user_features: _Features = _Features()
    item_features: _Features = _Features()
    behaviours: _Behaviours | None = None


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder. `graph` is train; arrays are memory-mapped and read-only.

    Of data with behaviours, `graph` and held-out pairs are of the target alone; `others` are the rest, the most frequent first.
    Models read `graph.others`: all of them, unless `reading` leaves them out.

    `negatives`: user -> items that the user rated low, as far as train may know, without pairs of train; None where ingestion
    had no `negative_below`. `later_negatives`: such pairs from validation's time on, and from test's.

    `times_E` int64 seconds and `weights_E` float32 follow the order of `graph.user_items.indices`; features are
    float32, one row per user or item.
    `digest` is the sha256 over all file digests: equal digests mean equal data.
    """

    folder: Path
    info: dict[str, Any]
    graph: BipartiteGraph
    user_ids: Vocabulary
    item_ids: Vocabulary
    valid: Interactions
    test: Interactions
    times_E: NDArray[np.int64] | None
    weights_E: NDArray[np.float32] | None
    user_features: NDArray[np.float32] | None = None
    item_features: NDArray[np.float32] | None = None
    others: tuple[Behaviour, ...] = ()
    negatives: Csr | None = None
    later_negatives: tuple[Interactions, ...] = ()

    def __repr__(self) -> str:
        """One line: folder, nodes and pairs."""
        counts = f"{len(self.user_ids):,} users, {len(self.item_ids):,} items"
        pairs = f"{self.graph.num_edges:,} train, {len(self.valid):,} validation, {len(self.test):,} test"
        return f"Dataset({str(self.folder)!r}: {counts}, {pairs})"

    @property
    def name(self) -> str:
        return str(self.info["name"])

    @property
    def digest(self) -> str:
        return str(self.info["digest"])

    @property
    def keeps_repeats(self) -> bool:
        """Whether held-out pairs that train also has were kept at ingestion (`--repeats keep`)."""
        return bool(self.info.get("data", {}).get("repeats") == "keep")

    @property
    def repeated(self) -> Callable[[Weights, Weights], Weights]:
        """What a pair of train that comes again later weighs, from both weights."""
        return repeated_by(self.info.get("data", {}))

    def reading(self, behaviours: str | None) -> Dataset:
        """The dataset as a model with `model.behaviours` reads it: "none" leaves other behaviours out of `graph`."""
        return replace(self, graph=replace(self.graph, others=())) if behaviours == "none" else self

    def known_items(self, *held_out: Interactions) -> tuple[Csr, ...]:
        """User -> items of train and of each part `held_out` with pairs; never merged, as train may be too large."""
        train = self.graph.user_items
        parts = [part for part in held_out if len(part)]
        return train, *(csr_from_edges(part.users_E, part.items_E, train.rows, train.columns) for part in parts)

    def known_negatives(self, later: int) -> tuple[Csr, ...]:
        """User -> items of negative pairs: of train's time, then of validation's and of test's, as many as `later` says."""
        if self.negatives is None:
            return ()
        train, negatives = self.graph.user_items, self.negatives
        if (negatives.rows, negatives.columns) != (train.rows, train.columns):  # nodes that are folded in have none
            ends = np.full(train.rows - negatives.rows, negatives.num_edges)
            negatives = Csr(np.concatenate([negatives.indptr, ends]), negatives.indices, train.columns)
        parts = [part for part in self.later_negatives[:later] if len(part)]
        return negatives, *(csr_from_edges(part.users_E, part.items_E, train.rows, train.columns) for part in parts)


def opened(dataset: Dataset | StrPath) -> Dataset:
    """`dataset`, or that of a folder, as `open_dataset` opens it."""
    return open_dataset(dataset) if isinstance(dataset, (str, os.PathLike)) else dataset


def open_dataset(folder: StrPath, verify: bool = False) -> Dataset:
    """Open a dataset folder by memory map, after each listed file is verified; other files in it are ignored.

    A file that this user has verified before, and that has not changed since, is not read again; with `verify`, it is, once in a
    process. What a dataset's arrays hold is looked at once for each user and `dataset.json`.
    Raises DataError when the folder, its format or a file is not what `dataset.json` says.
    """
    folder = local(place(folder))
    document = read_info(folder)
    info = _Info.model_validate(document)
    _check_listing(folder, info)
    _verify(folder, info, anew=verify)
    user_ids, item_ids = _vocabulary(folder, "users", info.num_users), _vocabulary(folder, "items", info.num_items)
    graph = BipartiteGraph.open(folder, info.num_users, info.num_items)
    others = tuple(_open_other(folder, number, info, user_ids, item_ids) for number in range(1, 1 + _num_others(info)))
    negatives = _open_negatives(folder, info)
    _check_content(folder, document, (graph, *(other.graph for other in others)), negatives)
    edges = (graph.num_edges,)
    times_E = mapped(folder / "times.npy", np.int64, edges) if "times.npy" in info.files else None
    weights_E = mapped(folder / "weights.npy", np.float32, edges) if "weights.npy" in info.files else None
    graph = replace(graph, others=others, history=History(graph.user_items, times_E, weights_E))
    return Dataset(
        folder=folder,
        info=document,
        graph=graph,
        user_ids=user_ids,
        item_ids=item_ids,
        valid=_open_held_out(folder / "valid.parquet", user_ids, item_ids),
        test=_open_held_out(folder / "test.parquet", user_ids, item_ids),
        times_E=times_E,
        weights_E=weights_E,
        user_features=_open_features(folder, "user", info),
        item_features=_open_features(folder, "item", info),
        others=others,
        negatives=negatives,
        later_negatives=tuple(
            _open_held_out(folder / name, user_ids, item_ids) for name in _LATER_NEGATIVES if negatives is not None
        ),
    )


def _open_negatives(folder: Path, info: _Info) -> Csr | None:
    """User -> items of negative pairs of train; None in folders without any."""
    return open_csr(folder, NEGATIVES, info.num_users, info.num_items) if f"{NEGATIVES}.indptr.npy" in info.files else None


def behaviour_prefix(number: int) -> str:
    """What the files of a behaviour's graph begin with; 0 is the target."""
    return f"behaviour_{number}." if number else ""


def _num_others(info: _Info) -> int:
    return len(info.behaviours.others) if info.behaviours else 0


def _open_other(folder: Path, number: int, info: _Info, user_ids: Vocabulary, item_ids: Vocabulary) -> Behaviour:
    assert info.behaviours is not None
    prefix, other = behaviour_prefix(number), info.behaviours.others[number - 1]
    graph = BipartiteGraph.open(folder, info.num_users, info.num_items, prefix)
    edges = (graph.num_edges,)
    times, weights, later = (f"{prefix}{name}" for name in ("times.npy", "weights.npy", "later.parquet"))
    rows = _open_held_out(folder / later, user_ids, item_ids) if later in info.files else None
    return Behaviour(
        other.name,
        graph,
        mapped(folder / times, np.int64, edges) if times in info.files else None,
        mapped(folder / weights, np.float32, edges) if weights in info.files else None,
        None if rows is None else LaterRows(rows.users_E, rows.items_E, rows.times_E, rows.weights_E, repeated_by(info.data)),
    )


def repeated_by(data: Mapping[str, Any]) -> Callable[[Weights, Weights], Weights]:
    """What a pair of train weighs that comes again later, by the keys `duplicates` and `weight_log` that ingestion had."""
    if data.get("duplicates") != "sum":
        return latest_weight
    return summed_logarithm if data.get("weight_log") else summed_weight


def read_info(folder: Path) -> dict[str, Any]:
    """The parsed `dataset.json` of `folder`, whose values have the types of the format; no other file is looked at."""
    path = folder / "dataset.json"
    if not folder.is_dir():
        raise DataError(f"no dataset folder at {folder}; make one with 'gcnrec ingest'")
    if not path.exists():
        raise DataError(f"{folder} is not a dataset folder: dataset.json is missing; make one with 'gcnrec ingest'")
    info = read_object(path, _AGAIN)
    if info.get("format") != FORMAT:
        raise DataError(f"{path} must have format {FORMAT}, got {info.get('format')!r}; ingest again with this version of gcnrec")
    checked(_Info, info, str(path), _AGAIN)
    if info.get(OWN) not in (None, own_digest(info)):
        raise DataError(f"{path} does not match the sha256 in it, it has changed since it was written; {_AGAIN}")
    return info


def _never(left: Path) -> bool:
    return False


@contextmanager
def new_folder(
    target: Path,
    force: bool,
    warn: Callable[[str], object] = SILENT.warn,
    can_go_on: Callable[[Path], bool] = _never,
) -> Iterator[Path]:
    """A folder to write into that becomes `target` in one rename when the block succeeds, and vanishes when it fails.

    It is new, or what a killed process left, if `can_go_on` says of that folder that its work may be finished.
    A link is followed: the folder that it leads to is made or replaced, and the link stays. `warn` gets a sentence about a
    process that was killed while it wrote, and about what cannot be cleared.
    Raises DataError when `target` exists and `force` is not set, Busy when another process writes it.
    """
    place = followed(target)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DataError(f"cannot make {place.parent}: {problem.strerror or problem}; choose another --out") from problem
    with locked(folder_lock(target), target, warn):
        left = _clear_leftovers(place, warn, can_go_on if force or not place.exists() else _never)
        if place.exists() and not force:
            if left is not None:  # what a killed writer had moved aside is back
                remove(left)
            raise _taken(target)
        with _replacing(place, target, left, warn) as work:
            yield work


def refuse_existing(target: Path, warn: Callable[[str], object] = SILENT.warn) -> None:
    """DataError where something is at `target`; what a killed writer left next to it is removed first, where that can be."""
    if target.exists():
        with suppress(GcnrecError, OSError), locked(folder_lock(target), target, warn):
            _clear_leftovers(followed(target), warn)
        raise _taken(target)


def _taken(target: Path) -> DataError:
    return DataError(f"{target} exists and is never overwritten; choose another --out, or add --force")


@contextmanager
def turn_at(target: Path, note: Callable[[str], object] = SILENT.note) -> Iterator[bool]:
    """Wait until no other process writes the folder `target`, and let none begin; yields whether one did."""
    try:
        followed(target).parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        remedy = os_remedy(problem, "choose another place")
        raise DataError(f"cannot make {target.parent}: {problem.strerror or problem}; {remedy}") from problem
    with awaited(folder_lock(target), target, note) as waited:
        yield waited


def folder_lock(target: Path) -> Path:
    """The file that the writer of the folder `target` locks; next to the folder itself where `target` is a link."""
    place = followed(target)
    return place.parent / f".{place.name}.lock"


def refuse_foreign(target: Path) -> None:
    """DataError where `target` is something else than a dataset folder, or holds what is no part of one: it would be lost.

    An empty folder may be replaced, and a dataset folder whose `dataset.json` is damaged.
    """
    inside = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    if target.exists() and (inside or not target.is_dir()) and not (target / "dataset.json").is_file():
        raise DataError(f"{target} must be a dataset folder to be replaced, lacks dataset.json; remove it, or choose another")
    foreign = next((name for name in inside if not _OF_DATASETS.fullmatch(name) or not (target / name).is_file()), None)
    if foreign is not None:
        raise DataError(
            f"{target} must hold a dataset alone to be replaced, it also holds {foreign}, which would be lost; move {foreign} "
            "elsewhere, or choose another folder"
        )


@contextmanager
def _replacing(place: Path, target: Path, left: Path | None, warn: Callable[[str], object]) -> Iterator[Path]:
    """`place` is where `target` leads; messages name `target`. `left`: the unfinished folder to go on with."""
    with work_path(place) as work:
        try:
            work.mkdir() if left is None else left.rename(work)
            yield work
            for path in sorted(work.rglob("*")):
                sync(path)
            sync(work)
            _put_in_place(work, place, warn)
            sync(place.parent)
        except OSError as problem:
            raise DataError(
                f"cannot write {target}: {problem.strerror or problem}; {os_remedy(problem, 'choose another --out')}"
            ) from problem
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _clear_leftovers(place: Path, warn: Callable[[str], object], can_go_on: Callable[[Path], bool] = _never) -> Path | None:
    """Remove what killed writers of `place` left; a folder that they had moved aside comes back.

    Returns an unfinished folder that `can_go_on`, which stays.
    """
    kept = None
    for left in sorted(unfinished(place.parent, place.name), key=lambda each: each.ending):  # `old` first
        if not left.is_abandoned:
            warn(f"{left.path} belongs to {left.writer}, which may still run; remove it when that has ended")
        elif left.ending == "old" and not place.exists():
            left.path.rename(place)
        elif kept is None and left.ending == "part" and can_go_on(left.path):
            kept = left.path
        else:
            remove(left.path)
    return kept


def _put_in_place(work: Path, place: Path, warn: Callable[[str], object]) -> None:
    """Rename `work` to `place`; what lies there changes places with it, or is moved aside until then."""
    if not place.exists():
        work.rename(place)
    elif exchanged(work, place):
        _remove_previous(work, place, warn)
    else:
        with work_path(place, "old") as old:
            place.rename(old)
            try:
                work.rename(place)
            except BaseException:
                old.rename(place)
                raise
            _remove_previous(old, place, warn)


def _remove_previous(old: Path, place: Path, warn: Callable[[str], object]) -> None:
    remove(old)
    if old.exists():
        warn(f"{place} is replaced, {old} cannot be removed, which has the previous files; remove it")


def seal(folder: Path, info: dict[str, Any]) -> None:
    """Write `dataset.json` into a folder whose files are complete: `info` with `format`, `files`, `digest` and `own_sha256`."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "dataset.json"]
    files = {path.name: _describe(path) for path in paths}
    digest = _digest_of({name: entry["sha256"] for name, entry in files.items()})
    document = {"format": FORMAT, **info, "digest": digest, "files": files}
    document[OWN] = own_digest(document)
    (folder / "dataset.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def write_vocabulary(path: Path, kind: pa.DataType, parts: Iterable[tuple[pa.Array, NDArray[np.int64]]]) -> None:
    """`users.parquet` or `items.parquet`: id of type `kind`, number int32, degree int64 (train).

    `parts`: ids and degrees in the order of the numbers, as many at a time as a row group is to hold.
    """
    schema = pa.schema({"id": kind, "number": pa.int32(), "degree": pa.int64()})
    first = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for ids, degrees in parts:
            numbers = np.arange(first, first + len(ids), dtype=np.int32)
            writer.write_table(pa.table([ids, numbers, degrees], schema=schema))
            first += len(ids)


def _describe(path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r")
        return {"shape": list(array.shape), "dtype": str(array.dtype), **entry}
    schema = pq.read_schema(path)
    rows = pq.read_metadata(path).num_rows
    return {"shape": [rows, len(schema)], "dtype": {field.name: str(field.type) for field in schema}, **entry}


def _digest_of(digests: Mapping[str, str]) -> str:
    """The digest of a dataset, from the digests of its files by name."""
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def _check_listing(folder: Path, info: _Info) -> None:
    """DataError unless the list of files has what a dataset needs, plain names alone, and the digest of the dataset."""
    path = folder / "dataset.json"
    strange = next((name for name in info.files if not _OF_DATASETS.fullmatch(name) or name == path.name), None)
    if strange is not None:
        raise DataError(f"{path} must list files of a dataset only, lists {strange!r}; {_AGAIN}")
    columns = (*info.user_features.columns, *info.item_features.columns)
    words = [column.file for column in columns if column.file is not None]
    graphs = [f"{behaviour_prefix(number)}{part}.npy" for number in range(1, 1 + _num_others(info)) for part in _PARTS]
    of_negatives = (f"{NEGATIVES}.indptr.npy", f"{NEGATIVES}.indices.npy", *_LATER_NEGATIVES)
    has_negatives = any(name in info.files for name in of_negatives)
    expected = (*_REQUIRED, *words, *graphs, *(of_negatives if has_negatives else ()))
    lacking = next((name for name in expected if name not in info.files), None)
    if lacking is not None:
        raise DataError(f"{path} must list {lacking!r} among its files, does not; {_AGAIN}")
    if info.digest != _digest_of({name: entry.sha256 for name, entry in info.files.items()}):
        raise DataError(f"{path} has a digest that is not the one of its files; {_AGAIN}")


def _verify(folder: Path, info: _Info, anew: bool) -> None:
    for name in info.files:
        if not (folder / name).is_file():
            raise DataError(f"{folder} lacks {name}, which its dataset.json lists; {_AGAIN}")
    verify({folder / name: entry for name, entry in info.files.items()}, "dataset.json", lambda path: _AGAIN, anew)


def _check_content(folder: Path, document: dict[str, Any], graphs: tuple[BipartiteGraph, ...], negatives: Csr | None) -> None:
    """DataError unless every row of both directions is one of a CSR, so that kernels stay inside the arrays. O(E).

    The digests of all files follow from `dataset.json`, so the same one need not be looked at twice.
    """
    fact = f"content {_CHECKS} {document.get(OWN) or own_digest(document)}"
    if fact not in recalled():
        for number, graph in enumerate(graphs):
            graph.user_items.check(str(folder / f"{behaviour_prefix(number)}user_items"))
            graph.item_users.check(str(folder / f"{behaviour_prefix(number)}item_users"))
        if negatives is not None:
            negatives.check(str(folder / NEGATIVES))
        remember([fact])


def _vocabulary(folder: Path, name: str, size: int) -> StoredVocabulary:
    ids = StoredVocabulary(folder / f"{name}.parquet")
    if len(ids) != size:
        raise DataError(f"{folder / name}.parquet must have {size} rows, has {len(ids)}; {_AGAIN}")
    return ids


_CHUNK_BYTES = 2**23
"""Of ids that are read at a time."""


_SOUGHT_ROWS = 2**16
"""Of ids that are looked up at a time, at least, among the ids that are asked for."""


class StoredVocabulary(Vocabulary):
    """The ids of `users.parquet` or `items.parquet`; `ids` reads them into memory at its first use.

    Raises DataError when the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._rows, self._type = int(pq.read_metadata(path).num_rows), pq.read_schema(path).field("id").type
        except (OSError, KeyError, pa.ArrowInvalid) as problem:
            raise DataError(f"{path} cannot be read ({problem}); ingest again") from None
        self._path = path

    def __len__(self) -> int:
        return self._rows

    @property
    def type(self) -> pa.DataType:
        return self._type

    @property
    def nbytes(self) -> int:
        metadata = pq.read_metadata(self._path)
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        return 8 * len(self) + sum(group.column(0).total_uncompressed_size for group in groups)

    @cached_property
    def ids(self) -> pa.Array:
        return MemoryVocabulary(_read(self._path, ["id"]).column("id").combine_chunks()).ids

    def numbers(self, ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
        """As of every vocabulary. Of fewer ids than it has, its own are looked up among these, a few at a time."""
        return super().numbers(ids) if len(ids) >= len(self) else self._sought(self.cast(ids))

    def _sought(self, ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
        """Numbers of plain `ids`, int32, by one pass over the file: memory follows the ids that are asked for."""
        asked = pc.drop_null(pc.unique(ids))
        numbers_X, first = np.full(len(asked), -1, np.int32), 0
        for chunk in self.chunks(max(_SOUGHT_ROWS, len(asked))):  # each builds a hash table of what is asked
            places = pc.index_in(chunk.cast(plain(chunk.type)), value_set=asked)
            there = pc.is_valid(places)
            numbers_X[places.filter(there).to_numpy()] = first + np.flatnonzero(there.to_numpy(zero_copy_only=False))
            first += len(chunk)
        found = pc.fill_null(pc.index_in(ids, value_set=asked, skip_nulls=True), -1)
        found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
        return np.append(numbers_X, np.int32(-1))[found.to_numpy(zero_copy_only=False)]

    def chunks(self, rows: int) -> Iterator[pa.Array]:
        """Read from the file, a few at a time: fewer than `rows` where ids are long."""
        rows = max(min(rows, _CHUNK_BYTES * len(self) // max(self.nbytes, 1)), 1)
        try:
            with pq.ParquetFile(self._path, buffer_size=2**18, pre_buffer=False) as file:
                for batch in file.iter_batches(rows, columns=["id"], use_threads=False):
                    yield batch.column(0)
        except (OSError, pa.ArrowInvalid) as problem:
            raise DataError(f"{self._path} cannot be read ({problem}); ingest again") from None


_HELD_OUT = {"user": pa.int32(), "item": pa.int32(), "time": pa.int64(), "weight": pa.float32()}
"""Columns of held-out pairs; the last two may be absent."""


def _open_held_out(path: Path, user_ids: Vocabulary, item_ids: Vocabulary) -> Interactions:
    table = _read(path)
    for name, kind in _HELD_OUT.items():
        found = table.schema.field(name).type if name in table.column_names else None
        if found != kind and (found is not None or name in ("user", "item")):
            raise DataError(f"{path} must have {name!r} of type {kind}, has {found or 'no such column'}; {_AGAIN}")
        if found is not None and table.column(name).null_count:
            raise DataError(f"{path} must have a value in each row of {name!r}, some are null; {_AGAIN}")
    columns = {name: table.column(name).to_numpy() for name in _HELD_OUT if name in table.column_names}
    for name, size in (("user", len(user_ids)), ("item", len(item_ids))):
        least, most = columns[name].min(initial=0), columns[name].max(initial=-1)
        if least < 0 or most >= size:
            raise DataError(f"{path} must have {name!r} in 0 .. {size - 1}, has {least} .. {most}; {_AGAIN}")
    return Interactions(columns["user"], columns["item"], columns.get("time"), columns.get("weight"), user_ids, item_ids)


def _open_features(folder: Path, side: str, info: _Info) -> NDArray[np.float32] | None:
    name, rows = f"{side}_features.npy", info.num_users if side == "user" else info.num_items
    return mapped(folder / name, np.float32, (rows, None)) if name in info.files else None


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    with reading(path, _AGAIN):
        try:
            return pq.read_table(path, columns=columns, memory_map=True)
        except (pa.ArrowInvalid, pa.ArrowKeyError) as problem:
            raise DataError(f"{path} cannot be read ({first_line(problem)}); {_AGAIN}") from None
