"""The pages that runs leave, opened in a real browser: no complaint, no request, every figure, nothing too wide."""

from __future__ import annotations

import chromium
import pytest

from gcnrec.config import Job
from gcnrec.reports import charts
from gcnrec.reports.run_report import write_report
from gcnrec.reports.sections import examples
from gcnrec.reports.sections.titles import Titles, shown_text
from gcnrec.reports.studies.backtest_page import write_backtest_page
from gcnrec.reports.studies.comparison import ComparisonPage
from gcnrec.reports.sweep_report import summarise
from gcnrec.reports.trials import Sweep, Trial, write_sweep
from gcnrec.results.backtest import Backtest, Cut
from gcnrec.results.compare import Comparison, Difference
from gcnrec.results.evaluate import evaluate_run, measure_baselines
from gcnrec.runs.events import append_event, warn_once
from gcnrec.runs.folder import open_run
from gcnrec.testing import checkerboard, write_dataset
from gcnrec.training.train import train

WIDTHS = (360, 1280)
LONG = "/".join(["a", *["path/without/a/space"] * 6])
SECTIONS = {
    "model": {"width": 16},
    "table": {"budget": 0.5},
    "sparsity": {"policy": "dynamic", "interval": 0.5},
    "optimizer": {"learning_rate": 0.02},
    "train": {"epochs": 3, "batch_size": 64, "threads": 1, "refit": "train+valid"},
    "evaluate": {"metric": "recall@5", "k": [5], "patience": 0, "bootstrap": 20, "baselines": ["popularity"]},
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium.installed() is None:
        pytest.skip(f"no browser is installed: {', '.join(chromium.PROGRAMS)}")
    browser = chromium.Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A sparse run with a refit and a baseline, that was warned of and taken up again."""
    folder = tmp_path_factory.mktemp("pages")
    dataset = write_dataset(checkerboard(24), folder / "data")
    train(Job.parse(SECTIONS, [], "here"), dataset, folder / "run")
    run = open_run(folder / "run")
    evaluate_run(run)
    measure_baselines(run)
    warn_once(run.folder, "made up", f"a warning with {LONG} <&>")
    append_event(run.folder, {"event": "resume", "time": "2026-11-22T20:10:11+00:00", "stage": "fit", "epoch": 2, "step": 20})
    write_report(run)
    return run


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_the_report_of_a_run(browser, run, width, dark):
    seen = browser.look(run.folder / "report.html", width, dark)
    assert seen.problems == [] and seen.requests == []
    assert seen.scrolls_to <= width and seen.overflowing == []
    for part in (
        "Loss by epoch", "Validation recall@5 by epoch", "Validation recall@5 by time", "Throughput by epoch", "Waiting for data",
        "Stored values", "Slots per row by decile", "Compared with closed-form baselines", "Recall by item popularity",
        f"{run.metrics('test')['recall@5']:.4f}", "Example lists", "held-out item is in the list", "density",
        "Gain over baselines on validation", "Warnings", f"A warning with {LONG} <&>.", run.dataset.digest, "machine.torch",
        "2026-11-22 20:10:11 UTC: fit after epoch 2 and 20 steps", 'policy = "dynamic"', "command", "working_directory",
    ):  # fmt: skip
        assert part in seen.text, part
    figures = ("fit", "refit", "budget", "rows per second", "share of the epoch", "popularity", "this run", "decile of item")
    for part in figures:
        assert part in seen.drawn, part


NASTY = [
    "<script>document.title = 'run'</script>", "<img src='http://example.invalid/a.png' onerror=alert(1)>", "A" * 10_000,
    "\u202eturned", "\u05e9\u05dc\u05d5\u05dd (1994)", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "</li></ol></main>",
    "Z" + "\u0351" * 500,
]  # fmt: skip


@pytest.mark.parametrize("dark", [False, True])
def test_titles_of_strangers_do_nothing_to_the_page(browser, run, dark, monkeypatch):
    def nasty(dataset, numbers):
        return Titles({int(number): shown_text(NASTY[number % len(NASTY)]) for number in numbers})

    monkeypatch.setattr(examples, "titles_of", nasty)
    monkeypatch.setattr(charts, "_svg", lambda *drawn: "<svg></svg>")
    seen = browser.look(write_report(run), WIDTHS[0], dark)
    assert seen.problems == [] and seen.requests == []
    assert seen.scrolls_to <= WIDTHS[0] and seen.overflowing == []
    assert NASTY[0] in seen.text and NASTY[6] in seen.text and "\u0351" * 3 not in seen.text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_sweep(browser, run, width, tmp_path):
    write_sweep(
        tmp_path, Sweep((Trial(run.folder, "dynamic", 0.5, 0), Trial(tmp_path / "none", "other", 0.5, 0, "it broke")), "dynamic")
    )
    summarise(tmp_path)
    seen = browser.look(tmp_path / "sweep.html", width)
    assert seen.problems == [] and seen.requests == []
    assert seen.scrolls_to <= width and seen.overflowing == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_pages_of_a_comparison_and_of_a_backtest(browser, tmp_path, width, dark):
    rows = [Difference(f"runs/{LONG}", f"{kind}@20", 0.2, 0.3, 0.1, 0.0, 0.2, 0.1, 0.2) for kind in ("recall", "ndcg", "novelty")]
    compared = ComparisonPage(tmp_path / "compare.html").write(Comparison("runs/base", "test", 9, "a test", tuple(rows)))
    cuts = [Cut("2024-01-01T00:00:00+00:00", "2024-01-08T00:00:00+00:00", 99, 9, value, 0.1, 0.3) for value in (0.1, 0.3)]
    for page in (compared, write_backtest_page(Backtest("recall@20", 0.2, tuple(cuts)), tmp_path)):
        seen = browser.look(page, width, dark)
        assert seen.problems == [] and seen.requests == []
        assert seen.scrolls_to <= width and seen.overflowing == []
        assert "0.3000" in seen.text and "recall@20" in seen.drawn


def test_what_would_be_seen(browser, tmp_path):
    """The eyes of this test: an error on the console, an exception, a request, a wide element."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<body><img src='http://example.invalid/a.png'><script>console.error('oh no'); throw new Error('thrown')</script>"
        "<div style='width:900px'>wide</div><svg><text>drawn</text></svg>"
    )
    seen = browser.look(page, 390)
    assert "http://example.invalid/a.png" in seen.requests and seen.drawn == "drawn"
    assert any("oh no" in problem for problem in seen.problems) and any("ncaught" in problem for problem in seen.problems)
    assert seen.scrolls_to >= 900 and seen.overflowing == ["DIV wide"]
