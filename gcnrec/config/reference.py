"""The reference of all keys of a job, read from the typed sections: what a key accepts, its default and its meaning.

The meaning is the docstring below the key in its section, which is its only place; docs/job-file.md has the longer text.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from gcnrec.config.job import Job
from gcnrec.config.toml import as_toml
from gcnrec.config.values import Words
from gcnrec.errors import UsageError, nearest, shown

_SENTENCE = re.compile(r".+?(?<!et al)\.(?= |$)")
_BOUNDS = {"ge": Ge, "gt": Gt, "le": Le, "lt": Lt, "min_length": MinLen, "max_length": MaxLen}
_LONG = 10**20
"""Numbers from here on have a power of ten."""
_NAMES = {int: "whole number", float: "number", str: "text"}


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of a section. `values`: what it accepts, in words; `default` in TOML, or "not set"; `text`: what it means, whole."""

    section: str
    key: str
    values: str
    default: str
    text: str

    @property
    def name(self) -> str:
        """What `--set` and `gcnrec settings` take."""
        return f"{self.section}.{self.key}"

    @property
    def meaning(self) -> str:
        """The first sentence of the text."""
        first = _SENTENCE.match(self.text)
        return first[0] if first else self.text


def sections() -> dict[str, str]:
    """What each section of a job is for, by its name, in the order of the job."""
    return {name: _on_one_line(_section(name).__doc__).partition(". ")[0].rstrip(".") for name in Job.model_fields}


def settings(key: str | None = None) -> list[Setting]:
    """The keys that `key` names: all, those of a section, `section.key`, or each key of that name.

    Raises UsageError with the nearest known name.
    """
    every = [setting for section in Job.model_fields for setting in _of_section(section)]
    found = [setting for setting in every if key in (None, setting.section, setting.key, setting.name)]
    if found:
        return found
    known = [name for setting in every for name in (setting.section, setting.key, setting.name)]
    near = nearest(str(key), known) if len(nearest(str(key), known)) < 100 else f"; sections: {', '.join(Job.model_fields)}"
    raise UsageError(f"no section or key of a job is called {shown(key)}{near}")


def _of_section(section: str) -> Iterator[Setting]:
    for name, field in _section(section).model_fields.items():
        values = ", or ".join(dict.fromkeys(_accepted(field.annotation, _facts(field.metadata))))
        is_open = field.default is None or field.default == ()
        default = "not set" if is_open else as_toml(field.default)
        yield Setting(section, field.alias or name, values, default, _on_one_line(field.description))


def _section(name: str) -> Any:
    return Job.model_fields[name].annotation


def _on_one_line(text: str | None) -> str:
    return " ".join((text or "").split())


@dataclass(frozen=True, slots=True)
class _Facts:
    """What annotations say of a value: bounds by name, and words in place of them."""

    bounds: Mapping[str, Any]
    words: str = ""

    def range(self) -> str:
        """The bounds of a number as text, such as "above 0 to 16"; empty without any."""
        low, high = self.bounds.get("ge", self.bounds.get("gt")), self.bounds.get("le", self.bounds.get("lt"))
        from_ = "" if low is None else f"{'above ' if 'gt' in self.bounds else ''}{_figure(low)}"
        to = "" if high is None else f"{'below ' if 'lt' in self.bounds else ''}{_figure(high)}"
        return " to ".join(part for part in (from_, to) if part)

    def length(self) -> str:
        """How many values a list may have, such as "1 to 100"; empty without a bound."""
        least, most = self.bounds.get("min_length"), self.bounds.get("max_length")
        if most is None:
            return "" if least is None else f"{least} or more"
        return f"{least or 0} to {most}"


def _figure(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < _LONG else f"{value:g}"


def _facts(metadata: Any, outer: _Facts | None = None) -> _Facts:
    """The facts of an annotation's metadata, over the `outer` ones."""
    found = outer or _Facts({})
    for each in metadata:
        if isinstance(each, Words):
            found = replace(found, words=each.text)
        for part in getattr(each, "metadata", (each,)):
            for name, kind in _BOUNDS.items():
                if isinstance(part, kind):
                    found = replace(found, bounds={**found.bounds, name: getattr(part, name)})
    return found


def _accepted(annotation: Any, facts: _Facts) -> Iterator[str]:
    """What a value of this type may be, in words; a part for each type of a union."""
    if facts.words:
        yield facts.words
        return
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _accepted(parts[0], _facts(parts[1:], facts))
    elif origin in (Union, types.UnionType):
        for part in parts:
            if part is not type(None):
                yield from _accepted(part, facts)
    elif origin is Literal:
        yield ", ".join(map(as_toml, parts))
    elif origin is tuple:
        inner = " or ".join(_accepted(parts[0], _Facts({})))
        yield f"list of {facts.length() or 'any number'} of: {inner}"
    elif origin is dict:
        yield f"table of {' or '.join(_accepted(parts[1], _Facts({})))} by name"
    elif annotation is bool:
        yield "true, false"
    else:
        yield ", ".join(part for part in (_NAMES[annotation], facts.range()) if part)
