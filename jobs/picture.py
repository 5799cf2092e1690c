"""Draws docs/assets/recall.svg, the picture of README.md, from records: test recall@20 on Gowalla, ours and published.

python -m jobs.picture
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "assets" / "recall.svg"
RECORDS = ROOT / "jobs" / "records"
PUBLISHED = {"LightGCN, 3 layers (2020)": 0.1830, "GF-CF (2021)": 0.1849, "ChebyCF (2025)": 0.1941}
"""He et al., Shen et al., Kim et al.: the figures of docs/results.md."""
LOW, HIGH, STEP = 0.180, 0.200, 0.005
LEFT, RIGHT, TOP, ROW = 300, 700, 64, 30
STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de } .text { fill: #1f2328 } .faint { fill: #59636e } .grid { stroke: #d8dee4 }
  .ours { fill: #00897b; stroke: #00897b } .theirs { fill: #ffffff; stroke: #59636e }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1e2129; stroke: #3d444d } .text { fill: #e6edf3 } .faint { fill: #9198a1 } .grid { stroke: #3d444d }
    .ours { fill: #2dd4bf; stroke: #2dd4bf } .theirs { fill: #1e2129; stroke: #9198a1 }
  }
"""


class Row(NamedTuple):
    """A point of the picture; `ours` is filled, a published figure is not."""

    name: str
    recall: float
    ours: bool


def rows() -> list[Row]:
    """All points, the best first; ours are means over the seeds of the record."""
    recall, untuned = (json.loads((RECORDS / f"2026-11-29-{name}-cpu2.json").read_text()) for name in ("recall", "untuned"))
    runs = recall["gowalla"]["runs"]
    quarter = [run["alone"][0] for run in recall["a quarter of the values"]["runs"]] + [third_seed(untuned)]
    ours = {
        "mixture with closed forms": [run["mixture"][0] for run in runs],
        "gfcf, a closed form": [run["gfcf-plateau"][0] for run in runs],
        "linkprop, a closed form": [run["linkprop"][0] for run in runs],
        "LightGCN, 1 layer, 64 values": [run["trained"][0] for run in runs],
        "sparse table, 16 values a node": quarter,
    }
    found = [Row(name, mean(values), True) for name, values in ours.items()]
    found += [Row(name, value, False) for name, value in PUBLISHED.items()]
    return sorted(found, key=lambda row: -row.recall)


def third_seed(record: dict) -> float:
    """Recall of the third seed of a quarter of the values."""
    return record["a quarter of the values, seed 2"]["alone"][0]


def x_of(recall: float) -> float:
    """The place of a recall on the axis."""
    return LEFT + (recall - LOW) / (HIGH - LOW) * (RIGHT - LEFT)


def drawing(points: list[Row]) -> str:
    """The picture as SVG: a line for each point, an axis below, no script and no font of another host."""
    bottom = TOP + ROW * len(points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {bottom + 40}" width="780" height="{bottom + 40}" role="img" '
        'font-family="system-ui, sans-serif" font-size="14" aria-label="Test recall@20 on Gowalla, ours and published">',
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="779" height="{bottom + 39}" rx="8"/>',
        '<text class="text" x="24" y="34" font-size="16" font-weight="600">Gowalla: recall@20 on test, all items ranked</text>',
    ]
    for number in range(round((HIGH - LOW) / STEP) + 1):
        x = x_of(LOW + number * STEP)
        parts.append(f'<path class="grid" d="M{x:.0f} {TOP - 10}V{bottom - 4}"/>')
        label = f"{LOW + number * STEP:.3f}"
        parts.append(f'<text class="faint" x="{x:.0f}" y="{bottom + 16}" text-anchor="middle" font-size="12">{label}</text>')
    for number, row in enumerate(points):
        y, x = TOP + ROW * number + 8, x_of(row.recall)
        weight = 600 if row.ours else 400
        parts.append(f'<text class="text" x="{LEFT - 20}" y="{y + 5}" text-anchor="end" font-weight="{weight}">{row.name}</text>')
        parts.append(f'<circle class="{"ours" if row.ours else "theirs"}" cx="{x:.1f}" cy="{y}" r="6" stroke-width="2"/>')
        parts.append(f'<text class="text" x="{x + 14:.1f}" y="{y + 5}" font-size="13">{row.recall:.4f}</text>')
    note = "filled: gcnrec on two CPU cores; open: published"
    parts.append(f'<text class="faint" x="{RIGHT + 56}" y="34" text-anchor="end" font-size="12">{note}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    OUT.write_text(drawing(rows()), encoding="utf-8")
