"""Names in charts are text, whatever they look like to matplotlib, XML or the page's colours."""

from __future__ import annotations

import html
import itertools
import re

import pytest

from gcnrec.reports import charts
from gcnrec.reports.seed_statistics import estimate

NAMES = [
    r"$\frac{a$",
    "$$",
    "_hidden",
    "a^{b}_c",
    "\\",
    "<b>&amp;",
    "#0a0001 #010203",
    "\u65e5\u672c \U0001f600",
    "[red]",
    r"\$5",
]


def texts(svg):
    """What a reader sees: the text between tags."""
    return {html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)}


def drawn():
    """Every kind of chart with all names, wherever a name may stand."""
    curves = [charts.Curve(name, [1, 2], [1.0, 2.0]) for name in NAMES]
    series = [charts.Means(name, [(1.0, estimate([0.1, 0.2])), (2.0, estimate([0.3]))]) for name in NAMES]
    values = [float(number) for number, _ in enumerate(NAMES)]
    return {
        "lines": charts.lines(curves, NAMES[0], NAMES[2], "count", dict.fromkeys(NAMES, 2.0)),
        "means": charts.means(series, NAMES[0], NAMES[2]),
        "bands": charts.means(series, NAMES[0], NAMES[2], as_bands=True),
        "columns": charts.columns(NAMES, values, NAMES[0], NAMES[2]),
        "forest": charts.forest(NAMES, [charts.Spans(name, [estimate([0.1, 0.2])] * len(NAMES)) for name in NAMES], NAMES[0]),
        "bars": charts.bars(NAMES, values, NAMES[0], NAMES[2]),
    }


def test_a_name_is_text_in_every_chart():
    for kind, svg in drawn().items():
        assert set(NAMES) <= texts(svg), kind
        assert not re.search(r"#0[01a]0[0-9]{3}", re.sub(r">[^<]*<", "><", svg)), f"{kind}: colours of the page"
    fan = charts.fan([charts.Curve(name, [1, 2], [1.0, 2.0]) for name in NAMES[:3]], "$x_", "y^")
    assert {NAMES[0], NAMES[2], "$x_", "y^"} <= texts(fan)


@pytest.mark.filterwarnings("error")
def test_a_long_name_keeps_both_ends_and_one_line():
    name = "first\n\x07" + "x" * 1000 + "last"
    series = [charts.Means(f"{number}{name}", [(1.0, estimate([0.1]))]) for number in range(3)]
    shown = [text for text in texts(charts.means(series, "x", "y")) if "first" in text]
    assert len(shown) == 3 and all(len(text) < 100 and text.endswith("last") and text.isprintable() for text in shown)


@pytest.mark.parametrize(("least", "most"), [(-0.0214, 0.0126), (138_000.0, 152_000.0)])
def test_numbers_below_a_linear_axis_do_not_touch(least, most):
    ends = [estimate([value]) for value in (least, most)]
    for svg in (
        charts.forest(["a", "b"], [charts.Spans("run", ends)], "difference"),
        charts.means([charts.Means("run", [(least, ends[0]), (most, ends[1])])], "values", "recall"),
    ):
        group = svg[svg.index('<g id="matplotlib.axis_1">') : svg.index('<g id="matplotlib.axis_2">')]
        places = [float(x) for x in re.findall(r'<use xlink:href="[^"]*" x="([\d.]+)"', group)]
        labels = re.findall(r"<text[^>]*>([^<]*)</text>", group)[: len(places)]
        assert 2 <= len(places) <= 6 and all(len(label) <= len("\u22120.020") for label in labels)
        room = min(right - left for left, right in itertools.pairwise(places))
        assert room > 5.5 * max(map(len, labels))  # points that a digit of the page's font takes
