"""The public Python API: seven functions, imported lazily, and always the functions."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gcnrec

API = ["compare", "evaluate", "ingest", "open_dataset", "open_run", "recommend", "train"]


def test_the_names_are_pinned():
    assert gcnrec.__all__ == API
    assert dir(gcnrec) == sorted([*API, "__version__"])


@pytest.mark.parametrize("name", API)
def test_each_name_is_a_documented_function(name):
    function = getattr(gcnrec, name)
    assert callable(function) and function.__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        gcnrec.fit  # noqa: B018


@pytest.mark.parametrize("name", ["compare", "evaluate", "recommend", "train"])
def test_a_module_of_the_same_name_does_not_hide_the_function(name):
    program = f"""
import gcnrec
from importlib import import_module
module = import_module("gcnrec.{name}")
from gcnrec import {name}
assert type(module).__name__ == "module"
assert callable({name}) and gcnrec.{name} is {name}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
