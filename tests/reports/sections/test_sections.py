"""Sections of a run's page: lists are the run's own, texts are text whatever they hold, and what is absent is said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heard import Heard

import gcnrec
from gcnrec.config import Data, Job
from gcnrec.reports.run_report import refresh_report, write_report, write_run_page
from gcnrec.reports.sections.data import binned, data_section
from gcnrec.reports.sections.examples import LENGTH, USERS, chosen, examples_section
from gcnrec.reports.sections.groups import group_tables
from gcnrec.reports.sections.titles import shown_text, titles_of
from gcnrec.results.evaluate import evaluate_run
from gcnrec.results.given.details import Details
from gcnrec.runs.contents import RunContents
from gcnrec.runs.folder import open_run
from gcnrec.training.train import train

NASTY = [
    "<script>alert(1)</script>", "\"quoted\" 'single' & <b>bold</b>", "</title></style></svg><img src=x onerror=alert(1)>",
    "\u05e9\u05dc\u05d5\u05dd", "\U0001f468\u200d\U0001f469\u200d\U0001f467 film", "A" * 10_000, "{{ 7 * 7 }} {% raw %}",
    "\u202eturned", "two\nlines\x07", "<!-- <bdi>", "", None,
]  # fmt: skip
USERS_OF, ITEMS = 24, 40


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Events of two halves of users and items over 40 days, some rated low, and a file of items with titles."""
    place = tmp_path_factory.mktemp("sections")
    rng = np.random.default_rng(0)
    users = rng.integers(0, USERS_OF, 700)
    items = users % 2 * 20 + rng.integers(0, 20, 700)
    times = 1_700_000_000 + rng.integers(0, 40 * 86_400, 700)
    columns = {"user": [f"<u{user}>" for user in users], "item": items, "time": times, "stars": rng.integers(1, 6, 700)}
    pq.write_table(pa.table(columns), place / "events.parquet")
    titles = NASTY + [f"Film {item}" for item in range(len(NASTY), ITEMS)]
    pq.write_table(pa.table({"item": range(ITEMS), "year": range(ITEMS), "title": titles}), place / "items.parquet")
    return place


@pytest.fixture(scope="module")
def data(place):
    return Data(
        train=str(place / "events.parquet"), user="user", item="item", time="time", rating="stars", min_rating=2.0, test_size=0.3,
        item_features=str(place / "items.parquet"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(place, data):
    dataset = gcnrec.ingest(data, place / "data")
    sections = {"model": {"name": "itemknn"}, "evaluate": {"k": [5], "metric": "recall@5", "bootstrap": 20, "baselines": []}}
    train(Job.parse(sections, [], "here"), dataset, place / "run")
    run = open_run(place / "run")
    evaluate_run(run)
    return run


class Page(HTMLParser):
    """Tags, and the text of each list item."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.items, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "li":
            self.items.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "li"

    def handle_data(self, data):
        if self.inside:
            self.items[-1] += data


@pytest.mark.usefixtures("charts_take_no_time")
def test_titles_are_text_whatever_they_hold(run):
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "b"} & set(page.tags) and "\u202e" not in text and "\x07" not in text
    shown = {item.strip().removesuffix(" hit").strip() for item in page.items}
    assert {NASTY[0], NASTY[1], NASTY[2], NASTY[6], "turned", "two lines"} <= shown
    assert any(item.startswith("Film ") for item in shown)
    assert all(len(item) < 100 for item in shown) and "A" * 89 + "\u2026" in shown
    assert {"10", "11"} & shown, "items without a title have their ids"
    assert text.count("User <bdi>&lt;u") == USERS


def test_lists_are_those_of_the_run_and_hits_are_held_out(run):
    """Against the lists that `recommend` gives and the held-out pairs of the data set, both as ids."""
    test, ids = run.dataset.test, run.dataset.item_ids.ids.to_pylist()
    texts = {number: shown_text(title) if title else str(ids[number]) for number, title in enumerate(_titles(run))}
    listed = gcnrec.recommend(run, k=ITEMS, seen="train").to_pylist()
    found = examples_section(run)
    assert len(found["users"]) == USERS and found["absent"] == "" and "test" in found["about"]
    hits = 0
    for example in found["users"]:
        number = run.dataset.user_ids.ids.to_pylist().index(example.user)
        held = {int(item) for item in test.items_E[test.users_E == number]}
        in_valid = set(run.dataset.valid.items_E[run.dataset.valid.users_E == number].tolist())
        expected = [ids.index(row["item"]) for row in listed if row["user"] == example.user]
        expected = [item for item in expected if item not in in_valid][:LENGTH]
        assert [text for text, _ in example.listed] == [texts[item] for item in expected]
        assert [hit for _, hit in example.listed] == [item in held for item in expected]
        assert sorted(example.missed) == sorted(texts[item] for item in held.difference(expected))
        assert example.num_held_out == len(held) and example.hits == len(held.intersection(expected))
        known = [*run.dataset.graph.user_items.row(number).tolist(), *in_valid]
        assert example.num_before == len(known) and set(example.before) <= {texts[item] for item in known}
        hits += example.hits
    assert hits > 0


def _titles(run):
    titles = pq.read_table(run.dataset.info["data"]["item_features"]).column("title").to_pylist()
    return [titles[item] for item in run.dataset.item_ids.ids.to_pylist()]


def test_users_are_drawn_by_the_seed(run):
    pairs = run.dataset.test
    first = chosen(pairs, run.dataset, 1)
    assert len(set(first.tolist())) == USERS and set(first.tolist()) <= set(pairs.users_E.tolist())
    assert np.array_equal(first, chosen(pairs, run.dataset, 1)) and not np.array_equal(first, chosen(pairs, run.dataset, 2))


def test_why_items_have_no_titles(run, tmp_path):
    numbers = np.arange(3, dtype=np.int32)
    info = run.dataset.info
    without = replace(
        run.dataset, info={**info, "data": {key: each for key, each in info["data"].items() if key != "item_features"}}
    )
    stamps = {"inputs": {"item_features": [["items.parquet", 1, "2"]]}}
    renamed = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item": range(ITEMS), "year": range(ITEMS)}), renamed)
    untitled = replace(run.dataset, info={**info, "inputs": {}, "data": {**info["data"], "item_features": str(renamed)}})
    gone = replace(untitled, info={**untitled.info, "data": {**info["data"], "item_features": str(tmp_path / "gone.parquet")}})
    reasons = {
        "the data has no file of items": without,
        r"since ingestion, items.parquet of data.item_features has changed \(from 1 to": replace(
            run.dataset, info={**info, **stamps}
        ),
        "their features were a table in memory": replace(run.dataset, info={**info, "tables": {"item_features": {}}}),
        "items.parquet has no column of texts such as 'title'": untitled,
        "no such file or folder": gone,
    }
    for reason, dataset in reasons.items():
        found = titles_of(dataset, numbers)
        assert re.match(f"Items are shown by their ids: .*{reason}.*", found.absent), found.absent
        assert list(found.texts.values()) == [str(each) for each in run.dataset.item_ids.ids.to_pylist()[:3]]


@pytest.mark.parametrize(("column", "other"), [("item_name", "note"), ("productTitle", "colour"), ("TITLE", "name")])
def test_the_column_of_titles_is_known_by_its_name(run, tmp_path, column, other):
    path = tmp_path / "named.parquet"
    pq.write_table(pa.table({"item": range(ITEMS), other: ["no"] * ITEMS, column: [["a", f"b{n}"] for n in range(ITEMS)]}), path)
    data = {**run.dataset.info["data"], "item_features": str(path)}
    found = titles_of(replace(run.dataset, info={**run.dataset.info, "inputs": {}, "data": data}), np.array([2, 5], np.int32))
    ids = run.dataset.item_ids.ids.to_pylist()
    assert found.absent == "" and dict(found.texts) == {number: f"a b{ids[number]}" for number in (2, 5)}


def test_data_is_described_by_its_own_counts(run, place):
    section = data_section(RunContents(run.folder), run.dataset)
    events = pq.read_table(place / "events.parquet").to_pylist()
    counts = {step.name: step.rows for step in section["steps"]}
    assert counts["rows read"] == len(events) and counts["rated too low"] == sum(row["stars"] < 2 for row in events)
    assert counts["kept"] == counts["train"] + counts["validation"] + counts["test"]
    assert counts["train"] == run.dataset.graph.num_edges and counts["test"] == len(run.dataset.test)
    facts = dict(section["facts"])
    assert (
        facts["nodes"] == f"{len(run.dataset.user_ids)} users, {len(run.dataset.item_ids)} items"
        and "2023-11-14" in facts["period"]
    )
    assert "year, title" in facts["item features"]
    assert [chart["title"] for chart in section["charts"]] == [
        "Interactions per user", "Interactions per item", "Interactions over time",
    ]  # fmt: skip


@pytest.mark.usefixtures("charts_take_no_time")
def test_data_that_is_gone_is_said(run, tmp_path):
    (tmp_path / "job.toml").write_text((run.folder / "job.toml").read_text())
    lineage = json.loads((run.folder / "lineage.json").read_text())
    lineage["data"]["folder"] = str(tmp_path / "nowhere")
    (tmp_path / "lineage.json").write_text(json.dumps(lineage))
    text = write_run_page(tmp_path).read_text(encoding="utf-8")
    assert "is gone, damaged, or holds other data than the run was trained on" in text and "rows read" not in text


def test_bins_double():
    names, counts = binned(np.array([0, 1, 2, 3, 4, 7, 8, 20_000]))
    assert names == ["0", *(str(2**power) for power in range(14)), "16Ki"]
    assert counts == [1, 1, 2, 2, 1, *[0] * 10, 1]
    assert binned(np.array([5, 6])) == (["4"], [2]) and binned(np.zeros(0, np.int64)) == ([], [])


@pytest.mark.usefixtures("charts_take_no_time")
def test_evaluate_writes_the_page_anew_where_there_is_one(run, place):
    (run.folder / "report.html").unlink(missing_ok=True)
    segments, attributes = place / "segments.csv", place / "genres.parquet"
    segments.write_text("user,segment\n" + "".join(f'"<u{user}>",<i>{user % 2}</i>\n' for user in range(USERS_OF)))
    pq.write_table(pa.table({"item": range(ITEMS), "genre": [f"g{item % 3}" for item in range(ITEMS)]}), attributes)
    gcnrec.evaluate(run)
    assert not (run.folder / "report.html").exists()
    write_report(run)
    details = Details(("genre",), None, attributes)
    metrics = gcnrec.evaluate(run, segments=segments, details=details)
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    for part in ("By segment of users on test", "&lt;i&gt;0&lt;/i&gt;", "Recall by genre of the items on test", "<td>g2</td>"):
        assert part in text, part
    assert f"{metrics['segments']['<i>1</i>']['recall@5']:.4f}" in text


def test_of_many_segments_the_largest_have_a_row(run, tmp_path):
    (tmp_path / "job.toml").write_text((run.folder / "job.toml").read_text())
    segments = {f"s{number}": {"users": number, "recall@5": number / 1000} for number in range(100)}
    (tmp_path / "metrics.json").write_text(json.dumps({"split": "test", "recall@5": 0.5, "segments": segments}))
    (table,) = group_tables(RunContents(tmp_path))
    assert table["title"] == "By segment of users, the largest 40 of 100"
    assert [row[0] for row in table["rows"]] == [f"s{number}" for number in range(99, 59, -1)]
    assert table["rows"][0] == ["s99", "99", "0.0990"] and [head for head, _ in table["heads"]] == [
        "segment",
        "users",
        "recall@5",
    ]


def test_a_page_that_cannot_be_written_is_a_warning(run):
    page, path, heard = run.folder / "report.html", run.folder / "metrics.json", Heard()
    page.write_text("earlier")
    before = path.read_text()
    path.write_text("[]")
    refresh_report(run, heard)
    path.write_text(before)
    assert page.read_text() == "earlier" and len(heard.warnings) == 1
    assert "report.html shows earlier figures" in heard.warnings[0] and "metrics.json" in heard.warnings[0]
