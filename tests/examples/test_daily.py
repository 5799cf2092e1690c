"""jobs/examples/daily.sh: two days, from new files to lists. Its commands run in this process, which has the modules loaded."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parents[2] / "jobs" / "examples" / "daily.sh"
JOB = """
[model]
width = 8
[train]
epochs = 2
batch_size = 64
[evaluate]
k = [5, 20]
bootstrap = 20
baselines = []
"""
COMMAND = """#!/bin/sh
printf '%s\\n' "$@" > "$0.part"
mv "$0.part" "$0.call"
while [ ! -e "$0.code" ]; do sleep 0.02; done
cat "$0.out"
code=$(cat "$0.code")
rm "$0.code"
exit "$code"
"""
"""Hands its arguments to the test and takes the output and the exit code from it."""
ROWS = 300


@pytest.fixture
def daily(gcnrec, workplace):
    """Runs the script for a day; returns its exit code, its output and the commands that it called."""
    command = workplace / "command"
    command.write_text(COMMAND)
    command.chmod(0o755)
    (workplace / "job.toml").write_text(JOB)

    def call(day):
        flags = ["--train", "events/day=*/*.parquet", "--user", "user", "--item", "item", "--time", "time"]
        called, environment = [], {**os.environ, "GCNREC": str(command)}
        words = ["bash", str(SCRIPT), day, "job.toml", "shop", *flags]
        with (workplace / f"{day}.log").open("w") as log:
            script = subprocess.Popen(words, cwd=workplace, env=environment, stdout=log)
            while script.poll() is None:
                if command.with_suffix(".call").exists():
                    arguments = command.with_suffix(".call").read_text().splitlines()
                    command.with_suffix(".call").unlink()
                    code, out, _ = gcnrec(*arguments)
                    called.append(arguments[0])
                    command.with_suffix(".out").write_text(out)
                    command.with_suffix(".part").write_text(str(code))
                    command.with_suffix(".part").rename(command.with_suffix(".code"))
                time.sleep(0.01)
        return script.returncode, (workplace / f"{day}.log").read_text(), called

    return call


def arrive(workplace, day):
    """The events of a day: 40 users, each in one half of 30 items."""
    draw = np.random.default_rng(day)
    users = draw.integers(0, 40, ROWS)
    items, times = users % 2 * 15 + draw.integers(0, 15, ROWS), 1_700_000_000 + 86_400 * day + draw.integers(0, 86_400, ROWS)
    (workplace / f"events/day={day}").mkdir(parents=True)
    pq.write_table(pa.table({"user": users, "item": items, "time": times}), workplace / f"events/day={day}/x.parquet")


@pytest.mark.slow
def test_two_days(daily, workplace):
    arrive(workplace, 1)
    code, out, called = daily("monday")
    assert (code, called) == (0, ["ingest", "run", "recommend"]), out
    arrive(workplace, 2)
    code, out, called = daily("tuesday")
    assert (code, called) == (0, ["ingest", "run", "run", "compare", "info", "recommend"]), out
    shop = workplace / "shop"
    changes = (shop / "tuesday/changes.txt").read_text()
    assert changes.splitlines()[0] == f"since {shop / 'monday/cold'}"
    assert f"rows_train  {ROWS}     {2 * ROWS}  +{ROWS}" in changes
    assert [line.split()[:3] for line in changes.splitlines() if ".parquet" in line] == [["train:", "day=2/x.parquet", "-"]]
    report = (shop / "tuesday/warm/report.html").read_text()
    assert f"Since {shop / 'monday/cold'}" in report and f"{ROWS} \N{RIGHTWARDS ARROW} {2 * ROWS} (+{ROWS})" in report
    assert "tuesday/warm" in (shop / "tuesday/compare.txt").read_text()
    users = pq.read_table(shop / "tuesday/lists.parquet").column("user").to_pylist()
    known = [pq.read_table(workplace / f"events/day={day}/x.parquet").column("user").to_pylist() for day in (1, 2)]
    assert set(users) <= set(known[0] + known[1]) and len(set(users)) > 30
    assert (shop / "served").resolve() == shop / "tuesday/warm"
    code, out, called = daily("tuesday")
    assert (code, called, out) == (0, [], "shop/tuesday is complete\n")
