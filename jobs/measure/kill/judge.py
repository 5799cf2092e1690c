"""Whether a command ended as it must: by its exit code, by what it said, and by the files that it left."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM

from jobs.measure.kill.commands import Case
from jobs.measure.kill.digests import differences, digest_of, digests
from jobs.measure.kill.endings import Course, Ending
from jobs.measure.kill.launch import Ended
from jobs.measure.kill.place import Place

END_S = 5.0
"""By which a command ends that was asked to; longer where more processes wait for cores than there are."""
_CODES = {SIGTERM: 143, SIGINT: 130}
ASKED = frozenset(_CODES.values())
"""Exit codes of commands that were asked to end."""
_BUGS = re.compile(
    r"Traceback|Exception ignored|Exception in thread|Error in|Fatal Python|terminate called|Segmentation|core dumped|leaked|"
    r"KeyboardInterrupt|Terminated\b"
)
_ONCE = re.compile(r"exists and is never overwritten")
_PROGRESS = re.compile(r"warning: |\d+/\d+  |(fit |refit )?epoch |baseline |\{|[a-z][a-z ]+( by \w+)?(  [\d,]+ of [\d,]+.*)?$")
"""Lines of progress, which come by the clock: warnings, runs of a sweep, epochs, baselines, work with a number or none, JSON."""


@dataclass(frozen=True)
class Reference:
    """A command that was left alone: its course, the files that it made, what it said, and its targets before and after."""

    case: Case
    ended: Ended
    names: frozenset[str]
    digests: dict[str, str]
    old: dict[str, str]
    new: dict[str, str]

    @property
    def course(self) -> Course:
        return self.ended.course


def faults_of_end(ended: Ended, ending: Ending, expected: Reference) -> list[str]:
    """What is wrong with the exit code, the time and the words of a command that an `ending` met."""
    found = [f"says {word.group()!r}" for word in [_BUGS.search(ended.err)] if word]
    if ended.hung:
        return [*found, "hangs"]
    if ending.asks:
        return found + _faults_of_asked(ended, ending, expected)
    if ended.orphans and ending.signals[:1] != (SIGKILL,):
        found.append(f"{ended.orphans} processes live on")
    fine = {expected.case.code}
    if ending.signals[:1] == (SIGKILL,):
        fine = {-SIGKILL}
    if ending.signals[:1] == (SIGHUP,):
        fine = {-SIGHUP, 128 + SIGHUP} | ({expected.case.code} if ended.printed else set())
    if ending.limited:
        fine |= {3}
    if ending.stream == 1 and ending.loss == "full":
        fine = {3} | {expected.case.code} - {0}
    if ended.code not in fine:
        found.append(f"ends with {ended.code}")
    if ended.code == 3:
        found += _faults_of_words(ended, expected)
    return found


def _faults_of_asked(ended: Ended, ending: Ending, expected: Reference) -> list[str]:
    """SIGTERM and Ctrl-C: exit code 143 or 130 with one sentence, in time."""
    code = _CODES[ending.signals[0]]
    found = [] if ended.took_s <= END_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)) else ["takes too long to end"]
    if ended.orphans:
        found.append(f"{ended.orphans} processes live on")
    if ended.code == code:
        return found + _faults_of_words(ended, expected)
    return [*found, f"ends with {ended.code}, not with {code}"]


def _faults_of_words(ended: Ended, expected: Reference) -> list[str]:
    """One sentence of gcnrec's, and no line that neither progress nor the uninterrupted command has."""
    lines = ended.err.splitlines()
    known = {_without_numbers(line) for line in expected.ended.err.splitlines()}
    sentences = [line for line in lines if line.startswith("gcnrec: ") or '"event": "error"' in line]
    if expected.case.code and ended.printed:
        sentences = [line for line in sentences if _without_numbers(line) not in known]
    found = [] if len(sentences) == 1 else [f"says {len(sentences)} sentences"]
    for line in lines:
        if line not in sentences and not _PROGRESS.match(line) and _without_numbers(line) not in known:
            found.append(f"says {line[:200]!r}")
    return found


def faults_between(place: Place, expected: Reference) -> list[str]:
    """What is half-written under a final name after the end of the first command; each target is the old one or the new one."""
    found = []
    for target, old in expected.old.items():
        try:
            state = place.state(target)
        except Exception as problem:  # what a reader of a damaged file raises is not known
            found.append(f"{target} cannot be read ({type(problem).__name__})")
            continue
        if state not in (old, expected.new[target]):
            found.append(f"{target} is neither the old one nor the new one" + (", is absent" if state == "absent" else ""))
    for path in sorted(place.work.rglob("*")):
        if path.is_file() and path.suffix != ".jsonl" and not _is_aside(str(path.relative_to(place.work))):
            try:
                digest_of(path)
            except Exception as problem:
                found.append(f"{path.relative_to(place.work)} cannot be read ({type(problem).__name__})")
    return found


def is_done(ended: Ended, place: Place, expected: Reference) -> bool:
    """Whether a command that is typed again refuses, as its result is there already: the new one, whole."""
    there = bool(expected.new) and all(place.state(target) == new for target, new in expected.new.items())
    return ended.code in (2, 3) and bool(_ONCE.search(ended.err)) and there


def faults_at_last(ended: Ended, place: Place, expected: Reference, done: bool) -> list[str]:
    """What differs from the uninterrupted command after the command was typed again: exit code, lines, files, leftovers."""
    found = [] if done or ended.code == expected.case.code else [f"again ends with {ended.code}: {ended.err[-300:]!r}"]
    found += [f"again says {word.group()!r}" for word in [_BUGS.search(ended.err)] if word]
    if found:
        return found
    if expected.case.prints and ended.out != expected.ended.out:
        found.append("prints other lines")
    names = place.names()
    found += [f"leaves {name}" for name in sorted(names - expected.names)]
    found += [f"lacks {name}" for name in sorted(expected.names - names)]
    found += [f"leaves {name}" for name in place.left_in_cache()]
    try:
        differing = differences(expected.digests, digests(place.work))
    except Exception as problem:  # of a damaged file
        return [*found, f"files cannot be read ({problem!r})"]
    return found + [f"{name} differs" for name in differing if f"work/{name}" in names]


def says_done(ended: Ended) -> bool:
    """Whether a command that was asked to end says that all it had begun was done."""
    return ended.code in ASKED and "was done" in ended.err


def resumes(case: Case, said: str, place: Place, asked: bool) -> bool:
    """Whether the command is typed again with --resume: as its sentence says, else where its run has begun."""
    if asked:
        return "--resume" in said
    return bool(case.run) and (place.work / case.run).exists()


def _is_aside(name: str) -> bool:
    return any(part.startswith((".", "tmp")) for part in name.split("/")) or name.endswith(".lock")


def _without_numbers(line: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", line)
