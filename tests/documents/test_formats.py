"""docs/file-formats.md against real files: each file of a dataset folder, of run folders, of exports and of studies has
a section, and its columns, tensors or keys are those of the section."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import worlds
from safetensors import safe_open

PAGE = worlds.ROOT / "docs" / "file-formats.md"
OTHERS = [
    "job.toml",
    "best.toml",
    "*.html",
    "*.lock",
    "items.faiss",
    "checkpoints/*",
    "mixture/*.safetensors",
    "model.safetensors",
]
"""Files whose content is no schema: the page names them in sentences."""
IDS = {"string", "int64"}
LENGTH = {"epochs": 2}
JUDGED = {"bootstrap": 20, "baselines": ["popularity"]}


class Part(NamedTuple):
    """A row of a table: the names that it stands for, their types, and whether a file may lack them."""

    names: list[str]
    types: list[str]
    may_lack: bool

    def is_called(self, name: str) -> bool:
        return any(re.fullmatch(pattern_of(each), name) for each in self.names)

    def has(self, kind: str) -> bool:
        known = {each for word in self.types for each in (IDS if word == "id" else {word})}
        return not self.types or "any" in known or re.sub(r"\[\d+\]$", "[D]", kind) in known


def pattern_of(name: str) -> str:
    """A name of the page as a regular expression: `METRIC@K` and `SECTION.KEY` stand for many."""
    return re.escape(name).replace("METRIC@K", r"[a-z_]+@\d+").replace(r"SECTION\.KEY", r"[a-z]+\.[a-z_0-9]+")


def parts(table: str) -> list[Part]:
    found = []
    for cells in re.findall(r"^\| (.+) \|$", table, re.MULTILINE):
        first, *rest = cells.split(" | ")
        names = re.findall(r"`([^`]+)`", first)
        if names:
            kind, _, optional = (rest[0] if len(rest) > 1 else "").partition(", ")
            types = [word for word in kind.split(" or ") if word]
            found.append(Part(names, types, optional == "optional" or rest[-1].startswith("optional:")))
    return found


def sections() -> dict[str, tuple[list[Part], str]]:
    """Each heading of the page with its table and its text."""
    pieces = re.split(r"^### (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {heading: (parts(text), text) for heading, text in zip(pieces[1::2], pieces[2::2], strict=True)}


SECTIONS = sections()


def section_of(name: str) -> str:
    """The heading for a file; a heading may name several, with `*`."""
    exact = [h for h in SECTIONS if name in re.findall(r"`([^`]+)`", h)]
    found = exact or [h for h in SECTIONS if any(fnmatch(name, pattern) for pattern in re.findall(r"`([^`]+)`", h))]
    assert len(found) == 1, f"{name} has no section of its own on the page: {found}"
    return found[0]


def content(path: Path) -> dict[str, str]:
    """The names in a file, and their types where it has types."""
    if path.suffix == ".parquet":
        return {field.name: str(field.type).replace("float32", "float") for field in pq.read_schema(path)}
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (it is no dict)
    if path.suffix == ".jsonl":
        return {json.loads(line)["event"]: "" for line in path.read_text(encoding="utf-8").splitlines()}
    return dict.fromkeys(json.loads(path.read_text(encoding="utf-8")), "")


def differences(heading: str, found: dict[str, str]) -> Iterator[str]:
    """What a file has that its section lacks, and what it lacks."""
    rows, _ = SECTIONS[heading]
    for name, kind in found.items():
        row = next((row for row in rows if row.is_called(name)), None)
        if row is None:
            yield f"{heading} has no row for {name} ({kind})"
        elif kind and not row.has(kind):
            yield f"{heading}: {name} is {kind}, the page says {row.types}"
    for row in rows:
        for name in row.names if not (row.may_lack or "event" in found or heading.startswith("`metrics.jsonl`")) else []:
            if not any(re.fullmatch(pattern_of(name), each) for each in found):
                yield f"{heading}: the file lacks {name}"


def array_differences(heading: str, path: Path) -> Iterator[str]:
    """The same of an array, of which the page has the type alone."""
    kind = np.load(path, mmap_mode="r").dtype.name
    if f"| {kind} |" not in SECTIONS[heading][1]:
        yield f"{heading}: {path.name} is {kind}"


def folder_differences(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or any(fnmatch(name, pattern) for pattern in OTHERS):
            continue
        heading = section_of(name)
        yield from array_differences(heading, path) if path.suffix == ".npy" else differences(heading, content(path))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset with all that one can have, and runs of several kinds."""
    import gcnrec

    place = tmp_path_factory.mktemp("formats")
    worlds.write_events(place, in_ms=False)
    for name, column in (("items", "sku"), ("users", "user_id")):
        ids = worlds.features(worlds.ITEMS)["sku"] if column == "sku" else worlds.users(np.arange(worlds.USERS))
        worlds.write(place / f"{name}.parquet", pa.table({column: ids, "size": np.arange(len(ids))}))
    columns = {"user": "user_id", "item": "sku", "time": "ts", "behaviour": "event", "target": "buy", "weight": "stars"}
    rated = {"rating": "stars", "negative_below": 3, "split": "temporal"}
    files = {"train": str(place / "events.parquet"), "item_features": str(place / "items.parquet")}
    data = gcnrec.Data(**files, user_features=str(place / "users.parquet"), **columns, **rated)
    dataset = gcnrec.ingest(data, place / "data")
    jobs = {
        "mixed": {"model": {"width": 8}, "mixture": {"with": ["linkprop"]}},
        "sparse": {"model": {"width": 8}, "table": {"budget": 0.5}, "train": {**LENGTH, "refit": False}},
        "features": {"model": {"name": "graphsage", "width": 8, "feature_dtype": "int8"}},
        "closed": {"model": {"name": "ease"}},
    }
    for name, sections in jobs.items():
        run = gcnrec.train(gcnrec.Job(**{"train": LENGTH, "evaluate": JUDGED, **sections}), dataset, place / name)
        gcnrec.evaluate(run)
    gcnrec.evaluate(place / "sparse", "valid")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["data", "mixed", "sparse", "features", "closed"])
def test_files_of_folders_are_as_the_page_says(made, folder):
    assert list(folder_differences(made / folder)) == []


@pytest.mark.slow
def test_lists_are_as_the_page_says(made, workplace, gcnrec):
    worlds.write_requests(workplace)
    commands = {
        "`recommend --out`": ["recommend", "mixed", "--fallback", "popularity"],
        "`recommend --for-items --out`": ["recommend", "mixed", "--for-items", "ITEMS.csv"],
        "`similar --out`": ["similar", "mixed", "--items", "all"],
        "`score --out`": ["score", "mixed", "--pairs", "PAIRS.csv"],
        "`evaluate --lists --out`": ["evaluate", "mixed", "--lists", "theirs.parquet"],
    }
    for number, (heading, (command, run, *flags)) in enumerate(commands.items()):
        code, _, err = gcnrec(command, made / run, *flags, "--out", f"{number}.parquet")
        assert code == 0, err
        assert list(differences(heading, content(workplace / f"{number}.parquet"))) == []


@pytest.mark.slow
def test_exports_are_as_the_page_says(made, workplace, gcnrec):
    for name, out in (("bundle", "shop.safetensors"), ("faiss", "index"), ("parquet", "embeddings")):
        code, _, err = gcnrec("export", made / "mixed", "--format", name, "--out", out)
        assert code == 0, err
    assert list(differences("`export --format bundle`", content(workplace / "shop.safetensors"))) == []
    assert list(differences("`export --format faiss`", content(workplace / "index" / "items.parquet"))) == []
    for side in ("users", "items"):
        found = content(workplace / "embeddings" / f"{side}.parquet")
        assert list(differences(f"`embeddings/{side}.parquet`", found)) == []


@pytest.mark.slow
def test_studies_are_as_the_page_says(made, workplace, gcnrec):
    worlds.write_events(workplace, in_ms=False)
    worlds.write_requests(workplace)
    (workplace / "base.toml").write_text(worlds.JOB.partition("[model]")[2].join(("[model]", "")), encoding="utf-8")
    (workplace / "grid.toml").write_text('job = "base.toml"\n[grid]\ntrain.seed = [0]\n', encoding="utf-8")
    space = "[tune]\ntrials = 1\nsampler = 'random'\n[tune.space]\nmodel.layers = [1, 2]\n[train]\nepochs = 1\n"
    (workplace / "search.toml").write_text(space, encoding="utf-8")
    for command in (["sweep", "grid.toml", "--data", made / "data"], ["tune", "search.toml", "--data", made / "data"],
                    ["backtest", "JOB.toml", "--cuts", "1", "--every", "7d"]):  # fmt: skip
        code, _, err = gcnrec(*command, "--out", command[0])
        assert code == 0, err
        for path in [path for path in (workplace / command[0]).iterdir() if path.suffix in (".json", ".parquet")]:
            assert list(differences(section_of(path.name), content(path))) == []


def test_differences_are_found():
    right = {"user": "string", "item": "int64", "rank": "int32", "score": "float"}
    assert list(differences("`recommend --out`", right)) == []
    assert len(list(differences("`recommend --out`", {**right, "rank": "int64", "more": "float"}))) == 2
    assert len(list(differences("`recommend --out`", {"user": "string"}))) == 3
    with pytest.raises(AssertionError, match="no section"):
        section_of("unknown.parquet")
