"""The harness must be fair and must not flatter: order, agreement, absence and memory."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from gcnrec.bench.harness import Variant, command_of, measure, overall, summary, write_record
from gcnrec.bench.memory import Sampler, in_subprocess, measured, resident
from gcnrec.system.machine import machine

MEGABYTE = 2**20


def difference(expected, result):
    return abs(expected - result)


def sleeper(name, seconds, result=1.0, log=None, **settings):
    def run(_):
        if log is not None:
            log.append(name)
        time.sleep(seconds)
        return result

    return Variant(name, lambda: None, run, **settings)


def absent(name):
    def setup():
        raise ImportError(f"no module named {name}")

    return Variant(name, setup, lambda state: state)


@pytest.mark.serial
def test_rows_and_summary():
    rows = list(measure("demo", [sleeper("peer", 0.02), sleeper("gcnrec", 0.005)], 10, difference, 0.0, runs=3, warmup=1))
    assert [row.get("variant") for row in rows] == ["peer", "gcnrec", None]
    assert {"bench", "variant", "seconds", "runs", "units", "rate", "peak_bytes"} <= rows[0].keys()
    assert rows[0]["runs"] == 3 and rows[0]["units"] == 10
    assert rows[0]["rate"] == pytest.approx(10 / rows[0]["seconds"])
    last = rows[-1]
    assert last["summary"] is True and last["ours"] == "gcnrec" and last["best_peer"] == "peer" and last["absent"] == []
    assert last["speedup"] == rows[0]["seconds"] / rows[1]["seconds"] > 1.5
    assert json.loads(json.dumps(rows)) == rows


def test_variants_take_turns():
    log = []
    list(measure("demo", [sleeper("a", 0, log=log), sleeper("gcnrec-b", 0, log=log)], 1, difference, 0.0, runs=2, warmup=1))
    assert log == ["a", "gcnrec-b"] * 3


@pytest.mark.serial
def test_the_median_counts():
    pauses = iter([0.0, 0.001, 0.2, 0.002])  # one warm-up, three timed
    variant = Variant("gcnrec", lambda: None, lambda _: time.sleep(next(pauses)) or 1.0)
    (row, _) = measure("demo", [variant], 1, difference, 0.0, runs=3, warmup=1)
    assert row["seconds"] < 0.1


@pytest.mark.parametrize("wrong", [1.5, float("nan")])
def test_disagreement_stops_before_timing(wrong):
    log = []
    variants = [sleeper("peer", 0, log=log), sleeper("gcnrec", 0, result=wrong, log=log)]
    with pytest.raises(RuntimeError, match=r"demo: 'gcnrec' must agree with 'peer' within 0.1, differs by"):
        list(measure("demo", variants, 1, difference, 0.1, runs=5, warmup=3))
    assert len(log) == 2


def test_an_absent_peer_voids_the_speedup():
    rows = list(measure("demo", [sleeper("gcnrec", 0), sleeper("peer", 0), absent("dgl")], 1, difference, 0.0, runs=1))
    assert rows[-1]["absent"] == ["dgl"] and rows[-1]["speedup"] is None and rows[-1]["best_peer"] == "peer"


def test_summary_takes_the_fastest_of_each_side():
    seconds = {"gcnrec-a": 2.0, "gcnrec": 1.0, "p": 5.0, "q": 3.0, "gcnrecx": 4.0}
    rows = [{"variant": name, "seconds": value} for name, value in seconds.items()]
    row = summary("demo", rows, [])
    assert (row["ours"], row["best_peer"], row["speedup"]) == ("gcnrec", "q", 3.0)


def test_overall_is_the_worst_part():
    parts = [
        {"bench": "p.forward", "summary": True, "ours": "gcnrec", "best_peer": "x", "speedup": 3.0, "absent": []},
        {"bench": "p.backward", "summary": True, "ours": "gcnrec", "best_peer": "y", "speedup": 1.5, "absent": []},
    ]
    assert overall("p", parts) == {**parts[1], "bench": "p", "worst_part": "p.backward"}
    void = {**parts[0], "speedup": None, "absent": ["z"]}
    assert overall("p", [*parts, void])["speedup"] is None
    assert overall("p", [*parts, void])["absent"] == ["z"]


def test_reset_runs_before_every_repetition_untimed():
    log = []
    variant = Variant("gcnrec", list, lambda state: log.append("run") or 0.0, reset=lambda state: log.append("reset"))
    list(measure("demo", [variant], 1, difference, 0.0, runs=2, warmup=1))
    assert log == ["reset", "run"] * 3


def allocate(megabytes):
    return int(np.ones(megabytes * MEGABYTE, np.uint8)[-1])


@pytest.mark.serial
def test_peak_sees_memory_that_is_gone_at_the_end():
    for _ in range(2):  # the second call must not profit from what the first left behind
        outcome = measured(allocate, 200)
        assert outcome.result == 1
        assert 190 * MEGABYTE < outcome.peak_bytes < 230 * MEGABYTE


@pytest.mark.serial
def test_peak_of_a_small_call_is_small():
    measured(allocate, 200)
    assert measured(allocate, 1).peak_bytes < 20 * MEGABYTE


def test_sampler_sees_a_peak():
    sampler = Sampler(resident)
    block = np.ones(50 * MEGABYTE, np.uint8)
    time.sleep(0.05)
    assert sampler()["rss"] > len(block)


@pytest.mark.serial
def test_subprocess_brings_its_own_numbers():
    outcome = in_subprocess(allocate, 100)
    assert outcome.result == 1 and 90 * MEGABYTE < outcome.peak_bytes < 160 * MEGABYTE
    variant = Variant("gcnrec", lambda: None, lambda _: outcome)
    row = next(iter(measure("demo", [variant], 1, difference, 0.0, runs=1, warmup=1)))
    assert row["seconds"] == outcome.seconds and row["peak_bytes"] == outcome.peak_bytes


def test_record_names_machine_and_command_only(tmp_path):
    path = tmp_path / "records" / "demo.json"
    write_record(path, "gcnrec bench demo --json", [{"bench": "demo"}])
    document = json.loads(path.read_text())
    assert document["command"] == "gcnrec bench demo --json" and document["rows"] == [{"bench": "demo"}]
    assert document["machine"] == machine()
    assert {"cpu", "cores", "memory_gib", "python", "torch", "numba", "gcnrec"} <= document["machine"].keys()


def test_a_command_in_a_record_has_no_folder_of_this_machine():
    assert (
        command_of("jobs.measure.x", ["--out", "/a/b/r 1.json", "--cases", "3"])
        == "python -m jobs.measure.x --out 'r 1.json' --cases 3"
    )
