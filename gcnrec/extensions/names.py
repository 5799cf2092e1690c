"""The kinds of classes that a job may name, and the full name "package.module:Class" of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from gcnrec.errors import shown

_FULL = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_LONGEST = 300
"""Characters of a name."""
PAGE = "docs/extending.md"
"""What says how to write such a class."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a class is for: the group of its entry points, what it is called in sentences, and the methods that it must have."""

    group: str
    noun: str
    methods: tuple[str, ...]

    def full_name(self, text: str) -> str:
        """`text` itself where it is "package.module:Class", else what the entry point of that name says. Imports nothing.

        Raises ValueError, which says how to name a class, for any other text.
        """
        if len(text) <= _LONGEST and _FULL.fullmatch(text):
            return text
        installed = entry_points(group=self.group)
        found = sorted({point.value for point in installed if point.name == text})
        if len(found) == 1 and _FULL.fullmatch(found[0]):
            return found[0]
        if found:
            raise ValueError(
                f"one class as package.module:Class, and the entry point {shown(text)} of {self.group} names {', '.join(found)}; "
                "write the full name"
            )
        names = ", ".join(sorted({point.name for point in installed})) or "none"
        raise ValueError(
            f"{self.noun} of your own as package.module:Class or as an entry point of {self.group} (installed: {names})"
        )


ENCODERS = Kind("gcnrec.encoders", "an encoder", ("build",))
LOSSES = Kind("gcnrec.losses", "a loss", ("terms",))
METRICS = Kind("gcnrec.metrics", "a metric", ("values",))
POLICIES = Kind("gcnrec.policies", "a policy", ("share", "scores"))
TRACKERS = Kind("gcnrec.trackers", "a tracker", ("begin", "epoch", "results", "report", "close"))


def is_own(name: str) -> bool:
    """Whether a name of a job is that of a class of another package."""
    return ":" in name


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` as they are. ValueError where a value is none that TOML has: a job file keeps them."""
    for key, value in settings.items():
        _check(value, key)
    return settings


def _check(value: Any, key: str) -> None:
    if isinstance(value, dict):
        plain(value)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check(each, key)
    elif not isinstance(value, (str, bool, int, float)) or value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"expects text, numbers, true, false, lists and tables, got {shown(value)} for {shown(key)}")
