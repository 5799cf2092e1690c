"""Pages of comparisons and of backtests say what their figures say, and replace nothing that was not asked for."""

from __future__ import annotations

import re

import pytest

from gcnrec.errors import UsageError
from gcnrec.reports import charts
from gcnrec.reports.seed_statistics import Estimate
from gcnrec.reports.studies.backtest_page import write_backtest_page
from gcnrec.reports.studies.comparison import ComparisonPage
from gcnrec.results.backtest import Backtest, Cut
from gcnrec.results.compare import Comparison, Difference

NASTY = "runs/<b>a</b>"


def comparison():
    rows = [
        Difference(NASTY, "recall@20", 0.2, 0.25, 0.05, 0.04, 0.06, 0.0001, 0.0004),
        Difference(NASTY, "novelty@20", 5.0, 7.0, 2.0, 1.9, 2.1, 0.0001, 0.0004),
        Difference("runs/b", "recall@20", 0.2, 0.21, 0.01, 0.001, 0.019, 0.04, 0.08),
        Difference("runs/b", "novelty@20", 5.0, 4.0, -1.0, -1.1, -0.9, 0.0001, 0.0004),
    ]
    return Comparison("runs/base", "test", 300, "a test", tuple(rows))


def test_a_comparison_in_words_in_a_plot_and_in_a_table(tmp_path):
    text = ComparisonPage(tmp_path / "page.html").write(comparison()).read_text(encoding="utf-8")
    assert "b&gt; is better in recall@20: +0.0500, 95% interval +0.0400 to +0.0600, p 0.0004 after Holm." in text
    assert "b is not shown to differ in recall@20: +0.0100, 95% interval +0.0010 to +0.0190, p 0.0800 after Holm." in text
    assert "<b>" not in text and text.count("<svg") == 1 and 'role="img"' in text
    drawn = text[text.index("<svg") : text.index("</svg>")]
    assert "recall@20" in drawn and "novelty@20" not in drawn, "bits have no place among shares"
    assert '<td class="number">-1.0000</td>' in text and "300 users of test" in text


def test_a_page_replaces_only_what_it_may(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"page.html exists and is never overwritten; choose another --out, or add --force"):
        ComparisonPage(path)
    with pytest.raises(UsageError, match=r"must end in .html; rename it"):
        ComparisonPage(tmp_path / "page.parquet")
    assert path.read_text() == "mine"
    ComparisonPage(path, force=True).write(comparison())
    assert "Compared with base" in path.read_text(encoding="utf-8")


def cut(day, value, low=None, high=None):
    return Cut(f"2024-01-{day:02}T00:00:00+00:00", f"2024-01-{day + 7:02}T00:00:00+00:00", 1000 * day, 40, value, low, high)


def test_a_backtest_in_words_in_a_plot_and_in_a_table(tmp_path):
    found = Backtest("recall@20", 0.3, (cut(1, 0.2, 0.1, 0.3), cut(8, 0.4)))
    text = write_backtest_page(found, tmp_path).read_text(encoding="utf-8")
    assert "in the mean of 2 windows, from 0.2000 (test from 2024-01-01 00:00:00 UTC) to 0.4000" in text
    assert text.count("<svg") == 2 and "2024-01-08" in text and "0.1000 to 0.3000" in text and "8,000" in text
    alone = write_backtest_page(Backtest("recall@20", 0.2, (cut(1, 0.2),)), tmp_path).read_text(encoding="utf-8")
    assert "in one window; more windows (--cuts) say what holds" in alone and alone.count("<svg") == 1


def test_a_forest_plot_has_a_marker_and_an_interval_for_each_estimate():
    nan = float("nan")
    series = [
        charts.Spans("a", [Estimate(0.1, 0.0, 0.2, 9), None]),
        charts.Spans("b", [Estimate(0.3, nan, nan, 1), Estimate(-0.1, -0.2, 0.0, 9)]),
    ]
    svg = charts.forest(["first", "second"], series, "difference", 0.0)
    markers = re.findall(r'<use [^>]*style="fill: var\(--series-([12])\)', svg)
    assert markers.count("1") >= 1 and markers.count("2") >= 2 and "nan" not in svg
    assert {"first", "second", "a", "b", "difference"} <= set(re.findall(r">([^<]+)</text>", svg))
