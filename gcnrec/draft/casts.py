"""Commands that turn a column into a type that ingestion takes, for a single file; each writes another file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from gcnrec.draft.contents import Column


def from_text(column: Column) -> str:
    """Timestamps from ISO text; a zone in the text makes them UTC."""
    zoned = any(text.endswith("Z") or "+" in text[10:] for text in column.examples)
    return 'c.cast(a.timestamp("us", "UTC"))' if zoned else 'c.cast(a.timestamp("us"))'


def from_form(form: str) -> str:
    """Timestamps from text of a `form` of strptime; a zone in the text makes them UTC. Other text ends the command."""
    return f'a.compute.strptime(c.cast("string"), format={json.dumps(form)}, unit="s")'


def from_days() -> str:
    """Timestamps from numbers such as 20240131."""
    return 'a.compute.strptime(c.cast("string"), format="%Y%m%d", unit="s")'


def to_integers() -> str:
    """Integers from floats, which NaN and absent values made of them."""
    return 'a.compute.if_else(a.compute.is_nan(c), None, c).cast("int64")'


def advice(text: str, column: Column, what: str, expression: str) -> str:
    """A sentence about a column that must be cast, with the commands for a single file.

    `expression`: of pyarrow (`a`), what becomes of the column `c`. The new job has a name of its own: `init` writes
    one for the input, too.
    """
    said = f"{column.path!r} holds {what}, which ingestion does not take"
    path = Path(text)
    if "." in column.path or not path.is_file():
        return f"{said}; cast it where the files are written"
    target, job = str(path.with_name(f"{path.stem}-cast.parquet")), f"{path.stem}-cast.toml"
    program = (
        f"import pyarrow as a, pyarrow.compute, pyarrow.parquet as p; t = p.read_table({json.dumps(text, ensure_ascii=False)}); "
        f"n = {json.dumps(column.path, ensure_ascii=False)}; c = t[n]; "
        f"p.write_table(t.set_column(t.column_names.index(n), n, {expression}), {json.dumps(target, ensure_ascii=False)})"
    )
    return f"{said}; type python -c {shlex.quote(program)} and then gcnrec init {shlex.quote(target)} --out {shlex.quote(job)}"
