"""Charts as SVG text that sits inside a page and takes the page's colours, in light and in dark."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from gcnrec.reports.seed_statistics import Estimate

# Matplotlib knows no CSS: it draws in these colours, which `_svg` then exchanges for the page's variables.
_INK, _FAINT, _REST = "#010203", "#040506", "#070809"
_SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006", "#0a0007", "#0a0008")
_MARKERS = "osD^vPX*"
Unit = Literal["number", "count", "share"]
_PAGE = {_INK: "var(--ink)", _FAINT: "var(--line)", _REST: "var(--rest)"} | {
    colour: f"var(--series-{n})" for n, colour in enumerate(_SERIES, 1)
}
_TAG = re.compile(r"<[^>]*>")
_LABEL_END = 40
"""Characters that stay at each end of a long name, which would leave no room for the lines."""
_ROW_END, _LEGEND_END = 16, 26
"""The same for the rows of a forest plot, and for legends."""
_LEGEND_ROW = 0.2
"""Inches of a name in a legend."""


@dataclass(frozen=True)
class Curve:
    """A named line through (x, y) points; `dashed` sets a later stage apart."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """A vertical axis of parallel coordinates; `ticks` are shares of its height, 0 to 1, with their texts."""

    name: str
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Spans:
    """A named series of a forest plot: of each row a mean with its interval, whose bounds may be nan, or None."""

    name: str
    estimates: Sequence[Estimate | None]


@dataclass(frozen=True)
class Means:
    """A named line of (x, mean with its interval); bounds are nan where there is none."""

    name: str
    line: Sequence[tuple[float, Estimate]]


def lines(
    curves: Sequence[Curve], x_label: str, y_label: str,
    unit: Unit = "number", limits: Mapping[str, float] = MappingProxyType({}),
) -> str:  # fmt: skip
    """Curves over one pair of axes, with a legend when there are several.

    "count": from zero on, with unit prefixes. "share": percentages from zero on, at least one percent high, so that next to
    nothing looks like it. Every limit is a dotted line with its name above.
    """

    def draw(axes: Any) -> None:
        from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

        _plot(axes, curves)
        for name, limit in limits.items():
            axes.axhline(limit, color=_INK, linestyle=":", linewidth=1.2)
            axes.annotate(_short(name), (0, limit), (4, 4), ("axes fraction", "data"), textcoords="offset points")
        if unit != "number":
            least, room, form = (1.0, 1.2, EngFormatter(sep="")) if unit == "count" else (0.01, 1.15, PercentFormatter(1.0))
            axes.set_ylim(0, room * max(least, *limits.values(), *(y for curve in curves for y in curve.ys)))
            axes.yaxis.set_major_formatter(form)
            if unit == "count":
                axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return _svg(draw, x_label, y_label)


def means(series: Sequence[Means], x_label: str, y_label: str, as_bands: bool = False) -> str:
    """A marker per mean with its interval as a bar, joined by a thin line, or lines with intervals `as_bands` around them.

    Markers have a logarithmic x axis for values that span a lot.
    """

    def draw(axes: Any) -> None:
        handles = []
        for number, each in enumerate(series):
            colour = _SERIES[number % len(_SERIES)]
            xs, middles, lows, highs = zip(*((x, y.mean, y.low, y.high) for x, y in each.line), strict=True)
            if as_bands:
                handles += axes.plot(xs, middles, color=colour, linewidth=1.4)
                axes.fill_between(xs, lows, highs, color=colour, alpha=0.16, linewidth=0)
            else:
                reach = [[y.mean - y.low for _, y in each.line], [y.high - y.mean for _, y in each.line]]
                style = {"color": colour, "marker": _MARKERS[number % len(_MARKERS)], "markersize": 4.5}
                handles.append(axes.errorbar(xs, middles, yerr=reach, linewidth=1, elinewidth=1.2, capsize=2, **style))
        all_xs = [x for each in series for x, _ in each.line]
        if not as_bands and min(all_xs) > 0 and max(all_xs) > 3 * min(all_xs):
            _logarithmic(axes, all_xs)
        else:
            _few_ticks(axes)
        axes.grid(visible=False, axis="x")
        _legend_below(axes, handles, [each.name for each in series])

    return _svg(draw, x_label, y_label, (4.4, 2.5 + _LEGEND_ROW * len(series)))


def fan(curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Curves that follow one another, such as deciles: one colour that fades from the first to the last; both have names."""

    def draw(axes: Any) -> None:
        for number, curve in enumerate(curves):
            style = {"marker": "o" if len(curve.xs) < 40 else None, "markersize": 3}
            axes.plot(curve.xs, curve.ys, color=_SERIES[0], alpha=1.0 - 0.75 * number / max(len(curves) - 1, 1), **style)
        axes.set_ylim(0, 1.1 * max(1.0, *(y for curve in curves for y in curve.ys)))
        ends = sorted((curves[0], curves[-1]), key=lambda curve: curve.ys[-1])
        for curve, side in zip(ends, ("top", "bottom"), strict=True):  # apart even where the lines end together
            place = {"textcoords": "offset points", "va": side}
            axes.annotate(_short(curve.name), (1, curve.ys[-1]), (4, 0), ("axes fraction", "data"), **place)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False, axis="x")

    return _svg(draw, x_label, y_label)


def columns(names: Sequence[str], heights: Sequence[float], x_label: str, y_label: str) -> str:
    """One column per name."""

    def draw(axes: Any) -> None:
        axes.bar(range(len(names)), heights, color=_SERIES[0], width=0.72)
        axes.set_xticks(range(len(names)), list(map(_short, names)))
        axes.grid(visible=False, axis="x")

    return _svg(draw, x_label, y_label)


def parallel(axes_of: Sequence[Axis], lines_of: Sequence[Sequence[float]], heights: Sequence[float], y_label: str) -> str:
    """Parallel coordinates (Inselberg 1985): a vertical axis a setting, a line a trial, the best in the first colour.

    `lines_of` has the share, 0 to 1, of each axis; other lines fade by how far their height is below the best.
    """

    def draw(axes: Any) -> None:
        best, least = max(heights), min(heights)
        xs = range(len(axes_of))
        for place in sorted(range(len(lines_of)), key=lambda each: heights[each]):
            share = (heights[place] - least) / (best - least) if best > least else 1.0
            is_best = heights[place] == best
            colour, width = (_SERIES[0], 2.2) if is_best else (_INK, 1.0)
            axes.plot(xs, lines_of[place], color=colour, linewidth=width, alpha=1.0 if is_best else 0.08 + 0.4 * share)
        axes.set_xticks(list(xs), [_short(axis.name) for axis in axes_of])
        axes.set_yticks([])
        axes.set_ylim(-0.08, 1.08)
        axes.set_xlim(-0.3, len(axes_of) - 0.7)
        axes.spines["left"].set_visible(False)
        for x, axis in enumerate(axes_of):
            axes.axvline(x, color=_FAINT, linewidth=1)
            for share, text in axis.ticks:
                axes.annotate(_short(text), (x, share), (-4, 0), textcoords="offset points", ha="right", va="center")

    return _svg(draw, "", y_label, (max(5.2, 1.6 * len(axes_of)), 3.1))


def dots(groups: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Unconnected points, a marker and a colour for each named group."""

    def draw(axes: Any) -> None:
        handles = []
        for number, group in enumerate(groups):
            style = {"color": _SERIES[number % len(_SERIES)], "marker": _MARKERS[number % len(_MARKERS)]}
            handles += axes.plot(group.xs, group.ys, linestyle="none", markersize=4, **style)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False, axis="x")
        if len(groups) > 1:
            _legend_below(axes, handles, [group.name for group in groups])

    return _svg(draw, x_label, y_label)


def bars(names: Sequence[str], lengths: Sequence[float], x_label: str, highlight: str) -> str:
    """One horizontal bar per name, the first on top, with its value; `highlight` is drawn in the first colour."""

    def draw(axes: Any) -> None:
        colours = [_SERIES[0] if name == highlight else _REST for name in names]
        drawn = axes.barh(range(len(names)), lengths, color=colours, height=0.66)
        axes.bar_label(drawn, fmt="%.4f", padding=4, color=_INK)
        axes.set_yticks(range(len(names)), list(map(_short, names)))
        axes.invert_yaxis()
        axes.margins(x=0.16)
        axes.grid(visible=False, axis="y")

    return _svg(draw, x_label, "", (4.4, 0.7 + 0.38 * len(names)))


def forest(names: Sequence[str], series: Sequence[Spans], x_label: str, middle: float | None = None) -> str:
    """A forest plot (Lewis and Clarke 2001): a row per name, the first on top, in it a marker and an interval per series.

    `middle`: a dotted vertical line, such as 0 where differences are shown.
    """

    def draw(axes: Any) -> None:
        handles = []
        for number, each in enumerate(series):
            shift = 0.64 * ((number + 0.5) / len(series) - 0.5)
            rows = [(one, place + shift) for place, one in enumerate(each.estimates) if one is not None]
            middles, places = [one.mean for one, _ in rows], [place for _, place in rows]
            reach = [[_length(one.mean - one.low) for one, _ in rows], [_length(one.high - one.mean) for one, _ in rows]]
            style = {"color": _SERIES[number % len(_SERIES)], "marker": _MARKERS[number % len(_MARKERS)], "markersize": 4.5}
            handles.append(axes.errorbar(middles, places, xerr=reach, linestyle="none", elinewidth=1.5, capsize=2.5, **style))
        if middle is not None:
            axes.axvline(middle, color=_INK, linestyle=":", linewidth=1.2)
        axes.set_yticks(range(len(names)), [_short(name, _ROW_END) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        _few_ticks(axes)
        if len(series) > 1:
            _legend_below(axes, handles, [each.name for each in series])

    rows = len(names) * (0.26 + 0.11 * (len(series) - 1))
    return _svg(draw, x_label, "", (4.4, 0.8 + rows + _LEGEND_ROW * len(series) * (len(series) > 1)))


def _length(reach: float) -> float:
    """Of one side of an interval; none where its bound is unknown."""
    return 0.0 if math.isnan(reach) else reach


def _plot(axes: Any, curves: Sequence[Curve]) -> None:
    handles = []
    for number, curve in enumerate(curves):
        style = {"linestyle": "--" if curve.dashed else "-", "marker": "o" if len(curve.xs) < 40 else None}
        handles += axes.plot(curve.xs, curve.ys, color=_SERIES[number % len(_SERIES)], markersize=3, **style)
    if all(isinstance(x, int) for curve in curves for x in curve.xs):
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="x")
    if len(curves) > 1:
        _name(axes.legend(handles, ["line"] * len(handles), frameon=False), [curve.name for curve in curves])


def _legend_below(axes: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend that covers nothing, and takes no width however long its names are."""
    placed = {"loc": "outside lower center", "frameon": False}
    _name(axes.figure.legend(handles, ["line"] * len(handles), **placed), names)


def _name(legend: Any, names: Sequence[str]) -> None:
    """Give a legend's entries their names afterwards: a label that begins with _ would be left out."""
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(_short(name, _LEGEND_END))


def _short(name: str, end: int = _LABEL_END) -> str:
    name = "".join(each if each.isprintable() else " " for each in name)
    return name if len(name) <= 2 * end else f"{name[:end]}\u2026{name[-end:]}"


def _few_ticks(axes: Any) -> None:
    """So few numbers below a linear axis that none touches the next; those from 10,000 on with a unit prefix."""
    from matplotlib.ticker import EngFormatter

    axes.xaxis.get_major_locator().set_params(nbins=5)
    if max(map(abs, axes.get_xlim())) >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _logarithmic(axes: Any, xs: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written out with a unit prefix."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(xs) < 100 * min(xs) else (1,)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(draw: Callable[[Any], None], x_label: str, y_label: str, size: tuple[float, float] = (4.4, 2.6)) -> str:
    """What `draw` draws on axes, as SVG without fixed size; `size` in inches sets the ratio."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        # A name may have characters that matplotlib's font lacks, and more of them than fit; the page's fonts draw the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from|constrained_layout not applied")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set(xlabel=_short(x_label), ylabel=_short(y_label))
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = _TAG.sub(lambda tag: _themed(tag[0]), out.getvalue())
    return svg[svg.index("<svg") :]


def _themed(tag: str) -> str:
    """A tag in the page's colours; the text between tags is somebody's, whatever it looks like."""
    for drawn, variable in _PAGE.items():
        tag = tag.replace(drawn, variable)
    return tag


_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gcnrec",
    # Names are text: $, _, ^ and \ mean nothing in them.
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), _FAINT),
}
