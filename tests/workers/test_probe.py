"""The exchange that the doctor measures, and what it says where there is none."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fake_world import run_workers

from gcnrec.system.doctor import examine, findings
from gcnrec.workers import probe as probed
from gcnrec.workers.echo import echo
from gcnrec.workers.probe import SIZES, measured, probe


def test_two_processes_exchange():
    found = probe()
    assert found.pop("gloo") is True and found.keys() == SIZES.keys()
    assert all(0 < rate < 1000 for rate in found.values())


def test_each_size_is_sent_as_often_as_said(monkeypatch):
    monkeypatch.setattr(probed, "SIZES", {"small": (8, 3), "none": (0, 1)})
    seen = []

    def work(world):
        plain = world.exchange

        def exchange(sent, outs, ins):
            seen.append((world.rank, len(sent), tuple(outs), tuple(ins)))
            return plain(sent, outs, ins)

        world.exchange = exchange
        if world.rank:
            return echo(world)
        found = measured(world)
        world.close()
        return found

    rates, nothing = run_workers(2, work)
    assert rates["small"] >= 0 and rates["none"] == 0 and nothing is None
    of_leader, of_echo = (0, 8, (0, 8), (0, 8)), (1, 8, (8, 0), (8, 0))
    assert sorted(seen) == [
        (0, 0, (0, 0), (0, 0)),
        of_leader,
        of_leader,
        of_leader,
        (1, 0, (0, 0), (0, 0)),
        of_echo,
        of_echo,
        of_echo,
    ]


ENDS = {
    "print": "import sys; sys.exit('gcnrec: worker 1 was lost')",
    "silent": "import os; os._exit(9)",
    "slow": "import time; time.sleep(60)",
}


@pytest.mark.parametrize(
    ("program", "words"),
    [("print", "gcnrec: worker 1 was lost"), ("silent", "ended with code 9"), ("slow", "did not meet within 0.5 s")],
)
def test_what_goes_wrong_is_a_sentence(monkeypatch, program, words):
    plain = subprocess.run
    monkeypatch.setattr(probed, "_PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(probed.subprocess, "run", lambda command, **how: plain([sys.executable, "-c", ENDS[program]], **how))
    found = probe()
    assert words in found["no_exchange_because"]
    (finding,) = findings({"workers": found})
    assert finding["exit_code"] == 0 and words in finding["text"] and "leave --workers out" in finding["text"]


def test_a_torch_without_gloo_and_a_worker_from_outside_are_named(monkeypatch):
    monkeypatch.setattr(probed, "has_gloo", lambda: False)
    assert probe() == {"gloo": False, "no_exchange_because": "this torch is built without gloo"}
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one of 2 workers" in probe()["no_exchange_because"]


def test_a_section_that_cannot_be_read_is_a_problem():
    def broken():
        raise ImportError("no torch.distributed")

    assert examine({"workers": broken})["workers"] == {"problem": "ImportError: no torch.distributed"}
