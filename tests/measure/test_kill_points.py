"""jobs/measure/kill: a trial can be had again, steps are counted over both stages, and digests notice what differs."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from jobs.measure.kill import digests, plan, processes


@pytest.fixture
def killing():
    return {"digests": digests, "plan": plan, "processes": processes}


def test_a_trial_follows_from_its_seed(killing):
    plan = killing["plan"]
    length = plan.Length(20, 150)
    kills = [plan.first_kill(3, trial, length) for trial in range(100)]
    assert kills == [plan.first_kill(3, trial, length) for trial in range(100)]
    assert kills != [plan.first_kill(4, trial, length) for trial in range(100)]
    within = [kill.at for kill in kills if kill.at is not None and kill.at < length.total]
    assert sum(step > plan.INTERVAL for step in within) >= 86
    assert len(set(within)) > 60, "all over the run"
    assert sum(plan.second_kill(3, trial, length, 70) is not None for trial in range(100)) == 20


def test_steps_of_a_refit_follow_those_of_the_fit(killing):
    position = killing["processes"].position
    assert [position(record, (100, 30)) for record in [(100, 1), (100, 30), (120, 1), (120, 7)]] == [1, 30, 31, 37]


@pytest.mark.serial
def test_a_process_is_killed_after_a_step_and_its_steps_are_known(killing, tmp_path, monkeypatch):
    processes = killing["processes"]
    program = tmp_path / "steps.py"
    program.write_text(
        "import os, struct, sys, time\n"
        "for step in range(1, 10):\n"
        "    os.write(int(sys.argv[1]), struct.pack('<II', 50, step))\n"
        "    time.sleep(60 * (step == 4))\n"
    )
    monkeypatch.setattr(processes, "METERED", program)
    killed = processes.run([], tmp_path / "log.txt", (50, 9), processes.Kill(4, 0.01))
    assert killed.killed and killed.code == -9 and killed.records == [(50, step) for step in (1, 2, 3, 4)]
    begun = processes.run([], tmp_path / "log.txt", (50, 9), processes.Kill(None, 0.0))
    assert begun.killed and begun.code == -9 and len(begun.records) <= 4


def folder(path, table, record, checkpoint):
    path.mkdir()
    pq.write_table(pa.table({"id": ["a", "b"], "value": table}), path / "embeddings.parquet")
    (path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in record))
    save_file({"weights": checkpoint}, path / "last.safetensors", metadata={"progress": json.dumps({"epoch": 1, "seconds": 0.3})})
    return path


def test_digests_tell_bfloat16_from_float32_and_from_another_value(killing, tmp_path):
    weights = torch.tensor([1.0, 2.0]).bfloat16()
    variants = {"same": weights.clone(), "float32": weights.float(), "one bit": torch.tensor([1.0, 2.015625]).bfloat16()}
    first = killing["digests"].digests(folder(tmp_path / "first", np.zeros(2), [], weights))
    found = {name: killing["digests"].digests(folder(tmp_path / name, np.zeros(2), [], each)) for name, each in variants.items()}
    differing = {name: killing["digests"].differences(first, each) for name, each in found.items()}
    assert differing == {"same": [], "float32": ["last.safetensors"], "one bit": ["last.safetensors"]}


def test_digests_leave_out_times_and_nothing_else(killing, tmp_path):
    digests, differences = killing["digests"].digests, killing["digests"].differences
    values, weights = np.arange(2.0), torch.arange(3.0)
    event = {"event": "epoch", "loss": 0.1, "seconds": 1.0}
    first = digests(folder(tmp_path / "first", values, [event], weights))
    same = folder(tmp_path / "same", values, [{"event": "resumed"}, {**event, "seconds": 2.0}], weights)
    assert differences(first, digests(same)) == []
    one_bit = torch.tensor([0.0, 1.0, float(np.nextafter(np.float32(2), np.float32(3)))])
    for name, other in {
        "embeddings.parquet": folder(tmp_path / "a", values + 1e-16 * values + 1e-15, [event], weights),
        "metrics.jsonl": folder(tmp_path / "b", values, [{**event, "loss": float(np.nextafter(0.1, 1))}], weights),
        "last.safetensors": folder(tmp_path / "c", values, [event], one_bit),
    }.items():
        assert differences(first, digests(other)) == [name]
    (same / ".left.part").write_bytes(b"half")
    assert differences(first, digests(same)) == [".left.part"]
