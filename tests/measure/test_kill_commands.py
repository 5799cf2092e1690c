"""jobs/measure/kill on a made-up command that writes one file: a sound one passes, each fault of another is found."""

from __future__ import annotations

from collections import Counter
from signal import SIGINT, SIGKILL, SIGTERM

import pytest

from jobs.measure.kill import judge
from jobs.measure.kill import launch as launching
from jobs.measure.kill.__main__ import summarised
from jobs.measure.kill.command_trials import Bench, trial
from jobs.measure.kill.commands import CASES, Case
from jobs.measure.kill.endings import ENDINGS, Course, Ending, drawn, moment
from jobs.measure.kill.place import Place, marks

CASE = Case("write", "write out.json", 1, whole=("out.json",))
KILL, TERM, TWICE = (Ending(name, 1, signals) for name, signals in {
    "SIGKILL": (SIGKILL,), "SIGTERM": (SIGTERM,), "SIGINT twice": (SIGINT, SIGINT)}.items())  # fmt: skip

SOUND = """
import os, signal, sys, time
from pathlib import Path
def stop(number, frame):
    Path("out.json.part").unlink(missing_ok=True)
    print("gcnrec: stopped; start the same command again", file=sys.stderr)
    os._exit(143 if number == signal.SIGTERM else 130)
def spend(seconds):
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
out = Path(sys.argv[2])
if Path("stopped").exists():
    Path("stopped").unlink()
    sys.exit(2)
spend(0.05)
work = Path("out.json.part")
work.write_text('{"half": ')
spend(0.1)
work.write_text('{"whole": 1}')
work.replace(out)
print("done", flush=True)
"""
UNLINK = 'Path("out.json.part").unlink(missing_ok=True)'
LEAVING = """Path("left.part").touch()
    Path(os.environ["TMPDIR"], "left.txt").touch()
    Path(os.environ["XDG_CACHE_HOME"], "key.json.lock").touch()
    Path(__file__).with_name("bed").joinpath("x").touch()"""
FAULTS = [
    (
        [(UNLINK, LEAVING)],
        ["leaves work/left.part", "leaves tmp/left.txt", "leaves cache/key.json.lock", "a file of the inputs has changed"],
    ),
    ([('work = Path("out.json.part")', "work = out")], ["out.json cannot be read (JSONDecodeError)"]),
    ([("'{\"whole\": 1}'", "'{\"whole\": ' + str(time.time()) + '}'")], ["out.json differs"]),
    ([("os._exit(143", "os._exit(1"), ("gcnrec: stopped", "Traceback")], ["ends with 1, not with 143", "says 'Traceback'"]),
    ([(UNLINK, 'Path("stopped").touch()'), ("gcnrec: ", "")], ["what it says does not work", "says 0 sentences"]),
    ([("os._exit(", "spend(0.3); os._exit(")], ["takes too long to end"]),
]
"""Changes of the program, and what the judge says."""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Benches for programs, each in a place of its own."""

    def of(source):
        program, bed = tmp_path / "program.py", tmp_path / "bed"
        program.write_text(source)
        monkeypatch.setattr(launching, "PROGRAM", [str(program)])
        bed.mkdir(exist_ok=True)
        return Bench(Place(tmp_path / "place", bed), tmp_path, marks(bed))

    return of


def early_row(bench, ending):
    """The row of the first trial that ends the command soon after it began to write."""
    course = bench.reference(CASE).course
    numbers = range(1000)
    number = next(each for each in numbers if 0 <= moment(0, each, 0, course, ending.asks).cpu_s - course.writes_s < 0.03)
    return trial(number, 0, CASE, ending, bench)


def test_a_trial_follows_from_its_seed_and_all_commands_meet_all_kinds_of_ends():
    trials = [drawn(3, number) for number in range(1000)]
    assert trials == [drawn(3, number) for number in range(1000)] and trials != [drawn(4, number) for number in range(1000)]
    cases, endings = (Counter(each.name for each in column) for column in zip(*trials, strict=True))
    assert set(cases) == {case.name for case in CASES} and set(endings) == {ending.name for ending in ENDINGS}


def test_moments_lie_in_their_part_of_the_command():
    course = Course(ready_s=1.0, writes_s=2.0, total_s=4.0, largest=1000)
    moments = [moment(0, number, 0, course, True) for number in range(400)]
    bounds = {"begin": (1.0, 1.3), "any": (1.0, 4.0), "work": (2.0, 4.0), "end": (3.7, 4.03)}
    assert all(bounds[each.part][0] <= each.cpu_s <= bounds[each.part][1] and 1 <= each.limit <= 1000 for each in moments)
    assert {each.part for each in moments} == set(bounds)
    assert min(moment(0, number, 0, course, False).cpu_s for number in range(400)) < 1.0, "only a request waits for the handler"


@pytest.mark.serial
@pytest.mark.parametrize("ending", [KILL, TERM, TWICE], ids=lambda ending: ending.name)
def test_a_sound_command_passes(bench, ending):
    row = early_row(bench(SOUND), ending)
    assert row["sound"] and row["effective"] and row["again"] == [0], row
    assert row["code"] == {"SIGKILL": -9, "SIGTERM": 143, "SIGINT twice": 130}[ending.name]


@pytest.mark.serial
@pytest.mark.parametrize(("changes", "faults"), FAULTS, ids=[faults[0] for _, faults in FAULTS])
def test_a_fault_is_found(bench, monkeypatch, changes, faults):
    monkeypatch.setattr(judge, "END_S", 0.2)
    monkeypatch.setattr(judge.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    source = SOUND
    for change in changes:
        source = source.replace(*change)
    row = early_row(bench(source), TERM)
    assert set(faults) <= set(row["faults"]) and not row["sound"], row
    assert not summarised([row])["all_sound"]
