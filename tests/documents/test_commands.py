"""Every command and every program on a page runs as it is typed, in the order of the page, on small drawn data.

A page has a folder of its own. It holds what the page takes for given: events, lists of ids, a trained run, jobs and cards.
bash runs the blocks; its `gcnrec` hands the arguments to this process, which has the modules loaded.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from documents import worlds

ROOT = worlds.ROOT
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CANNOT = {
    "git clone <this repository> gcnrec && cd gcnrec": "network",
    "make run": "network: it fetches MovieLens-100K",
    "gcnrec ingest datasets/ml-100k.toml --out data/ml": "network",
    "pip install -e '.[bench]' -c constraints.txt": "network",
    "gcnrec bench propagate --json": "minutes: it times other libraries",
    "torchrun --nnodes 4": "several machines",
    "docker build -t gcnrec .": "network",
    'docker run --rm -v "$PWD:/work" gcnrec run job.toml --out runs/shop': "Docker's image of the line before",
    "gcnrec ingest --train events.parquet --user user_id --item sku --out s3://bucket/data/shop": "network",
    "gcnrec run jobs/general.toml --data s3://bucket/data/shop --out s3://bucket/runs/shop": "network",
    "gcnrec recommend s3://bucket/runs/shop --k 20 --out s3://bucket/recs.parquet": "network",
    "python jobs/examples/ray_train.py job.toml data/shop runs/shop 2": "Ray, which the tests do not install",
    "python jobs/examples/prepare_daft.py --train events --test later.parquet --out numbered": "Daft; tests/examples runs it",
}
"""Commands, as they begin, that no test can run, and why."""
DATA, RUNS = "data", "runs"
GIVEN = {
    "exit-codes": ["data/shop"],
    "features-and-new-nodes": ["RUN"],
    "gpu": [],
    "models": ["data/synthetic"],
    "ranking-and-metrics": ["data/shop", "runs/shop", "RUN"],
    "runs": ["data/shop", "data/today", "runs/yesterday", "runs/shop-2"],
    "scale": ["data/large-synthetic"],
    "sparse-tables": ["data/shop"],
}
"""Datasets and runs that a page takes for given; each page has all files of events and requests."""
IN_MS = {"your-data"}
"""Pages whose events have times in milliseconds."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"# \w+\.py\n")
"""How a program begins that is a module which jobs name: tests/extensions trains by it."""
GCNREC = """#!/bin/bash
printf '%s\\n' "$@" > "$0.part"
mv "$0.part" "$0.call"
while [ ! -e "$0.code" ]; do sleep 0.01; done
code=$(cat "$0.code")
rm "$0.code"
cat "$0.out"
exit "$code"
"""
"""Hands its arguments to the test, and takes the output and the exit code from it."""


class Block(NamedTuple):
    """A fenced block of a page: `sh`, `python`, or another language."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in BLOCK.findall(page.read_text(encoding="utf-8"))]


def runnable(script: str) -> str:
    """The lines of a script that can run here."""
    whole = script.replace("\\\n", " ")
    return "\n".join(line for line in whole.splitlines() if not line.startswith(tuple(CANNOT)))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


def has_commands(page: Path) -> bool:
    return any(is_program(*block) or (block.language == "sh" and runnable(block.text).strip()) for block in blocks(page))


def is_program(language: str, text: str) -> bool:
    return language == "python" and not MODULE.match(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset with item features, a run of it that reads them, and a run that does not."""
    import gcnrec

    place = tmp_path_factory.mktemp("made")
    worlds.write_events(place, in_ms=False)
    worlds.write(place / "items.parquet", worlds.features(worlds.ITEMS))
    columns = {"user": "user_id", "item": "sku", "time": "ts", "split": "temporal"}
    data = gcnrec.Data(train=str(place / "events.parquet"), item_features=str(place / "items.parquet"), **columns)
    dataset = gcnrec.ingest(data, place / DATA)
    for name, model in (("RUN", {"name": "graphsage", "width": 8}), ("light", {})):
        job = gcnrec.Job(model=model, train={"epochs": 2}, evaluate={"bootstrap": 20})
        gcnrec.evaluate(gcnrec.train(job, dataset, place / name))
    return place


@pytest.fixture
def scratch(workplace, made, request):
    """The folder of a page, with what the page takes for given, and programs in `bin`."""
    page = request.param
    worlds.write_events(workplace, in_ms=page.stem in IN_MS)
    worlds.write_requests(workplace)
    worlds.write_sources(workplace / "DIR")
    worlds.write_cards(workplace, workplace / "DIR")
    worlds.write_numbered(workplace / "numbered")
    for name in GIVEN.get(page.stem, []):
        source = made / (DATA if name.startswith(DATA) else "RUN" if name == "RUN" else "light")
        shutil.copytree(source, workplace / name)
    (workplace / "bin").mkdir()
    for name, text in (("gcnrec", GCNREC), ("python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')):
        (workplace / "bin" / name).write_text(text, encoding="utf-8")
        (workplace / "bin" / name).chmod(0o755)
    return page


def shell(script: str, place: Path, gcnrec) -> None:
    """Run a block by bash, which stops at the first command that fails."""
    command = place / "bin" / "gcnrec"
    paths = {"PATH": f"{place}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    with (place / "bin" / "log").open("w+") as log:
        process = subprocess.Popen(["bash", "-euc", script], cwd=place, env={**os.environ, **paths}, stdout=log, stderr=log)
        while process.poll() is None:
            if not command.with_suffix(".call").exists():
                time.sleep(0.01)
                continue
            arguments = command.with_suffix(".call").read_text(encoding="utf-8").splitlines()
            command.with_suffix(".call").unlink()
            code, out, err = by_itself(arguments, place) if "--workers" in arguments else gcnrec(*arguments)
            command.with_suffix(".out").write_text(f"{out}{err if code else ''}", encoding="utf-8")
            place.joinpath("bin", "code").write_text(str(code or 0), encoding="utf-8")
            place.joinpath("bin", "code").rename(command.with_suffix(".code"))  # whole, as its reader polls
        log.seek(0)
        assert process.returncode == 0, f"{script}\n{log.read()}"


def by_itself(arguments: list[str], place: Path) -> tuple[int, str, str]:
    """A command that starts workers, in a process of its own."""
    command = [sys.executable, "-m", "gcnrec", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("scratch", [page for page in PAGES if has_commands(page)], indirect=True, ids=name_of)
def test_commands_and_programs_run_as_typed(scratch, workplace, gcnrec, charts_take_no_time):
    for language, text in blocks(scratch):
        if language == "sh" and (script := runnable(text)).strip():
            shell(script, workplace, gcnrec)
        elif is_program(language, text):
            exec(compile(text, f"{scratch.name}: {text[:40]}", "exec"), {"__name__": "__main__"})


def test_commands_that_cannot_run_are_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [command for command in CANNOT if f"\n{command}" not in text] == []
    assert {page.stem for page in PAGES} >= {*GIVEN, *IN_MS}


def test_commands_are_in_blocks_that_are_run():
    """A block of another language, or of none, holds no command that could run here."""
    others = [text for page in PAGES for language, text in blocks(page) if language not in ("sh", "python")]
    command = re.compile(r"^(?:gcnrec|python|make|pip|bash|torchrun) .*", re.MULTILINE)
    found = [line for text in others for line in command.findall(text) if not line.startswith(tuple(CANNOT))]
    assert found == []
