"""A class is found by its full name or by an entry point; whatever is wrong with it is one sentence, before data is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gcnrec.config import Job
from gcnrec.config.unused import unused_settings
from gcnrec.errors import UsageError
from gcnrec.extensions import load
from gcnrec.extensions.load import Own, release_of, require
from gcnrec.extensions.names import ENCODERS
from gcnrec.runs.lineage import changes
from tests.extensions.conftest import LONGEST, examples

ROOT = Path(__file__).parents[2]
WRONG = """
class NoMethod:
    def __init__(self, settings): pass

class TakesNone:
    def build(self, graph, width): pass

class Refuses:
    def __init__(self, settings): raise ValueError("hops must be 1 or more")
    def build(self, graph, width): pass

build = NoMethod
number = 3
"""


def problem_of(**model) -> str:
    with pytest.raises(UsageError) as caught:
        require(Job.parse({"model": model}, [], "job.toml").own)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_each_example_is_short():
    assert examples() and all(len(text.splitlines()) < LONGEST for text in examples().values())


def test_an_entry_point_becomes_the_full_name(extras):
    job = Job.parse({"model": {"name": "gate"}}, [], "job")
    assert job.model.name == "gate:Gate" and not job.model.closed_form and [own.key for own in job.own] == ["model.name"]


def test_an_unknown_name_says_which_are_ours_and_how_to_name_another(extras):
    message = problem_of(name="gait")
    assert "'lightgcn', 'ngcf'" in message and message.endswith("got 'gait'")
    assert "an encoder of your own as package.module:Class or as an entry point of gcnrec.encoders (installed: gate)" in message


def test_two_packages_with_one_name_are_refused(extras, tmp_path, monkeypatch):
    other = tmp_path / "other-3.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 3\n", encoding="utf-8")
    (other / "entry_points.txt").write_text("[gcnrec.encoders]\ngate = other:Gate\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "'gate' of gcnrec.encoders names gate:Gate, other:Gate; write the full name" in problem_of(name="gate")


@pytest.mark.parametrize("name", ["a b:C", "os.path:", ":C", "../x:C", "a:b.c", "x" * 400 + ":C"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match=r"as package\.module:Class"):
        ENCODERS.full_name(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.at_all:Gate", "needs the package 'nowhere', in which Python finds no module 'nowhere'; install it"),
        ("gate.inner:Gate", "finds no module 'gate.inner'; install it"),
        ("gate:Gates", "must be a class, and gate has no such name there; name an encoder"),
        ("written:number", "must be a class, and written has a int there"),
        ("written:NoMethod", "lacks build, which an encoder must have; see docs/extending.md"),
        ("written:TakesNone", "cannot be made of its settings {} (TypeError: "),
        ("written:Refuses", "refuses its settings {}: hops must be 1 or more"),
        ("broken:Gate", "cannot be imported (ZeroDivisionError: division by zero); 'python -c \"import broken\"' shows where"),
        ("lacking:Gate", "cannot be imported (ModuleNotFoundError: No module named 'not_installed')"),
        ("leaving:Gate", "cannot be imported (SystemExit: 3)"),
    ],
)
def test_what_is_wrong_with_a_class_is_one_sentence(module, name, says):
    module(WRONG)
    module("1 / 0", "broken")
    module("import not_installed", "lacking")
    module("raise SystemExit(3)", "leaving")
    message = problem_of(name=name)
    assert message.startswith(f"model.name = '{name}' ") and says in message


def test_settings_without_a_class_are_named_as_unused():
    sections = {name: {"settings": {"a": 1}} for name in ("model", "loss", "sparsity")} | {"run": {"tracker_settings": {"a": 1}}}
    said = unused_settings(Job.parse(sections, [], "job"), False, False)
    assert [sentence.partition(" = ")[0] for sentence in said] == [
        "model.settings", "loss.settings", "sparsity.settings", "run.tracker_settings",
    ]  # fmt: skip


def test_settings_hold_what_toml_has(extras):
    assert "got None for 'b'" in problem_of(name="gate:Gate", settings={"a": [{"b": None}]})
    assert "no setting is called depth; known: hops, dropout" in problem_of(name="gate:Gate", settings={"depth": 1})


def test_a_name_of_the_job_imports_nothing():
    program = (
        "import sys; from gcnrec.config import Job; Job.parse({'model': {'name': 'this:Zen'}}, [], 'job'); "
        "sys.exit('this' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT).returncode == 0


def test_the_release_of_a_class_is_its_distribution_or_the_digest_of_its_module(extras, module, monkeypatch):
    # The scan of all that is installed takes seconds.
    monkeypatch.setattr(load, "packages_distributions", lambda: {"gate": ["shop-extras"]})

    def release(name: str) -> dict[str, str]:
        return release_of(Own("model.name", ENCODERS, name, {}))

    assert release("gate:Gate") == release("gate:Gated") == {"distribution": "shop-extras", "version": "1.2"}
    module("x = 1")
    first = release("written:X")
    module("x = 2")
    assert first.keys() == {"sha256"} and release("written:X") != first and release("no.where:X") == {}


def test_another_release_is_a_change_of_lineage():
    one, other = ({"extensions": {"gate:Gate": {"version": version}}} for version in ("1.2", "1.3"))
    assert changes(one, one) == [] and changes(one, other) == ["gate:Gate version 1.2 (now 1.3)"]
