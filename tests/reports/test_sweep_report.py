"""Run folders made by hand become two tables and one page that asks nobody for anything."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from gcnrec.config import Job
from gcnrec.config.toml import to_toml
from gcnrec.errors import DataError, UsageError
from gcnrec.reports.sweep_report import summarise, write_sweep_page
from gcnrec.reports.trials import Sweep, Trial, curves, read_sweep, results, varying, write_sweep

LABELS = ("table.budget", "train.seed", "run.name", "data.digest")


def trials_of(folders):
    """Run folders made by hand as a sweep. The settings that differ, apart from budget and seed, name the variant."""
    jobs = {folder: Job.load(folder / "job.toml") for folder in folders}
    differing = [key.split(".") for key in varying(list(jobs.values())) if key not in LABELS]
    trials = []
    for folder, job in jobs.items():
        settings = {".".join(key): getattr(getattr(job, key[0]), key[1]) for key in differing}
        variant = " ".join(f"{key}={value}" for key, value in settings.items()) or "run"
        trials.append(Trial(folder, variant, job.table.budget, job.train.seed))
    return Sweep(tuple(trials), trials[0].variant)


def make_run(folder, seed, width, epochs=3, **sections):
    """A run that gains 0.01 an epoch of `width` seconds."""
    folder.mkdir(parents=True)
    job = Job.parse({"train": {"seed": seed}, "model": {"width": width}, **sections}, [], "here")
    (folder / "job.toml").write_text(to_toml(job))
    with (folder / "metrics.jsonl").open("w") as file:
        for epoch in range(1, epochs + 1):
            valid = {"recall@20": 0.1 + 0.01 * epoch + 0.001 * seed + width / 1000}
            event = {"event": "epoch", "stage": "fit", "epoch": epoch, "step": 10 * epoch, "seconds": 1.0 * width * epoch}
            file.write(json.dumps(event | {"loss": 1 / epoch, "valid": valid}) + "\n")
    (folder / "metrics.json").write_text(json.dumps({"split": "test", "recall@20": 0.2 + 0.001 * seed + width / 1000}))
    memory = {"values": 100 * width, "served_bytes": 400 * width, "dense_bytes": 99}
    (folder / "memory.json").write_text(json.dumps(memory))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two widths at budget 1, three seeds each, and two runs of which one failed and one has not begun."""
    trials = [
        Trial(make_run(tmp_path / "s" / "runs" / f"w{width}-{seed}", seed, width), f"wide <{width}>", 1.0, seed)
        for width in (8, 16)
        for seed in (0, 1, 2)
    ]
    trials += [Trial(tmp_path / "s" / "runs" / "broken", "b", 1.0, 0, "it broke & burnt"), Trial(tmp_path / "x", "b", 1.0, 1)]
    write_sweep(tmp_path / "s", Sweep(tuple(trials), "wide <16>"))
    return tmp_path / "s"


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.cells, self.inside = [], [], False

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "td":
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "td"

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data.strip()


def parse(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def test_the_page_says_means_intervals_and_differences(folder):
    """Seeds add 0, 0.001, 0.002, so s is 0.001 and half an interval 4.3027 * 0.001 / sqrt(3) = 0.0025; widths add 0.008."""
    page = parse(summarise(folder))
    assert page.cells[:9] == ["1", "wide <8>", "3", "3", "24 \u00b1 0", "800", "0.1390 \u00b1 0.0025", "0.2090 \u00b1 0.0025",
                              "-0.0080 \u00b1 0.0000"]  # fmt: skip
    assert page.cells[9:18] == ["1", "wide <16>", "3", "3", "48 \u00b1 0", "1,600", "0.1470 \u00b1 0.0025",
                                "0.2170 \u00b1 0.0025", ""]  # fmt: skip
    assert page.cells[18:25] == ["1", "wide <8>", "3", "3 epochs", "0.1390 \u00b1 0.0025", "0.1470 \u00b1 0.0025",
                                 "-0.0080 \u00b1 0.0000"]  # fmt: skip
    # The narrow runs end after 24 s, in which the wide ones did one epoch of three.
    assert page.cells[25:32] == ["1", "wide <8>", "3", "24 s", "0.1390 \u00b1 0.0025", "0.1270 \u00b1 0.0025",
                                 "+0.0120 \u00b1 0.0000"]  # fmt: skip
    assert "it broke & burnt" in page.cells
    # The forest plot of differences; test and validation against values, served bytes and seconds; curves over seconds.
    assert sum(tag == "svg" for tag, _ in page.tags) == 1 + 2 * 3 + 1


def test_differences_on_test_need_equal_epochs(tmp_path):
    trials = [
        Trial(make_run(tmp_path / f"{w}-{s}", s, w, epochs), str(w), 1.0, s) for w, epochs in ((8, 6), (16, 3)) for s in (0, 1)
    ]
    page = parse(write_sweep_page(Sweep(tuple(trials), "16"), tmp_path / "page.html"))
    assert page.cells[1:4] == ["8", "2", "6"] and page.cells[8] == ""
    assert page.cells[18:22] == ["1", "8", "2", "3 epochs"] and page.cells[24].startswith("-0.0080")


def test_self_contained_and_repeatable(folder):
    first = summarise(folder).read_bytes()
    page = parse(folder / "sweep.html")
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert name not in ("src", "href", "xlink:href", "action") or value.startswith("#"), (tag, name, value)
    text = first.decode()
    assert "var(--series-2)" in text and "#0a0001" not in text and "url(http" not in text and "@import" not in text
    assert summarise(folder).read_bytes() == first


def test_nothing_is_written_before_a_run_has_begun(tmp_path):
    write_sweep(tmp_path, Sweep((Trial(tmp_path / "runs" / "a", "a", 1.0, 0, "no card"),), "a"))
    assert summarise(tmp_path) is None and [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_rows_of_runs_made_by_hand(tmp_path):
    one = make_run(tmp_path / "one", 0, 8)
    two = make_run(tmp_path / "two", 1, 16, loss={"temperature": 0.5}, evaluate={"k": [20]})
    sweep = trials_of([one, two])
    assert [trial.variant for trial in sweep.trials] == [
        "model.width=8 loss.temperature=0.12 evaluate.k=(10, 20, 50)", "model.width=16 loss.temperature=0.5 evaluate.k=(20,)",
    ]  # fmt: skip
    assert sweep.compare == sweep.trials[0].variant
    table = results(sweep)
    assert table.column("train.seed").to_pylist() == [0, 1] and table.column("loss.temperature").to_pylist() == [0.12, 0.5]
    assert table.column("evaluate.k").to_pylist() == ["[10, 20, 50]", "[20]"]
    assert table.column("values").type == pa.int64() and table.column("index_bytes").to_pylist() == [None, None]
    assert table.column("epochs").to_pylist() == [3, 3] and table.column("valid_epoch").to_pylist() == [3, 3]
    assert "optimizer.rule" not in table.column_names
    lines = curves(sweep)
    assert lines.column("run").to_pylist() == ["one"] * 3 + ["two"] * 3
    assert lines.column("seconds").to_pylist() == [8.0, 16.0, 24.0, 16.0, 32.0, 48.0]


def test_a_setting_of_several_types_is_text(tmp_path):
    runs = [make_run(tmp_path / str(n), 0, width) for n, width in enumerate((8, 16))]
    (runs[1] / "job.toml").write_text((runs[1] / "job.toml").read_text().replace("width = 16", 'width = "auto"'))
    assert results(trials_of(runs)).column("model.width").to_pylist() == ["8", '"auto"']


def test_a_sweep_comes_back_as_it_was_written(folder):
    sweep = read_sweep(folder)
    assert [trial.status for trial in sweep.trials] == ["done"] * 6 + ["failed", "waiting"]
    assert sweep.compare == "wide <16>" and sweep.metric == "recall@20" and len(sweep.done) == 6
    (folder / "sweep.json").write_text('{"format": 9}')
    with pytest.raises(DataError, match="must have format 1, got 9"):
        read_sweep(folder)


@pytest.mark.parametrize(
    "text",
    ['{"format": 1}', '{"format": 1, "compare": "a", "runs": {"r": {"variant": "a", "budget": "x", "seed": 0}}}',
     '{"format": 1, "compare": "a", "runs": {"../r": {"variant": "a", "budget": 1, "seed": 0}}}', '{"format": 1, "runs": []}'],
)  # fmt: skip
def test_a_damaged_sweep_is_one_sentence(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(DataError, match=r"sweep.json is damaged \(.*\); sweep into another folder"):
        read_sweep(tmp_path)


def test_names_of_variants_are_text_in_the_page(tmp_path):
    runs = [make_run(tmp_path / str(n), 0, width) for n, width in enumerate((8, 16))]
    names = ("$\\frac{a$", "_<b>^{")
    sweep = Sweep(tuple(Trial(run, name, 1.0, 0) for run, name in zip(runs, names, strict=True)), names[0])
    page = write_sweep_page(sweep, tmp_path / "sweep.html").read_text()
    assert all(html.escape(name) in page for name in names) and "<b>" not in page


def test_runs_of_a_sweep_share_their_metric(tmp_path):
    one, two = make_run(tmp_path / "a", 0, 8), make_run(tmp_path / "b", 0, 8, evaluate={"metric": "ndcg@20"})
    with pytest.raises(UsageError, match=r"must share one evaluate.metric, found ndcg@20, recall@20"):
        _ = trials_of([one, two]).metric
    with pytest.raises(UsageError, match=r"must share one evaluate.metric, found none"):
        _ = Sweep((), "run").metric
