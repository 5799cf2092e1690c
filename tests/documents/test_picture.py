"""The picture of README.md: it is drawn from the records, and its figures are the ones of the page of results."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.picture import OUT, PUBLISHED, drawing, rows

ROOT = Path(__file__).parents[2]


def test_the_picture_is_the_one_of_the_records():
    assert OUT.read_text(encoding="utf-8") == drawing(rows())


def test_its_figures_are_on_the_page_of_results():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    known = set(re.findall(r"\d\.\d{4}", page))
    assert {f"{row.recall:.4f}" for row in rows()} <= known
    assert {f"{value:.4f}" for value in PUBLISHED.values()} <= known


def test_it_is_small_and_loads_nothing():
    text = OUT.read_text(encoding="utf-8")
    assert len(text) < 10_000
    assert not re.search(r"<script|href|url\(|@import", text)
