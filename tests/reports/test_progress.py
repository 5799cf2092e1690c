"""What long work shows: seldom where lines are read later, in JSON where machines read, with the time that is left."""

from __future__ import annotations

import io
import json
import sys

import pytest

from gcnrec.reports.figures import Remaining, duration, figures, rate
from gcnrec.reports.progress import JsonLines, Lines, Quiet, log, observed, runs_reported
from gcnrec.reports.progress_bar import Bar
from gcnrec.reports.trials import Ended


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_rate_and_figures():
    assert [rate(value) for value in (12.0, 1.5e3, 2e6)] == ["12 rows/s", "1.5k rows/s", "2.0M rows/s"]
    record = {"loss": 1.0, "seconds": 61.7, "rows_per_second": 1e3, "valid": {"recall@20": 0.17}}
    assert figures(record, "recall@20") == "loss 1.0000  recall@20 0.1700  1.0k rows/s  62 s"
    assert figures({"loss": 1.0, "seconds": 2.0}, "recall@20") == "loss 1.0000  2 s"
    moved = {"loss": 1.0, "seconds": 2.0, "gigabytes_per_second": 31.25, "cache_hits": 0.25, "stalled_share": 0.1}
    assert figures(moved, "recall@20") == "loss 1.0000  31.2 GB/s read, 25% cached  waits 10%  2 s"
    assert figures({"loss": 1.0, "seconds": 2.0, "stalled_share": 0.001}, "recall@20") == "loss 1.0000  2 s"


def test_lines_are_a_minute_apart(capsys, clock):
    observer = Lines("recall@20", clock)
    for second in range(0, 150, 10):
        clock.now = float(second)
        observer.step(1, 3, second, 200, 2.5, 1e4)
    record = {"stage": "fit", "loss": 2.0, "seconds": 150.0, "valid": {"recall@20": 0.1}}
    observer.epoch({**record, "epoch": 1})  # too soon
    observer.note("done")
    clock.now = 200.0
    observer.epoch({**record, "epoch": 2})
    clock.now = 201.0
    observer.epoch({**record, "epoch": 3})  # the last
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "epoch 1/3  step 10/200  loss 2.5000  10.0k rows/s  about 10 min left",
        "epoch 1/3  step 70/200  loss 2.5000  10.0k rows/s  about 9 min left",
        "epoch 1/3  step 130/200  loss 2.5000  10.0k rows/s  about 8 min left",
        "done",
        "fit epoch 2/3  loss 2.0000  recall@20 0.1000  150 s",
        "fit epoch 3/3  loss 2.0000  recall@20 0.1000  150 s",
    ]


def test_other_work_is_told_as_seldom(capsys, clock):
    observer = Lines("", clock)
    for second in range(0, 100, 5):
        clock.now = float(second)
        observer.work("ranking for test", 1000 * second, 100_000)
    clock.now = 200.0
    observer.work("splitting", 0, 0)
    observer.warn("look here")
    assert capsys.readouterr().err.splitlines() == [
        "ranking for test  5,000 of 100,000  about 95 s left".replace("95 s", "2 min"),
        "ranking for test  65,000 of 100,000  about 35 s left",
        "splitting",
        "warning: look here",
    ]


def test_the_time_left_follows_the_pace_of_this_process(clock):
    left = Remaining(clock)
    assert left.after("a", 50, 100) == ""  # resumed half way: no pace yet
    clock.now = 10.0
    assert left.after("a", 60, 100) == "  about 40 s left"
    clock.now = 20.0
    assert left.after("a", 100, 100) == "  about 0 s left"
    assert left.after("b", 1, 10) == ""  # other work
    clock.now = 21.0
    assert left.after("b", 0, 10) == "" and left.after("b", 0, 10) == ""  # begun again


def test_durations():
    assert [duration(seconds) for seconds in (0.4, 89, 600, 4 * 3600)] == ["0 s", "89 s", "10 min", "4.0 h"]


def test_quiet_says_warnings_only(capsys):
    quiet = Quiet()
    quiet.step(1, 1, 1, 1, 0.0, 0.0), quiet.epoch({}), quiet.work("x", 1, 2), quiet.note("hidden")
    quiet.warn("shown")
    assert capsys.readouterr() == ("", "warning: shown\n")


def test_json_lines(capsys, clock):
    observer = JsonLines(clock)
    observer.step(1, 2, 3, 4, float("nan"), 5.0)
    observer.work("reading", 1, 2)  # within the minute
    observer.epoch({"event": "epoch", "stage": "fit", "epoch": 1, "loss": 0.5})
    observer.note("a note"), observer.warn("a warning")
    observer.ended(Ended("one", 5, 1.0, "diverged"), 1, 2)
    log("error", "error", {"text": "why", "exit_code": 2})
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.err.splitlines()]
    assert shown.out == "" and all(line["time"].endswith("+00:00") for line in lines)
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "step"), ("info", "epoch"), ("info", "note"), ("warning", "warning"), ("error", "run"), ("error", "error"),
    ]  # fmt: skip
    assert lines[0]["loss"] is None and lines[1]["loss"] == 0.5 and lines[4]["failure"] == "diverged"
    assert lines[5]["exit_code"] == 2


def test_the_observer_that_fits(capsys):
    with observed(log_json=True, as_json=True) as observer:
        observer.note("noted")
    assert json.loads(capsys.readouterr().err)["text"] == "noted"
    with observed(as_json=True) as observer:
        observer.note("noted"), observer.warn("careful")
    assert capsys.readouterr().err == "warning: careful\n"
    with observed("recall@20") as observer:
        observer.note("noted"), observer.warn("careful")
    assert capsys.readouterr().err == "noted\nwarning: careful\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_on_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with observed() as observer:
        observer.note("a terminal")
    assert "\x1b[?25l" in screen.getvalue()  # the cursor hides behind a bar
    observer = Bar("recall@20")
    with observer.progress:
        observer.work("reading train", 10, 20)
        observer.step(1, 2, 5, 10, 1.5, 2e3)
        observer.step(1, 2, 6, 10, 1.5, 2e3)
        observer.progress.refresh()
        observer.epoch({"stage": "fit", "epoch": 1, "loss": 1.5, "seconds": 1.0, "valid": {"recall@20": 0.25}})
        observer.note("noted [not markup]"), observer.warn("careful")
    shown = screen.getvalue()
    for part in ("reading train", "10/20", "epoch 1/2", "left", "fit epoch 1  loss 1.5000  recall@20 0.2500", "[not markup]"):
        assert part in shown, part
    assert "warning: careful" in shown


def test_a_sweep_tells_of_its_runs(capsys):
    with runs_reported(2, False) as report:
        report(Ended("one", 0, 3.0, ""), 1, 2)
        report(Ended("two", 3, 0.0, "no data"), 2, 2)
    assert capsys.readouterr().err.splitlines() == ["1/2  one  3 s", "2/2  two  no data"]
    with runs_reported(1, True) as report:
        report(Ended("one", 0, 0.0, ""), 1, 1)
    assert json.loads(capsys.readouterr().err)["name"] == "one"
