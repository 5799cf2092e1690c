"""What `init`, `settings` and `models` print, as lines or as figures for JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gcnrec.config.reference import Setting
from gcnrec.draft.from_parquet import Draft
from gcnrec.draft.job_text import printable
from gcnrec.draft.models import MODELS, ORDER
from gcnrec.reports.text import columns

_WIDE, _SHORT = 110, 30
"""Characters of a line, and of a value that stands in a table."""


def draft_lines(draft: Draft, place: Path, run: Path) -> list[str]:
    """What was seen and decided, the doubts, and what to type next for the job at `place`, with its run in the folder `run`."""
    roles = draft.roles
    seen = [(role, found.path, _held(found.column), found.reason) for role, found in roles.found().items()]
    chosen = [
        (f"{choice.section}.{choice.key}", str(choice.value), choice.reason)
        for choice in draft.choices
        if choice.on and (choice.section != "data" or choice.key in _SHOWN)
    ]
    lines = [f"{draft.text}: {draft.sizes}", "", *columns(seen)]
    lines += [f"not used: {', '.join(roles.unused)}"] if roles.unused else []
    lines += ["", *columns([each for each in chosen if len(each[1]) <= _SHORT])]
    lines += [f"{name}  {value}  {reason}" for name, value, reason in chosen if len(value) > _SHORT]
    lines += [""]
    lines += [line for doubt in roles.doubts for line in _wrapped(f"note: {doubt}")]
    lines += [""] if roles.doubts else []
    lines += [f"wrote {place}; next, type", *(f"  {command}" for command in draft.commands(place, run))]
    return [printable(line) for line in lines]


_SHOWN = {"split", "test_size", "target", "min_rating", "negative_below", "where", "time_unit", "memory_limit"}
"""Keys of `[data]` that are shown with a reason; the others name columns."""


def _held(column: Any) -> str:
    count = "many" if column.distinct is None else f"{column.distinct:,}"
    nulls = f", {column.nulls:,} absent" if column.nulls else ""
    return f"{column.kind}, {count} values{nulls}"


def _wrapped(text: str) -> list[str]:
    """A sentence in lines that fit a terminal; one with a command to type stays on one line."""
    return [text] if "python -c" in text else textwrap.wrap(text, _WIDE, subsequent_indent="  ", break_long_words=False)


def draft_figures(draft: Draft, place: Path, run: Path) -> dict[str, Any]:
    """The same for programs."""
    sizes, roles = draft.sizes, draft.roles
    return {
        "job": str(place),
        "rows": sizes.rows,
        "users": sizes.users,
        "items": sizes.items,
        "exact": sizes.exact,
        "columns": {role: {"column": found.path, "type": str(found.column.kind), "reason": found.reason}
                    for role, found in roles.found().items()},
        "unused": roles.unused,
        "notes": roles.doubts,
        "settings": {f"{choice.section}.{choice.key}": {"value": choice.value, "reason": choice.reason}
                     for choice in draft.choices if choice.on},
        "next": draft.commands(place, run),
    }  # fmt: skip


def setting_lines(settings: Sequence[Setting], sections: Mapping[str, str]) -> list[str]:
    """A key on a line with default and values, and its meaning below it; the whole meaning where there is one key alone."""
    lines: list[str] = []
    for section in dict.fromkeys(setting.section for setting in settings):
        keys = [setting for setting in settings if setting.section == section]
        lines += ["", f"[{section}]  {sections[section]}"]
        for setting in keys:
            lines += [f"  {setting.key} = {setting.default}  ({setting.values})"]
            lines += _indented(setting.text if len(settings) == 1 else setting.meaning)
    return lines[1:]


def _indented(text: str) -> Iterable[str]:
    return textwrap.wrap(text, _WIDE, initial_indent="      ", subsequent_indent="      ", break_long_words=False)


def model_lines() -> list[str]:
    """A table of the models, and the order in which to try them."""
    rows = [("model", "what it is", "when to choose it")]
    trained = [(advice.name, advice.what, advice.when) for advice in MODELS if advice.trained]
    closed = [(advice.name, advice.what, advice.when) for advice in MODELS if not advice.trained]
    table = columns([*rows, *trained, *closed])
    return [*table[: 1 + len(trained)], "", "closed forms, which need no training:", *table[1 + len(trained) :], "", *ORDER]
