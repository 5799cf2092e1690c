"""How commands end before their time: signals at drawn moments, lost streams, files that may not grow."""

from __future__ import annotations

from dataclasses import dataclass
from signal import SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM, Signals

import numpy as np

from jobs.measure.kill.commands import CASES, Case

STARTED_S, LAST_S, AFTER_S = 0.3, 0.3, 0.03
"""CPU seconds: of the beginning, of the end, and past the end of the uninterrupted command, which takes longer at times."""
SECOND_S = 0.5
"""The longest time between two signals."""


@dataclass(frozen=True)
class Ending:
    """`signals` are sent one after the other. `stream` (1 stdout, 2 stderr) is lost: "closed", "full", or its reader is "gone".

    `limited`: no file of the process may grow past a drawn size. `again`: the command typed again is ended by the same signal.
    """

    name: str
    weight: int
    signals: tuple[Signals, ...] = ()
    stream: int = 0
    loss: str = ""
    limited: bool = False
    again: bool = False

    @property
    def asks(self) -> bool:
        """Whether the process is asked to end, by SIGTERM or Ctrl-C."""
        return bool(self.signals) and self.signals[0] in (SIGTERM, SIGINT)


ENDINGS = (
    Ending("SIGKILL", 30, (SIGKILL,)),
    Ending("SIGKILL, again", 6, (SIGKILL,), again=True),
    Ending("SIGTERM", 17, (SIGTERM,)),
    Ending("SIGINT", 15, (SIGINT,)),
    Ending("SIGTERM twice", 5, (SIGTERM, SIGTERM)),
    Ending("SIGINT twice", 5, (SIGINT, SIGINT)),
    Ending("SIGHUP", 5, (SIGHUP,)),
    Ending("SIGSTOP, SIGCONT", 3, (SIGSTOP, SIGCONT)),
    Ending("files limited", 5, limited=True),
    Ending("stderr closed", 2, stream=2, loss="closed"),
    Ending("stderr full", 2, stream=2, loss="full"),
    Ending("stderr without reader", 2, stream=2, loss="gone"),
    Ending("reader of stderr leaves", 2, stream=2, loss="leaves"),
    Ending("stdout closed", 1, stream=1, loss="closed"),
    Ending("stdout full", 1, stream=1, loss="full"),
    Ending("stdout without reader", 1, stream=1, loss="gone"),
)


@dataclass(frozen=True)
class Course:
    """An uninterrupted command in CPU seconds: gcnrec handles SIGTERM, the first file changes, the process ends.

    `largest`: bytes of the largest file that it wrote.
    """

    ready_s: float
    writes_s: float
    total_s: float
    largest: int


@dataclass(frozen=True)
class Moment:
    """CPU seconds of the process at the first signal, and the seconds until the second; `limit`: bytes of a file.

    `asks`: the signal waits until the process handles SIGTERM.
    """

    part: str
    cpu_s: float
    between_s: float
    limit: int
    asks: bool


def drawn(seed: int, trial: int) -> tuple[Case, Ending]:
    """The command of a trial and how it ends, by the weights."""
    random = np.random.default_rng([seed, trial, 2])
    case = CASES[random.choice(len(CASES), p=_shares([case.weight for case in CASES]))]
    return case, ENDINGS[random.choice(len(ENDINGS), p=_shares([ending.weight for ending in ENDINGS]))]


def moment(seed: int, trial: int, attempt: int, course: Course, asks: bool) -> Moment:
    """Mostly anywhere after the first change of a file, in time as evenly as CPU seconds are; in part at both ends.

    A process that is asked to end can say so from `ready_s` on; other signals may come before.
    """
    random = np.random.default_rng([seed, trial, 3 + attempt])
    parts = {
        "begin": (course.ready_s if asks else 0.0, course.ready_s + STARTED_S),
        "any": (course.ready_s, course.total_s),
        "work": (course.writes_s, course.total_s),
        "end": (max(course.ready_s, course.total_s - LAST_S), course.total_s + AFTER_S),
    }
    part = str(random.choice(list(parts), p=[0.1, 0.2, 0.5, 0.2]))
    limit = int(2 ** random.uniform(0, np.log2(max(2, course.largest))))
    first, last = parts[part]  # a command that took less than its reference may end before these begin
    return Moment(part, float(random.uniform(first, max(first, last))), float(random.uniform(0, SECOND_S)), limit, asks)


def _shares(weights: list[int]) -> list[float]:
    return [weight / sum(weights) for weight in weights]
