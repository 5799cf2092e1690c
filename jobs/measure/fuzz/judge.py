"""Runs one case as a user would, in a process that may die of it, and judges the outcome."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from jobs.measure.fuzz.parquet import Case

LIMIT_SECONDS = 60
ADDRESS_BYTES = 16 << 30


@dataclass(frozen=True)
class Verdict:
    """`outcome` for the tally; `failure` is None for a correct end; `message` is the sentence of a refusal."""

    outcome: str
    failure: str | None = None
    message: str = ""


def prepare(home: str) -> None:
    """Bounds for this process, and the place where cases work; a hang ends it by SIGALRM."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    os.chdir(home)


def judge(case: Case) -> Verdict:
    """The case in an empty folder: right exit code, one sentence, nothing left behind, or data that hold what the files hold."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory(dir=home) as folder:
        work = Path(folder)
        for name, data in case.files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(data)
        before = listing(work)
        os.chdir(work)
        try:
            signal.alarm(LIMIT_SECONDS)
            code, printed = call(case.arguments)
            signal.alarm(0)
            return Verdict(f"exit {code}", fault(case, code, printed, work, before), last_line(printed) if code else "")
        finally:
            os.chdir(home)


def call(arguments: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a command line, native libraries' too."""
    from gcnrec import cli

    with tempfile.TemporaryFile() as printed, redirected(printed.fileno()):
        try:
            cli.app(arguments)
            code: Any = 0
        except SystemExit as end:
            code = end.code
        except BaseException as problem:
            code = 1
            print(f"Traceback: {type(problem).__name__}: {problem}", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout.flush()
        printed.seek(0)
        return int(code or 0), printed.read().decode(errors="replace")


@contextmanager
def redirected(target: int) -> Iterator[None]:
    """stderr to the file `target`, stdout to nowhere, by descriptor."""
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(target, 2)
    try:
        yield
    finally:
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)
        os.close(nowhere)


def fault(case: Case, code: int, printed: str, work: Path, before: set[str]) -> str | None:
    """The fault in the end of a case; None without one."""
    if code == 1 or "Traceback" in printed:
        return f"traceback: {signature(printed)}"
    if code not in ((0, 2, 3, 4) if case.arguments[0] == "ingest" else (0, 2, 3, 4, 5)):
        return f"exit code {code}"
    if code:
        lines = [line for line in printed.splitlines() if line.startswith(("gcnrec: ", "Error")) or "Usage" in line]
        if len(lines) != 1 and code != 2:
            return f"{len(lines)} sentences: {printed[:200]!r}"
        left = {} if case.arguments[0] == "run" and code in (4, 5) else listing(work) - before
        return f"left behind: {sorted(left)[:3]}" if left else None
    if case.arguments[0] == "ingest":
        return wrong_data(case, work)
    return None


def wrong_data(case: Case, work: Path) -> str | None:
    """The fault of a dataset; None when it opens, its digests hold, and it has the pairs of the files."""
    from gcnrec.loaders.schema import open_dataset

    data = open_dataset(work / "out", verify=True)
    graph = data.graph.user_items
    users, items = (values(ids.ids) for ids in (data.user_ids, data.item_ids))
    found = {(users[u], items[i]) for u, i in zip(graph.row_numbers().tolist(), graph.indices.tolist(), strict=True)}
    if len(found) != data.graph.num_edges:
        return "pairs that are there twice"
    if not case.oracle:
        return None
    found |= {(users[u], items[i]) for u, i in zip(data.test.users_E.tolist(), data.test.items_E.tolist(), strict=True)}
    expected = set()
    for name in case.files:
        if name.startswith(("train", "parts")):
            each = ds.dataset(work / name, format="parquet").to_table(columns=["user", "item"])
            # Files of other types are read in the types of the first file, which the ids keep.
            columns = (each.column("user"), data.user_ids.ids.type), (each.column("item"), data.item_ids.ids.type)
            expected |= set(zip(*(values(plain(column).cast(kind)) for column, kind in columns), strict=True))
    return None if found == expected else f"{len(found ^ expected)} pairs differ from the files"


def values(column: Any) -> list[Any]:
    """The values as Python objects."""
    return list(plain(column).to_pylist())


def plain(column: Any) -> Any:
    """One array without a dictionary."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def last_line(printed: str) -> str:
    lines = [line for line in printed.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def signature(printed: str) -> str:
    """The last line of a traceback without its numbers and names, which groups failures."""
    places = re.findall(r'gcnrec/([\w/]+\.py)", line (\d+)', printed) or re.findall(r"([\w/]+\.py):(\d+)", printed)
    at = f" at {places[-1][0]}:{places[-1][1]}" if places else ""
    return re.sub(r"0x[0-9a-f]+|/\S+|\d+", "#", last_line(printed))[:160] + at
