"""The program that kills workers judges how they end, and draws each end from the seed alone."""

from __future__ import annotations

import signal

import pytest

from jobs.measure.workers.kills import ENDINGS, End, Ended, drawn, faults_of, phase_of, summarised

LOST = "gcnrec: worker 1 was lost (its process was ended by SIGKILL), so that all workers stop; go on with --resume"
ASKED = "gcnrec: stopped by SIGTERM; continue runs/a with --resume"
FOLLOWER, LEADER = (End(signal.SIGKILL, rank, 0.5, "training") for rank in (1, 0))
TERM = End(signal.SIGTERM, 0, 0.5, "training")


@pytest.mark.parametrize(
    ("ended", "end", "words"),
    [
        (Ended(6, f"epoch 1/2\n{LOST}"), FOLLOWER, None),
        (Ended(0, "done"), FOLLOWER, None),
        (Ended(-9, ""), LEADER, None),
        (Ended(143, ASKED), TERM, None),
        (Ended(143, "gcnrec: stopped by SIGTERM when all that had begun was done; what was written is whole"), TERM, None),
        (Ended(143, "gcnrec: stopped by SIGTERM"), TERM, "does not say '--resume'"),
        (Ended(6, "epoch 1/2"), FOLLOWER, "does not say 'worker 1 was lost'"),
        (Ended(6, LOST.replace("worker 1", "worker 2")), FOLLOWER, "does not say 'worker 1 was lost'"),
        (Ended(1, LOST), FOLLOWER, "exit code 1"),
        (Ended(143, ASKED), FOLLOWER, "exit code 143"),
        (Ended(6, f"Traceback (most recent call last):\n{LOST}"), FOLLOWER, "a traceback"),
        (Ended(6, f"{LOST} a worker lived on"), FOLLOWER, "a worker lived on"),
        (Ended(6, LOST, took_s=21.0), FOLLOWER, "it took over 20 s"),
        (Ended(6, f"{LOST}\n{LOST}"), FOLLOWER, "2 sentences"),
        (Ended(6, LOST), LEADER, "exit code 6"),
        (Ended(130, ASKED), TERM, "exit code 130"),
    ],
)
def test_an_end_is_judged(ended, end, words):
    found = faults_of(ended, end)
    assert found == [] if words is None else any(words in fault for fault in found)


def test_ends_are_drawn_from_the_seed_and_meet_each_worker():
    ends = [drawn(0, trial, 0, 4, 5.0) for trial in range(200)]
    assert ends == [drawn(0, trial, 0, 4, 5.0) for trial in range(200)] != [drawn(1, trial, 0, 4, 5.0) for trial in range(200)]
    assert {end.signal for end in ends} == set(ENDINGS) and {end.rank for end in ends} == {0, 1, 2, 3}
    assert {end.rank for end in ends if end.signal is not signal.SIGKILL} == {0}
    assert all(0 <= end.delay_s <= 5 for end in ends) and {end.since for end in ends} == {"start", "training", "export"}


def test_a_phase_is_what_the_files_say(tmp_path):
    out = tmp_path / "run"
    assert phase_of(out, 0) == "starting"
    (out / "checkpoints").mkdir(parents=True)
    (out / "lineage.json").touch()
    assert phase_of(out, 0) == "before the first checkpoint" and phase_of(out, 1) == "starting"
    (out / "metrics.jsonl").write_text('{"event": "resume"}\n{"event": "ep')
    assert phase_of(out, 1) == "before the first checkpoint"
    (out / "checkpoints" / "last.safetensors").touch()
    assert phase_of(out, 1) == "training"
    (out / "checkpoints" / "last.safetensors.part").touch()
    assert phase_of(out, 1) == "writing a checkpoint"
    (out / "checkpoints" / "last.safetensors.part").unlink()
    (out / "embeddings").mkdir()
    (out / "embeddings" / "users.parquet").touch()
    assert phase_of(out, 1) == "export"


def test_a_summary_counts_kills_alone_and_names_unsound_trials():
    row = {"trial": 3, "worker": 1, "workers": 2, "signal": "SIGKILL", "phase": "training", "code": 6, "took_s": 0.5}
    rows = [{**row, "faults": [], "sound": True}, {**row, "trial": 4, "signal": "SIGTERM", "faults": ["late"], "sound": False}]
    found = summarised(rows)
    assert (found["kills"], found["trials"], found["all_sound"], found["failed_trials"]) == (1, 2, False, [4])
    assert found["seconds_until_the_leader_ends"] == {"median": 0.5, "max": 0.5} and found["faults"] == {"late": 1}
