"""What a notebook shows: reprs of one line, a run as HTML, progress that a carriage return draws again."""

from __future__ import annotations

import io
import json
import shutil
import sys
from html.parser import HTMLParser

import pytest

import gcnrec
from gcnrec.errors import UsageError
from gcnrec.reports.progress import Lines, Redrawn, watched
from gcnrec.reports.run_cell import run_cell
from gcnrec.system.observer import SILENT, Observer


def test_reprs_are_one_line(world):
    run, dataset = gcnrec.open_run(world / "run"), gcnrec.open_dataset(world / "shop")
    value = json.loads((world / "run" / "metrics.json").read_text())["recall@5"]
    assert repr(run) == f"Run({str(world / 'run')!r}: lightgcn, 8 wide, on events, test recall@5 {value:.4f})"
    counts = [len(dataset.user_ids), len(dataset.item_ids), dataset.graph.num_edges, len(dataset.valid), len(dataset.test)]
    words = "{} users, {} items, {} train, {} validation, {} test".format(*counts)
    assert repr(dataset) == f"Dataset({str(world / 'shop')!r}: {words})"
    compared = repr(gcnrec.compare(run, [run], bootstrap=9, permutations=9))
    assert compared.count("recall@5 +0.0000") == 1 and "\n" not in compared and len(compared) < 500
    assert repr(gcnrec.Job(train={"epochs": 3})) == "Job(train=Train(epochs=3))"


def test_a_repr_shows_what_can_be_read(world, tmp_path):
    shutil.copytree(world / "run", tmp_path / "run")
    run = gcnrec.open_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text("{")
    assert repr(run) == f"Run({str(tmp_path / 'run')!r}: lightgcn, 8 wide, on events)"


class Page(HTMLParser):
    """The tags that are open, and all that began; an end without its beginning fails."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())


def test_a_run_is_figures_and_two_charts(world):
    run = gcnrec.open_run(world / "run")
    page = Page(run._repr_html_())
    assert page.open == [] and page.seen.count("svg") == 2 and page.seen.count("table") == 1
    assert not {"script", "style", "link", "img", "iframe"} & set(page.seen)
    value = json.loads((world / "run" / "metrics.json").read_text())["recall@5"]
    metric = gcnrec.Job.load(world / "job.toml").evaluate.metric
    assert {"recall@5", f"{value:.4f}", "Loss by epoch", f"Validation {metric} by epoch"} <= set(page.words)
    text = run._repr_html_()
    assert "var(--ink)" in text and "--ink: currentColor" in text  # of the page, so that light and dark read


def test_names_of_somebody_are_text(world, tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(world / "run", folder)
    lineage = json.loads((folder / "lineage.json").read_text())
    lineage["data"]["name"] = "<script>alert(2)</script>"
    (folder / "lineage.json").write_text(json.dumps(lineage))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "warning", "kind": "x", "text": "<b>bold</b>"}) + "\n")
    text = run_cell(folder)
    page = Page(text)
    assert not {"img", "script"} & set(page.seen) and "<b>bold" not in text
    assert folder.name in page.words and any("<script>alert(2)</script>" in words for words in page.words)
    assert "<b>bold</b>." in page.words


def test_a_closed_form_has_its_comparisons(world, tmp_path):
    job = gcnrec.Job(model={"name": "popularity"}, evaluate={"k": [5], "bootstrap": 9})
    run = gcnrec.train(job, world / "shop", tmp_path / "run")
    assert "svg" not in Page(run._repr_html_()).seen
    gcnrec.evaluate(run)
    page = Page(run._repr_html_())
    assert page.seen.count("svg") == 1 and "Recall by item popularity" in page.words


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def shown(text):
    """What a terminal shows of `text`: a carriage return begins the line again, and letters replace letters."""
    lines = []
    for line in text.split("\n"):
        cells = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


def test_a_line_is_drawn_again_and_goes_away(capsys):
    clock = Clock()
    line = Redrawn("recall@5", clock)
    line.work("reading a long name", 50, 100)
    clock.now = 0.1
    line.work("reading a long name", 60, 100)  # too early
    clock.now = 0.3
    line.step(1, 2, 3, 4, 0.5, 1000.0)
    half, full = "\N{FULL BLOCK}" * 6 + "\N{LIGHT SHADE}" * 6, "\N{FULL BLOCK}" * 9 + "\N{LIGHT SHADE}" * 3
    text = capsys.readouterr().err
    assert "\n" not in text and f"reading a long name {half} 50/100" in text and "60/100" not in text
    assert shown(text) == [f"epoch 1/2 {full} 3/4  loss 0.5000  1.0k rows/s"]
    line.epoch({"epoch": 1, "loss": 0.25, "seconds": 2.0, "valid": {"recall@5": 0.125}})
    line.warn("look")
    assert shown(text + capsys.readouterr().err) == ["fit epoch 1  loss 0.2500  recall@5 0.1250  2 s", "warning: look", ""]
    clock.now = 1.0
    line.work("x" * 200, 0, 0)
    line.clear()
    text = capsys.readouterr().err
    assert max(map(len, text.split("\r"))) == 79 and shown(text) == [""]


class Stderr(io.StringIO):
    """A notebook's stream, by the module of its class."""


def test_progress_is_drawn_in_notebooks_and_follows_in_lines_elsewhere(monkeypatch):
    with watched(False, SILENT) as heard:
        assert heard is SILENT
    with watched(True, SILENT) as heard:
        assert type(heard) is Lines
    stream = Stderr()
    monkeypatch.setattr(Stderr, "__module__", "ipykernel.iostream")
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(KeyboardInterrupt), watched(True, SILENT) as heard:
        heard.work("ranking", 1, 2)
        raise KeyboardInterrupt
    assert type(heard) is Redrawn and "ranking" in stream.getvalue() and shown(stream.getvalue()) == [""]


def test_progress_of_each_function(world, tmp_path, monkeypatch):
    stream = Stderr()
    monkeypatch.setattr(Stderr, "__module__", "ipykernel.iostream")
    monkeypatch.setattr(sys, "stderr", stream)
    data = gcnrec.Data(train=world / "events.parquet", user="user", item="item")
    calls = [
        lambda: gcnrec.ingest(data, tmp_path / "shop", progress=True),
        lambda: gcnrec.evaluate(world / "run", progress=True),
        lambda: gcnrec.recommend(world / "run", 3, progress=True),
        lambda: gcnrec.similar(world / "run", "item", 3, progress=True),
        lambda: gcnrec.score(world / "run", world / "pairs.parquet", progress=True),
        lambda: gcnrec.train(gcnrec.Job(model={"width": 4}, train={"epochs": 1}, evaluate={"baselines": []}), world / "shop",
                             tmp_path / "run", progress=True),
    ]  # fmt: skip
    for call in calls:
        stream.truncate(0)
        call()
        assert stream.getvalue().count("\r") >= 2


def test_observer_and_progress_are_one_choice(world):
    with pytest.raises(UsageError, match="an observer was given as well"):
        gcnrec.evaluate(world / "run", observer=Observer(), progress=True)
    with pytest.raises(UsageError, match="progress must be True or False, got builtin_function_or_method"):
        gcnrec.ingest(gcnrec.Data(train="x"), "out", progress=print)
