"""The site of docs/: it builds without a warning, nothing comes from another host, and no link or anchor on it is dead."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import chromium
import pytest
import typer

import gcnrec
from gcnrec import errors
from gcnrec.cli import app
from gcnrec.config.reference import settings

pytest.importorskip("mkdocs", reason="the site needs the extra docs")

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "docs" / "hooks"


class Page(HTMLParser):
    """Addresses that a page leads to, addresses that it loads by itself, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.leads_to: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.leads_to.append(values["href"])
        self.loads += [values["src"]] if "src" in values else []
        self.loads += [values["href"]] if tag == "link" and "href" in values else []


def build(out: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(out),
        "--config-file",
        str(root / "mkdocs.yml"),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    out = tmp_path_factory.mktemp("site")
    done = build(out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def dead(pages: dict[Path, Page]) -> list[str]:
    """Links of pages to files and anchors that are not there."""
    found = []
    for path, page in pages.items():
        for address in page.leads_to + page.loads:
            parts = urlsplit(address)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[target].anchors if target in pages else set()
            if not parts.scheme and (not target.is_file() or (parts.fragment and unquote(parts.fragment) not in known)):
                found.append(f"{path.name}: {address}")
    return found


@pytest.mark.slow
def test_no_link_is_dead(site, pages):
    assert dead({path: page for path, page in pages.items() if path.name != "404.html"}) == []
    wrong = Page('<a href="index.html#nowhere"></a><a href="nowhere.html"></a>')
    assert len(dead({**pages, site / "wrong.html": wrong})) >= 2


@pytest.mark.slow
def test_pages_load_nothing_from_another_host(pages):
    assert [address for page in pages.values() for address in page.loads if urlsplit(address).netloc] == []


@pytest.mark.slow
def test_every_setting_command_and_function_has_its_place(site, pages):
    text = (site / "settings.html").read_text(encoding="utf-8")
    assert [each.name for each in settings() if f"<code>{each.name}</code>" not in text] == []
    assert set(typer.main.get_command(app).commands) <= pages[site / "commands.html"].anchors
    api = (site / "python-api.html").read_text(encoding="utf-8")
    assert [name for name in gcnrec.__all__ if f"<code>gcnrec.{name}</code>" not in api] == []


@pytest.mark.slow
@pytest.mark.skipif(chromium.installed() is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_a_browser_shows_pages_without_a_complaint(site, tmp_path, width, dark):
    browser = chromium.Chromium(tmp_path / "profile")
    try:
        for name in ("index", "job-file", "results"):
            seen = browser.look(site / f"{name}.html", width, dark)
            assert seen.problems == []
            assert seen.overflowing == []
            assert [url for url in seen.requests if not url.startswith(site.resolve().as_uri())] == []
    finally:
        browser.close()


@pytest.mark.slow
def test_a_wrong_link_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "hooks").symlink_to(HOOKS)
    (tmp_path / "docs" / "index.md").write_text("[a](nowhere.md) [b](../nowhere.py) [c](#nowhere)\n", encoding="utf-8")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[0]
    (tmp_path / "mkdocs.yml").write_text(config, encoding="utf-8")
    done = build(tmp_path / "site", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("WARNING") >= 3, done.stderr


def test_links_keep_their_way_and_code_stays():
    outside = runpy.run_path(str(HOOKS / "outside.py"))
    of_repository, with_links = outside["of_repository"], outside["with_links"]
    assert of_repository("docs/runs.md", "../jobs/README.md#a") == "jobs/README.md"
    assert of_repository("docs/runs.md", "scale.md") == "docs/scale.md"
    assert of_repository("docs/runs.md", "#a") is None
    assert of_repository("docs/runs.md", "https://host/a") is None
    text = "[a](x.md) `[b](x.md)`\n```\n[c](x.md)\n```\n![d](x.md)\n[1]: x.md\n"
    assert with_links(text, str.upper) == text.replace("[a](x.md)", "[a](X.MD)").replace("[d](x.md)", "[d](X.MD)").replace(
        "[1]: x.md", "[1]: X.MD"
    )


def test_each_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f": {path.name}\n" not in nav] == []


def test_the_page_of_exit_codes_has_each_code():
    page = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    documented = [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]
    known = {each.exit_code for each in vars(errors).values() if hasattr(each, "exit_code")}
    assert documented == sorted({0, *known})
