"""The job file as text: a key, above it what it means and why it has its value; what may be tried stands as a comment."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from gcnrec.config.reference import settings
from gcnrec.config.toml import as_toml
from gcnrec.draft.choices import Choice

_WIDE = 116


def job_text(head: Sequence[str], choices: Iterable[Choice]) -> str:
    """The TOML of a job: the lines `head` as comments, then its sections in the order of a job."""
    chosen = list(choices)
    meanings = {setting.name: setting.meaning for setting in settings()}
    order = list(dict.fromkeys(setting.section for setting in settings()))
    lines = [f"# {printable(line)}" for line in head]
    for section in order:
        keys = [choice for choice in chosen if choice.section == section]
        if keys:
            lines += ["", f"[{section}]"]
        for choice in keys:
            lines += _lines(choice, meanings[f"{section}.{choice.key}"])
    return "\n".join(lines) + "\n"


def _lines(choice: Choice, meaning: str) -> list[str]:
    """A key with its comments; of one to be tried, the `#` before its name goes to switch it on."""
    said = f"{meaning} {'Here: ' if choice.on else 'To try: '}{choice.reason}."
    comments = textwrap.wrap(printable(said), _WIDE, initial_indent="# ", subsequent_indent="# ", break_long_words=False)
    return [*comments, f"{'' if choice.on else '#'}{choice.key} = {_value(choice.value)}"]


def _value(value: object) -> str:
    """A value in TOML; text with quotes as it is, between three single ones, so that a condition can be read and added to."""
    plain = isinstance(value, str) and '"' in value and "'''" not in value and value.isprintable() and value[-1] != "'"
    return f"'''{value}'''" if plain else as_toml(value)


def printable(text: str) -> str:
    """`text` on one line, without characters that a comment or a terminal cannot show: names of columns may have any."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
