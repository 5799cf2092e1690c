"""What became of the rows that ingestion read: dropped for which reason, or kept, as steps that add up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

_PARTS = ("train", "valid", "test")
_NARROWEST = 0.4
"""Of the whole width in percent: a bar of few rows is seen, too."""


@dataclass(frozen=True)
class Step:
    """A bar of the waterfall: `rows` of a `kind`, from `start` percent of all rows on, `width` percent wide."""

    name: str
    kind: Literal["all", "lost", "kept", "part"]
    rows: int
    start: float
    width: float
    share: float

    @property
    def count(self) -> str:
        """The rows as text, with a minus where they are lost."""
        return f"\N{MINUS SIGN}{self.rows:,}" if self.kind == "lost" else f"{self.rows:,}"


def waterfall(info: Mapping[str, Any]) -> list[Step]:
    """The steps from all rows to train, validation and test, by the counts of `dataset.json`; none where they do not add up."""
    report = {key: value for key, value in info.get("report", {}).items() if type(value) is int and value >= 0}
    rows = sum(report.get(f"rows_{part}", 0) for part in _PARTS)
    parts = [int(info.get(f"num_{part}", 0)) for part in _PARTS]
    lost = [(name, count) for name, count in _lost(report, info.get("data", {})) if count]
    rest = rows - sum(count for _, count in lost) - sum(parts)
    if rest < 0 or not rows:
        return []
    if rest:
        lost.append((_rest(info), rest))
    steps, left = [_step("rows read", "all", rows, 0, rows)], rows
    for name, count in lost:
        left -= count
        steps.append(_step(name, "lost", count, left, rows))
    steps.append(_step("kept", "kept", left, 0, rows))
    start = 0
    for name, count in zip(("train", "validation", "test"), parts, strict=True):
        steps.append(_step(name, "part", count, start, rows))
        start += count
    return steps


def _lost(report: Mapping[str, int], data: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Reasons in the order of ingestion, with their rows; `data`: the settings."""

    def count(*keys: str) -> int:
        return sum(report.get(key, 0) for key in keys)

    def of_parts(key: str) -> int:
        return count(*(f"{key}_{part}" for part in _PARTS))

    yield "without a rating", of_parts("no_rating")
    yield "rated too low", of_parts("low_rating")
    yield "outside the condition (where)", of_parts("filtered") - of_parts("no_rating") - of_parts("low_rating")
    yield "held-out rows of other behaviours", of_parts("other")
    yield "after the end of test", count("after_test")
    yield "repeated pairs, merged", of_parts("duplicates")
    yield "rated low later", count("withdrawn_train")
    yield f"outside the {data.get('k_core', 'k')}-core", count("k_core_interactions", "k_core_valid", "k_core_test")
    if data.get("repeats") != "keep":
        yield "held-out pairs that train also has", count("repeats_valid", "repeats_test")
    yield "held-out pairs that were rated low before", count("negative_valid", "negative_test")
    yield "held-out pairs of users or items that train lacks", count("cold_valid", "cold_test")


def _rest(info: Mapping[str, Any]) -> str:
    """What other rows became."""
    if info.get("behaviours"):
        return "rows of other behaviours, which have graphs of their own"
    if info.get("data", {}).get("negative_below") is not None:
        return "rated low: negative pairs"
    return "other rows"


def _step(name: str, kind: Literal["all", "lost", "kept", "part"], rows: int, before: int, whole: int) -> Step:
    start, width = 100.0 * before / whole, max(100.0 * rows / whole, _NARROWEST if rows else 0.0)
    return Step(name, kind, rows, round(min(start, 100.0 - width), 3), round(width, 3), rows / whole)
