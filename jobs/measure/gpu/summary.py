"""Ratios between variants of one run, and what they should reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
SLOTS_TARGETS = {64: 1.8, 128: 2.6}
OVERLAP, RESIDENT = "gcnrec-host-overlap", "torch-device"
RESIDENT_TARGETS = ((0.75, 1 / 1.05), (1.0, 1 / 1.10))
"""Up to which ratio of transfers to compute overlap must have which share of the speed with everything on the device."""
EPOCH_TARGETS = {"cpu-gather-pinned": 1.65, "cpu-gather-serial": 2.0}
"""The speed of overlap over the speed of gathers by the cores, where transfers take `BALANCED` of compute's time."""
BALANCED = (0.7, 1.0)
OTHERS = (
    RESIDENT, *EPOCH_TARGETS, "gcnrec-device", "gcnrec-host-serial", "cpu-gather-prefetch", "cpu-gather-loader", "dgl-uva",
    "graphbolt-pinned",
)  # fmt: skip


def summary(rows: Iterable[Row]) -> list[Row]:
    """Named ratios; `target` is None where nothing was promised, `met` None then too. Rows that failed do not count."""
    timed = [row for row in rows if "seconds" in row and "variant" in row]
    return [*_gathers(timed), *_slots(timed), *_updates(timed), *_sampling(timed), *_epochs(timed)]


def _ratio(name: str, value: float | None, over: float | None, target: float | None = None) -> list[Row]:
    """The ratio; none where a side was not measured."""
    if not value or not over:
        return []
    return [{"name": name, "value": value / over, "target": target, "met": None if target is None else value / over >= target}]


def _pick(rows: list[Row], bench: str, start: str = "", where: Callable[[Row], bool] = bool) -> list[Row]:
    return [row for row in rows if row["bench"] == bench and row["variant"].startswith(start) and where(row)]


def _best(rows: list[Row], key: str) -> float | None:
    return max((row[key] for row in rows), default=None)


def _gathers(rows: list[Row]) -> list[Row]:
    found = []
    for width in (64, 128):
        for order in ("ascending", "random"):
            # the large batches only: a small one measures launches
            own = _pick(rows, "gather", where=lambda row, w=width, o=order: row["width"] == w and row["order"] == o)
            most = _best(own, "units")
            large = [row for row in own if row["units"] == most]
            bare = _pick(large, "gather", "ceiling")
            bare += [row for row in _pick(rows, "ceiling-read") if (row["row_bytes"], row["order"]) == (4 * width, order)]
            ours, ceiling = _best(_pick(large, "gather", "gcnrec"), "gb_per_s"), _best(bare, "gb_per_s")
            found += _ratio(f"gather-{width}-{order}: share of the read ceiling", ours, ceiling, 0.9)
        found += _peers(_pick(rows, "gather-peers", where=lambda row, w=width: row["width"] == w), width)
    return found


def _peers(rows: list[Row], width: int) -> list[Row]:
    """By the clock of the host, which the CPU's gathers need too."""
    rates = {row["variant"]: row["units"] / row["wall_seconds"] for row in rows}
    ours = rates.get("gcnrec-zero-copy")
    pinned = max((rates[name] for name in ("torch-index-select-pinned", "numba-pinned") if name in rates), default=None)
    loader = max((rates[name] for name in ("torch-pinned-loader", "numba-pinned-loader") if name in rates), default=None)
    return [
        *_ratio(f"gather-{width}: times the cores' gather into a pinned buffer and copy", ours, pinned, 1.4),
        *_ratio(f"gather-{width}: times the same with a loader thread ahead", ours, loader),
        *_ratio(f"gather-{width}: times t[index].to(device)", ours, rates.get("torch-index-pageable"), 2.5),
        *_ratio(f"gather-{width}: share of a table on the device", ours, rates.get("gcnrec-on-device")),
    ]


def _slots(rows: list[Row]) -> list[Row]:
    found = []
    for width, target in SLOTS_TARGETS.items():
        for form in ("slots", "slots-mixed", "slots-bf16"):
            own = _pick(rows, "slots", where=lambda row, w=width, f=form: row["width"] == w and row["form"] == f)
            dense, ours = _best(_pick(own, "slots", "dense"), "rate"), _best(_pick(own, "slots", "gcnrec"), "rate")
            name = f"{form}-{width}: times the rows per second of dense float32 rows"
            found += _ratio(name, ours, dense, target if form == "slots" else None)
    return found


def _updates(rows: list[Row]) -> list[Row]:
    found = []
    both = _pick(rows, "ceiling-turn") + _pick(rows, "ceiling-both")
    for rule in ("sgd", "adagrad_row", "adam", "adam_row", "adam-slots"):
        ours = _best(_pick(rows, f"update-{rule}", "gcnrec"), "gb_per_s")
        ceiling = _best(_pick(rows, f"update-{rule}", "ceiling") + both, "gb_per_s")
        name = f"update-{rule}: share of the ceiling of reads and writes at once"
        found += _ratio(name, ours, ceiling, 0.85 if rule == "adam" else None)
    return found


def _sampling(rows: list[Row]) -> list[Row]:
    found = []
    for fanout in sorted({row["fanout"] for row in _pick(rows, "sample")}):
        rates = {row["variant"]: row["rate"] for row in _pick(rows, "sample", where=lambda row, f=fanout: row["fanout"] == f)}
        host, cores, device = (rates.get(f"gcnrec-{place}") for place in ("host", "cpu-cores", "device"))
        found += _ratio(f"sample-{fanout}: edges per second from host memory, times the cores'", host, cores)
        found += _ratio(f"sample-{fanout}: share of the graph on the device", host, device)
    return found


def _epochs(rows: list[Row]) -> list[Row]:
    """By the clock of the host; each point of a curve by itself. A race reports after every round: its last rows count."""
    found = []
    points: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["bench"].startswith("epoch") or row["bench"] == "features":
            point = tuple(row.get(key) for key in ("bench", "columns", "pitch", "products"))
            points.setdefault(point, {})[row["variant"]] = row
    for by_variant in points.values():
        ours = by_variant.get(OVERLAP)
        for other in OTHERS:
            if ours is not None and other in by_variant:
                target = epoch_target(other, ours.get("ratio"))
                name = f"{_point_name(ours)}: times the speed of {other}"
                found += _ratio(name, by_variant[other]["wall_seconds"], ours["wall_seconds"], target)
    return found


def epoch_target(other: str, ratio: float | None) -> float | None:
    """What overlap should reach against another way where transfers take `ratio` of compute's time; None: nothing is said."""
    if ratio is None:
        return None
    if other == RESIDENT:
        return next((target for most, target in RESIDENT_TARGETS if ratio <= most), None)
    return EPOCH_TARGETS.get(other) if BALANCED[0] <= ratio <= BALANCED[1] else None


def _point_name(row: Row) -> str:
    table = f" of {row['columns']} columns, pitch {row['pitch']}" if "columns" in row else ""
    ratio = f" at transfers {row['ratio']:.2f} of compute" if "ratio" in row else ""
    return f"{row['bench']}{table}{ratio}"
