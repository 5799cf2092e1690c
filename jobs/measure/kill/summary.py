"""The figures of a record of ended commands: how many, which, how fast they ended, and what was wrong."""

from __future__ import annotations

from collections import Counter

import numpy as np

from jobs.measure.kill.trials import Row


def summarised(rows: list[Row]) -> Row:
    """Counts by command, ending and part of the command; seconds from a request to the end; loads; faults; and of training runs
    the phases and the steps that were repeated."""
    counted = [row for row in rows if row["effective"]]
    asked = [row for row in counted if row.get("ending", "").startswith(("SIGTERM", "SIGINT"))]
    steps = [row for row in rows if "step" in row]
    return {
        "summary": True,
        "kills": len(counted),
        "ended_before_their_moment": len(rows) - len(counted),
        "by_case": _counts(counted, "case"),
        "by_ending": _counts(counted, "ending"),
        "by_part": _counts(counted, "part"),
        "asked_to_end": _quantiles([row["took_s"] for row in asked]) | {"unit": "seconds until the end"},
        "asked_and_done": sum(row["code"] not in (130, 143) for row in asked),
        "load": _quantiles([row["load"] for row in counted if "load" in row]),
        "training": {
            "phases": _counts(steps, "phase"),
            "killed_twice": sum(row["kill"] == 2 for row in steps),
            "most_steps_repeated": max((row["repeated"] for row in steps), default=0),
        },
        "all_sound": bool(rows) and all(row["sound"] for row in rows),
        "faults": dict(Counter(fault for row in rows for fault in row.get("faults", ())).most_common(50)),
        "failed_trials": sorted({row["trial"] for row in rows if not row["sound"]}),
    }


def _counts(rows: list[Row], key: str) -> dict[str, int]:
    return dict(Counter(row[key] for row in rows if key in row).most_common())


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"of": 0}
    return {"of": len(values), "median": round(float(np.median(values)), 2), "p95": round(float(np.quantile(values, 0.95)), 2),
            "max": max(values)}  # fmt: skip
