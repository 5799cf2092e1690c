"""A trial of a command: ended at a moment, judged, typed again, and compared with the command that was left alone."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGCONT

import numpy as np

from jobs.measure.kill import judge
from jobs.measure.kill.commands import Case
from jobs.measure.kill.digests import digests
from jobs.measure.kill.endings import Ending, moment
from jobs.measure.kill.judge import Reference
from jobs.measure.kill.launch import Ended, launch
from jobs.measure.kill.place import Place, marks
from jobs.measure.kill.trials import Row
from jobs.measure.kill.warm import Warm

ATTEMPTS = 4
"""Commands of a trial, at most: ended, ended again, typed again, and typed again as its sentence said."""


LATE_S = 0.1
FORKED, FORKED_AGAIN = 0.85, 0.9
"""Shares of commands that are forks: their moments lie in their work, not in imports."""


@dataclass
class Bench:
    """A place with the references of the commands that ran in it: results have the paths of the place."""

    place: Place
    kept: Path
    """Where a place goes after a fault."""
    marks: dict[str, tuple[int, int]]
    warm: Warm | None = None
    """Forks commands of this place."""
    references: dict[tuple[str, bool], Reference] = field(default_factory=dict)

    def reference(self, case: Case, forked: bool = False) -> Reference:
        """The case's uninterrupted command, run at its first use, as a process of its own or forked.

        SystemExit when it ends otherwise than the case says, or when both do not make the same files.
        """
        warm = self.warm if forked else None
        if (case.name, forked) not in self.references:
            self.place.lay(case.before)
            old = {target: self.place.state(target) for target in case.whole}
            ended = launch(words_of(case, self.place.bed), self.place, warm=warm)
            if ended.code != case.code:
                raise SystemExit(f"the uninterrupted {case.name} ended with {ended.code}: {ended.err}")
            new = {target: self.place.state(target) for target in case.whole}
            made = Reference(case, ended, frozenset(self.place.names()), digests(self.place.work), old, new)
            other = self.references.get((case.name, not forked), made)
            if (made.names, made.digests) != (other.names, other.digests):
                raise SystemExit(f"two uninterrupted commands of {case.name} make different files")
            self.references[case.name, forked] = made
        return self.references[case.name, forked]

    def shorten(self, case: Case, forked: bool, cpu_s: float) -> None:
        """Note that the command takes less than its reference did, which may have met cold files: its end is earlier."""
        expected = self.references[case.name, forked]
        course = replace(expected.course, total_s=min(cpu_s, expected.course.total_s))
        course = replace(course, writes_s=min(course.writes_s, course.total_s))
        self.references[case.name, forked] = replace(expected, ended=replace(expected.ended, course=course))


def words_of(case: Case, bed: Path) -> list[str]:
    return [word.format(bed=bed) for word in case.words.split()]


def by_fork(seed: int, number: int, ending: Ending, bench: Bench) -> tuple[bool, bool]:
    """Whether the command, and the command typed again, are forks: most are, as a start takes longer than their work."""
    random = np.random.default_rng([seed, number, 1])
    first, again = map(float, random.uniform(size=2))
    return bench.warm is not None and not ending.stream and first < FORKED, bench.warm is not None and again < FORKED_AGAIN


def trial(number: int, seed: int, case: Case, ending: Ending, bench: Bench) -> Row:
    """One row; `effective` is False where the command had ended before its moment. The place stays after a fault."""
    forked, forked_again = by_fork(seed, number, ending, bench)
    expected, place = bench.reference(case, forked), bench.place
    if ending.again:
        bench.reference(case, forked_again)  # before the place is laid: it runs there
    place.lay(case.before)
    at = moment(seed, number, 0, expected.course, ending.asks)
    ended = launch(words_of(case, place.bed), place, ending, at, bench.warm if forked else None)
    effective = _met(ended, ending, case)
    if not effective:
        bench.shorten(case, forked, ended.cpu_s)
    faults = judge.faults_of_end(ended, ending, expected) if effective else []
    faults += judge.faults_between(place, expected)
    codes: list[int] = []
    last, done = ended, judge.says_done(ended) and not judge.faults_at_last(ended, place, expected, done=True)
    unread = ending.stream == 1 and case.prints
    stopped = effective and ending.signals and SIGCONT not in ending.signals
    if not done and (ended.code != case.code or stopped or unread):
        last, done, codes = _again(number, seed, ending, ended, bench, expected)
        if ended.code in judge.ASKED and codes[0] != case.code and not done:
            faults.append("what it says does not work")
    faults += judge.faults_at_last(last, place, expected, done)
    faults += _faults_of_lost_stream(case, ending, place)
    if marks(place.bed) != bench.marks:
        faults.append("a file of the inputs has changed")
    row: Row = {"trial": number, "case": case.name, "ending": ending.name, "effective": effective, "forked": forked}
    row |= {"part": at.part, "cpu_s": round(ended.cpu_s, 2), "of_s": round(expected.course.total_s, 2)}
    row |= {"code": ended.code, "took_s": round(ended.took_s, 2), "again": codes, "load": round(os.getloadavg()[0], 1)}
    row |= {"limit": at.limit} if ending.limited else {}
    row |= {"sound": not faults}
    if faults:
        row |= {"faults": faults[:8], "said": ended.err[-1500:]}
        shutil.rmtree(bench.kept / f"trial-{number}", ignore_errors=True)
        shutil.copytree(place.folder, bench.kept / f"trial-{number}", symlinks=True)
    return row


def _met(ended: Ended, ending: Ending, case: Case) -> bool:
    """Whether a command met its ending before it ended by itself: a signal at its last moment may find it gone."""
    if ending.loss == "leaves":
        return not ended.printed
    too_late = ended.code == case.code and ended.took_s < LATE_S
    return not ending.signals or (ended.signals > 0 and not too_late)


def _again(
    number: int, seed: int, ending: Ending, ended: Ended, bench: Bench, expected: Reference
) -> tuple[Ended, bool, list[int]]:
    """Type the command again, as its sentence says, until it ends by itself; the last end, whether it found all done, codes."""
    case, place = expected.case, bench.place
    codes: list[int] = []
    asked = ended.code in judge.ASKED
    _, forked = by_fork(seed, number, ending, bench)
    for attempt in range(1, ATTEMPTS):
        words = words_of(case, place.bed)
        if case.run and judge.resumes(case, ended.err, place, asked):
            words.append("--resume")
        stopped = ending.again and attempt == 1
        at = moment(seed, number, attempt, bench.reference(case, forked).course, ending.asks) if stopped else None
        ended = launch(words, place, ending if stopped else _LEFT_ALONE, at, bench.warm if forked else None)
        codes.append(ended.code)
        asked = False
        if judge.is_done(ended, place, expected):
            return ended, True, codes
        if ended.code == case.code:
            break
    return ended, False, codes


def _faults_of_lost_stream(case: Case, ending: Ending, place: Place) -> list[str]:
    """A run that lost its log has a line about it."""
    if ending.stream != 2 or ending.loss == "leaves" or not case.run:
        return []
    record = place.work / case.run / "metrics.jsonl"
    text = record.read_text(encoding="utf-8") if record.is_file() else ""
    return [] if '"kind": "stream"' in text else ["no line on the lost stream in metrics.jsonl"]


_LEFT_ALONE = Ending("left alone", 0)
