"""Charts as SVG text that sits inside a page and takes the page's colours, in light and in dark."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Matplotlib knows no CSS: it draws in these colours, which `_to_page_colours` then exchanges for the page's variables.
_INK, _FAINT = "#010203", "#040506"
_SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004")
_PAGE = {_INK: "var(--ink)", _FAINT: "var(--line)"} | {colour: f"var(--series-{n})" for n, colour in enumerate(_SERIES, 1)}


@dataclass(frozen=True)
class Curve:
    """A named line through (x, y) points; `dashed` sets a later stage apart."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    dashed: bool = False


def lines(curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Curves over one pair of axes, with a legend when there are several."""

    def draw(axes: Any) -> None:
        for number, curve in enumerate(curves):
            style = {"linestyle": "--" if curve.dashed else "-", "marker": "o" if len(curve.xs) < 40 else None}
            axes.plot(curve.xs, curve.ys, color=_SERIES[number % len(_SERIES)], label=curve.name, markersize=3, **style)
        if all(isinstance(x, int) for curve in curves for x in curve.xs):
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(curves) > 1:
            axes.legend(frameon=False)

    return _svg(draw, 5.2, 2.9)


def columns(names: Sequence[str], heights: Sequence[float], x_label: str, y_label: str) -> str:
    """One column per name."""

    def draw(axes: Any) -> None:
        axes.bar(range(len(names)), heights, color=_SERIES[0], width=0.72)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(visible=False, axis="x")

    return _svg(draw, 5.2, 2.9)


def bars(names: Sequence[str], lengths: Sequence[float], x_label: str, highlight: str) -> str:
    """One horizontal bar per name, the first on top, with its value; `highlight` is drawn in the first colour."""

    def draw(axes: Any) -> None:
        colours = [_SERIES[0] if name == highlight else _FAINT for name in names]
        drawn = axes.barh(range(len(names)), lengths, color=colours, height=0.66)
        axes.bar_label(drawn, fmt="%.4f", padding=4, color=_INK)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(x_label)
        axes.margins(x=0.16)
        axes.grid(visible=False, axis="y")

    return _svg(draw, 5.2, 0.7 + 0.42 * len(names))


def _svg(draw: Callable[[Any], None], width: float, height: float) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
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
