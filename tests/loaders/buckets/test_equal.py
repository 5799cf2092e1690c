"""Ingestion by buckets makes the dataset folder of ingestion that stages all rows, and goes on where a killed process stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcnrec.config import Data
from gcnrec.loaders import parquet
from gcnrec.loaders.parquet import ingest
from gcnrec.system.scratch import scratch_in

STEPS = ("train", "dealing rows to buckets", "merging buckets", "writing user_items", "writing item_users")
"""What is reported, in this order."""


def rows(count, seed, kinds=("int32", "int64")):
    """Repeated pairs: a few users and items have most of them."""
    draw = np.random.default_rng(seed)
    columns = (draw.zipf(1.2, count) % 1500 * 7919 % 10_007 - 5000, draw.zipf(1.3, count) % 400)
    return pa.table({name: pa.array(column, kind) for name, column, kind in zip(("user", "item"), columns, kinds, strict=True)})


@pytest.fixture
def short(monkeypatch):
    """A limit of scratch at which there are several buckets and passes."""

    def call():
        monkeypatch.setattr(parquet, "scratch_in", lambda place, limit: scratch_in(place, 30_000))

    return call


@pytest.fixture
def data(tmp_path):
    """Settings of three inputs; train is a folder of six files."""

    def call(**settings):
        for role, files, count in (("train", 6, 1500), ("valid", 1, 300), ("test", 1, 400)):
            (tmp_path / role).mkdir()
            for file in range(files):
                table = rows(count, file + count, settings.get("kinds", ("int32", "int64")))
                pq.write_table(table, tmp_path / role / f"{file}.parquet")
        paths = {role: str(tmp_path / role) for role in ("train", "valid", "test")}
        given = {name: value for name, value in settings.items() if name != "kinds"}
        return Data(**{**paths, "user": "user", "item": "item", **given})

    return call


@pytest.mark.parametrize(
    "settings",
    [{}, {"keep_cold": True, "repeats": "keep"}, {"kinds": ("int16", "uint32"), "valid": None, "valid_size": 0.0}],
)
def test_digests_are_equal(tmp_path, data, short, settings):
    given = data(**settings)
    staged = ingest(given.model_copy(update={"where": "true"}), tmp_path / "staged", data_root=None, name="x")
    seen = []
    short()
    bucketed = ingest(given, tmp_path / "out", data_root=None, name="x", work=lambda what, done, total: seen.append(what))
    assert bucketed.digest == staged.digest and bucketed.info["num_train"] > 2000
    assert bucketed.info["report"] == staged.info["report"]
    assert list(dict.fromkeys(what for what in seen if what in STEPS)) == list(STEPS)
    assert seen.count("merging buckets") > 5 and seen.count("writing user_items") > 1 and seen.count("writing item_users") > 1


def abandoned(folder, place):
    """A copy of the only unfinished folder in `folder` as if its writer had been killed, in `place`."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (left,) = folder.glob(".out.*.part")
    shutil.copytree(left, place / left.name.replace(f".{os.getpid()}@", f".{ended.pid}@"))


def test_what_was_done_at_any_step_is_gone_on_with(tmp_path, data, short):
    short()
    given, copies, whole = data(), {}, tmp_path / "whole"

    def copied(what, done, total):
        copies[what, sum(key[0] == what for key in copies)] = tmp_path / f"copy-{len(copies)}"
        if what in STEPS and sum(key[0] == what for key in copies) == 2:
            abandoned(whole, tmp_path / f"copy-{len(copies) - 1}")

    expected = ingest(given, whole / "out", data_root=None, name="x", work=copied)
    kept = [place for place in copies.values() if place.exists()]
    assert len(kept) == len(STEPS)
    said = []
    for place in kept:
        steps = []
        made = ingest(
            given, place / "out", data_root=None, name="x", progress=said.append, work=lambda what, *_, s=steps: s.append(what)
        )
        assert made.digest == expected.digest and made.info["report"] == expected.info["report"]
        assert [path.name for path in place.iterdir()] == ["out"]
    assert sum("going on from there" in line for line in said) == len(kept) - 1, "one copy is from before the first note"
    assert not {"train", "dealing rows to buckets", "writing user_items"} & set(steps), "the last copy has them"


@pytest.mark.parametrize("change", ["file", "note"])
def test_what_has_changed_is_begun_anew(tmp_path, data, short, change):
    short()
    given, whole = data(), tmp_path / "whole"

    def copied(what, done, total):
        if what == "merging buckets" and not (tmp_path / "copy").exists():
            abandoned(whole, tmp_path / "copy")

    ingest(given, whole / "out", data_root=None, name="x", work=copied)
    if change == "file":
        pq.write_table(rows(1500, 7), tmp_path / "train" / "2.parquet")
    else:
        (note,) = (tmp_path / "copy").glob(".out.*/work/work.json")
        note.write_text(note.read_text()[:-20])
    said = []
    made = ingest(given, tmp_path / "copy" / "out", data_root=None, name="x", progress=said.append)
    assert any("beginning anew" in line for line in said)
    assert made.digest == ingest(given, tmp_path / "fresh", data_root=None, name="x").digest
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["out"]


PROGRAM = """
import os, signal, sys
from pathlib import Path
from gcnrec.config import Data
from gcnrec.loaders.parquet import ingest
what, number = sys.argv[1], int(sys.argv[2])
seen = []
def work(name, done, total):
    seen.append(name)
    if seen.count(what) == number:
        os.kill(os.getpid(), signal.SIGKILL)
data = Data(train="train.parquet", test="test.parquet", user="user", item="item", valid_size=0.0, memory_limit="64MB")
print(ingest(data, Path("out"), data_root=None, name="x", progress=print, work=work).digest)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_next_one_goes_on_with(tmp_path):
    """One ingestion, killed in each of its steps, ends with the digest of an unbroken ingestion."""
    for seed, (role, count) in enumerate({"train": 4_000_000, "test": 400}.items()):
        pq.write_table(rows(count, seed), tmp_path / f"{role}.parquet", data_page_size=2**14)

    def call(folder, *kill):
        (tmp_path / folder).mkdir(exist_ok=True)
        for role in ("train", "test"):
            if not (tmp_path / folder / f"{role}.parquet").exists():
                os.link(tmp_path / f"{role}.parquet", tmp_path / folder / f"{role}.parquet")
        command = [sys.executable, "-c", PROGRAM, *kill]
        return subprocess.run(command, cwd=tmp_path / folder, capture_output=True, text=True)

    for step, number in (("train", 3), ("dealing rows to buckets", 9), ("merging buckets", 3), ("writing user_items", 1)):
        done = call("killed", step, str(number))
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / "killed" / "out").exists()
        dealt = len(list((tmp_path / "killed").glob(".out.*.part/work/*.dealt")))
        assert (dealt > 0) == (step in ("dealing rows to buckets", "merging buckets"))
    done = call("killed", "none", "1")
    assert "going on from there" in done.stdout, done.stderr
    assert done.stdout.split()[-1] == call("whole", "none", "1").stdout.split()[-1]
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["out", "test.parquet", "train.parquet"]
