"""The report is one file, asks nobody for anything, and says what the run's files say."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from gcnrec.config import Job
from gcnrec.config.toml import to_toml
from gcnrec.reports.run_report import write_run_page
from gcnrec.runs.contents import RunContents

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


def test_figures_of_a_mixture_have_few_digits(folder):
    fill(folder)
    (folder / "mixture.json").write_text(
        json.dumps(
            {
                "name": "1 trained",
                "weight": 1.0,
                "temperature": 0.28,
                "partners": {},
                "chosen": {"value": 0.3171171171171171, "users": 555},
            }
        )
    )
    page = write_run_page(folder).read_text()
    assert "0.317117<" in page and "0.3171171" not in page and ">555<" in page


def test_a_full_run(folder):
    fill(folder)
    page = parse(write_run_page(folder))
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


def test_baselines_on_validation_are_shown_beside_the_best_epoch_and_in_brief(folder):
    figures = {"users": 5000, "own": 0.0651, "difference": 0.0679, "low": 0.0642, "high": 0.0716, "seconds": 1.25}
    events = [
        {"event": "baseline.valid", "name": "itemknn", "metrics": {"recall@20": 0.133, "ndcg@20": 0.1}, **figures},
        {"event": "baseline.valid", "name": "ease", "skipped": "about 9.5 s, a tenth of <this>"},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    page = parse(write_run_page(folder))
    for part in ("0.1330", "0.0651", "+0.0679", "+0.0642 to +0.0716", "5,000", "skipped: about 9.5 s, a tenth of <this>"):
        assert part in page.text, part
    brief = RunContents(folder).valid_baselines_in_brief
    assert brief == [{"name": "itemknn", **figures, "recall@20": 0.133}, {"name": "ease", "skipped": events[1]["skipped"]}]


def test_validation_metrics_stand_in_only_where_they_mean_something(folder):
    (folder / "metrics.valid.json").write_text(json.dumps({"split": "valid", "recall@20": 0.4321}))
    page = parse(write_run_page(folder))
    assert "Metrics on valid" in page.text and "0.4321" in page.text
    (folder / "job.toml").write_text(to_toml(Job.parse({"train": {"refit": "train+valid"}}, [], "here")))
    assert "0.4321" not in parse(write_run_page(folder)).text


def test_warnings_and_resumes_are_shown(folder):
    fill(folder)
    with (folder / "metrics.jsonl").open("w") as file:
        file.write(json.dumps({"event": "warning", "kind": "k", "text": "look at <this>"}) + "\n")
        file.write(
            json.dumps({"event": "resume", "time": "2026-01-02T03:04:05+00:00", "stage": "fit", "epoch": 2, "step": 7}) + "\n"
        )
    leaks = {"leakage_test_before_own_train": 0.25, "leakage_test_before_any_train": 1.0}
    (folder / "lineage.json").write_text(json.dumps({"format": 1, "data": {"name": "gowalla", **leaks}}))
    page = parse(write_run_page(folder))
    for part in ("Warnings", "Look at <this>.", "25.0% of the test", "2026-01-02 03:04:05 UTC: fit after epoch 2 and 7 steps"):
        assert part in page.text, part


def test_a_temporal_split_without_a_leak_warns_of_nothing(folder):
    data = {"name": "shop", "leakage_train_after_first_test": 0, "leakage_train_after_first_valid": 0}
    (folder / "lineage.json").write_text(json.dumps({"format": 1, "data": data}))
    assert "Warnings" not in parse(write_run_page(folder)).text


def test_self_contained(folder):
    fill(folder)
    page = parse(write_run_page(folder))
    assert not FORBIDDEN & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert value.startswith("#"), (tag, name, value)
    assert "@import" not in page.text and "url(http" not in page.text


def test_charts_take_the_colours_of_the_page(folder):
    fill(folder)
    text = write_run_page(folder).read_text()
    assert "var(--series-1)" in text and "prefers-color-scheme: dark" in text
    assert "#010203" not in text and "#0a0001" not in text


def test_a_bare_run_still_has_a_page(folder):
    page = parse(write_run_page(folder))
    assert "Configuration" in page.text and "svg" not in {tag for tag, _ in page.tags}


def test_equal_runs_give_equal_pages(folder):
    fill(folder)
    first = write_run_page(folder).read_bytes()
    assert write_run_page(folder).read_bytes() == first
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("report")) == ["report.html"]


def explore(stage, number, **changed):
    """A record of an exploration as training writes it: ten deciles, 20 slots a row in the first, 11 in the last."""
    return {
        "event": "explore", "stage": stage, "epoch": number, "step": 10 * number, "pruned": 100 // number, "grown": 100 // number,
        "regrown": 0, "values": 1600, "ever_active": 0.25 + 0.05 * number,
        "slots_per_row_by_decile": [20.0 - n for n in range(10)], "seconds": 0.1, "scratch_bytes": 0, **changed,
    }  # fmt: skip


def make_sparse(folder, explorations):
    sections = {"table": {"budget": 0.25}, "sparsity": {"policy": "rigl"}}
    (folder / "job.toml").write_text(to_toml(Job.parse(sections, [], "here")))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in explorations))
    sizes = {"value_bytes": 6400, "index_bytes": 2000, "state_bytes": 13_200, "peak_table_bytes": 25_000, "served_bytes": 25_600}
    values = {"budget_values": 2000, "values": 1600, "values_max_seen": 2000}
    (folder / "memory.json").write_text(json.dumps({**values, **sizes, "dense_bytes": 100_000}))


def titles(page):
    """The captions of the charts."""
    wanted = ("Cells ever active", "Slots per row by decile", "Values moved by each exploration", "Stored values")
    return [title for title in wanted if title in page.text]


def svgs(page):
    return sum(tag == "svg" for tag, _ in page.tags)


def test_a_sparse_run_shows_its_support_and_its_bytes(folder):
    make_sparse(folder, [explore("fit", 1), explore("fit", 2), explore("refit", 1, regrown=7), explore("refit", 2)])
    page = parse(write_run_page(folder))
    assert len(titles(page)) == svgs(page) == 4
    # The support that is served is the refit's; what was both pruned and grown has a curve only where there was some.
    for part in ("(refit)", "most popular", "least", "pruned, grown at once", "budget"):
        assert part in page.text, part
    for part in ("80.0% of the budget", "100.0% of the budget", "6.4% of a dense table", "13.2% of a dense table", "25.0% of a"):
        assert part in page.text, part


def test_curves_of_a_fit_alone(folder):
    make_sparse(folder, [explore("fit", 1), explore("fit", 2)])
    page = parse(write_run_page(folder))
    assert svgs(page) == 4 and "(fit)" in page.text
    assert "refit" not in page.text.partition("Configuration")[0] and "grown at once" not in page.text


def test_a_support_that_never_moves_has_a_table_and_no_charts(folder):
    make_sparse(folder, [])
    page = parse(write_run_page(folder))
    assert svgs(page) == 0 and titles(page) == [] and "80.0% of the budget" in page.text


def test_one_exploration_in_an_unfinished_run(folder):
    make_sparse(folder, [explore("fit", 1, pruned=0, grown=0, ever_active=0.0)])
    (folder / "memory.json").unlink()
    page = parse(write_run_page(folder))
    assert svgs(page) == 4 and "of the budget" not in page.text


def test_a_dense_run_shows_none_of_it(folder):
    fill(folder)
    memory = {"budget_values": 6400, "values": 6400, "values_max_seen": 6400, "value_bytes": 25_600, "dense_bytes": 80_000}
    (folder / "memory.json").write_text(json.dumps(memory))
    page = parse(write_run_page(folder))
    assert "Sparse table" not in page.text and titles(page) == [] and "of a dense table" not in page.text
