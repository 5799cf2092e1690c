"""TOML files of settings: read, overridden, validated into sections with one sentence for a mistake, and written again.

Every command reads a job, a grid or a card by `read_toml`, and every `--set` by `set_key`: text of a stranger, of any size and
depth, becomes plain tables here, or a sentence.
"""

from __future__ import annotations

import codecs
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, time
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gcnrec.errors import DataError, UsageError, nearest, shown
from gcnrec.storage.streams import pipe_bytes

MOST_BYTES = 10**6
"""Of a TOML file."""
_DEEPEST = 32
"""Levels of tables and lists, and parts of a dotted key."""
# The parser takes time by the square of a key's parts, and memory by their cube.
_LONG_KEY = re.compile(
    r"""(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
    rf"""(?:[ \t]*+\.[ \t]*+(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')){{{_DEEPEST},}}+"""
)
_SETTING = re.compile(r" *([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+) *")
_FOREIGN = (".csv", ".tsv", ".json", ".jsonl", ".txt")
_LOOKED_AT = 1000
"""Entries of a folder among which Parquet is looked for."""
_LOOKED_AT_BYTES = 65_536
"""Of a CSV file, whose marks are looked for."""
_DECIMAL_COMMA = re.compile(rb'"?-?\d+,\d+"?')


class Section(BaseModel):
    """A frozen table of settings; a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False, use_attribute_docstrings=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The keys that were set: a repr of all would take a page."""
        return ((key, value) for key, value in super().__repr_args__() if key in self.model_fields_set)


S = TypeVar("S", bound=Section)
TUNE = "tune"
"""The section of a job file that says how `gcnrec tune` searches."""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file in UTF-8, of at most 1 MB; a pipe will do. Dates and times become text.

    Raises UsageError when it is missing, cannot be read, or holds what no setting can be: integers of over 64 bits, and more than
    32 levels.
    """
    content = _content(path)
    try:
        return _tables(content)
    except UnicodeDecodeError as problem:
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        what, otherwise = "it is UTF-16" if is_utf16 else str(problem), "save it in UTF-8"
    except ValueError as problem:
        what, otherwise = str(problem), "correct it"
    raise UsageError(f"{path} cannot be read as TOML: {what}; {_data_or(path, otherwise)}")


def _content(path: Path) -> bytes:
    """The bytes of a file, or of a pipe until it ends."""
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder, where a TOML file was expected; {_data_or(path, 'name a TOML file')}")
        if not path.exists():
            raise UsageError(f"no such file: {path}")
    except (OSError, ValueError) as problem:  # a name that is too long, or holds NUL
        reason = getattr(problem, "strerror", None) or problem
        raise UsageError(f"{shown(str(path))} cannot be read ({reason}); name a TOML file") from None
    try:
        return pipe_bytes(path, MOST_BYTES)
    except DataError as problem:
        what, _, otherwise = str(problem).rpartition("; ")
    raise UsageError(f"{what}; {_data_or(path, otherwise)}")


def _tables(content: bytes) -> dict[str, Any]:
    """The tables in a TOML file's bytes. Raises ValueError, which says what is wrong: UnicodeDecodeError, TOMLDecodeError."""
    text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    tables = _parsed(text)
    _make_plain(tables)
    return tables


def _parsed(text: str) -> dict[str, Any]:
    """`tomllib.loads`, which leaves to its callers what int() and Python's stack refuse."""
    if long := _LONG_KEY.search(text):
        raise ValueError(f"{shown(long[0])} has over {_DEEPEST} parts")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        raise ValueError("an integer has thousands of digits") from None
    except RecursionError:
        raise ValueError("its lists or tables are nested too deep") from None


def _make_plain(tables: dict[str, Any]) -> None:
    """Dates and times become text in place. ValueError, naming the key, for integers of over 64 bits and too many levels."""
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), tables)]
    while waiting:
        parts, holder = waiting.pop()
        if len(parts) > _DEEPEST:
            raise ValueError(f"{_dotted(parts)} is nested over {_DEEPEST} levels deep")
        for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            if isinstance(value, (dict, list)):
                waiting.append(((*parts, key), value))
            elif isinstance(value, int) and not -(2**63) <= value < 2**64:
                raise ValueError(f"{_dotted((*parts, key))} is an integer of over 64 bits")
            elif isinstance(value, (date, time)):
                holder[key] = value.isoformat()


def _dotted(parts: tuple[Any, ...]) -> str:
    return shown(".".join(map(str, parts)))


def to_parquet(path: Path) -> str:
    """A command that writes a CSV file as Parquet, with the mark between columns and the decimal comma that its lines have."""
    options = "".join(f", {name}=c.{kind}({key}='{mark}')" for name, kind, key, mark in _marks(path))
    read = f"c.read_csv('{path}'{options}), '{path.with_suffix('.parquet')}'"
    return f'python -c "import pyarrow.csv as c, pyarrow.parquet as p; p.write_table({read})"'


def _marks(path: Path) -> list[tuple[str, str, str, str]]:
    """Options of pyarrow's CSV reader other than its defaults, by the first lines; none for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            lines = file.read(_LOOKED_AT_BYTES).splitlines()
    except (OSError, ValueError):
        return []
    mark = next((mark for mark in (b"\t", b";", b"|") if lines and lines[0].count(mark) > lines[0].count(b",")), b",")
    if mark == b",":
        return []
    options = [("parse_options", "ParseOptions", "delimiter", {b"\t": "\\t"}.get(mark, mark.decode()))]
    if any(_DECIMAL_COMMA.fullmatch(value) for line in lines[1:] for value in line.split(mark)):
        options.append(("convert_options", "ConvertOptions", "decimal_point", ","))
    return options


def _data_or(path: Path, otherwise: str) -> str:
    """How data that was given for a TOML file becomes a dataset; `otherwise` for anything else."""
    try:
        if (path / "dataset.json").is_file():
            return f"a dataset folder is named by --data {path}"
        if _is_parquet(path):
            return f"ingest Parquet by 'gcnrec ingest --train {path} --user COLUMN --item COLUMN --out DIR'"
    except (OSError, ValueError):  # a name that is too long, a file that may not be read
        return otherwise
    if path.suffix in _FOREIGN:
        return f"write the table as Parquet and ingest that, for a CSV by {to_parquet(path)}"
    return otherwise


def _is_parquet(path: Path) -> bool:
    """Whether a file, or one of the first files in a folder, is Parquet by its name or its first bytes."""
    if not path.is_file():
        return any(each.suffix == ".parquet" for each in itertools.islice(path.rglob("*"), _LOOKED_AT))
    with path.open("rb") as file:
        return path.suffix in (".parquet", ".parq", ".pq") or file.read(4) == b"PAR1"


def read_job(path: Path) -> dict[str, Any]:
    """The sections of a job or grid file, without what only `gcnrec tune` reads. Raises UsageError as `read_search`."""
    sections = read_search(path)
    sections.pop(TUNE, None)
    return sections


def read_search(path: Path) -> dict[str, Any]:
    """All sections of a job or grid file. Raises UsageError as `read_toml`, and for a card."""
    sections = read_toml(path)
    if "card" in sections:
        raise UsageError(f"{path} is a card, where a job was expected; ingest it by 'gcnrec ingest {path} --out DIR'")
    return sections


def validated(section: type[S], values: dict[str, Any], where: str) -> S:
    """An instance of `section`, or UsageError with the first problem as one sentence."""
    try:
        return section.model_validate(values)
    except ValidationError as problem:
        first, *others = problem.errors()
    if first["type"] == "extra_forbidden":
        owner = _section_at(section, first["loc"][:-1])
        path = ".".join(str(part) for part in first["loc"])
        names = [field.alias or name for name, field in owner.model_fields.items()]
        raise UsageError(f"{where}: unknown key {shown(path)}{nearest(str(first['loc'][-1]), names)}")
    path = _key(first["loc"])
    same = [first, *(other for other in others if path and _key(other["loc"]) == path)]  # one for each type it may have
    message = ", or ".join(dict.fromkeys(_first_small(error["msg"].removeprefix("Value error, ")) for error in same))
    came = "" if first["type"] == "value_error" else f", got {shown(first['input'])}"
    raise UsageError(f"{where}: {path + ': ' if path else ''}{message}{came}")


def to_toml(settings: Section, comments: Mapping[str, str] = MappingProxyType({})) -> str:
    """Sections of resolved keys as TOML; reading it back gives equal ones (keys that are unset are left out).

    `comments`: `section.key` -> what stands behind its value, one line.
    """
    return tables_to_toml(settings.model_dump(exclude_none=True), comments)


def tables_to_toml(tables: Mapping[str, Mapping[str, Any]], comments: Mapping[str, str] = MappingProxyType({})) -> str:
    """Tables by name as TOML, as `to_toml` writes sections."""
    lines: list[str] = []
    for name, section in tables.items():
        lines.append(f"[{name}]")
        for key, value in section.items():
            comment = comments.get(f"{name}.{key}")
            lines.append(f"{key} = {as_toml(value)}" + (f"  # {comment}" if comment else ""))
        lines.append("")
    return "\n".join(lines)


def set_key(sections: dict[str, Any], override: str) -> None:
    """Put one `section.key=value` into sections, as `value_of` reads the value. UsageError when it is not of that form."""
    key, equals, text = override.partition("=")
    names = _SETTING.fullmatch(key)
    if not equals or names is None:
        raise UsageError(f"--set expects section.key=value, got {shown(override)}")
    section, name = names.groups()
    value = value_of(text, f"--set {section}.{name}")
    settings = sections.setdefault(section, {})
    if not isinstance(settings, dict):
        raise UsageError(f"--set {section}.{name}: {section!r} is not a section")
    settings[name] = value


def value_of(text: str, where: str) -> Any:
    """One value in TOML syntax, on one line and without a comment; text that is no TOML is taken as it is.

    Raises UsageError, naming `where`, as `read_toml` does.
    """
    if any((each < " " and each != "\t") or each == "\x7f" for each in text):
        raise UsageError(f"{where} expects one value on one line, got {shown(text)}; write others in the job file")
    try:
        holder = _parsed(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text.strip()
    except ValueError as problem:
        raise UsageError(f"{where} expects one value, got {shown(text)}, where {problem}") from None
    if _is_toml(f"value = {text}]"):  # only a comment hides the bracket
        raise UsageError(f"{where} expects a value without a comment, got {shown(text)}; put text with # in quotes")
    try:
        _make_plain(holder)
    except ValueError as problem:
        raise UsageError(f"{where} expects a smaller value, got {shown(text)}: {problem}") from None
    return holder["value"]


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _key(loc: tuple[int | str, ...]) -> str:
    """The key that an error is about: `loc` up to the names that pydantic gives to the types of a union."""
    return ".".join(str(part) for part in itertools.takewhile(lambda part: isinstance(part, int) or part.isidentifier(), loc))


def _first_small(text: str) -> str:
    return text[0].lower() + text[1:]


def _section_at(section: type[Section], path: tuple[int | str, ...]) -> type[Section]:
    for part in path:
        inner = section.model_fields[str(part)].annotation
        if not isinstance(inner, type) or not issubclass(inner, Section):
            break
        section = inner
    return section


def as_toml(value: Any) -> str:
    """A value as TOML writes it on one line. Reading it back gives an equal value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(key)} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        escaped = "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped)
        return f'"{escaped}"'
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.1f}"
    return repr(value)
