"""TOML files of settings: read, overridden, validated into sections with one sentence for a mistake, and written again."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gcnrec.errors import UsageError, nearest


class Section(BaseModel):
    """A frozen table of settings; a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False, use_attribute_docstrings=True)


S = TypeVar("S", bound=Section)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UsageError when it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except OSError as problem:
        what = "is a folder" if path.is_dir() else f"cannot be read: {problem.strerror or problem}"
        raise UsageError(f"{path} {what}, where a TOML file was expected; {_data_or(path, 'name a TOML file')}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        otherwise = "correct it, in UTF-8" if isinstance(problem, UnicodeDecodeError) else "correct it"
        raise UsageError(f"{path} cannot be read as TOML: {problem}; {_data_or(path, otherwise)}") from None


def to_parquet(path: Path) -> str:
    """A command that writes a CSV file as Parquet."""
    read = f"c.read_csv('{path}'), '{path.with_suffix('.parquet')}'"
    return f'python -c "import pyarrow.csv as c, pyarrow.parquet as p; p.write_table({read})"'


def _data_or(path: Path, otherwise: str) -> str:
    """How data that was given for a TOML file becomes a dataset; `otherwise` for anything else."""
    if (path / "dataset.json").is_file():
        return f"a dataset folder is named by --data {path}"
    if _is_parquet(path):
        return f"ingest Parquet by 'gcnrec ingest --train {path} --user COLUMN --item COLUMN --out DIR'"
    if path.suffix in (".csv", ".tsv", ".json", ".jsonl", ".txt"):
        return f"write the table as Parquet and ingest that, for a CSV by {to_parquet(path)}"
    return otherwise


def _is_parquet(path: Path) -> bool:
    """Whether a file, or a file in a folder, is Parquet by its name or its first bytes."""
    if not path.is_file():
        return any(path.glob("**/*.parquet"))
    with path.open("rb") as file:
        return path.suffix in (".parquet", ".parq", ".pq") or file.read(4) == b"PAR1"


def read_job(path: Path) -> dict[str, Any]:
    """The sections of a job or grid file. Raises UsageError as `read_toml`, and for a card."""
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
        raise UsageError(f"{where}: unknown key {path!r}{nearest(str(first['loc'][-1]), names)}")
    path = _key(first["loc"])
    same = [first, *(other for other in others if path and _key(other["loc"]) == path)]  # one for each type it may have
    message = ", or ".join(dict.fromkeys(_first_small(error["msg"].removeprefix("Value error, ")) for error in same))
    came = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    raise UsageError(f"{where}: {path + ': ' if path else ''}{message}{came}")


def to_toml(settings: Section, comments: Mapping[str, str] = MappingProxyType({})) -> str:
    """Sections of resolved keys as TOML; reading it back gives equal ones (keys that are unset are left out).

    `comments`: `section.key` -> what stands behind its value, one line.
    """
    lines: list[str] = []
    for name, section in settings.model_dump(exclude_none=True).items():
        lines.append(f"[{name}]")
        for key, value in section.items():
            comment = comments.get(f"{name}.{key}")
            lines.append(f"{key} = {_toml_value(value)}" + (f"  # {comment}" if comment else ""))
        lines.append("")
    return "\n".join(lines)


def set_key(sections: dict[str, Any], override: str) -> None:
    """Put `section.key=value` into sections, its value in TOML syntax or bare text. UsageError when it is not of that form."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) != 2:
        raise UsageError(f"--set expects section.key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    section = sections.setdefault(parts[0], {})
    if not isinstance(section, dict):
        raise UsageError(f"--set {override}: {parts[0]!r} is not a section")
    section[parts[1]] = value


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


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_value(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        escaped = "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped)
        return f'"{escaped}"'
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return f"{value:.1f}"
    return repr(value)
