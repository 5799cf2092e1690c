"""Runs one case as a user would, in a process that may die of it, and judges the outcome."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import resource
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from gcnrec.runs.paths import EVENTS, per_user_path
from jobs.measure.fuzz.cases.case import Case, damage, seal
from jobs.measure.fuzz.command import call
from jobs.measure.fuzz.results import results_of, same
from jobs.measure.fuzz.served import PORT, Server
from jobs.measure.fuzz.world import lay_out

LIMIT_SECONDS = 60
FIT = per_user_path(Path(), "fit").name
"""What baselines are compared with, once."""
ADDRESS_BYTES = 16 << 30
PRIVATE_BYTES = 4 << 30
"""Of data that is no mapped file: odd input must not take a machine's memory."""
CACHES = ("home/.cache", "home/.config")
"""Of gcnrec and of matplotlib."""
_HALF_WRITTEN = re.compile(r"(^|/)(\.[^/]+\.(part|old|dir)|\.tmp[A-Za-z0-9]{6})(/|$)")
_KEEP = ("train", "run", "sweep", "ingest")
"""Commands that may end with a refusal after they changed a run folder, which can be continued, or fetched a card's files."""


@dataclass(frozen=True)
class Verdict:
    """`outcome` for the tally; `failure` is None for a correct end; `message` is the sentence of a refusal.

    `unforeseen`: why no check foresaw the refusal, empty for others.
    """

    outcome: str
    failure: str | None = None
    message: str = ""
    unforeseen: str = ""


def prepare(slot: str) -> None:
    """Bounds for this process, the place where cases work, and a home that is theirs; a hang ends it by SIGALRM."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_DATA, (PRIVATE_BYTES, PRIVATE_BYTES))
    import gcnrec.cli  # noqa: F401 (numba and its folder of kernels: before there is another home)
    from gcnrec.ops import cpu  # noqa: F401

    home, scratch = f"{slot}/home", f"{slot}/scratch"
    os.environ["MPLCONFIGDIR"] = f"{slot}/results"  # matplotlib looks for fonts once, not in each case
    os.environ.update(HOME=home, XDG_CACHE_HOME=f"{home}/.cache", TMPDIR=scratch, no_proxy="127.0.0.1", NO_PROXY="127.0.0.1")
    os.chdir(slot)


def judge(case: Case) -> Verdict:
    """The case in a working folder of its own: right exit code, one sentence, nothing outside, nothing left behind.

    Where it ends with exit code 0, its results are the sound twin's, or its data hold what the files hold.
    """
    slot = Path.cwd()
    try:
        expected = twin_results(case.twin, slot) if case.twin else None
        with limited(), Server(case.served):
            return verdict_on(case, slot, expected)
    finally:
        os.chdir(slot)


@contextmanager
def limited() -> Iterator[None]:
    """A hang ends this process."""
    signal.alarm(LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def verdict_on(case: Case, slot: Path, expected: Any) -> Verdict:
    here = make_ready(case, slot)
    if case.checked:
        options = [part for part in case.arguments[2:] if part not in ("--out", "out", "--json")]
        accepted = call(["check", case.arguments[1], "--json", *options])[0] == 0
    before = listing(slot)
    code, out, printed, unforeseen = call(case.arguments)
    failure = fault(case, code, printed, changes(before, listing(slot)))
    if failure is None and code == 0:
        failure = wrong_end(case, here, out, expected)
    if case.checked and accepted and code in (2, 3):
        failure = failure or f"check accepts what {case.arguments[0]} refuses: {last_line(printed)[:150]}"
    return Verdict(f"exit {code}", failure, last_line(printed) if code else "", unforeseen)


def make_ready(case: Case, slot: Path) -> Path:
    """The working folder of a case, with everything damaged that is to be."""
    here = lay_out(slot, case.world)
    tempfile.tempdir = None  # which remembers where a case before worked
    for name, data in case.files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        data = data.replace(PORT, str(Server.port()).encode()) if PORT in data else data
        (here / name).write_bytes(data.replace(b"@HERE@", str(here).encode()))
    for name, target in case.links:
        (here / name).symlink_to(target)
    os.chdir(here)
    if case.read_before:
        read_and_remembered(here)
    for each in case.damages:
        damage(each, here, case.read_before)
    if case.sealed:
        for folder in case.world:
            if (here / folder / "dataset.json").is_file():
                seal(here / folder)
    return here


def read_and_remembered(here: Path) -> None:
    """Verify the sound run `dense`, and remember it although its files are new: else it would have to rest for two seconds."""
    from gcnrec.integrity import digests

    settled, digests._SETTLED_NS = digests._SETTLED_NS, 0
    try:
        call(["recommend", "dense", "--k", "1", "--out", "first.parquet"])
    finally:
        digests._SETTLED_NS = settled
    (here / "first.parquet").unlink(missing_ok=True)


def twin_results(twin: Case, slot: Path) -> Any:
    """What the sound case gives, kept in the slot for the next time."""
    kept = slot / "results" / hashlib.sha256(pickle.dumps(twin)).hexdigest()
    if not kept.is_file():
        here = make_ready(twin, slot)
        code, out, printed, _ = call(twin.arguments)
        os.chdir(slot)
        text = json.dumps(results_of(twin.arguments, here, out) if code == 0 else f"refused: {last_line(printed)}")
        kept.write_text(text)
    return json.loads(kept.read_text())


def fault(case: Case, code: int, printed: str, changed: set[str]) -> str | None:
    """The fault in the end of a case; None without one. `changed`: paths in the slot that it made, changed or removed."""
    if code == 1 or "Traceback" in printed:
        return f"traceback: {signature(printed)}"
    if code not in ((0, 2, 3, 4, 5) if case.arguments[0] in ("train", "run", "check", "sweep") else (0, 2, 3, 4)):
        return f"exit code {code}"
    changed = {path for path in changed if not path.startswith(CACHES)}
    half = sorted(path for path in changed if _HALF_WRITTEN.search(path))
    if half:
        return f"half-written: {half[:3]}"
    outside = sorted(path for path in changed if not may_be_written(path, written_by(case)))
    if outside:
        return f"outside of what it may write: {outside[:3]}"
    if code:
        lines = [line for line in printed.splitlines() if line.startswith(("gcnrec: ", "Error: "))]
        if len(lines) != 1 and case.arguments[0] != "sweep":
            return f"{len(lines)} sentences: {printed[:200]!r}"
        left = sorted(path for path in changed if not may_stay(path, case, code))
        return f"left behind: {left[:3]}" if left else None
    return None


def written_by(case: Case) -> list[str]:
    """The places in the slot that a command may write to."""
    given = [case.arguments[at + 1] for at, word in enumerate(case.arguments[:-1]) if word == "--out"]
    places = [os.path.normpath(f"here/{name}") for name in given]
    return [f"here/{name}" for name in case.writes] + [place for place in places if place.startswith("here/")]


def may_stay(path: str, case: Case, code: int) -> bool:
    """Whether a refused command may leave a path: of a run that can be continued, of the cache of a card, above its `--out`."""
    command = case.arguments[0]
    unfinished = command in ("train", "run") and code in (4, 5)
    kept = tuple(f"here/{name}" for name in case.writes) if command in _KEEP else ()
    return unfinished or path.startswith(kept) or any(place.startswith(f"{path}/") for place in written_by(case))


def may_be_written(path: str, places: list[str]) -> bool:
    """Whether a path is one of the places, is below or next to one by its name, or is a folder above one."""
    return any(path.startswith(place) or place.startswith(f"{path}/") for place in places)


def wrong_end(case: Case, here: Path, out: str, expected: Any) -> str | None:
    """The fault in what a command gave that ended with exit code 0."""
    if case.twin:
        found = json.loads(json.dumps(results_of(case.arguments, here, out)))
        if any(each.file.endswith(EVENTS) for each in case.damages) and case.arguments[0] in ("train", "sweep"):
            found, expected = (without(EVENTS, each) for each in (found, expected))
        if any(each.file.endswith(FIT) for each in case.damages) and isinstance(found, dict) and FIT not in found:
            expected = without(FIT, expected)
        if not same(found, expected):
            hurt = ", ".join(f"{each.how} {each.file}" for each in case.damages) or "another form of the input"
            return f"silent difference of {case.arguments[0]}: {hurt}"
        return None
    if case.arguments[0] == "ingest" and (here / "out").is_dir():
        return wrong_data(case, here)
    return None


def without(file: str, results: Any) -> Any:
    """Results but for a file: `EVENTS`, whose lines are verified one by one, or `FIT`, which its sentence lets users remove."""
    return {name: each for name, each in results.items() if name != file} if isinstance(results, dict) else None


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


def listing(slot: Path, without: tuple[str, ...] = ("results", "kept", "tiny")) -> dict[str, Any]:
    """Every path below the slot but some, with the digest of a file, or what else it is."""
    found: dict[str, Any] = {}
    for folder, folders, files in os.walk(slot):
        folders[:] = [name for name in folders if folder != str(slot) or name not in without]
        for name in folders + files:
            path = f"{folder}/{name}"
            state = os.lstat(path)
            regular = stat.S_ISREG(state.st_mode)
            small = regular and state.st_size < 2**22
            content = digest(path) if small else (state.st_mtime_ns if regular else None)
            found[os.path.relpath(path, slot)] = (state.st_mode, state.st_size if regular else 0, content)
    return found


def digest(path: str) -> bytes:
    return hashlib.sha1(Path(path).read_bytes()).digest()


def changes(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {path for path in {*before, *after} if before.get(path) != after.get(path)}


def last_line(printed: str) -> str:
    lines = [line for line in printed.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def signature(printed: str) -> str:
    """The last line of a traceback without its numbers and names, which groups failures."""
    places = re.findall(r'gcnrec/([\w/]+\.py)", line (\d+)', printed) or re.findall(r"([\w/]+\.py):(\d+)", printed)
    at = f" at {places[-1][0]}:{places[-1][1]}" if places else ""
    return re.sub(r"0x[0-9a-f]+|/\S+|\d+", "#", last_line(printed))[:160] + at
