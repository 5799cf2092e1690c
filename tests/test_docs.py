"""README and docs: links, records, commands, job files and the Python program hold, and the page of job keys is complete."""

from __future__ import annotations

import re
import shlex
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from gcnrec.cli import app
from gcnrec.config import Job
from gcnrec.config.grid import load_grid
from gcnrec.config.toml import read_toml

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", "data", "runs"} & set(path.relative_to(ROOT).parts) and not any(part.is_symlink() for part in path.parents)
]
OF_TYPES = {"`true`", "`false`"}
"""Values of the page that the code has no names for."""
COMMANDS: Any = typer.main.get_command(app)


def fences(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command line of a page's shell blocks, without comments."""
    for block in fences(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.replace("<this repository>", "URL"), comments=True)
            if words:
                yield words


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 800


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[\w+\]: (\S+)$", text, re.MULTILINE)
    for link in links:
        target, _, anchor = link.partition("#")
        if target.startswith("http"):
            continue
        path = page.parent / target if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page):
    names = re.findall(r"`((?:gcnrec|loaders|cuda|datasets|jobs|tests)/[\w./-]*)`", page.read_text(encoding="utf-8"))
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_each_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in PAGES if f"{path.name})" not in index and path.name != "README.md"] == []


def test_each_record_is_named_and_each_named_record_exists():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    records = {path.name for path in (ROOT / "jobs" / "records").iterdir()}
    assert set(re.findall(r"\d{4}-\d\d-\d\d-[\w-]+\.jsonl?", text)) | {"quickstart-report.png"} == records


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_parse(page):
    for words in commands(page):
        if words[:2] == ["python", "-m"]:
            assert list(ROOT.glob(words[2].replace(".", "/") + "*")), words
        elif words[0] in ("python", "bash"):
            assert (ROOT / words[1]).is_file(), words
        elif words[0] == "gcnrec":
            parameters = COMMANDS.commands[words[1]].make_context(words[1], words[2:]).params
            job = ROOT / str(parameters.get("job", ""))
            if parameters.get("set_"):
                Job.parse(read_toml(job) if job.is_file() else {}, parameters["set_"], str(words))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_sentences_exist(page):
    for text in re.findall(r"`gcnrec ([^`]+)`", page.read_text(encoding="utf-8")):
        first, *words = text.split()
        known = {option for parameter in (COMMANDS.commands[first].params if first in COMMANDS.commands else ())
                 for option in parameter.opts}  # fmt: skip
        flags = {word for word in words if word.startswith("--")}
        assert first == "--help" or (first in COMMANDS.commands and flags <= known), text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_job_files_load(page, tmp_path):
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("records"))
    for block in fences(page, "toml"):
        path = tmp_path / "jobs" / "page.toml"
        path.write_text(block, encoding="utf-8")
        if "[grid]" in block:
            assert load_grid(path).runs
        else:
            Job.load(path)


def test_the_python_program_runs(tmp_path, monkeypatch, capsys):
    (program,) = fences(ROOT / "docs" / "python-api.md", "python")
    pairs = [(user, (user * 3 + n * n) % 20) for user in range(30) for n in range(8)]
    pq.write_table(pa.table(dict(zip(("user_id", "sku"), zip(*pairs, strict=True), strict=True))), tmp_path / "events.parquet")
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "python-api.md", "exec"), {})
    assert 0.0 <= float(capsys.readouterr().out) <= 1.0
    assert pq.read_table("recs.parquet").column_names == ["user", "item", "rank", "score"]


def choices(annotation: Any) -> list[Any]:
    """The values that the literals of an annotation name."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    inner = get_origin(annotation) in (Annotated, Union, types.UnionType, tuple)
    return [choice for part in get_args(annotation) for choice in choices(part)] if inner else []


def in_toml(value: Any) -> str:
    """A value as the page has it."""
    if value is None or value == ():
        return "not set"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def job_keys() -> dict[str, dict[str, tuple[str, set[str]]]]:
    """Section -> key -> its default and the values that it may have, by the code."""
    return {
        section: {
            part.alias or key: (in_toml(part.default), {in_toml(choice) for choice in choices(part.annotation)} - OF_TYPES)
            for key, part in field.annotation.model_fields.items()
        }
        for section, field in Job.model_fields.items()
    }


def documented_keys() -> dict[str, dict[str, tuple[str, set[str]]]]:
    """The same by docs/job-file.md."""
    page = (ROOT / "docs" / "job-file.md").read_text(encoding="utf-8")
    sections = re.split(r"^### `\[(\w+)\]`$", page, flags=re.MULTILINE)[1:]
    rows = {name: re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| .+ \|$", text, re.MULTILINE)
            for name, text in zip(sections[::2], sections[1::2], strict=True)}  # fmt: skip
    return {
        name: {key: (default, set(re.findall(r"`[^`]+`", values)) - OF_TYPES) for key, default, values in found}
        for name, found in rows.items()
    }


@pytest.mark.parametrize("section", Job.model_fields)
def test_the_page_of_job_keys_has_each_key_with_its_default_and_values(section):
    assert documented_keys()[section] == job_keys()[section]
