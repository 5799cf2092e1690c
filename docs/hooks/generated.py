"""Fills in the parts of pages that the code knows: settings, commands, models, exit codes, the Python API.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. A code host shows the sentence between the two, the site what
the function of that name makes. Nothing generated is committed, so that no copy differs from the code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import typer

import gcnrec
from gcnrec import errors
from gcnrec.cli import app
from gcnrec.config.reference import sections
from gcnrec.config.reference import settings as all_settings
from gcnrec.draft.models import MODELS

_PART = re.compile(r"^<!-- generated: (\w+) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
READERS = {"Job": ("load", "parse")}
"""Methods of sections that make one."""
_NO_PIPE = str.maketrans({"|": "\\|"})


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its generated parts."""
    return _PART.sub(lambda match: PARTS[match[1]](), markdown)


def settings() -> str:
    """Each key of a job file under a heading of its own, by section."""
    text = []
    for section, purpose in sections().items():
        text.append(f"## `[{section}]`\n\n{purpose}.\n")
        for each in all_settings(section):
            text.append(f"### `{each.name}`\n\n{each.text}\n\nDefault: {_code(each.default)}. Values: {each.values}.\n")
    return "\n".join(text)


def commands() -> str:
    """Each command with its usage, its help and its options."""
    text = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join(["gcnrec", name, *command.collect_usage_pieces(context)])
        text.append(f"## {name}\n\n```text\n{usage}\n```\n\n{command.help}\n")
        rows = [row for parameter in command.params if (row := parameter.get_help_record(context))]
        text.append(table(("option", "meaning"), ((_code(option), meaning) for option, meaning in rows)))
    return "\n".join(text)


def models() -> str:
    """What `gcnrec models` prints, as a table."""
    rows = ((f"`{each.name}`", "trained" if each.trained else "closed form", each.what, each.when) for each in MODELS)
    return table(("model", "kind", "what it is", "when to choose it"), rows)


def exit_codes() -> str:
    """The exception of each exit code, as a Python program meets it."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BaseException)]
    own = [each for each in classes if each.__module__ == errors.__name__ and "exit_code" in vars(each)]
    rows = ((f"`gcnrec.errors.{each.__name__}`", str(each.exit_code), each.__doc__.split("\n")[0]) for each in own)
    return table(("exception", "code", "meaning"), rows)


def python_api() -> str:
    """Each public function with its signature and docstring; of a section, how it is read."""
    text = []
    for name in gcnrec.__all__:
        found = getattr(gcnrec, name)
        if isinstance(found, type):
            text.append(f"### `gcnrec.{name}`\n\n{_one_line(found.__doc__)} [Settings](settings.md) has the keys.\n")
            text += [_described(f"gcnrec.{name}.{method}", getattr(found, method), "####") for method in READERS.get(name, ())]
        else:
            text.append(_described(f"gcnrec.{name}", found, "###"))
    return "\n".join(text)


def _described(name: str, function: Any, heading: str) -> str:
    """A function under a heading: a parameter a line, with type and default, and the docstring."""
    signature = inspect.signature(function)
    lines = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "    *," not in lines:
            lines.append("    *,")
        annotation = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        lines.append(f"    {parameter.name}{annotation}{_default(parameter)},")
    code = "\n".join([f"{name}(", *lines, f") -> {signature.return_annotation}"])
    return f"{heading} `{name}`\n\n```python\n{code}\n```\n\n{inspect.getdoc(function)}\n"


def _default(parameter: inspect.Parameter) -> str:
    """` = VALUE`; an object without a text of its own, such as the silent observer, is `...`."""
    if parameter.default is parameter.empty:
        return ""
    shown = repr(parameter.default)
    return f" = {'...' if shown.startswith('<') else shown}"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell).translate(_NO_PIPE) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _code(text: str) -> str:
    return text if text == "not set" else f"`{text}`"


PARTS = {"settings": settings, "commands": commands, "models": models, "exit_codes": exit_codes, "python_api": python_api}
"""The functions by the names of the parts."""
