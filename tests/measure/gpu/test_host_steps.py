"""The seconds of the host for a step, on a small graph: the program runs, and counts the main thread among all threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.measure.gpu.host_steps import run

CHECKOUT = Path(__file__).parents[3]


@pytest.mark.slow
def test_seconds_of_a_step_are_reported():
    said = []
    medians = run({"now": CHECKOUT, "again": CHECKOUT}, 12_000, 1, said.append)
    assert [line.split(":")[0] for line in said] == ["now", "again"]
    for seconds in medians.values():
        assert 0 < seconds["main"] < 2 and 0 < seconds["whole"] < 10
