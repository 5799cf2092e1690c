"""The report is one file, asks nobody for anything, and says what the run's files say."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from gcnrec.config import Job, to_toml
from gcnrec.report import write_report

FORBIDDEN = {"script", "link", "img", "iframe", "object", "embed"}
VOID = {"meta", "br", "hr"}


class Page(HTMLParser):
    """Collects tags, checks nesting, keeps the visible text."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parse(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my <run>"
    folder.mkdir()
    (folder / "job.toml").write_text(to_toml(Job.parse({"run": {"name": "a & b"}}, [], "here")))
    return folder


def fill(folder):
    events = [
        {"event": "epoch", "stage": stage, "epoch": n, "step": 10 * n, "seconds": 2.0 * n, "loss": 3 / n, "rows_per_second": 1e5,
         "learning_rate": 1e-3} | ({"valid": {"recall@20": 0.1 * n}} if stage == "fit" else {})
        for stage in ("fit", "refit") for n in (1, 2, 3)
    ]  # fmt: skip
    events += [{"event": "baseline", "name": "popularity", "metrics": {"recall@20": 0.0416}}, {"event": "note", "text": "1 < 2"}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "epo')
    metrics = {"split": "test", "recall@20": 0.18651, "ndcg@20": 0.1561, "intervals": {"recall@20": [0.18, 0.19]}}
    metrics["deciles"] = [{"decile": n, "recall@20": 0.3 / n} for n in range(1, 11)]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "memory.json").write_text(json.dumps({"values": 4_534_000, "value_bytes": 18_136_000}))
    (folder / "lineage.json").write_text(json.dumps({"format": 1, "data": {"name": "gowalla", "digest": "abc"}}))


def test_a_full_run(folder):
    fill(folder)
    page = parse(write_report(SimpleNamespace(folder=folder)))
    for part in (
        "0.1865",
        "0.1800 to 0.1900",
        "0.0416",
        "popularity",
        "gowalla",
        "abc",
        "4,534,000",
        "17.3 MiB",
        "1 < 2",
        "my <run>",
    ):
        assert part in page.text, part
    assert 'name = "a & b"' in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 6


def test_self_contained(folder):
    fill(folder)
    page = parse(write_report(SimpleNamespace(folder=folder)))
    assert not FORBIDDEN & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert value.startswith("#"), (tag, name, value)
    assert "@import" not in page.text and "url(http" not in page.text


def test_charts_take_the_colours_of_the_page(folder):
    fill(folder)
    text = write_report(SimpleNamespace(folder=folder)).read_text()
    assert "var(--series-1)" in text and "prefers-color-scheme: dark" in text
    assert "#010203" not in text and "#0a0001" not in text


def test_a_bare_run_still_has_a_page(folder):
    page = parse(write_report(SimpleNamespace(folder=folder)))
    assert "Configuration" in page.text and "svg" not in {tag for tag, _ in page.tags}


def test_equal_runs_give_equal_pages(folder):
    fill(folder)
    first = write_report(SimpleNamespace(folder=folder)).read_bytes()
    assert write_report(SimpleNamespace(folder=folder)).read_bytes() == first
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("report")) == ["report.html"]
