"""Brings files outside docs/ to which pages link into the site: Markdown as pages, other files as they are.

A link such as `../SECURITY.md` works on a code host. On the site that file lies below `repository/`, and the link leads there.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
FOLDER = "repository"
"""Where files from outside docs/ lie on the site."""
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s]+)(?=\))|(^\[[^\]\n]+\]: )(\S+)", re.MULTILINE)
_log = logging.getLogger("mkdocs.hooks.outside")


def on_files(files: Files, config: Any) -> Files:
    """Add each file outside docs/ that a page names, and what such pages name in turn."""
    ahead = [(f"docs/{file.src_uri}", Path(str(file.abs_src_path))) for file in files.documentation_pages()]
    known: set[str] = set()
    while ahead:
        page, path = ahead.pop()
        for target in targets(path.read_text(encoding="utf-8")):
            place = of_repository(page, target)
            if place is None or place.startswith("docs/") or place in known:
                continue
            known.add(place)
            if not (ROOT / place).is_file():
                _log.warning("%s links to %s, which is no file of the repository", page, target)
                continue
            files.append(File.generated(config, f"{FOLDER}/{place}", abs_src_path=str(ROOT / place)))
            if place.endswith(".md"):
                ahead.append((place, ROOT / place))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links that lead to where files lie on the site."""
    uri: str = page.file.src_uri
    here = uri.removeprefix(f"{FOLDER}/") if uri.startswith(f"{FOLDER}/") else f"docs/{uri}"

    def moved(target: str) -> str:
        place = of_repository(here, target)
        if place is None:
            return target
        there = place.removeprefix("docs/") if place.startswith("docs/") else f"{FOLDER}/{place}"
        anchor = target.partition("#")[2]
        return posixpath.relpath(there, posixpath.dirname(uri) or ".") + (f"#{anchor}" if anchor else "")

    return with_links(markdown, moved)


def of_repository(page: str, target: str) -> str | None:
    """The file that a link of `page` leads to, from the root of the repository; None for an address or an anchor of the page."""
    path = target.partition("#")[0]
    if not path or "://" in path or path.startswith("mailto:"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path))


def targets(markdown: str) -> Iterator[str]:
    """What the links of a page lead to."""
    found: list[str] = []
    with_links(markdown, lambda target: found.append(target) or target)
    yield from found


def with_links(markdown: str, moved: Callable[[str], str]) -> str:
    """The text with another target for each link outside code."""

    def one(match: re.Match[str]) -> str:
        return f"{match[1] or match[3]}{moved(match[2] or match[4])}"

    pieces = _CODE.split(markdown)
    return "".join(piece if number % 2 else _LINK.sub(one, piece) for number, piece in enumerate(pieces))
