"""What counts as a sound end of a command that got a signal."""

from __future__ import annotations

import signal

import pytest

from jobs.measure.stop import Trial, summary, trial

SENTENCE = "gcnrec: stopped by SIGTERM, nothing half-written stays; start the same command again\n"


def ended(code=143, seconds=0.5, said=SENTENCE, late=False, left=()):
    return Trial("info", signal.SIGTERM, 1.0, False, code, seconds, said, late, list(left))


@pytest.mark.parametrize(
    ("end", "fault"),
    [
        (ended(), ""),
        (ended(seconds=5.5), "took 5.50 s"),
        (ended(code=0, said=""), "exit code 0; no last sentence"),
        (ended(code=1, said="Traceback (most recent call last)\n"), "exit code 1; traceback; no last sentence"),
        (ended(said=SENTENCE + "Exception ignored in: x\n"), "traceback; no last sentence"),
        (ended(left=[".new.7@host.part"]), "left .new.7@host.part"),
    ],
)
def test_faults_are_named(end, fault):
    assert end.fault == fault


def test_only_signals_in_the_life_of_the_command_count():
    early, late = ended(code=-15, said=""), ended(code=0, said="", late=True)
    row = summary("info", [early, late, ended(seconds=1.0), ended(seconds=3.0), ended(code=0, seconds=2.0)])
    assert (row["signals"], row["early"], row["late"], row["counted"], row["faults"]) == (5, 1, 1, 3, 1)
    assert (row["p50_seconds"], row["max_seconds"], row["exit_codes"]) == (2.0, 3.0, {"0": 1, "143": 2})


@pytest.mark.serial
def test_a_trial_of_a_real_command(tmp_path):
    end = trial("doctor", ["doctor"], tmp_path / "work", signal.SIGTERM, 0.4, True)
    assert end.is_early or end.is_late or end.fault == ""
