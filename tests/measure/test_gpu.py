"""jobs/gpu_bench.sh, as far as a machine without a GPU can run it: all of it, at tiny sizes, with kernels compiled by g++."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gcnrec.errors import DeviceError
from jobs.measure.gpu.parts import PARTS, SECONDS, Part

ROOT = Path(__file__).parents[2]
FAKE_WORKER = """
import json, sys, time
report = lambda **row: print(json.dumps(row), flush=True)
print("a word of some library")
report(event="machine", cpu="fake")
for part in sys.argv[sys.argv.index("--parts") + 1].split(","):
    if part == "skipped":
        report(event="skipped", part=part, problem="the time was up")
        continue
    report(event="start", part=part)
    report(part=part, bench=part, variant="x", seconds=1.0)
    if part == "hangs":
        time.sleep(60)
    if part == "dies":
        sys.exit(3)
    report(event="failed" if part == "fails" else "done", part=part, problem="so it is" if part == "fails" else None)
"""


def foreman_of(folder, program, seconds=30.0):
    from jobs.measure.gpu.foreman import Foreman

    script = folder / "worker.py"
    script.write_text(program, encoding="utf-8")
    until, kept = time.monotonic() + seconds, folder / "kept"  # how many parts had ended, whenever one had
    worker = [sys.executable, "-u", str(script)]
    return Foreman(worker, folder / "rows.jsonl", until, lambda part: 1.0, lambda boss: kept.write_text(str(len(boss.outcomes))))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_everything_from_a_bare_checkout(tmp_path):
    """A copy of the files alone (and of what numba has compiled); every part must be done or say why not."""
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("records")
    for name in ("gcnrec", "cuda", "loaders", "jobs", "tests/cuda"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=ignored)
    out = tmp_path / "out"
    command = ["bash", "jobs/gpu_bench.sh", str(out), "--dry", "--seconds", "1200"]
    paths = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHON": sys.executable, "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=checkout, env=paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*-gpu-dry.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    outcomes = {row["part"]: row["event"] for row in record["parts"]}
    parts = {part for part in outcomes if outcomes[part] == "done"}
    assert [*outcomes] == [*PARTS] and {part for part in PARTS if PARTS[part].module} <= parts
    assert record["summary"] == [] and record["machine"]["gpu"] is None  # nothing is claimed that did not run on a GPU
    rows = record["rows"]
    assert not [row for row in rows if "error" in row or row.get("right") is False]
    logged = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines() if '"event"' not in line]
    assert [row["variant"] for row in rows if "variant" in row] == [row["variant"] for row in logged if "variant" in row]
    assert str(tmp_path) not in path.read_text(encoding="utf-8")
    variants = {row["variant"] for row in rows if row.get("bench") == "gather-peers"}
    assert {"gcnrec-zero-copy", "torch-index-pageable", "numba-pinned", "numba-pinned-loader"} <= variants
    assert {row["form"] for row in rows if row.get("bench") == "slots"} == {"slots", "slots-mixed", "slots-bf16"}
    ways = {"gcnrec-host-overlap", "torch-device"}
    for bench, others in {
        "epoch": {"gcnrec-device"},
        "epoch-drawn": {"cpu-gather-prefetch"},
        "epoch-curve": {"cpu-gather-pinned"},
    }.items():
        assert ways | others <= {row["variant"] for row in rows if row.get("bench") == bench}
    features = {(row["pitch"], row["variant"]) for row in rows if row.get("bench") == "features"}
    assert {
        (2432, "gcnrec-host-overlap"),
        (2408, "torch-device"),
        (400, "cpu-gather-serial"),
        (4096, "cpu-gather-loader"),
    } <= features
    assert {row["memory"] for row in rows if row.get("bench") == "pages"} == {"ordinary pages", "huge pages"}
    assert ways | {"gcnrec-host-serial", "gcnrec-device", "graphsage-gcnrec-host-overlap", "graphsage-gcnrec-device"} <= {
        row["variant"] for row in rows if row.get("bench") == "steps"
    }
    kernels = {row["variant"].rstrip("0123456789-") for row in rows if row["bench"] == "checks"}
    assert {"gather", "put", "reduce", "update-adam", "slot-scatter", "topk-items", "sample-columns"} <= kernels


WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ImportError(name)

sys.meta_path.insert(0, Without())
sys.path.insert(0, ".")
from importlib import import_module
from jobs.measure.gpu.parts import PARTS
"""
EVERY_PART = """
for part in PARTS.values():
    if part.module:
        assert callable(getattr(import_module(f"jobs.measure.gpu.{part.module}"), "tell" if part.bare else "run"))
"""
LEAD = """
import jobs.measure.gpu.__main__, jobs.measure.gpu.worker
import_module("jobs.measure.gpu.first.facts").tell(lambda row: print(row["variant"]))
try:
    import_module("jobs.measure.gpu.first.versions").tell(lambda row: None)
except RuntimeError as problem:
    print(problem)
"""
RICH = "pydantic,typer,rich,pyarrow,duckdb,jinja2,matplotlib,safetensors,scipy,hypothesis"


def without(packages, program):
    command = [sys.executable, "-c", WITHOUT + program, packages]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_parts_need_no_more_than_a_bare_machine_has():
    done = without(RICH, EVERY_PART)
    assert done.returncode == 0, done.stderr


def test_a_machine_without_torch_says_so():
    """The program, the facts and the versions need the standard library alone; what cannot be imported has a name."""
    done = without(f"{RICH},torch,numba,numpy,cupy,psutil,gcnrec", LEAD)
    assert done.returncode == 0, done.stderr
    assert {"kernel", "MemAvailable", "bytes that may be locked"} <= {*done.stdout.splitlines()}
    assert "cannot be used: import numpy, import torch, import psutil, import numba, threads of numba" in done.stdout


def test_what_tells_most_comes_first_and_all_parts_fit():
    assert [*PARTS][:7] == ["facts", "versions", "light", "tests", "checks", "pages", "steps"]
    assert sum(part.seconds for part in PARTS.values()) <= SECONDS <= 720


class Recorder:
    """Streams and events of a GPU that is not there: what they are asked, in order."""

    def __init__(self, monkeypatch):
        self.asked = []
        here, aside = self.stream("here"), self.stream("aside")
        for name, stand_in in {
            "Stream": lambda device, priority: aside,
            "current_stream": lambda device: here,
            "stream": lambda stream: self.within(stream),
            "synchronize": lambda device: self.asked.append("synchronize"),
            "Event": lambda enable_timing=False: SimpleNamespace(
                record=lambda stream=None: self.asked.append(f"record on {stream.name}" if stream else "record"),
                synchronize=lambda: self.asked.append("event is over"),
                elapsed_time=lambda other: 2000.0,
            ),
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    def stream(self, name):
        return SimpleNamespace(name=name, wait_stream=lambda other: self.asked.append(f"{name} waits for {other.name}"))

    @contextmanager
    def within(self, stream):
        self.asked.append(f"on {stream.name}")
        yield
        self.asked.append("on here")


def test_a_gpu_is_asked_in_this_order(monkeypatch):
    from jobs.measure.gpu import bed

    recorder = Recorder(monkeypatch)
    gpu = bed.CudaBed(torch.device("cpu"), bed.TINY, print)
    gpu.both(lambda: recorder.asked.append("aside"), lambda: recorder.asked.append("main"))
    waits = ["aside waits for here", "on aside", "aside", "on here", "main", "here waits for aside"]
    assert recorder.asked == waits
    recorder.asked.clear()
    seconds, wall_seconds = gpu.clock(lambda: recorder.asked.append("work"))
    assert recorder.asked == ["synchronize", "record", "work", "record", "event is over"]
    assert seconds == 2.0 and 0 < wall_seconds < 2
    recorder.asked.clear()
    gpu.mark()()
    assert recorder.asked == ["record", "event is over"]
    recorder.asked.clear()
    reads = SimpleNamespace(stream=recorder.stream("reads"))
    assert gpu.between(gpu.instant(reads), gpu.instant(reads)) == 2.0
    assert recorder.asked == ["record on reads", "record on reads", "event is over"]


def test_the_table_is_as_large_as_memory_allows(monkeypatch):
    """24 are wanted: twice that is not free, a piece of 11 cannot be pinned, half of it can."""
    from jobs.measure.gpu import bed

    taken = []

    def pin(memory):
        if memory > 8 * bed.GIB:
            raise DeviceError("refused")
        return memory

    monkeypatch.setattr(bed, "read_limits", lambda: SimpleNamespace(available=22 * bed.GIB + 5))
    monkeypatch.setattr(bed, "allocate", lambda nbytes: taken.append(nbytes) or nbytes)
    monkeypatch.setattr(bed, "PinnedMemory", pin)
    assert bed._pinned(24 * bed.GIB) == 11 * bed.GIB // 2
    assert taken == [bed.GIB] * 24 + [11 * bed.GIB, 11 * bed.GIB // 2]


def test_a_work_that_fails_is_reported_and_left_out(monkeypatch):
    from jobs.measure.gpu import bed

    Recorder(monkeypatch)
    rows = []
    gpu = bed.CudaBed(torch.device("cpu"), bed.TINY, rows.append)

    def fails(run):
        raise RuntimeError("out of memory")

    timings = bed.race(gpu, {"fails": fails, "works": lambda run: None}, runs=3)
    assert list(timings) == ["works"] and rows == [{"variant": "fails", "error": "RuntimeError: out of memory"}]
    assert timings["works"].runs == 1  # its time is up, and one repetition is always made
    gpu.until = time.monotonic() + 60
    assert bed.race(gpu, {"works": lambda run: None}, runs=3)["works"].runs == 3


def test_rounds_are_reported_one_by_one(monkeypatch):
    """Works take turns, and what was measured so far is known after every turn."""
    from jobs.measure.gpu import bed

    Recorder(monkeypatch)
    gpu, asked = bed.CudaBed(torch.device("cpu"), bed.TINY, print), []
    gpu.until = time.monotonic() + 60
    seen = []
    for timings in bed.rounds(gpu, {name: lambda run, name=name: asked.append((name, run)) for name in "ab"}, runs=3):
        seen.append(({name: timing.runs for name, timing in timings.items()}, len(asked)))
    assert asked == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert seen == [({"a": 1, "b": 1}, 4), ({"a": 2, "b": 2}, 6), ({"a": 3, "b": 3}, 8)]


def test_an_unknown_part_is_refused(tmp_path):
    command = [sys.executable, "-m", "jobs.measure.gpu", str(tmp_path), "--parts", "gather"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "there is no part gather; known: facts" in done.stderr


@pytest.mark.serial
def test_a_part_that_fails_hangs_or_dies_stops_no_other(tmp_path, monkeypatch):
    from jobs.measure.gpu import foreman

    monkeypatch.setattr(foreman, "SETUP_SECONDS", 3.0)
    monkeypatch.setattr(foreman, "SLACK_SECONDS", 1.0)
    boss = foreman_of(tmp_path, FAKE_WORKER)
    boss.run(["first", "skipped", "fails", "hangs", "dies", "last"])
    assert {part: row["event"] for part, row in boss.outcomes.items()} == {
        "first": "done", "skipped": "skipped", "fails": "failed", "hangs": "failed", "dies": "failed", "last": "done",
    }  # fmt: skip
    assert boss.outcomes["dies"]["problem"] == "the worker ended with exit code 3"
    assert [row["part"] for row in boss.rows] == ["first", "fails", "hangs", "dies", "last"]
    assert boss.machine == {"cpu": "fake"} and (tmp_path / "kept").read_text() == "6"
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 5 + 5 + 6 + 3  # rows, starts, ends, machines


@pytest.mark.serial
def test_a_worker_that_never_comes_to_a_part_is_not_sent_again(tmp_path):
    boss = foreman_of(tmp_path, "import sys\nsys.exit('no GPU {jobs}')")
    boss.run(["first", "second"])
    assert [row["event"] for row in boss.outcomes.values()] == ["failed", "failed"]
    assert "exit code 1, before its first part" in boss.outcomes["second"]["problem"]


@pytest.mark.serial
def test_no_part_begins_when_the_time_is_up(tmp_path):
    boss = foreman_of(tmp_path, FAKE_WORKER, seconds=1.0)
    boss.run(["first", "second"])
    assert [row["event"] for row in boss.outcomes.values()] == ["skipped", "skipped"]


class Stub:
    """A bed, and the module of every part: `limits` has the seconds that each part was given."""

    def __init__(self, monkeypatch, broken=()):
        from jobs.measure.gpu import worker

        self.device, self.rows, self.limits, self.made, self.broken = torch.device("cpu"), [], {}, 0, broken
        self.until, self.report, self.finish = 0.0, None, lambda: None
        monkeypatch.setattr(
            worker, "PARTS", {"bare": Part(9, "bare", bare=True), "short": Part(7, "short"), "long": Part(90, "long")}
        )
        monkeypatch.setattr(worker, "import_module", self.module)
        monkeypatch.setattr(worker, "machine_of", lambda bed: {"cpu": "stub"})
        self.of = worker.Worker

    def new_bed(self, report):
        self.made += 1
        if self.made in self.broken:
            raise DeviceError("no GPU today")
        return self

    def module(self, name):
        def run(bed):
            self.limits[name.split(".")[-1]] = bed.until - time.monotonic()
            bed.report({"bench": "x"})

        return SimpleNamespace(tell=lambda report: report({"bench": "y"}), run=run)

    def work(self, names, seconds, patience=1.0):
        code = self.of(self.rows.append, self.new_bed, time.monotonic() + seconds, patience).work(names)
        return code, [(row.get("event"), row["part"]) for row in self.rows if "part" in row]


def test_each_part_has_a_limit_of_its_own_and_the_bed_comes_when_it_is_needed(monkeypatch):
    stub = Stub(monkeypatch)
    assert stub.work(["bare"], 60) == (0, [("start", "bare"), (None, "bare"), ("done", "bare")]) and stub.made == 0
    stub.rows.clear()
    assert stub.work(["short", "long"], 30)[0] == 0 and stub.made == 1
    assert 6 < stub.limits["short"] <= 7 and 28 < stub.limits["long"] <= 30
    assert [row["part"] for row in stub.rows if row.get("bench") == "x"] == ["short", "long"]
    stub.work(["short"], 60, patience=3.0)
    assert 20 < stub.limits["short"] <= 21


def test_a_bed_that_cannot_be_made_is_the_problem_of_its_part(monkeypatch):
    stub = Stub(monkeypatch, broken=(1,))
    code, seen = stub.work(["short", "long"], 60)
    assert code == 1 and seen == [("start", "short"), ("failed", "short"), ("start", "long"), (None, "long"), ("done", "long")]
    assert stub.rows[1]["problem"] == "DeviceError: no GPU today"


def test_a_worker_begins_no_part_when_the_time_is_up(monkeypatch):
    assert Stub(monkeypatch).work(["bare"], 1.0) == (0, [("skipped", "bare")])


GPU_TEST = """
import pytest

@pytest.mark.gpu
def test_on_it():
    {body}

def test_elsewhere():
    import hypothesis_is_not_there
"""


@pytest.mark.serial
@pytest.mark.parametrize(
    ("body", "seconds", "event", "problem"),
    [("pass", 60, "done", None), ("assert 0", 60, "failed", "1 failed, 1 deselected"), ("pass", 0.5, "skipped", "the time was"),
     ("import time; time.sleep(60)", 4, "failed", "the time was up")],
)  # fmt: skip
def test_tests_are_found_by_their_mark(tmp_path, monkeypatch, body, seconds, event, problem):
    from jobs.measure.gpu import tools

    monkeypatch.setattr(tools, "NEEDED_SECONDS", 1)
    folder = tmp_path / "tests" / "cuda"
    (folder / "below").mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a GPU\n")
    (folder / "below" / "test_new.py").write_text(GPU_TEST.format(body=body))
    (folder / "test_other.py").write_text("import hypothesis_is_not_there")
    outcome = tools.gpu_tests(tmp_path, seconds)
    assert (outcome["part"], outcome["event"]) == ("tests", event)
    assert outcome["problem"] is problem or outcome["problem"].startswith(problem)


def test_the_kernel_tests_have_files_for_a_gpu():
    from_text = {path.name for path in (ROOT / "tests" / "cuda").glob("test_*.py") if "pytest.mark.gpu" in path.read_text()}
    assert {"test_on_gpu.py", "test_pipeline_on_gpu.py", "test_tuning.py", "test_runs_on_gpu.py"} <= from_text


def tool(folder, script):
    path = folder / "compute-sanitizer"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.mark.parametrize(
    ("script", "event", "problem"),
    [
        ("echo '========= ERROR SUMMARY: 0 errors'", "done", None),
        ("echo '========= ERROR SUMMARY: 2 errors'; exit 9", "failed", "========= ERROR SUMMARY: 2 errors"),
        ("echo '========= RACECHECK SUMMARY: 1 hazard'; exit 9", "failed", "========= RACECHECK SUMMARY: 1 hazard"),
        ('case "$*" in *kernel-name*) echo unknown; exit 1;; esac; echo "===== ERROR SUMMARY: 0 errors"', "done", None),
        ("echo broken; exit 1", "failed", "the tool gave no summary (exit code 1): broken\n"),
    ],
)
def test_what_the_sanitizer_says(tmp_path, monkeypatch, script, event, problem):
    from jobs.measure.gpu import tools

    tool(tmp_path, script)
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / name))
    outcome = tools.sanitize("memcheck", ["true"], 30)
    assert (outcome["part"], outcome["event"], outcome["problem"]) == ("memcheck", event, problem)


@pytest.mark.serial
def test_a_program_that_takes_too_long_is_ended_with_its_children():
    from jobs.measure.gpu import tools

    begun = time.monotonic()
    code, output, _ = tools.run(["sh", "-c", "echo begun; sleep 30 & wait"], 0.5)
    assert code is None and output == "begun\n" and time.monotonic() - begun < 10


def row(bench, variant, seconds, units=1000, **facts):
    moved = facts.pop("bytes", 1e6)
    rates = {"rate": units / seconds, "gb_per_s": moved / seconds / 1e9}
    return {"bench": bench, "variant": variant, "seconds": seconds, "wall_seconds": seconds, "units": units, **rates, **facts}


def test_ratios_by_hand():
    from jobs.measure.gpu.summary import summary

    at = {"width": 64, "order": "ascending"}
    rows = [
        row("gather", "gcnrec-zero-copy-8", 2.0, **at),
        row("gather", "gcnrec-zero-copy-24", 1.0, **at),
        row("gather", "ceiling-read-24", 0.8, **at),
        row("gather", "gcnrec-zero-copy-24", 0.001, units=10, **at),  # a small batch does not count
        row("ceiling-read", "read-132", 0.95, row_bytes=256, order="ascending"),
        row("ceiling-read", "read-132", 0.1, row_bytes=512, order="ascending"),
        row("gather-peers", "gcnrec-zero-copy", 1.0, width=64),
        row("gather-peers", "torch-index-select-pinned", 3.0, width=64),
        row("gather-peers", "numba-pinned", 1.5, width=64),
        row("gather-peers", "numba-pinned-loader", 7.2, units=6000, width=64),
        row("gather-peers", "torch-index-pageable", 2.0, width=64),
        row("slots", "dense-24", 1.0, width=128, form="slots"),
        row("slots", "gcnrec-slots-copy-24", 0.5, width=128, form="slots"),
        row("slots", "gcnrec-slots-decode-24", 0.4, width=128, form="slots"),
        row("update-adam", "gcnrec-zero-copy-lanes-8", 1.0),
        row("update-adam", "ceiling-turn-132", 0.9),
        row("ceiling-both", "both-132", 2.0),
        row("sample", "gcnrec-host", 2.0, fanout=10),
        row("sample", "gcnrec-cpu-cores", 5.0, fanout=10),
        {"bench": "gather", "variant": "gcnrec-zero-copy-132", "error": "lost"},
    ]
    found = {ratio["name"].split(":")[0] + "|" + ratio["name"].split()[1]: ratio for ratio in summary(rows)}
    values = {name: (round(ratio["value"], 6), ratio["met"]) for name, ratio in found.items()}
    assert values == {
        "gather-64-ascending|share": (0.8, False),
        "gather-64|times": (2.0, False),  # the last of three: t[index].to(device)
        "slots-128|times": (2.5, False),
        "update-adam|share": (0.9, True),
        "sample-10|edges": (2.5, None),
    }
    names = [(round(ratio["value"], 6), ratio["target"]) for ratio in summary(rows) if ratio["name"].startswith("gather-64:")]
    assert names == [(1.5, 1.4), (1.2, None), (2.0, 2.5)]


def test_ratios_of_epochs_by_hand():
    """Of a race the last round counts; targets depend on the ratio of transfers to compute."""
    from jobs.measure.gpu.summary import summary

    def point(bench, ours, **facts):
        others = {"torch-device": 1.0, "cpu-gather-pinned": 2.0, "cpu-gather-serial": 2.5, "gcnrec-host-serial": 1.5}
        return [row(bench, name, seconds, **facts) for name, seconds in {"gcnrec-host-overlap": ours, **others}.items()]

    def found(rows):
        return {each["name"].split()[-1]: (round(each["value"], 6), each["met"]) for each in summary(rows)}

    balanced = [*point("epoch-curve", 9.0, ratio=0.9, products=3), *point("epoch-curve", 1.25, ratio=0.8, products=3)]
    assert found(balanced) == {
        "torch-device": (0.8, False), "cpu-gather-pinned": (1.6, False), "cpu-gather-serial": (2.0, True),
        "gcnrec-host-serial": (1.2, None),
    }  # fmt: skip
    assert found(point("epoch-curve", 1.25, ratio=1.4, products=3))["torch-device"] == (0.8, None)
    assert found(point("epoch", 1.0))["cpu-gather-pinned"] == (2.0, None)
    rows = [
        *point("features", 1.0, ratio=0.5, products=1, columns=100, pitch=400),
        *point("features", 1.0, ratio=0.5, products=1, columns=100, pitch=512),
    ]
    assert [each["name"].split(":")[0] for each in summary(rows)][::4] == [
        f"features of 100 columns, pitch {pitch} at transfers 0.50 of compute" for pitch in (400, 512)
    ]


@pytest.mark.parametrize(("ratio", "share"), [(0.25, 1 / 1.05), (0.75, 1 / 1.05), (0.76, 1 / 1.1), (1.0, 1 / 1.1), (1.01, None)])
def test_targets_against_a_table_on_the_device(ratio, share):
    from jobs.measure.gpu.summary import epoch_target

    assert epoch_target("torch-device", ratio) == share


def test_the_record_is_named_after_the_gpu_as_soon_as_it_is_known(tmp_path):
    from jobs.measure.gpu import __main__ as lead

    given = SimpleNamespace(out=tmp_path, parts="", dry=False, table_gib=1, seconds=10.0)
    boss = SimpleNamespace(machine={}, outcomes={}, rows=[])
    assert lead._record(given, boss).name.endswith("-gpu-unknown.json")
    boss.machine["gpu"] = {"name": "NVIDIA H200"}
    lead._record(given, boss)
    assert [path.name[11:] for path in tmp_path.iterdir()] == ["gpu-nvidia-h200.json"]
