"""Intervals against a table of t, differences by seed against sums done by hand, and where two curves are read."""

from __future__ import annotations

import json
import math

import pytest

from gcnrec.config import Job
from gcnrec.config.toml import to_toml
from gcnrec.reports.seed_statistics import contrast, contrasts, estimate, grouped, last_until, paired
from gcnrec.reports.trials import Trial
from gcnrec.runs.events import Epoch

METRIC = "recall@20"


@pytest.fixture
def trial(tmp_path):
    """Makes a run folder by hand from (seconds, validation metric) of epochs 1, 2, ...; None where it was not measured."""

    def make(variant, seed, curve, budget=0.5):
        folder = tmp_path / f"{variant}-{budget}-{seed}"
        folder.mkdir()
        (folder / "job.toml").write_text(to_toml(Job.parse({"train": {"seed": seed}}, [], "here")))
        with (folder / "metrics.jsonl").open("w") as file:
            for epoch, (seconds, value) in enumerate(curve, 1):
                event = {"event": "epoch", "stage": "fit", "epoch": epoch, "step": 10 * epoch, "seconds": seconds, "loss": 1.0}
                file.write(json.dumps(event | ({} if value is None else {"valid": {METRIC: value}})) + "\n")
        return Trial(folder, variant, budget, seed)

    return make


def test_the_t_interval_by_hand():
    """1, 2, 3: mean 2, s 1, t(0.975, 2) = 4.3027 by the table."""
    one = estimate([1.0, 2.0, 3.0])
    assert (one.mean, one.count) == (2.0, 3)
    assert one.high - 2 == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4) and 2 - one.low == pytest.approx(one.high - 2)


def test_one_value_has_no_interval_and_none_no_mean():
    one, none = estimate([0.25]), estimate([])
    assert one.mean == 0.25 and math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(none.mean) and (one.count, none.count) == (1, 0)


def test_differences_are_paired_by_seed():
    """Differences 0.01, 0.02, 0.03 (seed 7 has no partner): mean 0.02, s 0.01. Unpaired, the seeds' spread would hide them."""
    one = paired({0: 0.11, 1: 0.52, 2: 0.93, 7: 5.0}, {2: 0.90, 1: 0.50, 0: 0.10, 8: 1.0})
    assert one.count == 3 and one.mean == pytest.approx(0.02)
    assert one.low == pytest.approx(0.02 - 4.3027 * 0.01 / math.sqrt(3), rel=1e-3)


def test_the_last_validation_until_a_limit():
    events = [Epoch(event="epoch", epoch=n, seconds=10.0 * n, loss=1.0, valid={METRIC: n / 100}) for n in (2, 4, 6)]
    assert last_until(events, METRIC, "seconds", 40.0) == 0.04  # at the limit counts
    assert last_until(events, METRIC, "seconds", 59.9) == 0.04
    assert last_until(events, METRIC, "epoch", 6) == 0.06
    assert last_until(events, METRIC, "epoch", 1) is None


def test_equal_seconds_and_equal_epochs(trial):
    """The base takes 10 s an epoch and stops after 3, thin 4 s and 5 epochs: at 20 s and at 30 s, or after 3 epochs."""
    base = [trial("dynamic", 0, [(10, 0.10), (20, 0.20), (30, 0.30)]), trial("dynamic", 1, [(10, 0.11), (20, 0.22), (30, 0.33)])]
    thin = [
        trial("thin", 0, [(4, 0.05), (8, 0.06), (12, 0.07), (16, None), (20, 0.09)]),
        trial("thin", 1, [(8, 0.05), (16, 0.06), (24, 0.08), (32, 0.09)]),
    ]
    seconds = contrast(thin, base, METRIC, "seconds")
    assert seconds.limit == pytest.approx((20 + 30) / 2)
    assert seconds.value.mean == pytest.approx((0.09 + 0.08) / 2)
    assert seconds.base_value.mean == pytest.approx((0.20 + 0.33) / 2)
    assert seconds.difference.mean == pytest.approx((0.09 - 0.20 + 0.08 - 0.33) / 2) and seconds.difference.count == 2
    epochs = contrast(thin, base, METRIC, "epoch")
    assert epochs.limit == 3 and epochs.value.mean == pytest.approx((0.07 + 0.08) / 2)
    assert epochs.base_value.mean == pytest.approx((0.30 + 0.33) / 2)


def test_pairs_that_cannot_be_compared_are_left_out(trial):
    base = [trial("dynamic", 0, [(10, 0.1)]), trial("dynamic", 1, [(10, None)]), trial("dynamic", 2, [(3, 0.1), (10, 0.2)])]
    late = trial("thin", 0, [(20, None), (40, 0.4)])  # nothing was measured within the base's 10 s
    others = [late, trial("thin", 1, [(5, 0.3)]), trial("thin", 2, [(5, 0.2)]), trial("thin", 3, [(5, 0.2)])]
    one = contrast(others, base, METRIC, "seconds")
    assert one.difference.count == 1 and one.limit == 5 and one.base_value.mean == 0.1  # seed 2 alone
    assert contrast([late], base, METRIC, "seconds") is None


def test_only_equal_budgets_are_compared(trial):
    trials = [trial(v, 0, [(1, 0.1)], budget) for budget in (0.25, 0.5) for v in ("thin", "dynamic", "set")]
    trials.append(trial("thin", 0, [(1, 0.1)], 0.125))
    assert list(grouped(trials)) == [
        ("thin", 0.5), ("dynamic", 0.5), ("set", 0.5), ("thin", 0.25), ("dynamic", 0.25), ("set", 0.25), ("thin", 0.125),
    ]  # fmt: skip
    found = [(one.variant, one.base, one.budget) for one in contrasts(trials, "dynamic", METRIC, "epoch")]
    assert found == [("thin", "dynamic", 0.5), ("set", "dynamic", 0.5), ("thin", "dynamic", 0.25), ("set", "dynamic", 0.25)]
