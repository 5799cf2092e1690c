"""The Dockerfile, read as a builder reads it: known instructions, files that exist, no root, no address. No image is built."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD"}


def instructions(text):
    """(word, rest) of each instruction: comments left out, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def stages(text):
    """Instructions from each FROM on; what stands before the first is the first entry."""
    found = [[]]
    for word, rest in instructions(text):
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def faults(text):
    """What a builder, or whoever runs the image, would stumble over."""
    before, *built = stages(text)
    words = [word for word, _ in instructions(text)]
    yield from (f"{word} is no known instruction" for word in words if word not in KNOWN)
    if {word for word, _ in before} - {"ARG"}:
        yield "only ARG may stand before FROM"
    for base in (rest.split()[0] for stage in built for word, rest in stage if word == "FROM"):
        if "/" in base or not re.fullmatch(r"[a-z]+:[\w.${}-]+", base) or base.endswith(":latest"):
            yield f"{base} is no plain image with a tag"
    if re.search(r"https?://|[\w-]+\.(?:org|com|io)\b", "\n".join(rest for _, rest in instructions(text))):
        yield "an address of another host"
    last = built[-1]
    users = [rest for word, rest in last if word == "USER"]
    if not users or users[-1] in ("root", "0"):
        yield "runs as root"
    ends = {word: json.loads(rest) for word, rest in last if word in ("ENTRYPOINT", "CMD")}
    if ends.get("ENTRYPOINT") != ["gcnrec"]:
        yield "does not start gcnrec"
    yield from _missing(built)


def _missing(built):
    """Files that are copied and are absent, in the checkout or in an earlier stage, or that .dockerignore leaves out."""
    names = {rest.split()[-1] for stage in built for word, rest in stage if word == "FROM" and " AS " in rest}
    taken = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for rest in (rest for stage in built for word, rest in stage if word == "COPY"):
        *sources, _ = [word for word in shlex.split(rest) if not word.startswith("--")]
        stage = re.search(r"--from=(\S+)", rest)
        if stage and stage[1] not in names:
            yield f"no stage {stage[1]}"
        for source in () if stage else sources:
            if not (ROOT / source).exists() or source not in taken:
                yield f"{source} is not there, or left out"


TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_dockerfile_has_no_fault():
    assert list(faults(TEXT)) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("USER gcnrec\n", "", "runs as root"),
        ("USER gcnrec\n", "USER root\n", "runs as root"),
        ('ENTRYPOINT ["gcnrec"]', 'ENTRYPOINT ["bash"]', "does not start gcnrec"),
        ("COPY loaders loaders", "COPY absent absent", "absent is not there, or left out"),
        ("COPY loaders loaders", "COPY tests tests", "tests is not there, or left out"),
        ("--from=build", "--from=other", "no stage other"),
        ("FROM python:${PYTHON}-slim AS build", "FROM registry.example.org/python:3 AS build", "an address of another host"),
        ("FROM python:${PYTHON}-slim AS build", "FROM python AS build", "python is no plain image with a tag"),
        ("WORKDIR /work", "WORKDIRS /work", "WORKDIRS is no known instruction"),
        ("ARG PYTHON=3.12", "WORKDIR /x", "only ARG may stand before FROM"),
    ],
)
def test_faults_are_found(old, new, fault):
    assert old in TEXT and fault in list(faults(TEXT.replace(old, new)))


def test_it_installs_what_the_package_needs():
    """All that setuptools reads is copied before the installation; the package takes that Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first = stages(TEXT)[1]
    copied = {word for kind, rest in first if kind == "COPY" for word in rest.split()[:-1]}
    installs = next(at for at, (word, rest) in enumerate(first) if word == "RUN" and "pip install" in rest)
    assert copied >= {"pyproject.toml", project["readme"], *project["license-files"], "gcnrec", "loaders", "cuda"}
    assert all(word != "COPY" for word, _ in first[installs:])
    (python,) = [rest.partition("=")[2] for word, rest in stages(TEXT)[0] if word == "ARG"]
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]
    assert "gpu" in project["optional-dependencies"]  # what the second build of the head's example asks for
