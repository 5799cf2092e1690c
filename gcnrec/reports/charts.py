"""Charts as SVG text that sits inside a page and takes the page's colours, in light and in dark."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

# Matplotlib knows no CSS: it draws in these colours, which `_to_page_colours` then exchanges for the page's variables.
_INK, _FAINT = "#010203", "#040506"
_SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006", "#0a0007", "#0a0008")
_MARKERS = "osD^vPX*"
_PAGE = {_INK: "var(--ink)", _FAINT: "var(--line)"} | {colour: f"var(--series-{n})" for n, colour in enumerate(_SERIES, 1)}


@dataclass(frozen=True)
class Curve:
    """A named line through (x, y) points; `dashed` sets a later stage apart."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Estimates:
    """A named line through means, with an interval at each point: nan bounds where there is none."""

    name: str
    xs: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


def lines(curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Curves over one pair of axes, with a legend when there are several."""
    return _svg(lambda axes: _plot(axes, curves), x_label, y_label)


def points(series: Sequence[Estimates], x_label: str, y_label: str) -> str:
    """A marker per mean with its interval as a bar, joined by a thin line; a logarithmic x axis for values that span a lot."""

    def draw(axes: Any) -> None:
        for number, one in enumerate(series):
            reach = [
                [mean - low for mean, low in zip(one.means, one.lows, strict=True)],
                [high - mean for mean, high in zip(one.means, one.highs, strict=True)],
            ]
            style = {"color": _series(number), "marker": _MARKERS[number % len(_MARKERS)], "markersize": 4.5}
            axes.errorbar(one.xs, one.means, yerr=reach, label=one.name, linewidth=1, elinewidth=1.2, capsize=2, **style)
        xs = [x for one in series for x in one.xs]
        if min(xs) > 0 and max(xs) > 3 * min(xs):
            _logarithmic(axes, xs)
        _legend_outside(axes)

    return _svg(draw, x_label, y_label, (6.0, 3.1))


def bands(series: Sequence[Estimates], x_label: str, y_label: str) -> str:
    """A line per series with its interval as a band around it."""

    def draw(axes: Any) -> None:
        for number, one in enumerate(series):
            axes.plot(one.xs, one.means, color=_series(number), label=one.name, linewidth=1.4)
            axes.fill_between(one.xs, one.lows, one.highs, color=_series(number), alpha=0.16, linewidth=0)
        _legend_outside(axes)

    return _svg(draw, x_label, y_label, (6.0, 3.1))


def counts(curves: Sequence[Curve], x_label: str, y_label: str, limits: Mapping[str, float] = MappingProxyType({})) -> str:
    """Curves of numbers of things, from zero on and with unit prefixes; every limit is a dotted line with its name above."""

    def draw(axes: Any) -> None:
        from matplotlib.ticker import EngFormatter

        _plot(axes, curves)
        for name, limit in limits.items():
            axes.axhline(limit, color=_INK, linestyle=":", linewidth=1.2)
            axes.annotate(name, (0, limit), (4, 4), ("axes fraction", "data"), textcoords="offset points")
        axes.set_ylim(0, 1.2 * max(1.0, *limits.values(), *(y for curve in curves for y in curve.ys)))
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))

    return _svg(draw, x_label, y_label)


def shares(curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Curves of shares as percentages from zero on; an axis of at least one percent, so that next to nothing looks like it."""

    def draw(axes: Any) -> None:
        from matplotlib.ticker import PercentFormatter

        _plot(axes, curves)
        axes.set_ylim(0, 1.15 * max(0.01, *(y for curve in curves for y in curve.ys)))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    return _svg(draw, x_label, y_label)


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
            axes.annotate(curve.name, (1, curve.ys[-1]), (4, 0), ("axes fraction", "data"), **place)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False, axis="x")

    return _svg(draw, x_label, y_label)


def columns(names: Sequence[str], heights: Sequence[float], x_label: str, y_label: str) -> str:
    """One column per name."""

    def draw(axes: Any) -> None:
        axes.bar(range(len(names)), heights, color=_SERIES[0], width=0.72)
        axes.set_xticks(range(len(names)), names)
        axes.grid(visible=False, axis="x")

    return _svg(draw, x_label, y_label)


def bars(names: Sequence[str], lengths: Sequence[float], x_label: str, highlight: str) -> str:
    """One horizontal bar per name, the first on top, with its value; `highlight` is drawn in the first colour."""

    def draw(axes: Any) -> None:
        colours = [_SERIES[0] if name == highlight else _FAINT for name in names]
        drawn = axes.barh(range(len(names)), lengths, color=colours, height=0.66)
        axes.bar_label(drawn, fmt="%.4f", padding=4, color=_INK)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.margins(x=0.16)
        axes.grid(visible=False, axis="y")

    return _svg(draw, x_label, "", (5.2, 0.7 + 0.42 * len(names)))


def _series(number: int) -> str:
    return _SERIES[number % len(_SERIES)]


def _plot(axes: Any, curves: Sequence[Curve]) -> None:
    for number, curve in enumerate(curves):
        style = {"linestyle": "--" if curve.dashed else "-", "marker": "o" if len(curve.xs) < 40 else None}
        axes.plot(curve.xs, curve.ys, color=_series(number), label=curve.name, markersize=3, **style)
    if all(isinstance(x, int) for curve in curves for x in curve.xs):
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="x")
    if len(curves) > 1:
        axes.legend(frameon=False)


def _logarithmic(axes: Any, xs: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written out with a unit prefix."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(xs) < 100 * min(xs) else (1,)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend_outside(axes: Any) -> None:
    """A legend that covers no line."""
    axes.grid(visible=False, axis="x")
    axes.figure.legend(loc="outside right upper", frameon=False)


def _svg(draw: Callable[[Any], None], x_label: str, y_label: str, size: tuple[float, float] = (5.2, 2.9)) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set(xlabel=x_label, ylabel=y_label)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _to_page_colours(out.getvalue())


def _to_page_colours(svg: str) -> str:
    for drawn, variable in _PAGE.items():
        svg = svg.replace(drawn, variable)
    return svg[svg.index("<svg") :]


_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gcnrec",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "lines.linewidth": 1.8,
}
