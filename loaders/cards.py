"""What a card says: where a data set comes from, under which licence, which columns it has, and how to get its files.

A card may come from a stranger. Every text that reaches pip, a URL or a path on the disk is checked here, before anything is
fetched: see SECURITY.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from gcnrec.config import Data
from gcnrec.config.data import PATHS
from gcnrec.config.toml import Section, read_toml, validated
from gcnrec.errors import UsageError
from gcnrec.loaders.ingest.listing import ARROW_PROTOCOLS
from gcnrec.loaders.recipe import PLACES
from gcnrec.loaders.synthetic import World
from gcnrec.loaders.worlds.shop import Shop

_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
# A name as PEP 503 has it, and a version without epoch, local part or wildcard. No path, URL, option or marker is of this form.
_NUMBER = "[0-9]{1,9}"
_NAME = "[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"
_VERSION = rf"{_NUMBER}(\.{_NUMBER}){{0,9}}((a|b|rc){_NUMBER})?(\.post{_NUMBER})?(\.dev{_NUMBER})?"
_WHEEL = re.compile(f"{_NAME}=={_VERSION}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_LONGEST_PATH = 500
_LONGEST_URL = 2000
_MOST_SOURCES, _MOST_FILES = 10, 100


def _matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def checked(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"expects {expected}, got {_shown(text)}")
        return text

    return AfterValidator(checked)


def _a_path_inside(text: str) -> str:
    """A relative path that stays below where it starts, on one line when it is shown."""
    parts = text.split("/")
    if not text.isprintable() or "\\" in text or len(text) > _LONGEST_PATH or "" in parts or ".." in parts:
        raise ValueError(f"expects a relative path such as folder/file.parquet, without .. and \\, got {_shown(text)}")
    return text


def _a_url(text: str) -> str:
    """An address of http, https or file, in ASCII, on one line, without a user; of file only on this machine."""
    is_plain = text.isascii() and text.isprintable() and not {" ", "\\"} & {*text} and len(text) <= _LONGEST_URL
    if not is_plain or not _has_a_known_scheme(text):
        raise ValueError(
            f"expects an http://, https:// or file:/// address in ASCII without spaces, users and passwords, got {_shown(text)}"
        )
    return text


def _has_a_known_scheme(text: str) -> bool:
    try:
        url = urlsplit(text)
        url.port  # noqa: B018 (raises ValueError when it is none)
    except ValueError:
        return False
    if url.scheme == "file":
        return url.netloc in ("", "localhost") and url.path.startswith("/") and not (url.query or url.fragment)
    return url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")


FolderName = Annotated[str, _matching(_FOLDER, "the name of a folder: 1 to 64 letters, digits or . _ - with no . or - first")]
PathInside = Annotated[str, AfterValidator(_a_path_inside)]
Wheel = Annotated[str, _matching(_WHEEL, "NAME==VERSION such as recbole==1.2.1, one package and its version")]
Url = Annotated[str, AfterValidator(_a_url)]
Sha256 = Annotated[str, _matching(_SHA256, "the 64 hexadecimal digits that sha256sum prints"), AfterValidator(str.lower)]


class About(Section):
    """Section `[card]`: what the data set is and whose."""

    name: FolderName
    """Also the folder of the cache in which its files are kept."""
    title: str
    licence: str
    origin: str


class Source(Section):
    """One way to a file: `root` under --data-root, `wheel` (`NAME==VERSION`) and `member`, or `url` (of a zip, with `member`)."""

    root: PathInside | None = None
    wheel: Wheel | None = None
    url: Url | None = None
    member: PathInside | None = None
    sha256: Sha256
    """Of the file itself, not of the archive around it."""

    @model_validator(mode="after")
    def _rules(self) -> Source:
        if sum(way is not None for way in (self.root, self.wheel, self.url)) != 1:
            raise ValueError("a source has exactly one of root, wheel, url")
        if self.wheel is not None and self.member is None:
            raise ValueError('a wheel needs member, the path of the file inside it; add member = "PATH"')
        if self.root is not None and self.member is not None:
            raise ValueError("member is a file inside a wheel or a url; name the file itself by root")
        return self

    def __str__(self) -> str:
        return str(self.root or self.wheel or self.url)


class File(Section):
    """A file that `[data]` names by `path`; a text table is converted to Parquet with these `columns`."""

    path: PathInside
    source: Annotated[tuple[Source, ...], Field(min_length=1)]
    columns: Annotated[dict[str, Literal["int64", "float32", "float64", "string"]], Field(min_length=1)] | None = None
    """Names and types of a tab-separated table whose first line is a header; what follows a colon there is ignored."""

    @model_validator(mode="after")
    def _rules(self) -> File:
        if len(self.source) > _MOST_SOURCES:
            raise ValueError(f"at most {_MOST_SOURCES} sources are tried, got {len(self.source)}; leave some out")
        return self


class Card(Section):
    """A card: `[card]`, `[data]` (the flags of ingest), and `[[file]]` entries, `[synthetic]` or `[shop]`."""

    card: About
    data: Data
    file: tuple[File, ...] = ()
    synthetic: World | None = None
    shop: Shop | None = None
    """Its files are `shop/events` and `shop/items.parquet` in `[data]`."""

    @model_validator(mode="after")
    def _rules(self) -> Card:
        foreign = sorted(self.data.model_fields_set & PLACES)
        if foreign:
            raise ValueError(f"data.{foreign[0]} belongs into a job, not into a card; leave it out")
        for key in PATHS:
            text = getattr(self.data, key)
            # Its query can name another host, and a request for an object store is signed with this machine's credentials.
            if text is not None and "://" in text and "?" in text:
                raise ValueError(f"data.{key} must be a URI without a query (from ? on), got {_shown(text)}; leave the query out")
            # Other drivers of fsspec reach further than a stranger's card should.
            if text is not None and "://" in text and text.partition("://")[0] not in ARROW_PROTOCOLS:
                protocols = ", ".join(ARROW_PROTOCOLS)
                raise ValueError(f"data.{key} of a card must have a protocol among {protocols}, got {_shown(text)}; name another")
        if len(self.file) > _MOST_FILES:
            raise ValueError(f"a card has at most {_MOST_FILES} [[file]] entries, got {len(self.file)}; leave some out")
        paths = [file.path for file in self.file]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise ValueError(f"two [[file]] entries have the path {_shown(twice)}; give one entry both sources")
        return self


def load_card(path: Path) -> Card:
    """Read and check a card; raises UsageError naming the key that is wrong."""
    values = read_toml(path)
    if "card" not in values:
        raise UsageError(f"{path} must be a card, it has no section [card]; a job file is for 'gcnrec run {path}'")
    return validated(Card, values, str(path))
