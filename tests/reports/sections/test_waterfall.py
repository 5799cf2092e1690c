"""The steps from the rows that were read to train, validation and test add up, or there are none."""

from __future__ import annotations

import pytest

from gcnrec.reports.sections.waterfall import waterfall

INFO = {
    "num_train": 50, "num_valid": 5, "num_test": 10, "data": {"k_core": 3},
    "report": {
        "rows_train": 90, "rows_test": 20, "filtered_train": 12, "low_rating_train": 7, "no_rating_train": 1,
        "duplicates_train": 9, "duplicates_test": 2, "k_core_interactions": 8, "repeats_test": 6, "cold_test": 3,
        "cold_users_test": 99, "lines": ["x"], "after_test": 5,
    },
}  # fmt: skip


def test_every_row_is_in_one_step():
    steps = waterfall(INFO)
    assert [(step.name, step.kind, step.count) for step in steps] == [
        ("rows read", "all", "110"),
        ("without a rating", "lost", "\u22121"),
        ("rated too low", "lost", "\u22127"),
        ("outside the condition (where)", "lost", "\u22124"),
        ("after the end of test", "lost", "\u22125"),
        ("repeated pairs, merged", "lost", "\u221211"),
        ("outside the 3-core", "lost", "\u22128"),
        ("held-out pairs that train also has", "lost", "\u22126"),
        ("held-out pairs of users or items that train lacks", "lost", "\u22123"),
        ("kept", "kept", "65"),
        ("train", "part", "50"),
        ("validation", "part", "5"),
        ("test", "part", "10"),
    ]
    lost = [step for step in steps if step.kind == "lost"]
    assert 110 - sum(step.rows for step in lost) == 65
    # Each bar of lost rows ends where the one before begins, the last at the rows that are kept.
    for above, below in zip([steps[0], *lost], lost, strict=False):
        assert below.start + below.width == pytest.approx(
            above.start + above.width if above is steps[0] else above.start, abs=0.01
        )
    assert lost[-1].start == pytest.approx(100 * 65 / 110, abs=0.01)


def test_a_small_step_is_seen_inside_the_whole():
    report = {"rows_train": 1_000_000, "duplicates_train": 1}
    info = {"num_train": 999_999, "report": report}
    step = waterfall(info)[1]
    assert (step.rows, step.width, step.start) == (1, 0.4, 99.6)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"behaviours": {"target": "buy"}}, "rows of other behaviours, which have graphs of their own"),
        ({"data": {"negative_below": 2.0}}, "rated low: negative pairs"),
        ({}, "other rows"),
    ],
)
def test_rows_that_no_count_names(changed, name):
    steps = waterfall({"num_train": 6, "report": {"rows_train": 10, "repeats_valid": 4}, "data": {"repeats": "keep"}} | changed)
    if "data" in changed:
        assert [step.name for step in steps[1:3]] == ["held-out pairs that train also has", "kept"]
        steps = waterfall({"num_train": 6, "report": {"rows_train": 10}} | changed)
    assert [(step.name, step.rows) for step in steps[1:3]] == [(name, 4), ("kept", 6)]


def test_counts_that_do_not_add_up_give_no_steps():
    assert waterfall({"num_train": 11, "report": {"rows_train": 10}}) == []
    assert waterfall({"num_train": 11}) == waterfall({}) == []
