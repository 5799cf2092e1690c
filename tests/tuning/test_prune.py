"""The median rule, by hand."""

from __future__ import annotations

import pytest

from gcnrec.tuning.prune import pruned_at

OTHERS = [[(epoch, level) for epoch in range(1, 7)] for level in (0.1, 0.2, 0.3, 0.4)]  # the median is 0.25


@pytest.mark.parametrize(
    ("values", "epoch"),
    [
        ([0.0, 0.0], None),  # too early
        ([0.0, 0.0, 0.24], 3),
        ([0.0, 0.0, 0.25], None),  # not below
        ([0.26, 0.0, 0.0, 0.0], None),  # the best so far counts
        ([0.0, 0.0, 0.3, 0.0, 0.0], None),
        ([0.0, 0.0, 0.1, 0.9], 3),  # what comes later is not looked at
        ([], None),
    ],
)
def test_a_trial_below_the_median_ends_early(values, epoch):
    assert pruned_at(list(enumerate(values, 1)), OTHERS) == epoch


def test_a_median_needs_four_trials_that_were_validated_by_then():
    poor = [(1, 0.0), (2, 0.0), (3, 0.0)]
    assert pruned_at(poor, OTHERS[1:]) is None
    assert pruned_at(poor, [*OTHERS[1:], [(4, 0.9)]]) is None
    assert pruned_at([*poor, (4, 0.0)], [*OTHERS[1:], [(4, 0.9)]]) == 4
    assert pruned_at([(2, 0.0), (4, 0.3)], OTHERS) is None and pruned_at([(2, 0.0), (4, 0.2)], OTHERS) == 4
