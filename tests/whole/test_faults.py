"""Processes killed inside a write, two at one folder, full disks, damaged checkpoints, data that changed: the next one ends
well, or says in one sentence why not."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_disk
from nursery import Nursery

from gcnrec.loaders.schema import open_dataset
from jobs.measure.kill import digests as run_digests

JOB = """
[model]
width = 16
propagation = "none"

[table]
budget = 0.5

[sparsity]
policy = "dynamic"
interval = 0.5
batches = 2

[optimizer]
rule = "adam"
learning_rate = 0.01

[train]
epochs = 2
batch_size = 128
threads = 1
refit = "train+valid"

[evaluate]
k = [5]
bootstrap = 0
baselines = []

[run]
checkpoint_steps = 4
keep_checkpoints = 2
"""
INGEST = ["ingest", "--train", "clicks.parquet", "--user", "user_id", "--item", "item_id"]

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("charts_take_no_time")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """80 users, each with 12 of the 30 items of their half, and a job."""
    folder = tmp_path_factory.mktemp("workplace")
    rng = np.random.default_rng(0)
    pairs = [(user, 30 * (user % 2) + item) for user in range(80) for item in rng.permutation(30)[:12]]
    users, items = zip(*pairs, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items}), folder / "clicks.parquet")
    (folder / "job.toml").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def nursery(workplace):
    nursery = Nursery(workplace)
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def digests():
    """What equal runs have in common, as jobs/measure/kill has it."""
    return run_digests


@pytest.fixture
def data(gcnrec):
    """The dataset folder `ds`; made once."""
    if not Path("ds").exists():
        assert gcnrec(*INGEST, "--out", "ds")[0] == 0
    return open_dataset("ds")


@pytest.fixture
def whole(gcnrec, data, digests):
    """The digests of a run that nobody stopped; made once."""
    if not Path("whole").exists():
        code, _, err = gcnrec(*run("whole"))
        assert code == 0, err
    return digests.digests(Path("whole"))


def run(out, *more):
    return ["run", "job.toml", "--data", "ds", "--out", out, *more]


INSIDE = [
    ("lineage.json", 1, "half"),
    ("last.safetensors", 3, "half"),
    ("last.safetensors", 4, "after"),
    ("best.safetensors", 2, "after"),
    ("items.parquet", 1, "half"),
    ("table.safetensors", 1, "before"),
    ("memory.json", 1, "after"),
    ("metrics.json", 1, "half"),
    ("report.html", 1, "half"),
]


@pytest.mark.parametrize(("file", "count", "moment"), INSIDE)
def test_killed_inside_a_write_of_a_run(gcnrec, nursery, whole, digests, file, count, moment):
    out = Path(f"killed-{file}-{count}")
    with nursery.stopped(file, count, moment, run(out)):
        pass
    code, _, err = gcnrec(*run(out, "--resume"))
    assert code == 0 and digests.differences(whole, digests.digests(out)) == [], err


def test_killed_twice(gcnrec, nursery, whole, digests):
    out = Path("killed-twice")
    with nursery.stopped("last.safetensors", 3, "half", run(out)):
        pass
    (out / "checkpoints" / ".tmpAbC123").write_bytes(b"as safetensors leaves it, killed inside its own write")
    with nursery.stopped("last.safetensors", 2, "half", run(out, "--resume")):
        pass
    code, _, err = gcnrec(*run(out, "--resume"))
    assert code == 0 and digests.differences(whole, digests.digests(out)) == [], err


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_inside_an_ingest(gcnrec, nursery, data, moment):
    """At the rename that makes the folder: nothing, or all of it, is there under its name."""
    out = f"ds-{moment}"
    with nursery.stopped(out, 1, moment, [*INGEST, "--out", out]):
        assert gcnrec(*INGEST, "--out", out, "--force")[0] == 2  # the other one is still at it
    assert Path(out).exists() == (moment == "after")
    assert gcnrec(*INGEST, "--out", out, "--force")[0] == 0
    assert open_dataset(out, verify=True).digest == data.digest
    assert [path.name for path in Path().glob(f".{out}*")] == []


def test_killed_inside_an_export(gcnrec, nursery, whole, digests):
    export = ["export", "whole", "--format", "bundle", "--out"]
    with nursery.stopped("served.safetensors", 1, "half", [*export, "served.safetensors"]):
        pass
    assert not Path("served.safetensors").exists()
    for out in ("served.safetensors", "again.safetensors"):
        assert gcnrec(*export, out)[0] == 0
    assert digests.digest_of(Path("served.safetensors")) == digests.digest_of(Path("again.safetensors"))


def test_two_processes_on_one_run(gcnrec, nursery, whole, digests):
    with nursery.stopped("last.safetensors", 3, "half", run("shared")) as other:
        before = digests.digests(Path("shared"))
        for command in (run("shared", "--resume"), ["evaluate", "shared"]):
            code, _, err = gcnrec(*command)
            assert code == 2 and str(other) in err and err.count("\n") == 1, err
        assert digests.digests(Path("shared")) == before
    code, _, err = gcnrec(*run("shared", "--resume"))
    assert code == 0 and str(other) in err, "that a dead process held the lock is said"
    assert digests.differences(whole, digests.digests(Path("shared"))) == []


def flip(path):
    """One bit in the middle: in the bytes of a tensor."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_header(path):
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


@pytest.mark.parametrize("damage", [flip, flip_header, truncate])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(gcnrec, nursery, whole, digests, damage):
    out = Path(f"damaged-{damage.__name__}")
    with nursery.stopped("last.safetensors", 4, "after", run(out)):
        pass
    newest, older = checkpoints(out)
    damage(newest)
    code, _, err = gcnrec(*run(out, "--resume"))
    (sentence,) = [line for line in err.splitlines() if newest.name in line]
    assert code == 0 and older.name in sentence and "damaged" in sentence
    assert digests.differences(whole, digests.digests(out)) == []
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any(newest.name in str(event) for event in events)


def test_when_every_checkpoint_is_damaged_the_run_is_refused(gcnrec, nursery, whole, digests):
    out = Path("all-damaged")
    with nursery.stopped("last.safetensors", 4, "after", run(out)):
        pass
    files = {path.stat().st_ino: path for path in (out / "checkpoints").glob("*.safetensors")}  # some have two names
    for path in files.values():
        flip(path)
    before = digests.digests(out)
    code, _, err = gcnrec(*run(out, "--resume"))
    assert code == 3 and "damaged" in err.splitlines()[-1] and digests.differences(before, digests.digests(out)) == []


def checkpoints(out):
    """The two newest checkpoints to resume from, the newest first."""
    found = [path for path in (out / "checkpoints").glob("*.safetensors") if not path.name.startswith("best")]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)[:2]


def test_data_that_changed_since_the_run_began(gcnrec, nursery, whole, digests):
    shutil.copytree("ds", "other")
    command = ["run", "job.toml", "--data", "other", "--out", "changed"]
    with nursery.stopped("last.safetensors", 3, "after", command):
        pass
    before = digests.digests(Path("changed"))
    assert gcnrec(*INGEST, "--seed", 5, "--out", "other", "--force")[0] == 0
    code, _, err = gcnrec(*command, "--resume")
    assert code == 3 and "changed since" in err.splitlines()[-1]
    assert digests.differences(before, digests.digests(Path("changed"))) == []


def test_a_byte_of_the_data_that_changed_since_the_run_began(gcnrec, nursery, whole, digests):
    """dataset.json says what it said, but an array is another one."""
    shutil.copytree("ds", "flipped")
    command = ["run", "job.toml", "--data", "flipped", "--out", "flipped-run"]
    with nursery.stopped("last.safetensors", 3, "after", command):
        pass
    before = digests.digests(Path("flipped-run"))
    flip(next(Path("flipped").rglob("*indices.npy")))
    code, _, err = gcnrec(*command, "--resume")
    assert code == 3 and "indices.npy" in err.splitlines()[-1], err
    assert digests.differences(before, digests.digests(Path("flipped-run"))) == []


def failing(patch, at):
    """The os-level calls that claim or flush bytes fail at call number `at` with ENOSPC; returns what each one was about."""
    about = []

    def of(plain):
        def call(descriptor, *figures):
            about.append(re.sub(r"[0-9]+", "", Path(f"/proc/self/fd/{descriptor}").readlink().name))
            if len(about) - 1 == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return plain(descriptor, *figures)

        return call

    patch.setattr(os, "fsync", of(os.fsync))
    patch.setattr(os, "posix_fallocate", of(os.posix_fallocate))
    return about


def first_and_last(about):
    """Of what was written: the first and the last number of each name."""
    return [about.index(name) for name in dict.fromkeys(about)], [len(about) - 1 - about[::-1].index(name) for name in {*about}]


@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["first", "last"])
def test_the_disk_is_full_at_any_write(gcnrec, whole, digests, monkeypatch, turn):
    """The first write, or the last, of every file of a run."""
    with monkeypatch.context() as patch:
        about = failing(patch, None)
        assert gcnrec(*run(f"counted-{turn}"))[0] == 0
    assert len(set(about)) > 10
    for number in sorted(first_and_last(about)[turn]):
        with monkeypatch.context() as patch:
            failing(patch, number)
            code, _, err = gcnrec(*run("full"))
        assert code == 3 and "No space left" in err.splitlines()[-1], (about[number], err)
        assert small_disk.half_written(Path("full"), digests) == [], about[number]
        code, _, err = gcnrec(*run("full", "--resume"))
        assert code == 0 and digests.differences(whole, digests.digests(Path("full"))) == [], (about[number], err)
        shutil.rmtree("full")


@pytest.mark.parametrize("count", [5, pytest.param(11, marks=pytest.mark.slow)])
def test_a_small_file_system(workplace, whole, tmp_path, count):
    """Runs on a tmpfs that has room for a part of them, of any size."""
    mount, expected = tmp_path / "mount", tmp_path / "expected.json"
    mount.mkdir()
    expected.write_text(json.dumps(whole))
    made = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", mount], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    program = [sys.executable, small_disk.__file__, str(mount), "job.toml", "ds", str(expected)]
    takes = sum(path.stat().st_size for path in Path("whole").rglob("*") if path.is_file()) // 1024
    rooms = [str(room) for room in np.unique(np.linspace(0, takes, count).astype(int) // 4 * 4)]
    script = 'mount -t tmpfs -o size=8m none "$0" && exec "$@"'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["unshare", "-rm", "sh", "-c", script, mount, *program, *rooms]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(rooms)
    for result in results:
        last = result["said"].splitlines()[-1]
        assert (result["code"], "No space left" in last) in ((3, True), (0, False)), result
        assert result["half_written"] == [] and result["resumed"] == 0 and result["differing"] == [], result
    assert sum(result["code"] == 3 for result in results) > len(rooms) // 2
