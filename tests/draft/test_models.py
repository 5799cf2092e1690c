"""The advice on models has each model once, and what it says to type can be typed."""

from __future__ import annotations

import re
import shlex
from typing import get_args

import typer

from gcnrec.cli import app
from gcnrec.config import Job, Model
from gcnrec.draft.models import MODELS, ORDER


def test_each_model_has_one_line():
    names = [advice.name for advice in MODELS]
    assert sorted(names) == sorted(get_args(get_args(Model.model_fields["name"].annotation)[0]))
    assert all(advice.what and advice.when for advice in MODELS)


def test_the_trained_ones_are_those_without_a_closed_form():
    assert {advice.name for advice in MODELS if advice.trained} == {a.name for a in MODELS if not Model(name=a.name).closed_form}


def test_commands_and_keys_of_the_order_exist():
    text = " ".join(ORDER)
    commands = typer.main.get_command(app).commands
    found = re.findall(r"'gcnrec ([^']+)'", text)
    assert len(found) == 3
    for command in found:
        name, *words = shlex.split(command)
        parameters = commands[name].make_context(name, words).params
        Job.parse({}, parameters.get("set_") or [], command)
    for setting in re.findall(r"(\w+\.\w+) = ('?[\w.+:]+'?)", text):
        Job.parse({}, ["=".join(setting)], "models")
