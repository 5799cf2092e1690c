"""Processes of `gcnrec` that another command starts: their share of the cores, and what they said last."""

from __future__ import annotations

import os

import pytest

from gcnrec.system.children import cores_of, failure


def test_a_failure_is_the_last_line_of_the_log(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("fit epoch 1/3\ngcnrec: the loss is not finite\n")
    assert failure(0, log) == "" and failure(5, log) == "the loss is not finite"
    assert "ended by signal 9" in failure(137, log)
    log.write_text("")
    assert failure(1, log) == "it said nothing"


@pytest.mark.parametrize(
    ("cores", "jobs", "shares"),
    [
        ({0, 1, 2, 3}, 1, [None]),
        ({0, 1, 2, 3}, 2, [{0, 1}, {2, 3}]),
        ({4, 5, 6, 7, 9}, 2, [{4, 5}, {6, 7}]),
        ({0, 3}, 3, [{0}, {3}, {0}]),
    ],
)
def test_every_slot_has_an_equal_share_of_the_cores(monkeypatch, cores, jobs, shares):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores, raising=False)
    assert [cores_of(slot, jobs) for slot in range(jobs)] == shares
