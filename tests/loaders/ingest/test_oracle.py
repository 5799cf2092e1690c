"""Drawn ingestions against an oracle in plain Python (jobs/measure/fuzz), and the oracle against values by hand."""

from __future__ import annotations

import time

import pytest

from jobs.measure.fuzz import rows
from jobs.measure.fuzz.ingestions import NAN, Column, File, Ingestion, Source
from jobs.measure.fuzz.oracle import answer
from jobs.measure.fuzz.truth import compared, is_null, joined, negated

PLAIN = {
    "user": "u", "item": "i", "split": "given", "valid_size": 0.0, "test_size": 0.25, "duplicates": "latest", "k_core": 0,
    "repeats": "drop", "keep_cold": False, "time_unit": "ms",
}  # fmt: skip


@pytest.mark.parametrize("numbers", [range(20), pytest.param(range(20, 150), marks=pytest.mark.slow)], ids=["few", "many"])
def test_drawn_ingestions_agree_with_the_oracle(numbers):
    outcomes = [rows.compared(number) for number in numbers]
    assert [(outcome.number, outcome.fault) for outcome in outcomes if outcome.fault] == []
    assert sum(outcome.word == rows.INGESTED for outcome in outcomes) >= 0.7 * len(numbers)


def of(text, *values):
    """A source of one file with columns u, i, t, w, as many as there are."""
    columns = [Column(name, "int64", list(each)) for name, each in zip("uitw", values, strict=False)]
    return Source(text, text, [File(text, columns, len(values[0]))])


def test_the_oracle_leaves_the_last_two_out():
    """User 1 has three times, user 2 two, user 3 one; a repeat of (1, 7) at the end is its latest row."""
    train = of("x.parquet", [1, 1, 1, 2, 2, 3], [7, 8, 7, 7, 8, 8], [1_000, 2_000, 3_999, 5_000, 4_000, 0])
    why, made = answer(Ingestion(0, {"train": train}, {**PLAIN, "time": "t", "split": "leave_last", "valid_size": 0.25}))
    assert not why
    assert made["train"] == {(1, 7): (1, None), (2, 8): (4, None), (3, 8): (0, None)}
    assert made["valid"] == {(1, 8): (2, None)} and made["test"] == {(2, 7): (5, None)}, "(1, 7) is in train"
    assert made["users"] == [(1, 1), (2, 1), (3, 1)] and made["items"] == [(8, 2), (7, 1)]
    assert made["report"]["repeats_test"] == 1


def test_the_oracle_sums_and_drops():
    train = of("x.parquet", [1, 1, 2], [7, 7, 8], [0, 1, 2], [0.5, 2.0, 1.0])
    test = of("y.parquet", [1, 2, 5], [8, 8, 7], [9, 9, 9], [1.0, 1.0, 1.0])
    data = {**PLAIN, "time": "t", "weight": "w", "duplicates": "sum"}
    _, made = answer(Ingestion(0, {"train": train, "test": test}, data))
    assert made["train"] == {(1, 7): (0, 2.5), (2, 8): (0, 1.0)} and made["test"] == {(1, 8): (0, 1.0)}
    assert {key: made["report"][f"{key}_test"] for key in ("repeats", "cold")} == {"repeats": 1, "cold": 1}


def test_the_oracle_reads_the_files_that_the_name_names():
    columns = [Column("i", "int64", [7])]
    paths = ["in/u=007/a.parquet", "in/u=7/b.parquet", "in/_temporary/u=9/c.parquet", "in/u=9/.d.parquet", "in/u=9/notes"]
    inside = [File(path, columns, 1) for path in paths]
    _, made = answer(Ingestion(0, {"train": Source("in", "in", inside)}, PLAIN))
    assert made["users"] == [("007", 1), ("7", 1)]
    _, made = answer(Ingestion(0, {"train": Source("in/*/b.parquet", "in", inside)}, PLAIN))
    assert made["users"] == [("7", 1)]
    own = File("in/u=9/x.parquet", [*columns, Column("u", "int64", [3])], 1)
    _, made = answer(Ingestion(0, {"train": Source("in", "in", [own])}, PLAIN))
    assert made["users"] == [(3, 1)]


@pytest.mark.parametrize(("values", "word"), [([1, None], "holds nulls"), ([1, "7"], "one type in all"), ([], "holds no rows")])
def test_the_oracle_has_a_reason_to_refuse(values, word):
    why, made = answer(Ingestion(0, {"train": of("x.parquet", values, [7] * len(values))}, PLAIN))
    assert word in why and made is None


def test_conditions_have_three_values_and_compare_as_ieee_says():
    above, absent = compared(("x", "x"), ">", 3, "3"), is_null(("x", "x"))
    values = {4: True, 3: False, NAN: False, None: None}
    assert [above.holds({"x": value}) for value in values] == list(values.values())
    assert [negated(above).holds({"x": value}) for value in values] == [False, True, True, None]
    assert [joined([above, absent], True).holds({"x": value}) for value in values] == [True, False, False, True]
    assert [joined([above, absent], False).holds({"x": value}) for value in values] == [False, False, False, None]
    assert compared(("x", "x"), "<>", 3, "3").holds({"x": NAN}) is True


def test_the_comparison_notices_what_differs(monkeypatch):
    """Number 0 is ingested; another expectation of it, and a reason to refuse it, are faults."""
    number = next(number for number in range(20) if rows.compared(number).word == rows.INGESTED)
    why, made = rows.answer(rows.ingestion(number))
    assert not why
    pair = next(iter(made["train"]))
    less = {**made, "train": {key: value for key, value in made["train"].items() if key != pair}}
    monkeypatch.setattr(rows, "answer", lambda case: (set(), less))
    assert "train: " in rows.compared(number).fault
    monkeypatch.setattr(rows, "answer", lambda case: ({"holds nulls"}, None))
    assert "in spite of" in rows.compared(number).fault


def test_the_time_zone_of_the_process_comes_back():
    before = time.tzname
    rows.compared(next(number for number in range(20) if rows.ingestion(number).zone == "Asia/Tokyo"))
    assert time.tzname == before
