"""Self-contained pages from the templates of this folder, which extend `page.html.j2`; no external request."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcnrec.storage.files import atomic_file


def write_page(template: str, content: Mapping[str, Any], path: Path) -> Path:
    """Write the page to `path`, replacing an earlier one, and return `path`."""
    page = rendered(template, content)
    with atomic_file(path) as work:
        work.write_text(page, encoding="utf-8")
    return path


def rendered(template: str, content: Mapping[str, Any]) -> str:
    """A template of this folder with `content`, of which all text is escaped."""
    import jinja2

    def labelled(svg: str, name: str) -> str:
        """An SVG as an image with a name, for readers who cannot see it."""
        return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(name)}"', 1)

    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    pages.filters["labelled"] = labelled
    return pages.get_template(template).render(**content)
